"""The linter: what would go wrong in training, found before it, each finding with its fix."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import Tensor

from pvae.data import check_support
from pvae.errors import InputError
from pvae.models.draws import sample_sites
from pvae.models.groups import find_groups, named_parameters
from pvae.models.layout import Site, find_layout
from pvae.models.programs import Fields, Programs, bind
from pvae.models.registration import forget, scope
from pvae.objectives.base import Objective, WeightsObjective
from pvae.objectives.findings import Finding, Findings, failure
from pvae.objectives.named import make_objective
from pvae.objectives.pyro_losses import PyroObjective, adapt
from pvae.randomness import preserved_buffers, preserved_randomness

__all__ = ["check"]


@dataclass(frozen=True)
class _Look:
    """One run of both programs, and everything that the single checks ask about."""

    latent_model: Any
    batch: Mapping[str, Tensor]
    objective: Objective  # what is climbed
    trained: Objective  # whose players take turns
    fields: Fields
    programs: Programs
    guide: list[Site]
    model: list[Site]

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        return self.programs.arguments(self.batch)

    @property
    def pyro_loss(self) -> Any:
        return self.objective.elbo if isinstance(self.objective, PyroObjective) else None

    def latent(self, sites: list[Site]) -> dict[str, Site]:
        return {site["name"]: site for site in sites if not site["is_observed"]}


def _unused_fields(look: _Look) -> Iterator[Finding]:
    for name in look.programs.unused(look.batch):
        message = f"no program takes {name!r}" + ("; it labels plots only." if name == "y" else ".")
        fix = (
            "" if name == "y" else f"Name a parameter {name!r} in the model or the guide, or leave it out of the data."
        )
        yield Finding("unused field", name, message, fix, fatal=False)


def _missing_sites(look: _Look) -> Iterator[Finding]:
    enumerates = isinstance(look.pyro_loss, TraceEnum_ELBO)
    guide, model = look.latent(look.guide), look.latent(look.model)
    for name, site in model.items():
        if name not in guide and not (enumerates and site["infer"].get("enumerate")):
            yield Finding("missing site", name, "the model draws it, and the guide does not.", "Draw it in the guide.")
    for name, site in guide.items():
        if name not in {each["name"] for each in look.model} and not site["infer"].get("is_auxiliary"):
            fix = "Draw it in the model, or mark it infer={'is_auxiliary': True}."
            yield Finding("missing site", name, "the guide draws it, and the model does not.", fix)
    for site in look.model:
        if site["is_observed"] and site["name"] in guide:
            yield Finding(
                "missing site", site["name"], "the model observes what the guide draws.", "Draw it in neither."
            )


def _supports(look: _Look) -> Iterator[Finding]:
    guide = look.latent(look.guide)
    for site in look.model:
        if site["is_observed"]:
            try:
                check_support(site["name"], site["value"], site["fn"])
            except InputError as error:
                yield Finding("outside the support", site["name"], str(error), "")
        elif site["name"] in guide:
            yield from _guide_support(site, guide[site["name"]])


def _constraint(site: Site) -> Any:
    """The support of a site's distribution; None where it does not say one, as wrapped flows do not."""
    try:
        return site["fn"].support
    except (AttributeError, NotImplementedError):
        return None


def _support(site: Site) -> str:
    """The set of values, in words: wrappers of a constraint (independent, mixture) do not change it."""
    support = _constraint(site)
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return str(support)


def _guide_support(site: Site, drawn: Site) -> Iterator[Finding]:
    wanted, given = _support(site), _support(drawn)
    if _constraint(site) is None or _constraint(drawn) is None:
        return
    if not bool(site["fn"].support.check(drawn["value"]).all()):
        message = f"the guide draws values that the model gives no density ({given} for {wanted})."
        yield Finding("support mismatch", site["name"], message, "Use a guide distribution on the model's support.")
    elif given != wanted:
        message = f"the guide and the model have different supports ({given} for {wanted})."
        fix = "Use a guide distribution on the model's support: elsewhere the two never meet."
        yield Finding("support mismatch", site["name"], message, fix, fatal=False)


def _scales(look: _Look) -> Iterator[Finding]:
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


def _gradients_of_sites(look: _Look) -> Iterator[Finding]:
    pathwise = isinstance(look.objective, WeightsObjective) and look.objective.pathwise
    if not pathwise and not isinstance(look.pyro_loss, RenyiELBO):
        return
    for name, site in look.latent(look.guide).items():
        if not site["fn"].has_rsample:
            message = (
                "it cannot be reparameterised, and this objective's gradient for the guide would be zero or wrong."
            )
            yield Finding("score-function site", name, message, "Use 'elbo-graph', or 'elbo-enum' for discrete sites.")


def _enumeration(look: _Look) -> Iterator[Finding]:
    marked = [
        each["name"] for each in look.guide + look.model if each["infer"].get("enumerate") and not each["is_observed"]
    ]
    enumerates = isinstance(look.pyro_loss, TraceEnum_ELBO)
    if marked and not enumerates:
        message = "it is marked for enumeration, and this objective does not enumerate."
        yield Finding("enumeration", marked[0], message, "Use 'elbo-enum', or remove the mark.")
    elif enumerates and not marked:
        message = "no site is marked for enumeration."
        yield Finding(
            "enumeration", "elbo-enum", message, "Use 'elbo', or mark sites with config_enumerate.", fatal=False
        )


