"""The entries at which the log-density of a site counts, from `pyro.poutine.mask` and `Distribution.mask`."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.sites import Site, base_distribution

__all__ = [
    "has_no_density",
    "have_same_mask",
    "is_masked",
    "is_switched_off",
    "mask_of_site",
    "require_every_entry",
    "require_no_mask",
]


def mask_of_site(site: Site) -> Tensor:
    """Return a mask of the entries that count; it broadcasts to the batch and event shape of the site.

    Args:
        site: a sample site of a trace.
    """
    density: Any = site["fn"]
    mask = _with_event_dims(True if site["mask"] is None else site["mask"], density.event_dim)
    while isinstance(density, torch.distributions.Independent | dist.MaskedDistribution):
        if isinstance(density, dist.MaskedDistribution):
            mask = mask & _with_event_dims(density._mask, density.event_dim).to(mask.device)
        density = density.base_dist
    return mask


def _with_event_dims(mask: bool | Tensor, event_dim: int) -> Tensor:
    """Return a mask of the batch shape, with `event_dim` dimensions of size 1 on the right."""
    tensor = torch.as_tensor(mask).bool()
    return tensor.reshape(tensor.shape + (1,) * event_dim)


def is_switched_off(site: Site) -> bool:
    """Return whether a site never counts, because a program masks it by the constant False; no tensor is read."""
    density: Any = site["fn"]
    if site["mask"] is False:
        return True
    while isinstance(density, torch.distributions.Independent | dist.MaskedDistribution):
        if isinstance(density, dist.MaskedDistribution) and density._mask is False:
            return True
        density = density.base_dist
    return False


def have_same_mask(one: Site, other: Site) -> bool:
    """Return whether the log-densities of two sites count at the same entries.

    Args:
        one: a sample site of one program.
        other: the site of the same name of the other program.
    """
    if not is_masked(one) and not is_masked(other):
        return True
    first, second = mask_of_site(one), mask_of_site(other)
    try:
        first, second = torch.broadcast_tensors(first, second.to(first.device))
    except RuntimeError:
        return False
    return torch.equal(first, second)


def is_masked(site: Site) -> bool:
    """Return whether a mask applies to a site; its values are not read."""
    density: Any = site["fn"]
    if site["mask"] is not None:
        return True
    while isinstance(density, torch.distributions.Independent):
        density = density.base_dist
    return isinstance(density, dist.MaskedDistribution)


def require_every_entry(site: Site, task: str) -> None:
    """Raise InputError for a latent site with entries that do not count, such as entries after the end of a sequence.

    Args:
        site: a latent site of a trace.
        task: the task that needs the density of every entry, as the subject of the error.

    Raises:
        InputError: with the name of the site.
    """
    if is_masked(site) and not bool(mask_of_site(site).all()):
        raise InputError(
            f"{task} needs a density at every entry of a latent site; site {site['name']!r} is masked. Estimate by "
            "log_evidence, or leave masked latents out of the model."
        )


def require_no_mask(site: Site, task: str) -> None:
    """Raise InputError for a latent site with a mask, because all entries of draws are compared.

    Args:
        site: a latent site of a trace. The values of its mask are not read.
        task: the task that compares the draws, as the subject of the error.

    Raises:
        InputError: with the name of the site.
    """
    if is_masked(site) and site["mask"] is not True:
        raise InputError(
            f"{task} compares draws of z and cannot leave out masked entries; the site {site['name']!r} is "
            f"masked. Use an objective of densities, such as 'elbo' or 'iwae', or remove the mask."
        )


def has_no_density(site: Site) -> bool:
    """Return whether a guide's site is a point without a density. Its log q is 0, so a mask or scale changes nothing.

    The Delta of an autoguide after a draw (``AutoNormal``) cannot be found from one site; see its auxiliary site.
    """
    density = base_distribution(site["fn"])
    return isinstance(density, dist.Delta) and not bool(torch.as_tensor(density.log_density).any())
