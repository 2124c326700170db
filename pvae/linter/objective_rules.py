"""Rules for objectives: the needs of each objective, the faults of a model without them, and other objectives."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from pyro.infer import (
    EnergyDistance,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    Trace_MMD,
    TraceEnum_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
    TraceTMC_ELBO,
)

from pvae.errors import InputError
from pvae.linter.check_context import CheckContext
from pvae.linter.findings import Finding
from pvae.objectives.adversarial.base import Adversarial
from pvae.objectives.weights_objective import WeightsObjective
from pvae.programs.layout import GUIDE, Layout
from pvae.programs.parameter_groups import declared_group, find_groups
from pvae.programs.sites import is_marked_for_enumeration

__all__ = ["OBJECTIVE_RULES", "find_bias"]


#: losses of Pyro that weight particles, and the objective of pvae that replaces each
_WEIGHTED = {
    RenyiELBO: "pvae.Renyi or pvae.IWAE",
    ReweightedWakeSleep: "pvae.objectives.WakeSleep",
    TraceTailAdaptive_ELBO: "pvae.Renyi(alpha=0.5)",
}

#: losses of Pyro with a gradient for the guide that is right only if every draw is reparameterised
_PATHWISE = (RenyiELBO, TraceTailAdaptive_ELBO, Trace_MMD, EnergyDistance)


def _scales(context: CheckContext) -> Iterator[Finding]:
    """Report programs for which the multi-sample bound of a loss of Pyro is wrong or loose."""
    loss, name = context.pyro_loss, type(context.pyro_loss).__name__
    instead = next((instead for kind, instead in _WEIGHTED.items() if isinstance(loss, kind)), None)
    if instead is None or context.objective.num_particles == 1 or context.objective.no_bound:
        return
    is_scaled = [not isinstance(site["scale"], float | int) or site["scale"] != 1 for site in context.model_sites]
    if any(is_scaled):
        site = context.model_sites[is_scaled.index(True)]
        message = f"{name} puts the scale of a subsampled plate inside the weights, so its value is not a bound."
        yield Finding("scaled bound", site["name"], message, f"Use {instead}: the scale is then outside the weights.")
    if not isinstance(loss, RenyiELBO):
        message = (
            f"{name} has one weight for a whole batch; in a large batch, few particles have almost all the weight."
        )
        yield Finding("weight of a batch", name, message, f"Use {instead}, with a weight per datum.", fatal=False)
        return
    try:
        context.bound.layout.data_plate()
    except InputError as error:
        message = f"RenyiELBO would use one weight for the whole batch, which gives a looser bound: {error}"
        yield Finding("no data plate", "RenyiELBO", message, "Put every site in one plate over data.", fatal=False)


def _energy_distance(context: CheckContext) -> Iterator[Finding]:
    """Report likelihoods without a reparameterised draw under `EnergyDistance`; Pyro's own check does not see them."""
    if not isinstance(context.pyro_loss, EnergyDistance):
        return
    for site in context.model_sites:
        if site["is_observed"] and not site["fn"].has_rsample:
            message = "EnergyDistance differentiates draws of x, and this likelihood cannot be reparameterised."
            fix = "Use 'elbo', or a likelihood with has_rsample."
            yield Finding("score-function likelihood", site["name"], message, fix)


def _gradients_of_sites(context: CheckContext) -> Iterator[Finding]:
    """Report sites without a pathwise gradient, under an objective that needs one."""
    pathwise = isinstance(context.objective, WeightsObjective) and context.objective.pathwise
    if not pathwise and not isinstance(context.pyro_loss, _PATHWISE):
        return
    for name, site in context.guide_latents.items():
        if not site["fn"].has_rsample and not (pathwise and is_marked_for_enumeration(site)):
            message = (
                "it cannot be reparameterised, and this objective's gradient for the guide would be zero or wrong."
            )
            has_weights = bool(context.bound.layout.common_plates)
            of_particles = "'vimco' or 'iwae' for a multi-sample bound, " if has_weights else ""
            fix = f"Use {of_particles}'reinforce' or 'elbo-graph' for the ELBO, or 'elbo-enum' for discrete sites."
            yield Finding("score-function site", name, message, fix)


