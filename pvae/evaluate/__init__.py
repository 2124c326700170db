"""How good a model really is: log evidence and bounds with errors, diagnostics, and export to ArviZ."""

from pvae.evaluate.base import Estimate, difference, mean_of
from pvae.evaluate.diagnostics import Diagnosis, diagnose
from pvae.evaluate.export import compare_evidence, save, to_arviz
from pvae.evaluate.judgement import Judgement, judge
from pvae.evaluate.likelihood import elbo, importance_bounds, log_evidence
from pvae.evaluate.units import LatentUnits

__all__ = [
    "Diagnosis",
    "Estimate",
    "Judgement",
    "LatentUnits",
    "compare_evidence",
    "diagnose",
    "difference",
    "elbo",
    "importance_bounds",
    "judge",
    "log_evidence",
    "mean_of",
    "save",
    "to_arviz",
]
