"""Codes and samples of any latent model, read from its traces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Bernoulli

from pvae.deprecation import renamed_method
from pvae.errors import InputError
from pvae.programs.binding import Fields, Programs, bind
from pvae.programs.bound import BoundPrograms
from pvae.programs.data_sites import find_data_sites
from pvae.programs.fitting_runs import look_within_memory
from pvae.programs.ignored_masks import require_masks_taken
from pvae.programs.own_densities import with_own_densities
from pvae.programs.parameter_scope import scope
from pvae.programs.row_dependence import PROGRAM_ERRORS
from pvae.programs.sites import Site, sample_sites
from pvae.programs.usable_data import require_usable
from pvae.randomness import evaluating, preserved_randomness
from pvae.structures import moved

__all__ = [
    "encode",
    "has_bernoulli_likelihood",
    "inference_mode",
    "joined",
    "mean_of_site",
    "sample",
    "scores_bits",
    "simulate",
    "site_of_data",
    "trace_model_at_any_z",
]


@contextmanager
def inference_mode(latent_model: Any, batch: Mapping[str, Tensor], fields: Fields) -> Iterator[Programs]:
    """Yield programs bound to a batch, in evaluation mode, without gradients, in the scope of the latent model.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors.
        fields: as for `pvae.models.bind`.
    """
    programs = bind(latent_model, batch, fields).in_dtype_of_parameters()
    with scope(latent_model, inherit=True), torch.no_grad(), evaluating(*programs.all_modules):
        yield programs


def mean_of_site(site: Site) -> Tensor:
    """Return the mean of a site's distribution, in the shape of the site's value.

    If the mean has no closed form or is not finite, the result is the value itself.
    """
    try:
        mean = site["fn"].mean
    except NotImplementedError:
        return site["value"]
    return mean if bool(torch.isfinite(mean).all()) else site["value"]


def site_of_data(sites: list[Site], batch: Mapping[str, Tensor]) -> Site:
    """Return the observed site of x: the first one with as many numbers as x, else the first observed site.

    Args:
        sites: the sample sites of the model.
        batch: named tensors.

    Raises:
        InputError: if the model observes nothing.
    """
    observed = [site for site in sites if site["is_observed"]]
    if not observed:
        raise InputError(
            "Samples and reconstructions need an observed site; the model observes nothing. Give a site obs=x."
        )
    x = batch.get("x")
    count = x.numel() if isinstance(x, Tensor) else -1
    return next((site for site in observed if site["value"].numel() == count), observed[0])


def encode(latent_model: Any, batch: Mapping[str, Tensor], fields: Fields = None) -> dict[str, Tensor]:
    """Return the guide's mean of each latent site, or a draw if the mean has no closed form.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors.
        fields: as for `pvae.models.bind`.

    Returns:
        The codes by site, each of shape (batch, ...).

    Raises:
        InputError: for an empty batch, values that are not finite, or a model that takes no mask of missing values.
    """
    with inference_mode(latent_model, batch, fields) as programs:
        require_usable(batch)
        require_masks_taken(programs, batch)
        bound = programs.bound_to(batch)
        sites = {site["name"]: site for site in sample_sites(bound.trace_guide()) if not site["is_observed"]}
        if any(site["infer"].get("is_auxiliary") for site in sites.values()):
            guide, model = bound.trace_both()
            images = {name: guide.nodes[name] for name in bound.layout.bijection.points}
            sites = images | with_own_densities(guide, model, bound.layout.bijection)
        # the mean may be a parameter itself, which has a gradient even if gradients are off
        return {name: mean_of_site(site).detach() for name, site in sites.items()}


def codes_of_data(codes: Mapping[str, Tensor], bound: BoundPrograms) -> dict[str, Tensor]:
    """Return the codes of the sites with a value for each datum, without those of sites that all data share.

    Args:
        codes: the codes by site, of `encode`.
        bound: the programs with the batch of the codes.

    Raises:
        InputError: if all data share every site, or a code has another number of rows than the batch has data.
    """
    shared = bound.layout.shared(bound.size)
    local = {name: code for name, code in codes.items() if name not in shared}
    if codes and not local:
        raise InputError(
            f"All data share the latent site{'s' * (len(codes) > 1)} {', '.join(codes)}, so that a datum has no code. "
            "Read the guide's distribution of such a site from its parameters, or from a trace of the guide."
        )
    for name, code in local.items():
        if code.dim() == 0 or len(code) != bound.size:
            raise InputError(
                f"Codes need a row for each of the {bound.size} data; the site {name!r} has the shape "
                f"{tuple(code.shape)}. Put it in the plate over data."
            )
    return local


def joined(codes: Mapping[str, Tensor]) -> Tensor:
    """Return the codes of several latent sites in one tensor.

    Args:
        codes: the codes by site, each of shape (batch, ...).

    Returns:
        The codes, shape (batch, units).
    """
    return torch.cat([code.reshape(len(code), -1) for code in codes.values()], 1)


def sample(latent_model: Any, batch: Mapping[str, Tensor], fields: Fields = None) -> Tensor:
    """Return the mean of p(x given z) at one z drawn from the prior per datum, in the shape of ``batch["x"]``.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors; their number, shape and conditions are used, but not the values of x.
        fields: as for `pvae.models.bind`.

    Raises:
        InputError: if the model observes nothing.
    """
    return simulate(latent_model, batch, fields, mean=True)


def simulate(latent_model: Any, batch: Mapping[str, Tensor], fields: Fields = None, *, mean: bool) -> Tensor:
    """Return x at one z drawn from the prior per datum, in the shape of ``batch["x"]``.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors, as for `sample`.
        fields: as for `pvae.models.bind`.
        mean: whether to return the mean of p(x given z) instead of a draw.

    Raises:
        InputError: if the model observes nothing.
    """
    with inference_mode(latent_model, batch, fields) as programs:
        bound = programs.bound_to(batch)
        data_sites = find_data_sites(sample_sites(bound.trace_model()), programs, bound)
        simulated = bound.trace_model(simulate=True)
        sites: dict[str, Any] = {name: simulated.nodes[name] for name in data_sites.names}
        return data_sites.joined(
            {name: mean_of_site(site) if mean else site["value"] for name, site in sites.items()}, batch
        )


def has_shared_latents(latent_model: Any, batch: Mapping[str, Tensor], fields: Fields = None) -> bool:
    """Return whether all data share a latent site; False if the programs fail on the first two data.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors with at least one datum.
        fields: as for `pvae.models.bind`.
    """
    first = {name: tensor[:2] for name, tensor in batch.items()}
    with inference_mode(latent_model, first, fields) as programs:
        bound = programs.bound_to(first)
        try:
            return bool(bound.layout.shared(bound.size))
        except PROGRAM_ERRORS:
            return False


def trace_model_at_any_z(programs: BoundPrograms) -> poutine.Trace:
    """Return a trace of the model at any z: from its prior, or from the guide if the prior fails.

    A prior may be improper, or so wide that a likelihood overflows at its draws.
    """
    try:
        return programs.trace_model()
    except (ArithmeticError, RuntimeError, ValueError):
        return programs.trace_both()[1]


def has_bernoulli_likelihood(latent_model: Any, batch: Mapping[str, Tensor], fields: Fields = None) -> bool:
    """Return whether the model scores x by a Bernoulli distribution, so that grey data need to be binarised for it.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: a few data; they are moved to the device of the parameters.
        fields: as for `pvae.models.bind`.
    """
    with preserved_randomness(), inference_mode(latent_model, batch, fields) as programs:
        device = next((parameter.device for parameter in programs.modules.parameters()), None)
        placed = batch if device is None else {name: moved(value, device) for name, value in batch.items()}
        sites = look_within_memory(
            lambda part: sample_sites(trace_model_at_any_z(programs.bound_to(part))), programs.modules, placed
        )
        if not any(site["is_observed"] for site in sites):
            return False
        distribution = site_of_data(sites, placed)["fn"]
        while hasattr(distribution, "base_dist"):
            distribution = distribution.base_dist
        return isinstance(distribution, Bernoulli)


scores_bits = renamed_method("scores_bits", has_bernoulli_likelihood)
