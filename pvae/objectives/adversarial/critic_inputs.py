"""The inputs of a critic: sites of both programs as rows of numbers, for the data and for simulations of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.bound import BoundPrograms
from pvae.programs.site_masks import require_no_mask
from pvae.programs.sites import Site, base_distribution, is_marked_for_enumeration, is_subsample, sample_sites

__all__ = ["Simulation", "codes_in_model_order", "draw_codes", "scale_of", "simulate"]


@dataclass(frozen=True)
class Simulation:
    """One run of the model with simulated observations, and the data that it would have observed.

    Attributes:
        latent: the drawn z by site, each of shape (batch, features).
        drawn: the simulated x by site, each of shape (batch, features).
        data: the observed x by site, each of shape (batch, features).
        scale: the factor of each datum; a number or shape (batch,).
    """

    latent: Mapping[str, Tensor]
    drawn: Mapping[str, Tensor]
    data: Mapping[str, Tensor]
    scale: float | Tensor


def simulate(
    programs: BoundPrograms,
    guide_trace: poutine.Trace | None = None,
    *,
    at_codes: bool = False,
    means: bool = False,
) -> Simulation:
    """Run the model with every latent site drawn from its prior and every observed site simulated.

    If a likelihood has no pathwise gradient, its mean replaces a draw (for a Categorical the probabilities, compared
    with data as one-hot rows), because no gradient would reach theta through the draw. Entries that a mask leaves out
    are 0 on both sides.

    Args:
        programs: both programs with their arguments. The guide is run only to find the layout.
        guide_trace: a trace of the guide, for its subsample of the data; None lets the model draw its own.
        at_codes: whether the latent sites have the values of `guide_trace` in place of draws from the prior.
        means: whether the mean of every likelihood replaces a draw.

    Raises:
        InputError: if no plate holds every site, nothing is observed, theta would lose a part of its gradient, or a
            likelihood has neither a pathwise gradient nor a mean.
    """
    data_dim = programs.layout.data_plate()[1]
    indices = {} if guide_trace is None else _subsample_indices(guide_trace)
    simulating = _SimulationMessenger(indices, at_codes=at_codes, means=means)
    with simulating:
        sites = sample_sites(programs.trace_model(guide_trace if at_codes else None))
    observed = [site for site in sites if site["name"] in simulating.data]
    if not observed:
        raise InputError(
            "A critic needs an observed site of the model to compare with the data; this model has none. Give a site "
            "obs=."
        )
    latent = [site for site in sites if not site["is_observed"] and site["name"] not in simulating.data]
    drawn: dict[str, Tensor] = {}
    data: dict[str, Tensor] = {}
    for site in observed:
        name = site["name"]
        drawn[name], data[name] = _drawn_and_data_rows(site, simulating.data[name], data_dim)
    latent_rows = {site["name"]: _rows(site, site["value"], data_dim) for site in latent}
    return Simulation(latent_rows, drawn, data, scale_of(observed[0]))


def draw_codes(programs: BoundPrograms) -> tuple[dict[str, Tensor], poutine.Trace]:
    """Draw z from the guide.

    Returns:
        z by site, each of shape (batch, features); and the trace of the guide.

    Raises:
        InputError: if the guide draws nothing, or a site has no pathwise gradient or is masked.
    """
    data_dim = programs.layout.data_plate()[1]
    trace = programs.trace_guide()
    sites = [site for site in sample_sites(trace) if not site["is_observed"]]
    if not sites:
        raise InputError(
            "A critic of z needs a guide that draws z; this guide draws nothing. Use 'gan', without guide."
        )
    for site in sites:
        _require_pathwise(site, "phi", "'elbo' or 'rws'")
        require_no_mask(site, "A critic of z")
    in_model = [site for site in sites if site["name"] not in programs.layout.bijection.auxiliary]
    return {site["name"]: _rows(site, site["value"], data_dim) for site in in_model}, trace


def codes_in_model_order(codes: Mapping[str, Tensor], simulation: Simulation) -> dict[str, Tensor]:
    """Return the guide's codes in the order of the model's sites.

    Args:
        codes: z drawn from the guide, by site, each of shape (batch, features).
        simulation: a run of the model.

    Raises:
        InputError: if the two programs draw different sites, or sites of different sizes.
    """
    guide_sizes = {name: rows.shape[1] for name, rows in codes.items()}
    model_sizes = {name: rows.shape[1] for name, rows in simulation.latent.items()}
    if guide_sizes != model_sizes:
        raise InputError(
            "A critic needs the same latent sites in both programs, of the same sizes; the guide draws "
            f"{guide_sizes}, and the model draws {model_sizes} (numbers per datum). Make the sites equal."
        )
    return {name: codes[name] for name in simulation.latent}


class _SimulationMessenger(Messenger):
    """Simulates the observed sites of the model, and keeps the values that they would have observed.

    Args:
        indices: the indices of subsampled plates to use, by plate.
        at_codes: whether the latent sites have values that the guide drew.
        means: whether the mean of every likelihood replaces a draw.
    """

    def __init__(self, indices: Mapping[str, Tensor], *, at_codes: bool, means: bool) -> None:
        super().__init__()
        self.indices, self.at_codes, self.means = indices, at_codes, means
        self.data: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.indices:
            msg["value"] = self.indices[msg["name"]]
            msg["done"] = True
        is_factor = isinstance(base_distribution(msg["fn"]), dist.Unit)
        if msg["infer"].get("_deterministic") or not msg["is_observed"] or is_factor:
            return
        self.data[msg["name"]] = msg["value"]
        msg["is_observed"] = False
        if msg["fn"].has_rsample and not self.means:
            msg["value"] = None
            msg["done"] = False
        else:
            msg["value"] = _mean(msg["name"], msg["fn"])
            msg["done"] = True

    def _pyro_post_sample(self, msg: Any) -> None:
        if not is_subsample(msg) and msg["name"] not in self.data and not self.at_codes:
            _require_pathwise(msg, "theta", "'elbo' or 'rws'")


def _require_pathwise(site: Site, group: str, alternatives: str) -> None:
    """Refuse a draw without a pathwise gradient from a distribution with parameters.

    Args:
        site: a site with its value.
        group: the parameter group that the gradient should reach.
        alternatives: objectives to use instead, for the error.
    """
    density = site["fn"]
    if getattr(density, "has_rsample", True) or site["infer"].get("_deterministic") or not torch.is_grad_enabled():
        return
    if density.log_prob(site["value"].detach()).requires_grad:
        if is_marked_for_enumeration(site):
            alternatives = "'iwae'" if site["infer"].get("is_auxiliary") else "'elbo-enum' or 'iwae'"
        raise InputError(
            f"A critic's gradient needs to reach {group} through the draws; site {site['name']!r} "
            f"({type(base_distribution(density)).__name__}) has no gradient through its draws, so its parameters would "
            "not be trained. "
            f"Use a reparameterised density there, or an objective for any site, such as {alternatives}."
        )


def _mean(site: str, density: Any) -> Tensor:
    """Return the generator's output for a likelihood without pathwise gradient: its mean, or class probabilities."""
    if isinstance(base_distribution(density), dist.Categorical):
        probs: Tensor = base_distribution(density).probs
        return probs
    try:
        mean: Tensor = density.mean
    except (AttributeError, NotImplementedError):
        raise InputError(
            "A critic needs a likelihood with a pathwise gradient or with a mean; site "
            f"{site!r} is {type(base_distribution(density)).__name__}, which has neither. Give the model another "
            "likelihood, such as a Normal."
        ) from None
    return mean


