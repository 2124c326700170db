"""What each objective needs of a model, what it would do in silence without, and what to use instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO

from pvae.errors import InputError
from pvae.linter.check_context import Look
from pvae.linter.findings import Finding
from pvae.objectives.adversarial.base import Adversarial
from pvae.objectives.base import WeightsObjective
from pvae.programs.layout import GUIDE, Layout, find_layout
from pvae.programs.parameter_groups import find_groups
from pvae.weights.handlers import marked

__all__ = ["DEMANDS"]


def _scales(look: Look) -> Iterator[Finding]:
    if not isinstance(look.pyro_loss, RenyiELBO) or look.objective.num_particles == 1:
        return
    scaled = [site["name"] for site in look.model if not isinstance(site["scale"], float | int) or site["scale"] != 1]
    if scaled:
        message = "RenyiELBO puts the scale of a subsampled plate inside the logarithm: its value is no bound."
        yield Finding("scaled bound", scaled[0], message, "Use pvae.Renyi or pvae.IWAE, which put it outside.")
    try:
        layout = find_layout(look.programs.model, look.programs.guide, look.arguments, {})
        layout.data_plate()
    except InputError as error:
        message = f"RenyiELBO would take one weight for the whole batch, a looser bound: {error}"
        yield Finding("no data plate", "RenyiELBO", message, "Put every site in one plate over data.", fatal=False)


def _gradients_of_sites(look: Look) -> Iterator[Finding]:
    """Sites that cannot be reparameterised, under an objective whose gradient for the guide needs it."""
    pathwise = isinstance(look.objective, WeightsObjective) and look.objective.pathwise
    if not pathwise and not isinstance(look.pyro_loss, RenyiELBO):
        return
    for name, site in look.latent(look.guide).items():
        if not site["fn"].has_rsample and not (pathwise and marked(site)):
            message = (
                "it cannot be reparameterised, and this objective's gradient for the guide would be zero or wrong."
            )
            fix = (
                "Use 'vimco' or 'iwae' for a multi-sample bound, 'reinforce' or 'elbo-graph' for the ELBO, or "
                "'elbo-enum' for discrete sites."
            )
            yield Finding("score-function site", name, message, fix)


def _baselines(look: Look) -> Iterator[Finding]:
    """Score-function sites that nothing is taken off for: right, and needlessly noisy."""
    objective, loss = look.objective, look.pyro_loss
    takes_any = isinstance(objective, WeightsObjective) and not objective.pathwise and objective.scored is None
    alone = takes_any and objective.num_particles == 1
    if type(loss) is not Trace_ELBO and not alone:
        return
    for name, site in look.latent(look.guide).items():
        chosen = isinstance(objective, WeightsObjective) and (objective.gradients or site["infer"].get("gradient"))
        if not site["fn"].has_rsample and not marked(site) and not chosen:
            message = "its gradient is the score function's with no baseline: right in the mean, and noisy."
            fix = "Use 'reinforce' or 'vimco', which take one from other particles, or 'elbo-graph:baseline=decaying'."
            yield Finding("no baseline", name, message, fix, fatal=False)


def _biased(look: Look) -> Iterator[Finding]:
    if look.objective.biased:
        message = f"its gradient is biased: {look.objective.biased}."
        target = look.objective.target()
        other = "" if target is look.objective else f" {type(target).__name__} has the unbiased one."
        fix = f"Know it, or compare it by `pvae gradients`.{other}"
        yield Finding("biased", type(look.objective).__name__, message, fix, fatal=False)


def _enumeration(look: Look) -> Iterator[Finding]:
    if isinstance(look.objective, Adversarial):  # it draws every site, and says itself where it cannot
        return
    marks = {each["name"]: each for each in look.guide + look.model if marked(each)}
    enumerates = isinstance(look.pyro_loss, TraceEnum_ELBO)
    if marks and getattr(look.objective, "enumerates", False):
        return
    if marks and isinstance(look.objective, WeightsObjective):
        yield from _summed_out(look)
    elif marks and not enumerates:
        message = "it is marked for enumeration, and this objective does not enumerate."
        fix = "Use 'elbo-enum', or 'iwae', which sums it out of each weight; or remove the mark."
        yield Finding("enumeration", next(iter(marks)), message, fix)
    elif enumerates and not marks:
        message = "no site is marked for enumeration."
        yield Finding(
            "enumeration", "elbo-enum", message, "Use 'elbo', or mark sites with config_enumerate.", fatal=False
        )


def _summed_out(look: Look) -> Iterator[Finding]:
    """A guide's site that is summed out has no say: its own q gets no gradient."""
    for name, site in look.latent(look.guide).items():
        if marked(site):
            message = (
                "it is marked for enumeration, so it is summed out of each weight: a tighter bound, in which its own "
                "q has no part and is not trained."
            )
            fix = f"Use 'elbo-enum' or gradients='{name}=enumerate' to train its q."
            yield Finding("summed out", name, message, fix, fatal=False)