def _baselines(context: CheckContext) -> Iterator[Finding]:
    """Report score-function sites without a baseline; their gradient is unbiased, but noisier than necessary."""
    objective, loss = context.objective, context.pyro_loss
    accepts_any_site = isinstance(objective, WeightsObjective) and not objective.pathwise and objective.scored is None
    has_one_particle = accepts_any_site and objective.num_particles == 1
    if type(loss) is not Trace_ELBO and not has_one_particle:
        return
    for name, site in context.guide_latents.items():
        has_chosen_gradient = isinstance(objective, WeightsObjective) and (
            objective.gradients or site["infer"].get("gradient")
        )
        if not site["fn"].has_rsample and not is_marked_for_enumeration(site) and not has_chosen_gradient:
            message = "it has a score-function gradient without a baseline, which is unbiased and noisy."
            fix = "Use 'reinforce' or 'vimco', with a baseline from other particles, or 'elbo-graph:baseline=decaying'."
            yield Finding("no baseline", name, message, fix, fatal=False)


def find_bias(context: CheckContext) -> Iterator[Finding]:
    """Report an objective with a biased gradient. For some objectives, this is known only after a run of the programs.

    Args:
        context: one run of both programs, with the objective.
    """
    if context.objective.biased:
        message = f"its gradient is biased: {context.objective.biased}."
        target = context.objective.target()
        other = "" if target is context.objective else f" {type(target).__name__} has an unbiased gradient."
        fix = f"Measure the bias by `pvae gradients`.{other}"
        yield Finding("biased", type(context.pyro_loss or context.objective).__name__, message, fix, fatal=False)


def _enumeration(context: CheckContext) -> Iterator[Finding]:
    """Report marked sites that the objective does not enumerate, and an enumerating objective without marked sites."""
    if isinstance(
        context.objective, Adversarial
    ):  # it draws every site, and raises an error for a site that it cannot draw
        return
    marks = [site["name"] for site in context.guide_sites + context.model_sites if is_marked_for_enumeration(site)]
    enumerates = isinstance(context.pyro_loss, TraceEnum_ELBO | TraceTMC_ELBO)
    if marks and context.objective.enumerates:
        return
    if marks and isinstance(context.objective, WeightsObjective):
        yield from _summed_out(context)
    elif marks and not enumerates:
        message = "it is marked for enumeration, but this objective does not enumerate."
        one_to_one = context.bound.layout.bijection.auxiliary
        is_auxiliary = any(
            site["infer"].get("is_auxiliary") and site["name"] not in one_to_one for site in context.guide_sites
        )
        # Pyro's loss would add the entropy of an auxiliary site, and a weight per datum needs a plate of all sites.
        uses = [] if is_auxiliary else ["'elbo-enum'"]
        if context.bound.layout.common_plates:
            uses.append("'iwae', which sums it out of each weight")
        fix = f"Use {', or '.join(uses)}; or remove the mark." if uses else "Remove the mark."
        yield Finding("enumeration", marks[0], message, fix)
    elif enumerates and not marks:
        message = "no site is marked for enumeration."
        yield Finding(
            "enumeration", "elbo-enum", message, "Use 'elbo', or mark sites with config_enumerate.", fatal=False
        )


def _summed_out(context: CheckContext) -> Iterator[Finding]:
    """Report guide sites that are summed out: their q gets no gradient."""
    for name, site in context.guide_latents.items():
        if is_marked_for_enumeration(site) and not site["infer"].get("num_samples"):
            message = (
                "it is marked for enumeration, so it is summed out of each weight. The bound is tighter, but the "
                "guide's q of this site is not in it and is not trained."
            )
            fix = f"Use 'elbo-enum' or gradients='{name}=enumerate' to train its q."
            yield Finding("summed out", name, message, fix, fatal=False)