def _drawn_and_data_rows(site: Site, data: Tensor, data_dim: int) -> tuple[Tensor, Tensor]:
    """Return the simulated values and the data as rows, each of shape (batch, features), with 0 where masked.

    Args:
        site: an observed site, with its simulated value.
        data: the value that it would have observed.
        data_dim: the dimension of the data plate.
    """
    drawn = site["value"]
    if isinstance(base_distribution(site["fn"]), dist.Categorical):
        one_hot = data.unsqueeze(-1) == torch.arange(drawn.shape[-1], device=drawn.device)
        return _rows(site, drawn, data_dim, 1), _rows(site, one_hot.expand(drawn.shape), data_dim, 1)
    mask = _joint_mask(site)
    drawn, data = torch.broadcast_tensors(drawn, data)
    if mask is not None:
        drawn = torch.where(mask, drawn, torch.zeros_like(drawn))
        data = torch.where(mask, data, torch.zeros_like(data))
    return _rows(site, drawn, data_dim), _rows(site, data, data_dim)


def _joint_mask(site: Site) -> Tensor | None:
    """Return which entries of a site's value count, by `pyro.poutine.mask` and by ``.mask(...)`` of its density.

    `base_distribution` does not help here, because it drops the masks.
    """
    density = site["fn"]
    masks = [(site["mask"], density.event_dim)]
    while isinstance(density, torch.distributions.Independent | dist.MaskedDistribution):
        if isinstance(density, dist.MaskedDistribution):
            masks.append((density._mask, density.event_dim))
        density = density.base_dist
    joint: Tensor | None = None
    for mask, event_dim in masks:
        if isinstance(mask, Tensor):
            expanded = mask.bool().reshape(*mask.shape, *(1,) * event_dim)
            joint = expanded if joint is None else joint & expanded
    return joint


def _rows(site: Site, value: Tensor, data_dim: int, extra_dims: int = 0) -> Tensor:
    """Return the value of a site as rows, shape (batch, features).

    Args:
        site: the site, for the shapes of batch and event.
        value: shape (*plates, *event), or one that broadcasts to it.
        data_dim: the dimension of the data plate, from the right of the batch shape.
        extra_dims: the number of dimensions of the value to the right of the event.
    """
    event_dim = site["fn"].event_dim + extra_dims
    shape = site["fn"].batch_shape + value.shape[value.dim() - event_dim :]
    value = value.expand(torch.broadcast_shapes(value.shape, shape))
    moved = value.movedim(value.dim() - event_dim + data_dim, 0)
    return moved.reshape(len(moved), -1)


def scale_of(site: Site) -> float | Tensor:
    """Return the scale of a site, a number or shape (batch,)."""
    scale: float | Tensor = site["scale"]
    return scale.flatten() if isinstance(scale, Tensor) and scale.dim() else scale


def _subsample_indices(trace: poutine.Trace) -> dict[str, Tensor]:
    """Return the indices of subsampled plates in a trace, by plate."""
    sites: dict[str, Site] = dict(trace.nodes)
    return {name: site["value"] for name, site in sites.items() if is_subsample(site)}
