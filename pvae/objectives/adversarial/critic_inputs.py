"""What a critic sees: sites of both programs as rows of numbers, from the data and from simulations of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pvae.errors import InputError
from pvae.objectives.base import Call
from pvae.programs.bound import BoundPrograms
from pvae.programs.sites import Site, base_distribution, sample_sites

__all__ = ["Simulation", "encoded", "in_order", "joined", "simulated"]


@dataclass(frozen=True)
class Simulation:
    """One run of the model with nothing observed, beside the data that it would have observed.

    Attributes:
        latent: the drawn z by site, each of shape (batch, numbers).
        drawn: the simulated x by site.
        data: the observed x by site.
        scale: what each datum counts for; a number or shape (batch,).
    """

    latent: Mapping[str, Tensor]
    drawn: Mapping[str, Tensor]
    data: Mapping[str, Tensor]
    scale: float | Tensor


def joined(parts: Iterable[Tensor], dtype: torch.dtype) -> Tensor:
    """Return rows side by side, shape (batch, features)."""
    return torch.cat([each.to(dtype) for each in parts], 1)


def simulated(
    model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any], encoding: poutine.Trace | None = None
) -> Simulation:
    """Run the model with every latent site drawn from its prior and every observed one simulated.

    A site whose likelihood has no pathwise gradient gives its mean in place of a draw (a Categorical its
    probabilities, beside data as one-hot rows), since no gradient would reach theta through the draw. Entries that a
    mask leaves out are 0 on both sides.

    Args:
        model: p(x, z).
        guide: q(z given x); it is not run, but for its layout.
        args: positional arguments of both programs.
        kwargs: keyword arguments of both programs.
        encoding: the guide's trace, whose subsample of the data is then used; else the model draws its own.

    Raises:
        InputError: if no plate holds every site, nothing is observed, theta would lose a part of its gradient, or a
            likelihood has neither a pathwise gradient nor a mean.
    """
    programs = BoundPrograms(model, guide, args, kwargs)
    dim = programs.layout.data_plate()[1]
    run = _Simulating({} if encoding is None else _indices(encoding))
    with run:
        sites = sample_sites(programs.trace_model())
    observed = [site for site in sites if site["name"] in run.data]
    if not observed:
        raise InputError("The model observes nothing, so there is nothing to match: give a site obs=.")
    latent = [site for site in sites if not site["is_observed"] and site["name"] not in run.data]
    pairs = {site["name"]: _pair(site, run.data[site["name"]], dim) for site in observed}
    return Simulation(
        {site["name"]: _rows(site, site["value"], dim) for site in latent},
        {name: drawn for name, (drawn, _) in pairs.items()},
        {name: data for name, (_, data) in pairs.items()},
        _scale(observed[0]),
    )


def encoded(model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any]) -> tuple[dict[str, Tensor], poutine.Trace]:
    """Return z drawn from the guide by site, each of shape (batch, numbers), and the guide's trace.

    Raises:
        InputError: if the guide draws nothing, or a site has no pathwise gradient.
    """
    programs = BoundPrograms(model, guide, args, kwargs)
    dim = programs.layout.data_plate()[1]
    trace = programs.trace_guide()
    sites = [site for site in sample_sites(trace) if not site["is_observed"]]
    if not sites:
        raise InputError("The guide draws no z, so there is nothing to match: use 'gan', which needs no guide.")
    for site in sites:
        _require_pathwise(site, "phi", "elbo' or 'rws")
    return {site["name"]: _rows(site, site["value"], dim) for site in sites}, trace


def in_order(codes: Mapping[str, Tensor], run: Simulation) -> dict[str, Tensor]:
    """Return the guide's codes in the order of the model's sites.

    Raises:
        InputError: if the two programs draw different sites, or of different sizes.
    """
    ours = {name: each.shape[1] for name, each in codes.items()}
    theirs = {name: each.shape[1] for name, each in run.latent.items()}
    if ours != theirs:
        raise InputError(
            f"A critic compares the same latent sites of both programs; the guide draws {ours}, and the model {theirs} "
            "(numbers per datum)."
        )
    return {name: codes[name] for name in run.latent}


class _Simulating(Messenger):
    """Simulates what the model observes, and keeps what it would have observed."""

    def __init__(self, indices: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.indices = indices
        self.data: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.indices:
            msg["value"], msg["done"] = self.indices[msg["name"]], True
        if (
            msg["infer"].get("_deterministic")
            or not msg["is_observed"]
            or isinstance(base_distribution(msg["fn"]), dist.Unit)
        ):
            return
        self.data[msg["name"]] = msg["value"]
        msg["is_observed"] = False
        if msg["fn"].has_rsample:
            msg["value"], msg["done"] = None, False
        else:
            msg["value"], msg["done"] = _mean(msg["name"], msg["fn"]), True

    def _pyro_post_sample(self, msg: Any) -> None:
        if type(msg["fn"]).__name__ != "_Subsample" and msg["name"] not in self.data:
            _require_pathwise(msg, "theta", "elbo' or 'rws")


def _require_pathwise(site: Site, group: str, instead: str) -> None:
    """Refuse a draw that a gradient ought to pass, and cannot."""
    density = site["fn"]
    if getattr(density, "has_rsample", True) or site["infer"].get("_deterministic") or not torch.is_grad_enabled():
        return
    if density.log_prob(site["value"].detach()).requires_grad:
        raise InputError(
            f"A critic's gradient reaches {group} through the draws, and site {site['name']!r} "
            f"({type(base_distribution(density)).__name__}) lets none through: its parameters would not be trained. "
            f"Use a reparameterised density there, or an objective for any site, such as '{instead}'."
        )


def _mean(name: str, density: Any) -> Tensor:
    """The generator's output where a draw would let no gradient through."""
    if isinstance(base_distribution(density), dist.Categorical):
        probs: Tensor = base_distribution(density).probs
        return probs
    try:
        mean: Tensor = density.mean
    except (AttributeError, NotImplementedError):
        raise InputError(
            f"Site {name!r} is simulated by a draw that lets a gradient through, or by its mean, and "
            f"{type(base_distribution(density)).__name__} has neither: give the model another likelihood, such as a "
            "Normal."
        ) from None
    return mean


