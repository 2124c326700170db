"""Evaluation of models: log evidence and bounds with standard errors, diagnostics, gradient studies, export to ArviZ.

The functions that evaluate a model take data in every form that `pvae.fit` takes: `pvae.data.Splits`, or the name or
the path of data, and then ``split`` is used; or a frame, an array, a tensor or a `pvae.Batch`, and then all data are
used. Without data, a run is evaluated on the data of its training: they are loaded again by the record of the run, and
their checksum must match. Data that were in memory are not recorded, and must be given.

The functions also take these keyword arguments, which their signatures show as ``where``:

- ``split``: the split of `pvae.data.Splits` to evaluate on, ``"test"``, ``"validation"`` or ``"train"``; by default the
  test split, and the training split for studies of gradients.
- ``limit``: the largest number of data. A random subset is drawn by the seed, the same for all models.
- ``seed``: the seed of the subset and of the draws, 0 by default.
- ``device``: where to compute; by default where the parameters are.
- ``fields``: the batch fields that the programs get, as for `pvae.models.bind`; by default those that a run was trained
  with.
- ``data_plate``: the name of the plate over data, if several plates hold every site.
- ``matmul``: the library of the matrix products of long evaluations: ``"auto"``, the fastest one for each shape, or
  ``"aten"``, torch only, with which the log weights have the same bits as those of Pyro.

Functions with a verdict on a model return an `EvaluationFinding`: `calibrate`, `gaps`, `resemblance`, `reference`, and
`all`, which answers the main questions by all of these functions. They print their expected cost first;
``progress=False`` prints nothing.

An evaluation runs in evaluation mode without gradients, and leaves the parameters, the modes of the modules, Pyro's
parameter store and the random generators unchanged.
"""

from pvae.evaluate.all_checks.check_everything import check_everything as all
from pvae.evaluate.all_checks.data_trust import DataTrust
from pvae.evaluate.all_checks.evidence_finding import EvidenceFinding
from pvae.evaluate.all_checks.findings_file import read_findings
from pvae.evaluate.all_checks.latent_use import LatentUse
from pvae.evaluate.all_checks.model_findings import ModelFindings, QuestionAnswer
from pvae.evaluate.annealing.annealed_evidence import AnnealedEvidence
from pvae.evaluate.annealing.sandwich_finding import Sandwich
from pvae.evaluate.annealing.two_sided import ais, sandwich
from pvae.evaluate.base import Estimate, EvidenceBias, difference, mean_of
from pvae.evaluate.calibration.calibrate import calibrate
from pvae.evaluate.calibration.calibration_record import Calibration, QuantityRanks
from pvae.evaluate.classification import accuracy
from pvae.evaluate.diagnostics import Diagnosis, diagnose
from pvae.evaluate.disentanglement import Disentanglement, disentanglement
from pvae.evaluate.evidence import elbo, importance_bounds, log_evidence, summed_out_elbo
from pvae.evaluate.evidence_table import compare_evidence
from pvae.evaluate.export import save, to_arviz
from pvae.evaluate.finding import EvaluationFinding, NotRun
from pvae.evaluate.gradient_estimators.estimator_search import search_gradients, strategies_of
from pvae.evaluate.gradient_estimators.gradient_comparison import gradients
from pvae.evaluate.gradient_estimators.gradient_study import GradientStudy, GroupGradient
from pvae.evaluate.gradient_estimators.study_objectives import named_objectives
from pvae.evaluate.inference_gaps.gap_record import Gaps
from pvae.evaluate.inference_gaps.measure_gaps import gaps
from pvae.evaluate.judgement import Judgement, judge
from pvae.evaluate.latent_units import LatentUnits
from pvae.evaluate.membership import membership
from pvae.evaluate.missing_data import masking_divergence, missing_log_likelihood
from pvae.evaluate.reference_posterior.compare_with_reference import reference
from pvae.evaluate.reference_posterior.reference_record import ReferencePosterior
from pvae.evaluate.resemblance_tests.measure_resemblance import resemblance
from pvae.evaluate.resemblance_tests.resemblance_record import Resemblance
from pvae.evaluate.simple_imputation import filled_log_likelihood, mean_filling, nearest_neighbour_filling
from pvae.evaluate.topic_quality import Topics, perplexity, topics
from pvae.evaluate.two_samples import TwoSampleTest, aggregate_test, mmd_test
from pvae.evaluate.weight_trust import WeightTrust

__all__ = [
    "AnnealedEvidence",
    "Calibration",
    "DataTrust",
    "Diagnosis",
    "Disentanglement",
    "Estimate",
    "EvaluationFinding",
    "EvidenceBias",
    "EvidenceFinding",
    "Gaps",
    "GradientStudy",
    "GroupGradient",
    "Judgement",
    "LatentUnits",
    "LatentUse",
    "ModelFindings",
    "NotRun",
    "QuantityRanks",
    "QuestionAnswer",
    "ReferencePosterior",
    "Resemblance",
    "Sandwich",
    "Topics",
    "TwoSampleTest",
    "WeightTrust",
    "accuracy",
    "aggregate_test",
    "ais",
    "all",
    "calibrate",
    "compare_evidence",
    "diagnose",
    "difference",
    "disentanglement",
    "elbo",
    "filled_log_likelihood",
    "gaps",
    "gradients",
    "importance_bounds",
    "judge",
    "log_evidence",
    "masking_divergence",
    "mean_filling",
    "mean_of",
    "membership",
    "missing_log_likelihood",
    "mmd_test",
    "named_objectives",
    "nearest_neighbour_filling",
    "perplexity",
    "read_findings",
    "reference",
    "resemblance",
    "sandwich",
    "save",
    "search_gradients",
    "strategies_of",
    "summed_out_elbo",
    "to_arviz",
    "topics",
]
