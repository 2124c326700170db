"""The conditions of a model: the arguments that its simulations depend on, so that p(x given c) is matched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pvae.errors import InputError
from pvae.objectives.adversarial.critic_inputs import Simulation, simulate
from pvae.programs.binding import owner_of
from pvae.programs.bound import BoundPrograms
from pvae.randomness import RandomState, preserved_buffers, preserved_randomness

__all__ = ["find_conditions"]

#: the largest change of a parameter in the second search for conditions
_LARGEST_CHANGE = 0.1


def find_conditions(programs: BoundPrograms) -> tuple[Any, ...]:
    """Return the keys (positions or names) of the arguments that a simulation depends on; the critic gets these.

    Each argument in turn is changed, and the model is simulated again with the same random numbers. A change is a shift
    by one row, or another value if all rows are equal, because a shift of equal labels changes nothing. The search runs
    at the parameters, and again at parameters near them, because many conditions have no weight before the training.

    Args:
        programs: both programs with their arguments.

    Raises:
        InputError: if the simulation depends on an argument that the model observes.
    """
    owners = [owner_of(program) for program in (programs.model, programs.guide)]
    with preserved_randomness(), preserved_buffers(*owners), torch.no_grad():
        conditions = _find_dependences(programs)
        try:
            with _changed_parameters(*owners):
                conditions |= _find_dependences(programs)
        except (InputError, RuntimeError, ValueError):
            pass  # some parameters have constraints, such as probabilities that sum to 1
    return tuple(key for key in _arguments_by_key(programs) if key in conditions)


def _arguments_by_key(programs: BoundPrograms) -> dict[Any, Any]:
    """Return the arguments of the programs by position or by name."""
    return {**dict(enumerate(programs.args)), **programs.kwargs}


def _with_arguments(programs: BoundPrograms, arguments: Mapping[Any, Any]) -> BoundPrograms:
    """Return the programs with other arguments, given by position or by name."""
    positions = range(len(programs.args))
    args = tuple([arguments[position] for position in positions])
    kwargs = {key: value for key, value in arguments.items() if key not in positions}
    return BoundPrograms(programs.model, programs.guide, args, kwargs)


def _find_dependences(programs: BoundPrograms) -> set[Any]:
    """Return the keys of the arguments that a simulation depends on, at the present parameters."""
    arguments = _arguments_by_key(programs)
    state = RandomState.capture()
    before = simulate(programs)
    batch = len(next(iter(before.data.values())))
    dependences = set()
    for key, changed, is_constant in _changed_arguments(arguments, batch):
        state.restore()
        try:
            after = simulate(_with_arguments(programs, changed))
        except (InputError, LookupError, RuntimeError, ValueError):
            if is_constant:  # the model may refuse a value that is not in the batch
                continue
            raise
        if _is_different(before, after):
            _require_unobserved(key, arguments[key], before)
            dependences.add(key)
    return dependences


@contextmanager
def _changed_parameters(*owners: Any) -> Iterator[None]:
    """Run a block with slightly larger parameters, then restore them to the last bit."""
    modules = [owner for owner in owners if isinstance(owner, nn.Module)]
    parameters: list[Tensor] = [parameter for module in modules for parameter in module.parameters()]
    parameters += [parameter for _, parameter in pyro.get_param_store().named_parameters()]
    saved = {parameter: parameter.detach().clone() for parameter in parameters if parameter.is_floating_point()}
    try:
        for parameter in saved:
            parameter.add_(_LARGEST_CHANGE * torch.rand_like(parameter))
        yield
    finally:
        for parameter, value in saved.items():
            parameter.copy_(value)


def _changed_arguments(arguments: Mapping[Any, Any], batch: int) -> Iterator[tuple[Any, dict[Any, Any], bool]]:
    """Yield, for each argument with a row per datum, its key, the changed arguments, and whether it is constant.

    Args:
        arguments: the arguments by position or by name.
        batch: the number of data.
    """
    for key, value in arguments.items():
        if isinstance(value, Tensor) and value.dim() and len(value) == batch:
            shifted = value.roll(1, 0)
            is_constant = bool(torch.equal(shifted, value))
            yield key, {**arguments, key: _other_value(value) if is_constant else shifted}, is_constant


def _other_value(value: Tensor) -> Tensor:
    """Return other numbers in the shape of `value`; class 0 for labels, because another class may not exist."""
    return value + 1 if value.is_floating_point() else torch.zeros_like(value)


def _is_different(first: Simulation, second: Simulation) -> bool:
    """Return whether two simulations have different values at a site."""
    pairs = [(rows, second.latent[name]) for name, rows in first.latent.items()]
    pairs += [(rows, second.drawn[name]) for name, rows in first.drawn.items()]
    return any(not torch.equal(one, other) for one, other in pairs)


def _require_unobserved(key: Any, argument: Tensor, simulation: Simulation) -> None:
    """Refuse a condition that the model also observes."""
    rows = argument.reshape(len(argument), -1)
    for name, data in simulation.data.items():
        # Compare in a dtype that can represent both: data that are rounded to whole numbers may look like labels.
        if data.shape == rows.shape and bool((data == rows).all()):
            raise InputError(
                "A critic needs simulations that do not depend on the data; a simulation of this model depends on its "
                f"observation at site {name!r} (argument {key!r}), so it is not a draw of p(x). Use an objective of "
                "densities, such as 'elbo'."
            )
