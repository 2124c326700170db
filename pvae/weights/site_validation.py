"""Conditions on the sites of model and guide for a weight per datum to exist."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.site_masks import has_no_density, have_same_mask, is_masked
from pvae.programs.sites import Site, is_delta, is_marked_for_enumeration
from pvae.weights.sphere_sites import require_comparable_densities
from pvae.weights.traces import TracePair
from pvae.weights.tracing import is_traced

__all__ = ["common_scale", "delta_sites", "require_same_masks", "require_same_scales", "require_weights_exist"]


def require_weights_exist(pair: TracePair) -> None:
    """Raise InputError if a latent site is in only one program, or on a sphere in only one program.

    Raises:
        InputError: with the name of the site.
    """
    latent = {site["name"] for site in pair.latent_sites}
    if not latent and all(site["is_observed"] for site in pair.model_sites):
        raise InputError(
            "Log weights need at least one latent site, but the model has none and the guide draws nothing. Draw z in "
            "both."
        )
    for site in pair.model_sites:
        if not site["is_observed"] and site["name"] not in latent and not is_marked_for_enumeration(site):
            raise InputError(
                f"Weights need every latent site in both programs, but the model's site {site['name']!r} is neither "
                "observed nor in the guide. Draw it in the guide too, or mark a site of finite support with "
                "infer={'enumerate': 'parallel'} to sum it out."
            )
    for site in pair.guide_sites:
        if not site["infer"].get("is_auxiliary"):
            _require_latent_in_model(site, pair)


def _require_latent_in_model(site: Site, pair: TracePair) -> None:
    name = site["name"]
    other = pair.model.nodes.get(name)
    if site["is_observed"] or other is None or other["type"] != "sample":
        raise InputError(
            f"Weights need the same z in both programs, but guide site {name!r} is not a latent site of the model. "
            "Draw it "
            "in the model, or mark a site that only the guide has with infer={'is_auxiliary': True}."
        )
    if other["is_observed"]:
        raise InputError(
            f"Weights need the same z in both programs, but site {name!r} is drawn in the guide and observed in the "
            "model. Leave it out of one of them."
        )
    require_comparable_densities(site, other)


def require_same_masks(pair: TracePair) -> None:
    """Raise InputError for latents with different masks in the programs: the weight is then not a bound.

    Raises:
        InputError: with the name of the site.
    """
    for site in pair.latent_sites:
        other: Site = pair.model.nodes.get(site["name"])
        if other is None or not (is_masked(site) or is_masked(other)):
            continue
        if is_traced():  # the eager step before the traced step has compared the masks
            return
        is_point = site["name"] not in pair.bijection.points and has_no_density(site)
        if not is_point and not have_same_mask(site, other):
            raise InputError(
                f"Weights need the same mask in both programs; the masks of site {site['name']!r} in the guide and in "
                "the model differ, so log q and log p count at different entries. Put the same mask around the site in "
                "both programs."
            )


def delta_sites(pair: TracePair) -> tuple[str, ...]:
    """Return the guide's sites that are a Delta while z is continuous; they have no density, and so no weight.

    A Delta that maps auxiliary draws one to one has a density.
    """
    names = []
    for site in pair.latent_sites:
        other = pair.model.nodes.get(site["name"])
        support = None if other is None else getattr(other["fn"], "support", None)
        is_discrete = getattr(support, "is_discrete", False)
        if is_delta(site) and not is_discrete and site["name"] not in pair.bijection.points:
            names.append(site["name"])
    return tuple(names)


def _is_same_scale(scale: float | Tensor, first: float | Tensor) -> bool:
    if not isinstance(scale, Tensor) and not isinstance(first, Tensor):
        return scale == first
    if is_traced():  # the eager step before the traced step has compared the tensors
        return True
    one, other = torch.as_tensor(scale), torch.as_tensor(first)
    return one.shape == other.shape and bool((one == other).all())


def _scale_text(scale: float | Tensor) -> str:
    """Return a scale as text: the number, or the range of a tensor."""
    if not isinstance(scale, Tensor):
        return f"{scale:.3g}"
    least, most = float(scale.min()), float(scale.max())
    return f"{least:.3g}" if least == most else f"{least:.3g} to {most:.3g}"


def require_same_scales(pair: TracePair) -> None:
    """Raise InputError for a latent site with different scales in the programs: the sum is then not a bound.

    Raises:
        InputError: with the name of the site.
    """
    for site in pair.latent_sites:
        other = pair.model.nodes.get(site["name"])
        if other is not None and not _is_same_scale(site["scale"], other["scale"]):
            raise InputError(
                f"Site {site['name']!r} has the scale {_scale_text(other['scale'])} in the model and "
                f"{_scale_text(site['scale'])} in the guide. Give both programs the same scale."
            )


def common_scale(pair: TracePair) -> float | Tensor:
    """Return the one scale of all sites, a number or shape (batch,).

    If scales differ between sites, no common factor can be moved out of the logarithm of a mean over particles.

    Raises:
        InputError: if the scales differ.
    """
    sites = pair.guide_sites + pair.model_sites
    first = sites[0]["scale"]
    for index, site in enumerate(sites):
        scale = site["scale"]
        # most scales are equal numbers; the call is for tensors
        if type(scale) is type(first) is float and scale == first:
            continue
        if scale is not first and not _is_same_scale(scale, first):
            programs = ["guide" if number < len(pair.guide_sites) else "model" for number in (0, index)]
            raise InputError(
                f"Weights need one scale per datum; site {sites[0]['name']!r} of the {programs[0]} has the scale "
                f"{_scale_text(first)}, and site {site['name']!r} of the {programs[1]} has {_scale_text(scale)}. Give "
                "both programs the same scale, or use the objective 'elbo'."
            )
    return first.flatten() if isinstance(first, Tensor) and first.dim() else first
