"""Merging of near-duplicate components, after EM has converged."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pvae.em.e_step import EStep
from pvae.em.em_options import EMOptions
from pvae.em.em_run import EMRun, RunFrom
from pvae.em.merging.combine import combine_groups
from pvae.em.merging.posterior_summary import summarise_posteriors

__all__ = ["merge_components"]


def merge_components(
    e_step: EStep, run: EMRun, options: EMOptions, threshold: float, run_from: RunFrom
) -> tuple[EMRun, list[list[int]]]:
    """Merge components as long as the posteriors of two overlap by more than a threshold, with EM after each round.

    The pair with the largest overlap is merged first. The posterior of a merged component is the sum of the posteriors
    of its parts, so that the other pairs of a round need no new pass over the data.

    Args:
        e_step: the E-step over the data.
        run: a run of EM that has ended.
        options: of the run.
        threshold: cosine between the posteriors of two components, in (0, 1).
        run_from: runs EM from a mixture.

    Returns:
        The run, with the history of the steps after merging appended, and for each component the numbers of the
        components of `run` that were merged into it.
    """
    origins = [[number] for number in range(run.mixture.components)]
    while True:
        groups = _group_overlapping(summarise_posteriors(e_step, run.mixture, options).gram, threshold)
        if len(groups) == run.mixture.components:
            return run, origins
        run = _append_history(run, run_from(combine_groups(run.mixture, groups)), groups)
        origins = [_merge_origins(origins, group) for group in groups]


def _merge_origins(origins: list[list[int]], group: list[int]) -> list[int]:
    return sorted(number for component in group for number in origins[component])


def _group_overlapping(gram: Tensor, threshold: float) -> list[list[int]]:
    """Return the groups of components to merge, in the order of their first components.

    Args:
        gram: sums of products of posteriors, (components, components).
        threshold: cosine between the posteriors of two components.
    """
    groups = [[number] for number in range(len(gram))]
    gram = gram.clone()
    while len(groups) > 1:
        norms = gram.diagonal().clamp_min(torch.finfo(torch.float64).tiny).sqrt()
        cosine = (gram / norms / norms.unsqueeze(1)).triu(1)
        largest = int(cosine.argmax())
        i, j = divmod(largest, len(gram))
        if not float(cosine[i, j]) > threshold:
            break
        gram[i] += gram[j]
        gram[:, i] += gram[:, j]
        kept = torch.arange(len(gram), device=gram.device) != j
        gram = gram[kept][:, kept]
        groups[i] += groups.pop(j)
    return groups


def _append_history(before: EMRun, after: EMRun, groups: list[list[int]]) -> EMRun:
    """Return the run after merging, with the history of both runs."""

    def any_in_group(mask: Tensor) -> Tensor:
        return torch.stack([mask[group].any() for group in groups])

    counts = after.counts if after.bounds else torch.stack([before.counts[group].sum() for group in groups])
    return replace(
        after,
        counts=counts,
        bounds=before.bounds + after.bounds,
        log_likelihoods=before.log_likelihoods + after.log_likelihoods,
        falls=before.falls + after.falls,
        is_floored=any_in_group(before.is_floored) | after.is_floored,
        is_reseeded=any_in_group(before.is_reseeded) | after.is_reseeded,
    )