def _closed_form(look: Look) -> Iterator[Finding]:
    if not isinstance(look.pyro_loss, TraceMeanField_ELBO):
        return
    guide = look.latent(look.guide)
    for name, site in look.latent(look.model).items():
        try:
            torch.distributions.kl_divergence(guide[name]["fn"], site["fn"])
        except (NotImplementedError, KeyError):
            message = "its KL has no closed form, so TraceMeanField_ELBO falls back to a sampled one."
            yield Finding("sampled KL", name, message, "Nothing, or use 'elbo', which is the same here.", fatal=False)


def _untrained(look: Look) -> Iterator[Finding]:
    if "phi" in look.trained.untrained:
        message = "it leaves the guide untrained, so no code and no evidence by its weights can be had of it."
        fix = "Train the guide afterwards with theta held fixed, or use 'ali', which trains both."
        yield Finding("untrained guide", type(look.trained).__name__, message, fix, fatal=False)


def _shared_latents(look: Look) -> Iterator[Finding]:
    """Latents of all data, under a plate that does not say how many data there are."""
    frames = {
        site["name"] + where: {frame.name: frame for frame in site["cond_indep_stack"]}
        for where, sites in (("", look.model), (GUIDE, look.guide))
        for site in sites
    }
    layout = Layout(0, frames, dict.fromkeys(look.latent(look.guide), 0), None)
    plate, shared = layout.observed_plate(), layout.shared()
    whole = plate is not None and all(
        each[plate[0]].full_size == each[plate[0]].size for each in frames.values() if plate[0] in each
    )
    if plate is not None and shared and whole:
        message = (
            f"all data share it, and the plate {plate[0]!r} has the size of the batch: unless a batch is all data, its "
            "prior counts in each batch anew."
        )
        fix = (
            f"Write pyro.plate({plate[0]!r}, data_size, subsample=torch.arange(len(x))), with data_size from the "
            "constructor."
        )
        yield Finding("shared latent", shared[0], message, fix, fatal=False)


def _declares_groups(look: Look) -> bool:
    try:
        return bool(look.latent_model.theta()) and bool(look.latent_model.phi())
    except (AttributeError, InputError):
        return False


def _shared_groups(look: Look) -> Iterator[Finding]:
    if look.trained.players == ("all",):
        return
    shared = {} if _declares_groups(look) else find_groups(look.latent_model, [look.batch], look.fields).both
    if shared:
        message = (
            f"{len(shared)} parameters belong to model and guide alike, and this objective treats the groups apart."
        )
        yield Finding("shared parameters", next(iter(shared)), message, "Declare theta() and phi().")


#: every check of what an objective needs
DEMANDS: tuple[Callable[[Look], Iterator[Finding]], ...] = (
    _scales,
    _gradients_of_sites,
    _baselines,
    _biased,
    _enumeration,
    _closed_form,
    _untrained,
    _shared_groups,
    _shared_latents,
)
