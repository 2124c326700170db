"""Runs of programs on as many data at a time as the free memory can hold."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from pvae.batch import Batch
from pvae.errors import InputError
from pvae.memory import free_bytes
from pvae.programs.memory_growth import MemoryGrowth
from pvae.programs.memory_limit import USABLE, FreeMemoryLimit, data_count, device_of, needs_limit
from pvae.randomness import RandomState
from pvae.structures import is_structure

__all__ = ["OTHER_DEVICE", "FittingRun", "look_within_memory", "map_fitting_parts", "run_within_memory"]

#: The advice if the smallest run does not fit.
OTHER_DEVICE = "Free some memory, or use another device."

#: The share of the free memory that a run of a lowered size may need.
_USABLE_BY_LOWERED = 0.5 * USABLE

#: The memory of a run is estimated from runs of this share of its size, and of twice this share.
_TRIAL = 16

Result = TypeVar("Result")


@dataclass(frozen=True)
class FittingRun(Generic[Result]):
    """The result of `run_within_memory`.

    Attributes:
        result: the result of the run.
        size: its size.
        shortage: a text with the needed memory of the requested size and the free memory; "" if it fits.
    """

    result: Result
    size: int
    shortage: str = ""


def run_within_memory(
    run: Callable[[int], Result],
    size: int,
    device: torch.device | str,
    *,
    least: str,
    advice: str,
    trial: Callable[[int], Any] | None = None,
) -> FittingRun[Result]:
    """Run a function with a size, or with a smaller one if the free memory cannot hold the run.

    Small runs show how the memory grows, so that a size that does not fit is not tried. If they fail, the size is
    halved until every operation fits. A size below the requested one has to leave a larger part of the memory free,
    because later runs may need a little more. The random generators are restored before each further attempt.

    Args:
        run: a function of the size.
        size: the requested size.
        device: the device of the run.
        least: the run of size 1, for the error.
        advice: the settings to lower if that does not fit either.
        trial: a function of the size that needs as much memory as the run; by default the run itself.

    Raises:
        InputError: if size 1 does not fit.
        Exception: any other error of the run with the requested size.
    """
    random = RandomState.capture()
    size, wanted = _estimated_size(trial or run, size, device)
    random.restore()
    last = wanted
    while size >= 1:
        share = USABLE if size == 1 or not wanted else _USABLE_BY_LOWERED
        limit = FreeMemoryLimit(device, share)
        try:
            with limit:
                result = run(size)
        except Exception:  # a program may raise any error
            if limit.needed is None:
                if not wanted:
                    raise
                last = wanted  # programs for a fixed number of data do not run on fewer
                break
        else:
            if limit.needed is None:
                return FittingRun(result, size, wanted)
            del result
        last = limit.shortage()
        wanted, size = wanted or last, size // 2
        random.restore()
    raise InputError(f"{least} {last} {advice}")


def _estimated_size(run: Callable[[int], Any], size: int, device: torch.device | str) -> tuple[int, str]:
    """Return the size of a run that probably fits, and a text on the needs of the requested size; "" if that fits."""
    wanted, free = "", free_bytes(device)
    while free is not None and size > 1:
        first = max(1, size // _TRIAL)
        growth = MemoryGrowth.measure(run, first, max(2, 2 * first), device)
        if growth is None or growth.needed(size) <= USABLE * free:
            break
        wanted = wanted or f"needs {growth.describe(size, free)}"
        fitting = growth.largest_size(_USABLE_BY_LOWERED)
        if not growth.is_lower_bound:
            return max(1, min(fitting, size // 2)), wanted
        size = first
    return size, wanted


def look_within_memory(
    look: Callable[[Mapping[str, Tensor]], Result], modules: nn.Module, batch: Mapping[str, Tensor]
) -> Result:
    """Return the result of a function that runs the programs on a batch, or on its first data if it does not fit.

    Args:
        look: a function of the data, which runs the programs.
        modules: the modules of the programs.
        batch: the data.

    Raises:
        InputError: if one datum does not fit.
    """
    size = data_count(batch)
    if any(map(is_structure, batch.values())) or not needs_limit(modules, batch, size):
        return look(batch)

    def look_at_first(count: int) -> Result:
        return look({name: value[:count] for name, value in batch.items()})

    device = device_of(batch)
    least = "A run of the programs on one datum"
    return run_within_memory(look_at_first, size, device, least=least, advice=OTHER_DEVICE).result


def map_fitting_parts(
    use: Callable[[Batch], Result],
    batch: Batch,
    size: int,
    modules: nn.Module,
    *,
    particles: int = 1,
    advice: str = OTHER_DEVICE,
) -> list[Result]:
    """Return the results of a function of each part of a batch, in order.

    If the free memory does not hold a run of the requested number of data, a warning gives the number that is used
    instead.

    Args:
        use: the function, which runs the programs.
        batch: the data.
        size: the requested number of data of a part.
        modules: the modules of the programs; the parts are moved to their device.
        particles: the number of draws of z per datum.
        advice: the settings to lower if the run of one datum does not fit.

    Raises:
        InputError: if the run of one datum does not fit.
    """
    device = next((parameter.device for parameter in modules.parameters()), batch.device)

    def use_rows(start: int, count: int) -> Result:
        return use(batch.take(slice(start, start + count)).to(device))

    size = min(size, batch.size)
    if needs_limit(modules, batch.take(slice(0, size)), size * particles, device):
        least = f"One datum with {particles} particles" if particles > 1 else "One datum"
        first = run_within_memory(lambda count: use_rows(0, count), size, device, least=least, advice=advice)
    else:
        first = FittingRun(use_rows(0, size), size)
    if first.shortage:
        warnings.warn(
            f"{first.size} data are computed at a time instead of {size}. A run on {size} data {first.shortage} "
            "Random draws depend on this number.",
            stacklevel=4,
        )
    return [first.result, *[use_rows(start, first.size) for start in range(first.size, batch.size, first.size)]]