def _pair(site: Site, data: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The rows of what was simulated and of the data, both without what a mask leaves out."""
    drawn = site["value"]
    if isinstance(base_distribution(site["fn"]), dist.Categorical):
        data = data.unsqueeze(-1) == torch.arange(drawn.shape[-1], device=drawn.device)  # one-hot rows
        return _rows(site, drawn, dim, 1), _rows(site, data.expand(drawn.shape), dim, 1)
    kept = _kept(site)
    drawn, data = torch.broadcast_tensors(drawn, data)
    if kept is not None:
        drawn, data = (torch.where(kept, each, torch.zeros_like(each)) for each in (drawn, data))
    return _rows(site, drawn, dim), _rows(site, data, dim)


def _kept(site: Site) -> Tensor | None:
    """Which entries of a site's value count: what `pyro.poutine.mask` and ``.mask(...)`` of its density leave."""
    density, found = site["fn"], None
    masks = [(site["mask"], density.event_dim)]
    while isinstance(density, torch.distributions.Independent | dist.MaskedDistribution):
        if isinstance(density, dist.MaskedDistribution):
            masks.append((density._mask, density.event_dim))
        density = density.base_dist
    for mask, event_dim in masks:
        if isinstance(mask, Tensor):
            wide = mask.bool().reshape(*mask.shape, *(1,) * event_dim)
            found = wide if found is None else found & wide
    return found


def _rows(site: Site, value: Tensor, dim: int, more: int = 0) -> Tensor:
    """A site's value with the data in front and all else flat, shape (batch, numbers)."""
    event_dim = site["fn"].event_dim + more
    shape = site["fn"].batch_shape + value.shape[value.dim() - event_dim :]
    value = value.expand(torch.broadcast_shapes(value.shape, shape))
    moved = value.movedim(value.dim() - event_dim + dim, 0)
    return moved.reshape(len(moved), -1)


def _scale(site: Site) -> float | Tensor:
    scale: float | Tensor = site["scale"]
    return scale.flatten() if isinstance(scale, Tensor) and scale.dim() else scale


def _indices(trace: poutine.Trace) -> dict[str, Tensor]:
    sites: dict[str, Site] = dict(trace.nodes)
    return {name: site["value"] for name, site in sites.items() if type(site.get("fn")).__name__ == "_Subsample"}
