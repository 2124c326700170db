"""Pairs (z, x) that the model generates, in the form of a batch, with the log-densities of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from pyro import poutine
from pyro.distributions import Unit
from torch import Tensor

from pvae.batch import Batch
from pvae.densities import GivenLabel
from pvae.errors import InputError
from pvae.evaluate.evaluation_context import EvaluationContext
from pvae.programs.bound import BoundPrograms
from pvae.programs.sites import Site, base_distribution, sample_sites
from pvae.train.devices import reseed
from pvae.weights.log_probs import PlateDims, log_probs_by_site, sum_tensors

__all__ = [
    "SimulatedPairs",
    "as_units",
    "describe_broadcast",
    "keyed_batches",
    "require_local_latents",
    "simulate_pairs",
]


def as_units(stacked: Tensor, data_dim: int, event_dim: int) -> Tensor:
    """Return draws of a site with one row of units for each datum.

    Args:
        stacked: the draws, with a first dimension of draws and the data at dimension ``data_dim - event_dim``.
        data_dim: the dimension of the plate over data in the batch shape, counted from the right.
        event_dim: the number of dimensions of the event.

    Returns:
        Shape (draws, batch, units), float64 on the CPU.
    """
    dim = data_dim - event_dim
    moved = stacked.detach().movedim(dim, 1)
    return moved.reshape(moved.shape[0], moved.shape[1], -1).to("cpu", torch.float64)


@dataclass(frozen=True)
class SimulatedPairs:
    """Data that the model generates, with the latents that generated them.

    Attributes:
        batch: the data, with simulated values in the observed fields; the other fields are from real data.
        trace: the trace of the model with the drawn latents and data.
        latents: the values of the latent sites, shape (batch, units), float64 on the CPU.
        log_joint: log p(x, z) of each pair, shape (batch,), float64 on the CPU, nats.
        log_likelihood: log p(x given z) of each pair, shape (batch,), nats.
    """

    batch: Batch
    trace: poutine.Trace
    latents: Mapping[str, Tensor]
    log_joint: Tensor
    log_likelihood: Tensor


def keyed_batches(context: EvaluationContext, count: int, size: int, seed: int, stage: int) -> Iterator[Batch]:
    """Yield `count` data in batches; before each, the random generators are seeded by its number.

    The draws of a batch depend only on the seed, the stage and the number of the batch. If there are fewer than `count`
    data, they are repeated in order. Programs that cannot run on a part of the data get all data in each batch, so the
    number of data is rounded up.

    Args:
        context: the model and the data.
        count: the total number of data to yield.
        size: the number of data in a batch.
        seed: the seed of the evaluation.
        stage: the number of this part of the evaluation, so that two parts have different draws.
    """
    size = context.data_at_once(min(size, context.batch.size)) if context.batch.size > 1 else 1
    for index, start in enumerate(range(0, count, size)):
        is_whole = size == context.batch.size
        rows = range(start, start + size) if is_whole else range(start, min(start + size, count))
        reseed(seed, stage, index)
        yield context.batch.take(torch.tensor([row % context.batch.size for row in rows]))


def require_local_latents(programs: BoundPrograms, task: str) -> None:
    """Raise InputError if all data share a latent site, or the model has no latent site.

    Args:
        programs: both programs on some data.
        task: the evaluation, as the subject of the error.

    Raises:
        InputError: if a latent site is shared, or there is no latent site.
    """
    shared = programs.layout.shared(programs.size)
    if shared:
        raise InputError(
            f"{task} needs latents that belong to one datum each; all data share site {shared[0]!r}. Move it inside "
            "the plate over data, or leave this evaluation out."
        )
    if not (programs.layout.latent_dims or programs.layout.undrawn):
        raise InputError(f"{task} needs a latent site; the model has none.")


def simulate_pairs(context: EvaluationContext, batch: Batch) -> SimulatedPairs:
    """Draw z from the prior and x given z, one pair for each datum of a batch.

    Args:
        context: the model.
        batch: real data; fields that the model does not generate, such as conditions, stay as they are.

    Raises:
        InputError: if an observed site is not a field of the data, so its simulated value cannot be put into the data,
            or does not draw all numbers of the field.
    """
    programs = context.bound_to(batch)
    observed = _observed_fields(programs, batch)
    trace = programs.trace_model(simulate=True)
    sites = {site["name"]: site for site in sample_sites(trace)}
    fields = {}
    for name, names_of_fields in observed.items():
        for field in names_of_fields:
            fields[field] = _in_place_of(batch[field], sites[name])
    data_dim = context.data_dim(programs)
    dims = PlateDims(programs.layout.nesting, data_dim, 1)
    tables = log_probs_by_site([sites.values()], dims)
    terms = {name for name, site in sites.items() if name in observed or _is_factor(site)}
    likelihood = [table for name, table in tables.items() if name in terms]
    return SimulatedPairs(
        batch=batch.replace(**fields),
        trace=trace,
        latents={
            name: as_units(site["value"].unsqueeze(0), data_dim, site["fn"].event_dim)[0]
            for name, site in sites.items()
            if name not in terms
        },
        log_joint=_row(sum_tensors(tables.values()), batch.size),
        log_likelihood=_row(sum_tensors(likelihood), batch.size),
    )


def _row(table: Tensor, size: int) -> Tensor:
    """Return the only row of a table of shape (1, batch) as float64 on the CPU, shape (batch,)."""
    return table.detach().expand(1, size)[0].to("cpu", torch.float64)


def _observed_fields(programs: BoundPrograms, batch: Batch) -> dict[str, list[str]]:
    """Return the fields of the data that each observed site of the model scores, by the name of the site.

    A field belongs to a site if it has the values of the site.
    """
    with programs.preserved_state():
        _, model_trace = programs.trace_both()
    fields: dict[str, list[str]] = {}
    for site in sample_sites(model_trace):
        if not site["is_observed"] or _is_factor(site):
            continue
        names = [name for name, tensor in batch.items() if _holds(tensor, site, batch.get("mask"))]
        if not names:
            raise InputError(
                f"A simulation needs each observed site to be a field of the data; the values of site {site['name']!r} "
                f"are not one of the fields {', '.join(batch)}. Give the site obs=x, with x as the "
                "program receives it; a model that observes parts of x at several sites, such as one of sequences, "
                "cannot be simulated here."
            )
        fields[site["name"]] = [site["name"]] if site["name"] in names else names
    return fields


def _is_factor(site: Site) -> bool:
    """Return whether a site is a `pyro.factor`, which draws nothing."""
    return isinstance(base_distribution(site["fn"]), Unit)


def describe_broadcast(site: Site, field: Tensor) -> str:
    """Return the reason why the drawn value of an observed site does not fill its field of the data.

    Args:
        site: the site, with the value that it drew.
        field: the field of the data.
    """
    return (
        f"site {site['name']!r} draws numbers of shape {tuple(site['value'].shape)} and is observed at numbers of "
        f"shape {tuple(field.shape)}, because its distribution broadcasts over the data. Expand its parameters to the "
        "shape of the data"
    )


def _in_place_of(field: Tensor, site: Site) -> Tensor:
    """Return the simulated value of a site in the shape and type of a field; hidden labels stay hidden."""
    if site["value"].numel() != field.numel():
        raise InputError(f"A simulation needs all numbers of the data, but {describe_broadcast(site, field)}.")
    value = site["value"].reshape(field.shape).to(field.dtype)
    return torch.where(field < 0, field, value) if isinstance(base_distribution(site["fn"]), GivenLabel) else value


def _holds(field: Tensor, site: Site, mask: Tensor | None) -> bool:
    """Return whether a field has the values of a site, in any shape and type.

    Args:
        field: a field of the data.
        site: an observed site of the model.
        mask: which numbers of x are known, or None; unknown numbers are not compared.
    """
    value = site["value"]
    if field.numel() != value.numel():
        return False
    difference = (field.reshape(-1).double() - value.reshape(-1).double()).nan_to_num()
    if mask is not None and mask.shape == field.shape:
        difference = difference * (mask.reshape(-1) != 0)
    return bool((difference == 0).all())