def _multiply_drawn(context: CheckContext) -> Iterator[Finding]:
    """Report sites that the model draws several times and the guide does not, under `TraceEnum_ELBO`."""
    for name, site in context.model_latents.items():
        draws = site["infer"].get("num_samples") if is_marked_for_enumeration(site) else None
        if draws is None or name in context.guide_latents:
            continue
        if isinstance(context.pyro_loss, TraceEnum_ELBO):
            message = (
                f"it is drawn {draws} times from the prior, and TraceEnum_ELBO treats the draws as all values, so its "
                "loss is not a bound."
            )
            fix = "Use TraceTMC_ELBO, draw the site in the guide, or remove num_samples."
            yield Finding("no bound", name, message, fix)
        elif isinstance(context.objective, WeightsObjective):
            message = f"num_samples={draws} is read by TraceTMC_ELBO; this objective sums over all values."
            yield Finding("summed out", name, message, "Remove num_samples.", fatal=False)


def _closed_form(context: CheckContext) -> Iterator[Finding]:
    """Report sites for which `TraceMeanField_ELBO` uses a sampled KL divergence."""
    if not isinstance(context.pyro_loss, TraceMeanField_ELBO):
        return
    guide = context.guide_latents
    for name, site in context.model_latents.items():
        try:
            torch.distributions.kl_divergence(guide[name]["fn"], site["fn"])
        except (NotImplementedError, KeyError):
            message = "its KL has no closed form, so TraceMeanField_ELBO uses a sampled KL."
            yield Finding(
                "sampled KL", name, message, "Change nothing, or use 'elbo', which is the same here.", fatal=False
            )


def _untrained(context: CheckContext) -> Iterator[Finding]:
    """Report an objective that does not train the guide."""
    if "phi" in context.trained.untrained:
        message = "it does not train the guide, so codes and log evidences from the guide are meaningless."
        fix = "Train the guide afterwards with theta fixed, or use 'ali', which trains both."
        yield Finding("untrained guide", type(context.trained).__name__, message, fix, fatal=False)


def _shared_latents(context: CheckContext) -> Iterator[Finding]:
    """Report latents that all data share, in a plate without the number of all data, or without a plate."""
    frames = {
        site["name"] + suffix: {frame.name: frame for frame in site["cond_indep_stack"]}
        for suffix, sites in (("", context.model_sites), (GUIDE, context.guide_sites))
        for site in sites
    }
    size = context.bound.size
    undrawn = tuple(context.model_latents.keys() - context.guide_latents.keys())
    layout = Layout(0, frames, dict.fromkeys(context.guide_latents, 0), undrawn=undrawn)
    plate, shared = layout.observed_plate(size), layout.shared(size)
    if not any(frames.values()) and any(
        site["is_observed"] and size in site["value"].shape for site in context.model_sites
    ):
        shared = tuple(name for name, site, _ in context.shared_latents if size not in site["value"].shape)
    has_all_data = plate is None or all(
        plates[plate[0]].full_size == plates[plate[0]].size for plates in frames.values() if plate[0] in plates
    )
    if shared and has_all_data:
        name = "data" if plate is None else plate[0]
        state = "the data are not in a plate" if plate is None else f"the plate {name!r} has the size of the batch"
        message = (
            f"all data share it, but {state}. Unless a batch is all data, its prior is counted once for each batch."
        )
        fix = (
            f"Write pyro.plate({name!r}, data_size, subsample=torch.arange(len(x))), with data_size from the "
            "constructor."
        )
        yield Finding("shared latent", shared[0], message, fix, fatal=False)


def _declares_groups(context: CheckContext) -> bool:
    """Return whether the latent model declares parameters of theta and of phi."""
    return all(declared_group([context.latent_model], group) for group in ("theta", "phi"))


def _shared_groups(context: CheckContext) -> Iterator[Finding]:
    """Report parameters of both programs, under an objective that trains theta and phi separately."""
    if context.trained.players == ("all",) or _declares_groups(context):
        return
    shared = find_groups(context.latent_model, [context.batch], context.fields).both
    if shared:
        message = (
            f"{len(shared)} parameters belong to both model and guide, but this objective trains theta and phi "
            "separately."
        )
        yield Finding("shared parameters", next(iter(shared)), message, "Declare theta() and phi().")


#: Every rule for objectives.
OBJECTIVE_RULES: tuple[Callable[[CheckContext], Iterator[Finding]], ...] = (
    _scales,
    _energy_distance,
    _gradients_of_sites,
    _baselines,
    _enumeration,
    _multiply_drawn,
    _closed_form,
    _untrained,
    _shared_groups,
    _shared_latents,
)
