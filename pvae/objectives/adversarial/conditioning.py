"""Which arguments of a model its simulations depend on: what p(x) is conditioned on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pvae.errors import InputError
from pvae.objectives.adversarial.critic_inputs import Simulation, simulated
from pvae.objectives.base import Call
from pvae.programs.binding import owner_of
from pvae.randomness import RandomState, preserved_buffers, preserved_randomness

__all__ = ["conditions_of"]

_NEAR = 0.1  # by how much, at most, parameters are moved to see what simulations depend on


def conditions_of(model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the places of the arguments that a simulation depends on: both sides of a match are given these.

    Each argument in turn is put out of step with the others (to another value, where all data have the same; labels
    that are all 0 tell nothing), and the model simulated again with the same noise: at its parameters, and at others
    near them, since many a condition has no weight yet when training starts.

    Raises:
        InputError: if that is an argument which the model observes: it would simulate x with a look at x.
    """
    owners = [owner_of(each) for each in (model, guide)]
    with preserved_randomness(), preserved_buffers(*owners), torch.no_grad():
        found = _dependences(model, guide, args, kwargs)
        try:
            with _moved(*owners):
                found |= _dependences(model, guide, args, kwargs)
        except (InputError, RuntimeError, ValueError):
            pass  # parameters that cannot be just anything, such as probabilities that sum to 1
    places: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
    return tuple(place for place in places if place in found)


def _dependences(model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any]) -> set[Any]:
    """The places of the arguments that a simulation depends on, at the present parameters."""
    places: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
    state = RandomState.capture()
    before = simulated(model, guide, args, kwargs)
    found = set()
    for place, moved, constant in _out_of_step(places, len(next(iter(before.data.values())))):
        state.restore()
        now = _at(moved, len(args))
        try:
            after = simulated(model, guide, now[0], now[1])
        except (InputError, LookupError, RuntimeError, ValueError):
            if constant:  # another value than the batch has may be none that the model takes
                continue
            raise
        if _differ(before, after):
            _require_unseen(place, places[place], before)
            found.add(place)
    return found


@contextmanager
def _moved(*owners: Any) -> Iterator[None]:
    """Run a block with every parameter a little greater; afterwards each is as it was, to the last bit."""
    modules = [each for each in owners if isinstance(each, nn.Module)]
    parameters: list[Tensor] = [each for module in modules for each in module.parameters()]
    parameters += [each for _, each in pyro.get_param_store().named_parameters()]
    held = {each: each.detach().clone() for each in parameters if each.is_floating_point()}
    try:
        for each in held:
            each.add_(_NEAR * torch.rand_like(each))
        yield
    finally:
        for each, before in held.items():
            each.copy_(before)


def _out_of_step(places: Mapping[Any, Any], batch: int) -> Iterator[tuple[Any, dict[Any, Any], bool]]:
    """Each argument of the batch's length in turn, moved on by a row; with another value where all rows are equal."""
    for place, each in places.items():
        if isinstance(each, Tensor) and each.dim() and len(each) == batch:
            moved = each.roll(1, 0)
            constant = bool(torch.equal(moved, each))
            yield place, {**places, place: _another(each) if constant else moved}, constant


def _another(given: Tensor) -> Tensor:
    """Other values than those given; class 0 for labels, since no other need exist."""
    return given + 1 if given.is_floating_point() else torch.zeros_like(given)


def _at(places: Mapping[Any, Any], count: int) -> tuple[Call, dict[str, Any]]:
    return tuple(places[each] for each in range(count)), {
        key: each for key, each in places.items() if key not in range(count)
    }


def _differ(one: Simulation, other: Simulation) -> bool:
    return any(
        not torch.equal(each, theirs[name])
        for ours, theirs in ((one.latent, other.latent), (one.drawn, other.drawn))
        for name, each in ours.items()
    )


def _require_unseen(place: Any, given: Tensor, run: Simulation) -> None:
    rows = given.reshape(len(given), -1)
    for name, data in run.data.items():
        # in a type that holds both: cut off to whole numbers, data may look like labels
        if data.shape == rows.shape and bool((data == rows).all()):
            raise InputError(
                f"The model looks at what it observes at site {name!r} when it simulates (argument {place!r}): such a "
                "simulation is no draw of p(x). Use an objective of densities, such as 'elbo'."
            )
