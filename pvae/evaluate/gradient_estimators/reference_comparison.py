"""The gradient of one objective compared with a reference: bias, variance and time, by group of parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pvae.evaluate.base import Estimate
from pvae.evaluate.gradient_estimators.block_statistics import GradientBlocks, largest_z, limit_of_z
from pvae.evaluate.gradient_estimators.gradient_sampler import GradientSampler
from pvae.evaluate.gradient_estimators.gradient_study import GroupGradient
from pvae.evaluate.gradient_estimators.study_objectives import identity_of

__all__ = ["Reference", "group_gradient"]


@dataclass(frozen=True)
class Reference:
    """The gradient that an objective's gradient is compared with: exact, or estimated from draws.

    Attributes:
        gradient: shape (coordinates,), float64.
        text: how it was computed, for the table.
        identity: `identity_of` the objective that it belongs to.
        blocks: its draws if it is estimated, else None.
    """

    gradient: Tensor
    text: str
    identity: tuple[Any, ...]
    blocks: GradientBlocks | None = None


def group_gradient(
    name: str, group: str, sampler: GradientSampler, blocks: GradientBlocks, reference: Reference
) -> GroupGradient:
    """Return the statistics of one objective's gradient for one group of parameters.

    Args:
        name: the name of the objective.
        group: the name of the group.
        sampler: the sampler that drew the gradients.
        blocks: the draws.
        reference: the gradient to compare with.
    """
    is_own_sample = reference.blocks is not None and reference.identity == identity_of(sampler.objective)
    columns = blocks.groups[group]
    total = blocks.total()
    exact = reference.gradient[columns]
    estimates = blocks.estimates(group)
    variance_of_difference = total.variance()[columns] / total.count
    fewest_draws = total.count
    if reference.blocks is not None:
        reference_total = reference.blocks.total()
        variance_of_difference = variance_of_difference + reference_total.variance()[columns] / reference_total.count
        fewest_draws = min(fewest_draws, reference_total.count)
        estimates["bias"] = _add_reference_error(estimates["bias"], reference.blocks, columns, exact)
    dtype = sampler.coordinates.parameters[0].dtype
    # Rounding errors of sums over outcomes and data add up to many units in the last place.
    rounding = 256 * torch.finfo(dtype).eps * float(exact.abs().amax())
    z = largest_z(total.deviations[columns] / total.count, variance_of_difference, rounding)
    return GroupGradient(
        objective=name,
        group=group,
        coordinates=len(exact),
        biased=sampler.objective.biased,
        reference=reference.text + (": itself, so a bias would not be found" if is_own_sample else ""),
        step=sampler.step,
        z=math.nan if is_own_sample else z,
        limit=limit_of_z(len(exact), fewest_draws),
        mean=blocks.mean()[columns],
        exact=exact,
        draws=torch.cat(blocks.draws)[:, columns] if blocks.keep else None,
        **estimates,
    )


def _add_reference_error(bias: Estimate, reference: GradientBlocks, columns: slice, exact: Tensor) -> Estimate:
    """Return a relative bias with a standard error that includes the standard error of a sampled reference.

    Args:
        bias: the relative bias with the standard error of only the objective's draws.
        reference: the draws of the reference.
        columns: the slice of the coordinates of the group.
        exact: the reference, shape (group coordinates,).
    """
    norm = float(torch.linalg.vector_norm(exact))
    along = reference.error_along(columns, exact / norm) / norm if norm > 0 else math.nan
    return Estimate(bias.value, (bias.error**2 + along**2) ** 0.5, bias.count)
