"""The check that a training step on a batch fits into the free memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from pvae.errors import InputError
from pvae.linter.check_context import CheckContext
from pvae.linter.findings import Finding, Findings
from pvae.linter.program_rules import find_missing_gradients
from pvae.objectives.base import Objective
from pvae.programs.binding import Fields, bind
from pvae.programs.memory_growth import MemoryGrowth
from pvae.programs.memory_limit import USABLE, FreeMemoryLimit, data_count, describe_need, device_of, needs_limit

__all__ = ["describe_shortage", "find_shortage", "memory_limit"]

#: The number of data of the first small step: a batch normalisation needs two.
_FIRST_SIZE = 2

#: The share of the free memory for a step on the advised number of data. It is below 1 because a check needs more than
#: a step.
_USABLE_BY_ADVICE = 0.6


def memory_limit(
    latent_model: Any, batch: Mapping[str, Tensor], objective: Objective, fields: Fields
) -> FreeMemoryLimit | None:
    """Return the limit of a check on a batch; None if the check is small.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: the batch of the check.
        objective: the objective.
        fields: as for `pvae.models.bind`.
    """
    try:
        modules = bind(latent_model, batch, fields).modules
    except InputError:  # the check reports it
        return None
    evaluations = objective.particles * data_count(batch)
    return FreeMemoryLimit(device_of(batch)) if needs_limit(modules, batch, evaluations) else None


def find_shortage(context: CheckContext) -> Iterator[Finding]:
    """Report a step that needs more memory than is free, by an estimate from steps on a few data.

    Args:
        context: one run of both programs, with the objective.
    """
    limit = memory_limit(context.latent_model, context.batch, context.trained, context.fields)
    if limit is None or limit.free is None:
        return

    def step(count: int) -> None:
        part = {name: value[:count] for name, value in context.batch.items()}
        list(find_missing_gradients(dataclasses.replace(context, bound=context.programs.bound_to(part))))

    size = data_count(context.batch)
    growth = MemoryGrowth.measure(step, _FIRST_SIZE, size // 2, limit.device)
    if growth is not None and growth.needed(size) > USABLE * limit.free:
        yield _shortage(size, growth.describe(size, limit.free), growth)


def describe_shortage(
    limit: FreeMemoryLimit, batch: Mapping[str, Tensor], examine: Callable[[Mapping[str, Tensor]], tuple[Findings, Any]]
) -> Finding:
    """Return the finding for a check that a limit stopped, with the memory of a step if it can be estimated.

    Args:
        limit: the limit.
        batch: the batch of the check.
        examine: the check of a part of the batch.
    """
    size, needed, free = data_count(batch), limit.needed or 0, limit.free or 0

    def examine_part(count: int) -> None:
        findings, _ = examine({name: value[:count] for name, value in batch.items()})
        findings.require()

    growth = MemoryGrowth.measure(examine_part, _FIRST_SIZE, size // 2, limit.device)
    if growth is not None and growth.needed(size) > needed:
        return _shortage(size, growth.describe(size, free), growth)
    return _shortage(size, describe_need(needed, limit.device, free, is_lower_bound=True), None)


def _shortage(size: int, need: str, growth: MemoryGrowth | None) -> Finding:
    """Return the finding for a step on `size` data that needs too much memory."""
    fitting = 0 if growth is None or growth.is_lower_bound else growth.largest_size(_USABLE_BY_ADVICE)
    about = f" (about {fitting} fits)" if fitting else ""
    advice = f"Lower batch_size{about}, or the number of particles of the objective."
    return Finding("not enough memory", f"{size} data", f"a training step on {size} data needs {need}", advice)
