"""What the log evidence of a model is a density of: kind, number and scale of the values that its programs observe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pvae.comparison.cells.drawings import SEED
from pvae.evaluate.evaluation_context import evaluation_context
from pvae.programs.queries import trace_model_at_any_z
from pvae.programs.site_masks import mask_of_site
from pvae.programs.sites import Site, sample_sites

__all__ = ["SCORED_DATA", "ScoredData", "describe_mismatch", "read_scored_data", "scored_data_of"]

#: The key in ``evaluation.json``.
SCORED_DATA = "scored_data"
# Values are the same up to the rounding of float32.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class ScoredData:
    """The observed values of a model, without those that a mask leaves out.

    Attributes:
        data: the number of data that were looked at.
        discrete: the number of values per datum that have a probability, such as bits and counts.
        continuous: the number of values per datum that have a density, such as real numbers.
        mean: the mean of the continuous values; None if there are none.
        scale: the square root of the mean square of the continuous values; None if there are none.
    """

    data: int
    discrete: float
    continuous: float
    mean: float | None = None
    scale: float | None = None

    def to_json(self) -> dict[str, float | None]:
        """Return the attributes by name."""
        return asdict(self)


def scored_data_of(model: Any, data: Any, limit: int | None = None) -> ScoredData | None:
    """Return what a model scores of the test data; None if its programs do not show it.

    Args:
        model: a run or a latent model.
        data: the data, as for `pvae.evaluate`.
        limit: number of test data in the evaluation; None for all.
    """
    with evaluation_context(model, data, limit=limit, seed=SEED) as context:
        programs = context.first_data
        with programs.preserved_state():
            sites = [site for site in sample_sites(trace_model_at_any_z(programs)) if site["is_observed"]]
        return _summarise(sites, programs.size)


def _summarise(sites: Sequence[Site], data: int) -> ScoredData | None:
    """Return the summary of observed sites of `data` data; None if a site has no values, as that of `pyro.factor`."""
    if not sites or not all(isinstance(site["value"], Tensor) and site["value"].numel() for site in sites):
        return None
    discrete, continuous = 0, [torch.zeros(0, dtype=torch.float64)]
    for site in sites:
        values, mask = torch.broadcast_tensors(site["value"], mask_of_site(site).to(site["value"].device))
        values = values[mask]
        try:
            is_discrete = bool(site["fn"].support.is_discrete)
        except NotImplementedError:
            return None
        if is_discrete:
            discrete += values.numel()
        else:
            continuous.append(values.flatten().double().cpu())
    joined = torch.cat(continuous)
    if not len(joined):
        return ScoredData(data, discrete / data, 0.0)
    mean, scale = float(joined.mean()), float(joined.square().mean().sqrt())
    return ScoredData(data, discrete / data, len(joined) / data, mean, scale)


def read_scored_data(scores: Mapping[str, Any]) -> ScoredData | None:
    """Return the entry of ``evaluation.json``; None if there is none, as in folders of earlier versions."""
    entry = scores.get(SCORED_DATA)
    return None if entry is None else ScoredData(**entry)


def describe_mismatch(row: ScoredData | None, first: ScoredData | None) -> str:
    """Return why the log evidences of two models cannot be compared, as the end of a sentence; "" if they can.

    A log-density has another unit than a log-probability. A log-density of more values, or of the same values on
    another scale, differs by a constant that says nothing about the models.

    Args:
        row: what the model of a row scores; None if it is not known.
        first: what the model of the first row scores; None if it is not known.
    """
    if row is None or first is None:
        return ""
    if (kind := _kind(row)) != (first_kind := _kind(first)):
        return f"its log evidence is {kind}, and the other is {first_kind}"
    counts = [(entry.discrete, entry.continuous) for entry in (row, first)]
    if not all(map(_is_close, *counts)):
        numbers = " and ".join(f"{sum(count):.4g}" for count in counts)
        return f"the models score different numbers of values per datum ({numbers})"
    scales = [(entry.mean or 0.0, entry.scale or 0.0) for entry in (row, first)]
    if row.data == first.data and math.dist(*scales) > _TOLERANCE * max(scale for _, scale in scales):
        return f"the models score values of another scale ({_describe_scale(row)}, and {_describe_scale(first)})"
    return ""


def _kind(scored: ScoredData) -> str:
    if not scored.continuous:
        return "a log-probability of discrete values"
    if not scored.discrete:
        return "a log-density of continuous values"
    return "a log-density of discrete and continuous values"


def _is_close(count: float, other: float) -> bool:
    return math.isclose(count, other, rel_tol=_TOLERANCE)


def _describe_scale(scored: ScoredData) -> str:
    return f"mean {scored.mean:.4g}, root mean square {scored.scale:.4g}"
