"""Rules for a pair of programs: fields, sites, supports, first values and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import torch
from torch import Tensor

from pvae.data import check_support
from pvae.errors import InputError
from pvae.linter.check_context import CheckContext
from pvae.linter.findings import Finding
from pvae.linter.supports import describe_support, have_same_support, support_of
from pvae.objectives.adversarial.base import Adversarial
from pvae.programs.ignored_masks import describe_ignored_masks
from pvae.programs.model_traits import traits_of
from pvae.programs.parameter_groups import named_parameters
from pvae.programs.parameter_scope import store_tensors
from pvae.programs.site_masks import is_masked, mask_of_site
from pvae.programs.sites import Site, UnknownDensityError, is_marked_for_enumeration, log_density
from pvae.weights.sphere_sites import have_comparable_densities

__all__ = ["PROGRAM_RULES", "VALUE_RULES", "find_missing_gradients"]

_FINITE_GRADIENTS = (
    "Check scales and the range of the data. The log-density of an entry that a mask leaves out has to be finite too: "
    "put a value of the support in its place."
)
# Fields that have a use outside the programs.
_OTHER_USES = {"y": "labels plots only", "factors": "serves metrics only"}


def _unused_fields(context: CheckContext) -> Iterator[Finding]:
    """Report fields of the batch that no program takes, and masks that the model does not take."""
    ignored = set()
    for name, reason, advice in describe_ignored_masks(context.programs, context.batch):
        ignored.add(name)
        yield Finding("ignored mask", name, reason, advice)
    for name in context.programs.unused(context.batch):
        if name in ignored:
            continue
        if name == "y" and callable(traits_of(context.latent_model).classify):
            message, fix = "no program takes 'y'; it serves the accuracy and labels plots.", ""
        elif name in _OTHER_USES:
            message, fix = f"no program takes {name!r}; it {_OTHER_USES[name]}.", ""
        else:
            message = f"no program takes {name!r}."
            fix = f"Name a parameter {name!r} in the model or the guide, or leave it out of the data."
        yield Finding("unused field", name, message, fix, fatal=False)


def _missing_sites(context: CheckContext) -> Iterator[Finding]:
    """Report latent sites that one program does not have, or that the model observes."""
    # A marked site under an objective that does not enumerate has a separate finding, except under a game.
    accepts_marks = not isinstance(context.objective, Adversarial)
    guide, model = context.guide_latents, context.model_latents
    needs_guide = "phi" not in context.trained.untrained
    for name, site in model.items():
        is_enumerated = accepts_marks and is_marked_for_enumeration(site)
        if needs_guide and name not in guide and not is_enumerated:
            fix = "Draw it in the guide; or, if its values are few, mark it with infer={'enumerate': 'parallel'}."
            yield Finding("missing site", name, "the model draws it, but the guide does not.", fix)
    names_in_model = {site["name"] for site in context.model_sites}
    for name, site in guide.items():
        if name not in names_in_model and not site["infer"].get("is_auxiliary"):
            fix = "Draw it in the model, or mark it infer={'is_auxiliary': True}."
            yield Finding("missing site", name, "the guide draws it, but the model does not.", fix)
    for site in context.model_sites:
        if site["is_observed"] and site["name"] in guide:
            message = "the model observes it, but the guide draws it."
            yield Finding("missing site", site["name"], message, "Draw it in neither program.")


def _supports(context: CheckContext) -> Iterator[Finding]:
    """Report observed values outside the support of their likelihood, and supports that differ between programs."""
    guide = context.guide_latents
    for site in context.model_sites:
        if site["is_observed"]:
            try:
                mask = mask_of_site(site) if is_masked(site) else None
                check_support(site["name"], site["value"], site["fn"], mask)
            except InputError as error:
                yield Finding("outside the support", site["name"], str(error), "")
        elif site["name"] in guide:
            yield from _support_mismatch(site, guide[site["name"]])


def _support_mismatch(model_site: Site, guide_site: Site) -> Iterator[Finding]:
    """Report a guide that draws values outside the model's support, or that may do so."""
    in_model, in_guide = support_of(model_site), support_of(guide_site)
    if not have_comparable_densities(guide_site, model_site):
        message = "it is on a sphere in one program only, so its densities are per surface area and per volume."
        fix = "Use prior='sphere' with posterior='von-mises-fisher', or neither."
        yield Finding("support mismatch", model_site["name"], message, fix)
        return
    if in_model is None or in_guide is None:
        return
    supports = f"(the guide has {describe_support(in_guide)}, the model {describe_support(in_model)})"
    fix = "Use a guide distribution on the model's support."
    if not bool(in_model.check(guide_site["value"]).all()):
        message = f"the guide draws values outside the model's support {supports}."
        yield Finding("support mismatch", model_site["name"], message, fix)
    elif not have_same_support(model_site, guide_site):
        message = f"the guide and the model have different supports {supports}."
        yield Finding("support mismatch", model_site["name"], message, fix, fatal=False)


