"""Rules for the latent sites of both programs: the masks, scales and rows of plates have to be the same in both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pvae.linter.check_context import CheckContext
from pvae.linter.findings import Finding
from pvae.objectives.adversarial.base import Adversarial
from pvae.programs.site_masks import has_no_density, have_same_mask, is_masked
from pvae.programs.sites import Site

__all__ = ["AGREEMENT_RULES"]


def _latents_with_densities(context: CheckContext) -> Iterator[tuple[str, Site, Site]]:
    """Yield the latent sites with a term log p - log q: name, site of the guide, site of the model.

    A point without a density, for example in ``AutoDelta``, has log q = 0 at every entry. A Delta that maps auxiliary
    draws, for example in ``AutoNormal``, has the log q of these draws.
    """
    if isinstance(context.objective, Adversarial) or "phi" in context.trained.untrained:
        return
    images = context.bound.layout.bijection.points
    for name, in_guide, in_model in context.shared_latents:
        if name in images or not has_no_density(in_guide):
            yield name, in_guide, in_model


def _masks(context: CheckContext) -> Iterator[Finding]:
    """Report latents with different masks in the model and in the guide."""
    for name, in_guide, in_model in _latents_with_densities(context):
        if have_same_mask(in_guide, in_model):
            continue
        where = {(True, False): "in the guide only", (False, True): "in the model only"}
        masked = where.get((is_masked(in_guide), is_masked(in_model)), "in both programs, with different masks")
        message = (
            f"it has a mask {masked}, so log q counts at entries where log p does not, or the reverse. The objective "
            "is then not a lower bound."
        )
        fix = (
            "Put the same mask around the site in both programs (pyro.poutine.mask, or .mask of the distribution). "
            "Autoguides have no masks: write the guide as a function, or draw the site without a mask."
        )
        yield Finding("mask in one program", name, message, fix)


def _scales(context: CheckContext) -> Iterator[Finding]:
    """Report latents with different scales in the model and in the guide.

    A scale around the whole model only is not an error: the bound is the bound of the tempered joint density p(x,
    z)^scale. A scale of the guide is an error: with it, log q does not count exactly once.
    """
    own_scales = [_own_scale(site) for site in context.model_sites]
    is_tempered = all(_is_same_scale(scale, own_scales[0]) for scale in own_scales)
    for name, in_guide, in_model in _latents_with_densities(context):
        if _is_same_scale(in_guide["scale"], in_model["scale"]):
            continue
        scales = f"{_describe(in_guide['scale'])} in the guide and {_describe(in_model['scale'])} in the model"
        is_plain = _is_same_scale(_own_scale(in_guide), 1.0)
        if is_tempered and is_plain and _is_same_scale(_plate_scale(in_guide), _plate_scale(in_model)):
            message = f"its scale is {scales}, so it is a bound of a tempered joint density, not of log p(x)."
            yield Finding(
                "tempered model",
                name,
                message,
                "Give both programs the same scale for a bound on log p(x).",
                fatal=False,
            )
            return
        message = (
            f"its scale is {scales}, so log q and log p count differently, and the objective is not a lower bound."
        )
        fix = "Use the same plate, with the same size and subsample, and the same poutine.scale in both programs."
        yield Finding("scale in one program", name, message, fix)


def _plate_scale(site: Site) -> float:
    """Return the factor of the subsampled plates of a site."""
    sizes = [(frame.full_size, frame.size) for frame in site["cond_indep_stack"] if frame.full_size is not None]
    return math.prod(full_size / size for full_size, size in sizes)


def _own_scale(site: Site) -> Tensor | float:
    """Return the scale of a site without the factor of its plates."""
    own_scale: Tensor | float = site["scale"] / _plate_scale(site)
    return own_scale


def _is_same_scale(one: Tensor | float, other: Tensor | float) -> bool:
    first, second = torch.as_tensor(one).double().cpu(), torch.as_tensor(other).double().cpu()
    try:
        return bool(torch.isclose(first, second, rtol=1e-5, atol=0.0).all())
    except RuntimeError:  # shapes that do not broadcast
        return False


def _describe(scale: Tensor | float) -> str:
    if isinstance(scale, Tensor) and scale.numel() > 1:
        return f"{float(scale.min()):g} to {float(scale.max()):g}"
    return f"{float(scale):g}"


def _rows(context: CheckContext) -> Iterator[Finding]:
    """Report latents in a subsampled plate with different rows in the model and in the guide.

    Plates with one row for each datum of the batch are checked by the run on the data in another order, because a guide
    that does not use the indices is correct with any indices.
    """
    for name, in_guide, in_model in context.shared_latents:
        for plate, other in _pairs_of_plates(in_guide, in_model):
            rows, wanted = context.guide_rows.get(plate.name), context.model_rows.get(other.name)
            if rows is None or wanted is None or plate.size == context.bound.size or torch.equal(rows, wanted):
                continue
            message = (
                f"plate {plate.name!r} takes other rows in the guide than plate {other.name!r} in the model, so log q "
                "and log p belong to different data."
            )
            fix = (
                "Use a plate of the same name, size and subsample in both programs; an autoguide takes it from "
                "create_plates=."
            )
            yield Finding("rows in one program", name, message, fix)
            break


def _pairs_of_plates(in_guide: Site, in_model: Site) -> Iterator[tuple[Site, Site]]:
    """Yield the subsampled plates of a site in the guide, each with the model's plate of the same dimension."""
    of_model = {frame.dim: frame for frame in in_model["cond_indep_stack"] if frame.dim is not None}
    for frame in in_guide["cond_indep_stack"]:
        other = of_model.get(frame.dim)
        if other is not None and frame.full_size != frame.size:
            yield frame, other


#: Every rule that compares the latent sites of both programs.
AGREEMENT_RULES: tuple[Callable[[CheckContext], Iterator[Finding]], ...] = (_masks, _scales, _rows)
