"""Merging of near-duplicate components, after EM has converged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from pvae.em.ascent import Ascent, Rules
from pvae.em.base import Mixture
from pvae.em.overlap import look, merged
from pvae.em.passes import Passes

__all__ = ["merge_duplicates"]

Climb = Callable[[Mixture], Ascent]


def merge_duplicates(
    passes: Passes, run: Ascent, rules: Rules, threshold: float, climb: Climb
) -> tuple[Ascent, list[list[int]]]:
    """Merge components while two posteriors overlap by more than the threshold, with EM after each round.

    The pair of the largest overlap goes first. The posterior of a merged component is the sum of its parts', so that
    the other pairs of a round need no new pass.

    Args:
        passes: over the data.
        run: that ended.
        rules: how EM runs.
        threshold: cosine of two components' posteriors, in (0, 1).
        climb: runs EM from a mixture.

    Returns:
        The run, its history with that of the steps after merging, and the components of the first run that each
        component was made of.
    """
    origins = [[number] for number in range(run.mixture.components)]
    while True:
        groups = _groups(look(passes, run.mixture, rules).gram, threshold)
        if len(groups) == run.mixture.components:
            return run, origins
        run = _continued(run, climb(merged(run.mixture, groups)), groups)
        origins = [sorted(first for number in group for first in origins[number]) for group in groups]


def _groups(gram: Tensor, threshold: float) -> list[list[int]]:
    """Return which components to merge, given summed products of posteriors; in order of their first."""
    groups = [[number] for number in range(len(gram))]
    gram = gram.clone()
    while len(groups) > 1:
        norms = gram.diagonal().clamp_min(torch.finfo(torch.float64).tiny).sqrt()
        cosine = (gram / norms / norms.unsqueeze(1)).triu(1)
        best = int(cosine.argmax())
        i, j = divmod(best, len(gram))
        if not float(cosine[i, j]) > threshold:
            break
        gram[i] += gram[j]
        gram[:, i] += gram[:, j]
        kept = torch.arange(len(gram), device=gram.device) != j
        gram = gram[kept][:, kept]
        groups[i] += groups.pop(j)
    return groups


def _continued(before: Ascent, after: Ascent, groups: list[list[int]]) -> Ascent:
    """Return a run that goes on after merging, with the history of both parts."""

    def any_of(mask: Tensor) -> Tensor:
        return torch.stack([mask[group].any() for group in groups])

    counts = after.counts if after.bounds else torch.stack([before.counts[group].sum() for group in groups])
    return replace(
        after,
        counts=counts,
        bounds=before.bounds + after.bounds,
        log_likelihoods=before.log_likelihoods + after.log_likelihoods,
        falls=before.falls + after.falls,
        floored=any_of(before.floored) | after.floored,
        reseeded=any_of(before.reseeded) | after.reseeded,
    )