def _value_and_log_density(site: Site) -> Iterator[tuple[str, Tensor]]:
    """Yield the value of a site, and its log-density if it is known.

    It is not known for a likelihood without a density (see `pyro.infer.EnergyDistance`), nor for a flow without an
    inverse after another run of the program. A log-density does not count where the site is masked.
    """
    yield "value", site["value"]
    with suppress(NotImplementedError, UnknownDensityError):
        log_prob, mask = log_density(site), site["mask"]
        yield "log-density", log_prob if mask is None else torch.where(torch.as_tensor(mask), log_prob, 0.0)


def _first_values(context: CheckContext) -> Iterator[Finding]:
    """Report the first value or log-density that is not finite."""
    for program, sites in (("guide", context.guide_sites), ("model", context.model_sites)):
        for site in sites:
            for quantity, tensor in _value_and_log_density(site):
                if not bool(torch.isfinite(tensor).all()):
                    message = f"its {quantity} in the {program} is not finite on the first batch."
                    yield Finding("not finite", site["name"], message, "Check scales and the range of the data.")
                    return


def find_missing_gradients(context: CheckContext) -> Iterator[Finding]:
    """Report a loss that is not finite or depends on no parameter, and parameters without a gradient.

    This rule computes the loss of each player. It therefore runs only if no other rule has a fatal finding.

    Args:
        context: one run of both programs, with the objective.
    """
    for player in context.trained.players:
        terms = context.trained.terms(context.programs.model, context.programs.guide, context.bound.args, {}, player)
        if not bool(torch.isfinite(terms.loss)):
            fix = "Check scales and the range of the data."
            yield Finding("not finite", "loss", "the first loss is not finite.", fix)
        if player == "all":
            yield from _without_gradient(context, terms.surrogate)


def _without_gradient(context: CheckContext, surrogate: torch.Tensor) -> Iterator[Finding]:
    """Report the parameters that a surrogate loss does not depend on."""
    # A check uses the store of its caller, which may have parameters of other programs too.
    entries = store_tensors(context.latent_model).items()
    foreign = {id(tensor) for name, tensor in entries if name not in context.param_names}
    named = {
        name: tensor
        for name, tensor in named_parameters(context.latent_model, [*context.programs.modules, context.trained]).items()
        if id(tensor) not in foreign
    }
    if not named or not surrogate.requires_grad:
        message = "the loss depends on no parameter, so there is nothing to train."
        fix = "Hold parameters in modules, or use pyro.param."
        # Programs without parameters and draws have an exact evidence to evaluate; `fit` raises an error for them.
        yield Finding("no gradient", "loss", message, fix, fatal=bool(named or context.guide_latents))
        return
    gradients = torch.autograd.grad(surrogate, list(named.values()), allow_unused=True)
    wrong = [name for name, gradient in zip(named, gradients, strict=True) if not _is_finite(gradient)]
    if wrong:
        message = f"the first gradients of {len(wrong)} of {len(named)} parameters are not finite."
        yield Finding("not finite", wrong[0], message, _FINITE_GRADIENTS)
    names = [name for name, gradient in zip(named, gradients, strict=True) if gradient is None]
    if names:
        listed = ", ".join(names[:5]) + ", ..." * (len(names) > 5)
        message = f"{len(names)} parameters get no gradient: {listed}."
        yield Finding("no gradient", names[0], message, "Use them, or freeze them.", fatal=False)


def _is_finite(gradient: Tensor | None) -> bool:
    """Return whether a gradient is finite, or there is none; a finite sum needs no further memory, but may overflow."""
    return gradient is None or bool(gradient.detach().sum().isfinite()) or bool(gradient.detach().isfinite().all())


#: Rules for the fields and the sites of the programs.
PROGRAM_RULES: tuple[Callable[[CheckContext], Iterator[Finding]], ...] = (
    _unused_fields,
    _missing_sites,
    _supports,
)

#: Rules for the values of the sites.
VALUE_RULES: tuple[Callable[[CheckContext], Iterator[Finding]], ...] = (_first_values,)
