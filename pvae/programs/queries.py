"""Codes, samples and reconstructions of any latent model, read off its traces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Bernoulli

from pvae.errors import InputError
from pvae.programs.binding import Fields, Programs, bind
from pvae.programs.bound import BoundPrograms
from pvae.programs.parameter_scope import scope
from pvae.programs.sites import Site, sample_sites
from pvae.randomness import evaluating, preserved_randomness

__all__ = ["encode", "joined", "reconstruct", "sample", "scores_bits"]


@contextmanager
def _asked(latent_model: Any, batch: Mapping[str, Tensor], fields: Fields) -> Iterator[Programs]:
    """Programs bound to the batch, in evaluation mode, without gradients, in the model's own scope."""
    programs = bind(latent_model, batch, fields)
    with scope(latent_model, inherit=True), torch.no_grad(), evaluating(*programs.modules):
        yield programs


def _mean(site: Site) -> Tensor:
    """The mean of a site's distribution, or its drawn value where there is no mean in closed form."""
    try:
        mean = site["fn"].mean
    except NotImplementedError:
        return site["value"]
    return mean if bool(torch.isfinite(mean).all()) else site["value"]


def _observed(sites: list[Site], batch: Mapping[str, Tensor]) -> Site:
    """The site that scores x: the observed one of as many numbers, else the first observed."""
    seen = [site for site in sites if site["is_observed"]]
    if not seen:
        raise InputError("The model observes nothing, so there is nothing to sample or to reconstruct.")
    x = batch.get("x")
    return next((site for site in seen if x is not None and site["value"].numel() == x.numel()), seen[0])


def _as_data(value: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    x = batch.get("x")
    return value.reshape(x.shape) if x is not None and value.numel() == x.numel() else value


def encode(latent_model: Any, batch: Mapping[str, Tensor], fields: Fields = None) -> dict[str, Tensor]:
    """Return the guide's mean of each latent site, shape (batch, ...); a draw where a mean has no closed form.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors.
        fields: as for `pvae.models.bind`.
    """
    with _asked(latent_model, batch, fields) as programs:
        trace = programs.bound_to(batch).trace_guide()
        return {site["name"]: _mean(site) for site in sample_sites(trace) if not site["is_observed"]}


def joined(codes: Mapping[str, Tensor]) -> Tensor:
    """Return the codes of several latent sites beside each other, shape (batch, units)."""
    return torch.cat([each.reshape(len(each), -1) for each in codes.values()], 1)


def reconstruct(latent_model: Any, batch: Mapping[str, Tensor], fields: Fields = None) -> Tensor:
    """Return the mean of p(x given z) at one z drawn from the guide per datum, in the shape of ``batch["x"]``.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors.
        fields: as for `pvae.models.bind`.

    Raises:
        InputError: if the model observes nothing.
    """
    with _asked(latent_model, batch, fields) as programs:
        _, model = programs.bound_to(batch).trace_both()
        return _as_data(_mean(_observed(sample_sites(model), batch)), batch)


def sample(latent_model: Any, batch: Mapping[str, Tensor], fields: Fields = None) -> Tensor:
    """Return the mean of p(x given z) at z drawn from the prior, one for each datum of `batch`, in the shape of x.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors: their number and shape matter, and their conditions; the observed x does not.
        fields: as for `pvae.models.bind`.

    Raises:
        InputError: if the model observes nothing.
    """
    with _asked(latent_model, batch, fields) as programs:
        bound = programs.bound_to(batch)
        seen = _observed(sample_sites(bound.trace_model()), batch)["name"]
        drawn = bound.trace_model(simulate=True)
        return _as_data(_mean(drawn.nodes[seen]), batch)


def _scored(programs: BoundPrograms) -> poutine.Trace:
    """Return a trace of the model at any z: from its prior, or from the guide if that prior cannot be drawn from."""
    try:
        return programs.trace_model()
    except InputError:
        return programs.trace_both()[1]


def scores_bits(latent_model: Any, batch: Mapping[str, Tensor], fields: Fields = None) -> bool:
    """Return whether the model scores x by a Bernoulli distribution, so that grey data have to be binarised for it.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: a few data; they are moved to where the parameters are.
        fields: as for `pvae.models.bind`.
    """
    with preserved_randomness(), _asked(latent_model, batch, fields) as programs:
        home = next((each.device for each in programs.modules.parameters()), None)
        here = {name: each.to(home) for name, each in batch.items()} if home is not None else batch
        sites = sample_sites(_scored(programs.bound_to(here)))
        if not any(site["is_observed"] for site in sites):
            return False
        density = _observed(sites, here)["fn"]
        while hasattr(density, "base_dist"):
            density = density.base_dist
        return isinstance(density, Bernoulli)
