"""How good a model really is: log evidence and bounds with errors, diagnostics, and export to ArviZ."""

from pvae.evaluate.base import Estimate, difference, mean_of
from pvae.evaluate.classification import accuracy
from pvae.evaluate.diagnostics import Diagnosis, diagnose
from pvae.evaluate.disentanglement import Disentanglement, disentanglement
from pvae.evaluate.export import compare_evidence, save, to_arviz
from pvae.evaluate.filling import filled_log_likelihood, mean_filling, nearest_neighbour_filling
from pvae.evaluate.gradient_estimators.compare import gradients, named_objectives
from pvae.evaluate.gradient_estimators.gradient_study import GradientStudy, GroupGradient
from pvae.evaluate.gradient_estimators.search import search_gradients, strategies_of
from pvae.evaluate.judgement import Judgement, judge
from pvae.evaluate.likelihood import elbo, importance_bounds, log_evidence
from pvae.evaluate.missing_data import masking_divergence, missing_log_likelihood
from pvae.evaluate.two_samples import TwoSampleTest, aggregate_test, mmd_test
from pvae.evaluate.units import LatentUnits

__all__ = [
    "Diagnosis",
    "Disentanglement",
    "Estimate",
    "GradientStudy",
    "GroupGradient",
    "Judgement",
    "LatentUnits",
    "TwoSampleTest",
    "accuracy",
    "aggregate_test",
    "compare_evidence",
    "diagnose",
    "difference",
    "disentanglement",
    "elbo",
    "filled_log_likelihood",
    "gradients",
    "importance_bounds",
    "judge",
    "log_evidence",
    "masking_divergence",
    "mean_filling",
    "mean_of",
    "missing_log_likelihood",
    "mmd_test",
    "named_objectives",
    "nearest_neighbour_filling",
    "save",
    "search_gradients",
    "strategies_of",
    "to_arviz",
]