def _closed_form(look: _Look) -> Iterator[Finding]:
    if not isinstance(look.pyro_loss, TraceMeanField_ELBO):
        return
    guide = look.latent(look.guide)
    for name, site in look.latent(look.model).items():
        try:
            torch.distributions.kl_divergence(guide[name]["fn"], site["fn"])
        except (NotImplementedError, KeyError):
            message = "its KL has no closed form, so TraceMeanField_ELBO falls back to a sampled one."
            yield Finding("sampled KL", name, message, "Nothing, or use 'elbo', which is the same here.", fatal=False)


def _first_values(look: _Look) -> Iterator[Finding]:
    for program, sites in (("guide", look.guide), ("model", look.model)):
        for site in sites:
            for what, tensor in (("value", site["value"]), ("log-density", site["fn"].log_prob(site["value"]))):
                if not bool(torch.isfinite(tensor).all()):
                    message = f"its {what} in the {program} is not finite on the first batch."
                    yield Finding("not finite", site["name"], message, "Check scales and the data's range.")
                    return


def _parameters(look: _Look) -> Iterator[Finding]:
    for player in look.trained.players:
        terms = look.trained.terms(look.programs.model, look.programs.guide, look.arguments, {}, player)
        if not bool(torch.isfinite(terms.loss)):
            yield Finding("not finite", "loss", "the first loss is not finite.", "Check scales and the data's range.")
        modules = [*look.programs.modules, look.trained]
        named = named_parameters(look.latent_model, modules) if player == "all" else {}
        if not named or not terms.surrogate.requires_grad:
            if player == "all":
                message = "the loss depends on no parameter, so there is nothing to train."
                yield Finding("no gradient", "loss", message, "Hold parameters in modules, or use pyro.param.")
            continue
        found = torch.autograd.grad(terms.surrogate, list(named.values()), allow_unused=True)
        without = [name for name, gradient in zip(named, found, strict=True) if gradient is None]
        if without:
            message = (
                f"{len(without)} parameters get no gradient: {', '.join(without[:5])}{', ...' * (len(without) > 5)}."
            )
            yield Finding("no gradient", without[0], message, "Use them, or freeze them.", fatal=False)


def _declares_groups(look: _Look) -> bool:
    try:
        return bool(look.latent_model.theta()) and bool(look.latent_model.phi())
    except (AttributeError, InputError):
        return False


def _shared_groups(look: _Look) -> Iterator[Finding]:
    if look.trained.players == ("all",):
        return
    shared = {} if _declares_groups(look) else find_groups(look.latent_model, [look.batch], look.fields).both
    if shared:
        message = (
            f"{len(shared)} parameters belong to model and guide alike, and this objective treats the groups apart."
        )
        yield Finding("shared parameters", next(iter(shared)), message, "Declare theta() and phi().")


_CHECKS: tuple[Callable[[_Look], Iterator[Finding]], ...] = (
    _unused_fields,
    _missing_sites,
    _supports,
    _scales,
    _gradients_of_sites,
    _enumeration,
    _closed_form,
    _first_values,
    _shared_groups,
)


def _look(latent_model: Any, batch: Mapping[str, Tensor], objective: Objective, fields: Fields) -> _Look:
    programs = bind(latent_model, batch, fields)
    arguments = programs.arguments(batch)
    with pyro.validation_enabled(False):  # values outside a support are findings here, not exceptions
        guide = poutine.trace(programs.guide).get_trace(*arguments)
        model = poutine.trace(poutine.replay(programs.model, trace=guide)).get_trace(*arguments)
    sites, inner = (sample_sites(guide), sample_sites(model)), getattr(objective, "inner", objective)
    return _Look(latent_model, batch, inner, objective, fields, programs, *sites)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check(latent_model: Any, batch: Mapping[str, Tensor], objective: Any = "elbo", fields: Fields = None) -> Findings:
    """Look over a latent model and an objective on one batch, before training.

    Nothing is changed: random state, parameters, the parameter store and the objective's state stay as they are.

    Args:
        latent_model: a `LatentModel`, a `pair`, or any object with ``model`` and ``guide``.
        batch: a few data of the kind to be trained on.
        objective: a `pvae.Objective`, a loss of `pyro.infer`, a factory of one, or a name of the command line.
        fields: as for `pvae.models.bind`.
    Returns:
        The findings, fatal ones among them; ``findings.require()`` raises for those.
    Raises:
        InputError: for an objective that is none, or fields that cannot be bound.
    """
    own = adapt(make_objective(objective) if isinstance(objective, str) else objective)
    found = Findings()
    with (
        scope(latent_model, inherit=True),
        preserved_randomness(),
        preserved_buffers(latent_model),
        _quiet(),
        torch.enable_grad(),
    ):
        before = set(pyro.get_param_store().keys())
        training = own.training
        own.eval()
        try:
            look = _look(latent_model, batch, own, fields)
            for each in _CHECKS:
                found.extend(each(look))
            if not found.fatal:
                found.extend(_parameters(look))
        except InputError as error:
            found.append(Finding("not possible", type(own).__name__, str(error), ""))
        except (ArithmeticError, AttributeError, LookupError, NameError, NotImplementedError) as error:
            found.append(failure(error))
        except (RuntimeError, TypeError, ValueError) as error:
            found.append(failure(error))
        finally:
            own.train(training)
            forget(set(pyro.get_param_store().keys()) - before)
    return found
