"""The linter: what would go wrong in training, found before it, each finding with its fix."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch import Tensor

from pvae.data import check_support
from pvae.errors import InputError
from pvae.linter.check_context import Look
from pvae.linter.findings import Finding, Findings, failure
from pvae.linter.rules import DEMANDS
from pvae.objectives.base import Objective
from pvae.objectives.pyro.pyro_losses import adapt
from pvae.objectives.registry import make_objective
from pvae.programs.binding import Fields, bind
from pvae.programs.layout import Site, sample_sites
from pvae.programs.parameter_groups import named_parameters
from pvae.programs.registration import forget, scope
from pvae.randomness import preserved_buffers, preserved_randomness

__all__ = ["check"]


# fields that serve others than the programs
_ELSEWHERE = {"y": "labels plots only", "factors": "serves metrics only"}


def _unused_fields(look: Look) -> Iterator[Finding]:
    for name in look.programs.unused(look.batch):
        message = f"no program takes {name!r}" + (f"; it {_ELSEWHERE[name]}." if name in _ELSEWHERE else ".")
        fix = (
            ""
            if name in _ELSEWHERE
            else f"Name a parameter {name!r} in the model or the guide, or leave it out of the data."
        )
        yield Finding("unused field", name, message, fix, fatal=False)


def _missing_sites(look: Look) -> Iterator[Finding]:
    enumerates = isinstance(look.pyro_loss, TraceEnum_ELBO)
    guide, model = look.latent(look.guide), look.latent(look.model)
    unneeded = "phi" in look.trained.untrained
    for name, site in model.items():
        if name not in guide and not unneeded and not (enumerates and site["infer"].get("enumerate")):
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


def _supports(look: Look) -> Iterator[Finding]:
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


def _first_values(look: Look) -> Iterator[Finding]:
    for program, sites in (("guide", look.guide), ("model", look.model)):
        for site in sites:
            for what, tensor in (("value", site["value"]), ("log-density", site["fn"].log_prob(site["value"]))):
                if not bool(torch.isfinite(tensor).all()):
                    message = f"its {what} in the {program} is not finite on the first batch."
                    yield Finding("not finite", site["name"], message, "Check scales and the data's range.")
                    return


def _parameters(look: Look) -> Iterator[Finding]:
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


_CHECKS: tuple[Callable[[Look], Iterator[Finding]], ...] = (
    _unused_fields,
    _missing_sites,
    _supports,
    *DEMANDS,
    _first_values,
)


def _look(latent_model: Any, batch: Mapping[str, Tensor], objective: Objective, fields: Fields) -> Look:
    programs = bind(latent_model, batch, fields)
    arguments = programs.arguments(batch)
    with pyro.validation_enabled(False):  # values outside a support are findings here, not exceptions
        guide = poutine.trace(programs.guide).get_trace(*arguments)
        model = poutine.trace(poutine.replay(programs.model, trace=guide)).get_trace(*arguments)
    sites, inner = (sample_sites(guide), sample_sites(model)), getattr(objective, "inner", objective)
    return Look(latent_model, batch, inner, objective, fields, programs, *sites)


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
