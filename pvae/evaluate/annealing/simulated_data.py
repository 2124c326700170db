"""Data simulated from a model, with the z that made them: exact draws of their posteriors."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from pyro import poutine
from pyro.distributions import Unit
from torch import Tensor

from pvae.batch import Batch
from pvae.errors import InputError
from pvae.evaluate.annealing.datum_noise import seed_of
from pvae.evaluate.evaluation_context import EvaluationContext
from pvae.evaluate.simulated_pairs import describe_broadcast
from pvae.programs.bound import BoundPrograms
from pvae.programs.sites import Site, base_distribution, log_density, sample_sites
from pvae.train.devices import isolated
from pvae.weights.path_terms import PathPrograms

__all__ = ["NotSimulatedError", "simulate_data"]


class NotSimulatedError(InputError):
    """Data cannot be simulated from a model; the message gives the reason."""


def simulate_data(
    context: EvaluationContext, path: PathPrograms, block: int, seed: int
) -> tuple[EvaluationContext, Tensor]:
    """Return a context with simulated data in place of the observed data, and the unconstrained z of each datum.

    Fields that the model takes and does not observe, such as conditions, stay as they are.

    Args:
        context: the model and the data.
        path: both programs.
        block: the number of data of one run.
        seed: the seed of the draws.

    Returns:
        The context, and u of shape (1, data, numbers).

    Raises:
        NotSimulatedError: if an observed site is not a field of the batch or does not draw all its numbers, or
            simulated data have another density than the one that they were drawn from.
    """
    fields: list[Mapping[str, Tensor]] = []
    numbers = []
    for number, batch in enumerate(context.chunks(block)):
        programs = context.bound_to(batch)
        with isolated(seed_of(seed, number)):
            trace = programs.trace_model(simulate=True)
        places = _places_of_sites(context, batch, programs)
        drawn = {}
        for name, place in places.items():
            site: Site = trace.nodes[name]
            if site["value"].numel() != batch[place.field].numel():
                raise NotSimulatedError(describe_broadcast(site, batch[place.field]))
            drawn[place.field] = _in_place(site["value"], place, batch[place.field])
        _require_same_density(context.bound_to(Batch(**{**dict(batch), **drawn})), trace, places)
        fields.append(drawn)
        numbers.append(path.on(programs).unconstrained(trace))
    joined = {field: torch.cat([part[field] for part in fields]) for field in fields[0]}
    batch = Batch(**{**dict(context.batch), **joined})
    return dataclasses.replace(context, batch=batch), torch.cat(numbers, 1)


class _Place(NamedTuple):
    """The place of an observed value in the batch.

    Attributes:
        field: the field of the batch.
        axes: the order of the axes of the value in the field.
    """

    field: str
    axes: tuple[int, ...]


def _places_of_sites(context: EvaluationContext, batch: Batch, programs: BoundPrograms) -> dict[str, _Place]:
    """Return the place in the batch from which each observed site takes its value."""
    _, trace = programs.trace_both()
    places: dict[str, _Place] = {}
    for site in sample_sites(trace):
        if not site["is_observed"]:
            continue
        if isinstance(base_distribution(site["fn"]), Unit):
            raise NotSimulatedError(f"site {site['name']!r} is a pyro.factor, which cannot be drawn")
        free = [name for name in context.programs.fields if all(name != place.field for place in places.values())]
        place = _place_of(site["value"], {name: batch[name] for name in free})
        if place is None:
            raise NotSimulatedError(
                f"the observed site {site['name']!r} is not one field of the batch, so simulated values cannot be put "
                "into the batch"
            )
        places[site["name"]] = place
    if not places:
        raise NotSimulatedError("the model observes nothing")
    return places


def _place_of(value: Tensor, fields: Mapping[str, Tensor]) -> _Place | None:
    """Return the field with the numbers of an observed value, possibly with permuted axes; None if there is none."""
    for name, field in fields.items():
        if field.numel() != value.numel():
            continue
        for axes in itertools.permutations(range(value.dim())):
            if torch.equal(value.permute(axes).reshape(-1).double(), field.reshape(-1).double()):
                return _Place(name, axes)
    return None


def _in_place(value: Tensor, place: _Place, field: Tensor) -> Tensor:
    """Return a simulated value as the field of the batch, in its shape and dtype."""
    return value.permute(place.axes).reshape(field.shape).to(field.dtype)


def _require_same_density(programs: BoundPrograms, trace: poutine.Trace, observed: Collection[str]) -> None:
    """Raise an error if simulated data have another density than the one that they were drawn from.

    A decoder that reads x itself, such as an autoregressive one, has read the observed x when it drew.
    """
    latents = trace.copy()
    for name in observed:
        latents.remove_node(name)
    again = programs.trace_model(latents)
    for name in observed:
        if not _has_same_density(trace.nodes[name], again.nodes[name]):
            raise NotSimulatedError(
                f"the density of site {name!r} changes with the data, as in a decoder that takes x, so one run of the "
                "model does not simulate it"
            )


def _has_same_density(drawn: Site, scored: Site) -> bool:
    first, second = log_density(drawn), log_density(scored)
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-4, atol=1e-4, equal_nan=True)
