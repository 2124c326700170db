"""The comparison of models by their pointwise log evidence, by ArviZ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pvae.errors import InputError
from pvae.evaluate.arviz_versions import Array, compare_pointwise, good_khat
from pvae.evaluate.judgement import Judgement

__all__ = ["compare_evidence"]


class _PointwiseEvidence(NamedTuple):
    """The log evidence and k-hat of each datum, both of shape (data,), from `particles` draws per datum."""

    log_evidence: Array
    khat: Array
    particles: int


def compare_evidence(judged: Mapping[str, Judgement | tuple[Any, Any, int]]) -> Any:
    """Return a pandas table of models by log evidence, best first, in the ranking of `arviz.compare`.

    The columns are, in nats per datum: ``rank`` (1 is best), ``log_evidence`` and its ``error``, ``difference`` to the
    best model (at most 0) and ``difference_error`` (paired), ``weight`` (stacking), and ``unreliable``, the number of
    data for which k-hat shows that the estimated evidence is too low.

    Args:
        judged: for each name a `Judgement`, or the pointwise log evidence, shape (data,), k-hat, shape (data,), and the
            number of particles. All models have the same data in the same order.

    Raises:
        InputError: if there is no model, the numbers of data differ, or an evidence is not finite.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> wide = pvae.VAE(4, latent=4, hidden=16)
        >>> judged = {name: pvae.evaluate.judge(m, x, particles=500) for name, m in (("narrow", model), ("wide", wide))}
        >>> list(pvae.evaluate.compare_evidence(judged).columns)
        ['rank', 'log_evidence', 'error', 'difference', 'difference_error', 'weight', 'unreliable']
    """
    records = {name: _pointwise(name, judgement) for name, judgement in judged.items()}
    counts = {name: len(record.log_evidence) for name, record in records.items()}
    if not records or len(set(counts.values())) != 1:
        raise InputError(
            f"A comparison needs models that were judged on the same data; got {counts or 'no model'}. Judge all "
            "models on the "
            "same split with the same limit."
        )
    table = compare_pointwise(records)
    count = next(iter(counts.values()))
    evidences = [records[name].log_evidence for name in table.index]
    table["rank"] = table["rank"] + 1  # ArviZ counts from 0
    table["difference_error"] = table["error"] / count
    table["log_evidence"] = [evidence.mean() for evidence in evidences]
    table["error"] = [_standard_error(evidence) for evidence in evidences]
    table["difference"] = table["difference"] / count
    table["unreliable"] = [_unreliable(records[name]) for name in table.index]
    return table[["rank", "log_evidence", "error", "difference", "difference_error", "weight", "unreliable"]]


def _standard_error(values: Array) -> float:
    """Return the standard error of the mean of values of shape (data,); NaN for a single datum."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan


def _unreliable(record: _PointwiseEvidence) -> int:
    """Return the number of data with a k-hat that is too high or not known."""
    return int((~(record.khat <= good_khat(record.particles))).sum())


def _pointwise(name: str, judged: Judgement | tuple[Any, Any, int]) -> _PointwiseEvidence:
    """Return the pointwise log evidence of one model.

    Raises:
        InputError: if it is not finite for some data.
    """
    if isinstance(judged, Judgement):
        judged = judged.log_evidence.pointwise, judged.khat, judged.particles
    log_evidence, khat = np.asarray(judged[0], dtype=float), np.asarray(judged[1], dtype=float)
    infinite = int((~np.isfinite(log_evidence)).sum())
    if infinite:
        raise InputError(
            f"A comparison needs a finite log evidence for each datum; {name!r} has no finite log evidence for "
            f"{infinite} of {len(log_evidence)} data. Leave the model out, or see the notes of `judge`."
        )
    return _PointwiseEvidence(log_evidence, khat, int(judged[2]))
