"""What model and guide must agree on for a weight per datum to exist."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.layout import Site, sample_sites
from pvae.weights.handlers import base_of, marked
from pvae.weights.traces import Draw

__all__ = ["common_scale", "is_traced", "points_of", "require_weights_exist"]


def require_weights_exist(draw: Draw) -> None:
    """Refuse what has no weight per datum: sites in one program only.

    Raises:
        InputError: with the site's name.
    """
    latent = {site["name"] for site in draw.latent()}
    for site in sample_sites(draw.model):
        if not site["is_observed"] and site["name"] not in latent and not marked(site):
            raise InputError(
                f"Model site {site['name']!r} is neither observed nor in the guide: draw it in the guide too."
            )
    for site in sample_sites(draw.guide):
        if site["infer"].get("is_auxiliary"):
            continue
        other = draw.model.nodes.get(site["name"])
        if site["is_observed"] or other is None or other["type"] != "sample":
            raise InputError(
                f"Guide site {site['name']!r} is not a latent site of the model: weights need the same z in both, "
                "or infer={'is_auxiliary': True} on a site that the guide alone has."
            )
        if other["is_observed"]:
            raise InputError(
                f"Site {site['name']!r} is drawn in the guide and observed in the model: leave it out of one."
            )


def points_of(draw: Draw) -> tuple[str, ...]:
    """Return the guide's sites that are a point where z is continuous: they have no density, and so no weight."""

    def is_point(site: Site) -> bool:
        other = draw.model.nodes.get(site["name"])
        discrete = other is not None and getattr(getattr(other["fn"], "support", None), "is_discrete", False)
        return isinstance(base_of(site["fn"]), dist.Delta) and not discrete

    return tuple(site["name"] for site in draw.latent() if is_point(site))


def is_traced() -> bool:
    """Return whether a step is being traced below Pyro: values are then not to be looked at."""
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None


def _same_scale(scale: float | Tensor, first: float | Tensor) -> bool:
    if not isinstance(scale, Tensor) and not isinstance(first, Tensor):
        return scale == first
    if is_traced():  # the eager step before a traced one has compared the tensors
        return True
    one, other = torch.as_tensor(scale), torch.as_tensor(first)
    return one.shape == other.shape and bool((one == other).all())


def common_scale(draw: Draw) -> float | Tensor:
    """Return the one scale of all sites: scales that differ between sites have no place outside the logarithm.

    Raises:
        InputError: if they differ.
    """
    scales = [(site["name"], site["scale"]) for site in sample_sites(draw.guide) + sample_sites(draw.model)]
    name, first = scales[0]
    for other, scale in scales:
        if scale is not first and not _same_scale(scale, first):
            raise InputError(
                f"Sites {name!r} (guide) and {other!r} carry different scales: weights need one scale per datum. "
                "Scale both programs alike, or use the objective 'elbo'."
            )
    return first.flatten() if isinstance(first, Tensor) and first.dim() else first
