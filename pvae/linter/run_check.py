"""The linter: run all rules on a model, a batch and an objective before training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.infer import TraceEnum_ELBO
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pvae.data import check_support
from pvae.errors import InputError
from pvae.linter.check_context import CheckContext
from pvae.linter.findings import Finding, Findings, failure
from pvae.linter.rules import OBJECTIVE_RULES
from pvae.objectives.base import Objective
from pvae.objectives.pyro.pyro_losses import adapt
from pvae.objectives.registry import make_objective
from pvae.programs.binding import Fields, bind
from pvae.programs.layout import check_site_shapes
from pvae.programs.parameter_groups import named_parameters
from pvae.programs.parameter_scope import scope
from pvae.programs.registration import MODULE_DIVIDER, forget
from pvae.programs.sites import Site, sample_sites
from pvae.randomness import preserved_buffers, preserved_randomness

__all__ = ["CheckResult", "check", "run_check"]


# Fields that have a use outside the programs.
_OTHER_USES = {"y": "labels plots only", "factors": "serves metrics only"}


def _unused_fields(context: CheckContext) -> Iterator[Finding]:
    for name in context.programs.unused(context.batch):
        message = f"no program takes {name!r}" + (f"; it {_OTHER_USES[name]}." if name in _OTHER_USES else ".")
        fix = (
            ""
            if name in _OTHER_USES
            else f"Name a parameter {name!r} in the model or the guide, or leave it out of the data."
        )
        yield Finding("unused field", name, message, fix, fatal=False)


def _missing_sites(context: CheckContext) -> Iterator[Finding]:
    enumerates = isinstance(context.pyro_loss, TraceEnum_ELBO)
    guide, model = context.guide_latents, context.model_latents
    unneeded = "phi" in context.trained.untrained
    for name, site in model.items():
        if name not in guide and not unneeded and not (enumerates and site["infer"].get("enumerate")):
            yield Finding("missing site", name, "the model draws it and the guide does not.", "Draw it in the guide.")
    for name, site in guide.items():
        if name not in {each["name"] for each in context.model_sites} and not site["infer"].get("is_auxiliary"):
            fix = "Draw it in the model, or mark it infer={'is_auxiliary': True}."
            yield Finding("missing site", name, "the guide draws it and the model does not.", fix)
    for site in context.model_sites:
        if site["is_observed"] and site["name"] in guide:
            yield Finding(
                "missing site",
                site["name"],
                "the model observes it and the guide draws it.",
                "Draw it in neither program.",
            )


def _supports(context: CheckContext) -> Iterator[Finding]:
    guide = context.guide_latents
    for site in context.model_sites:
        if site["is_observed"]:
            try:
                check_support(site["name"], site["value"], site["fn"])
            except InputError as error:
                yield Finding("outside the support", site["name"], str(error), "")
        elif site["name"] in guide:
            yield from _guide_support(site, guide[site["name"]])


def _constraint(site: Site) -> Any:
    """Return the support of a site's distribution; None if it declares none, as with wrapped flows."""
    try:
        return site["fn"].support
    except (AttributeError, NotImplementedError):
        return None


def _support(site: Site) -> str:
    """Return the set of values in words, without wrappers of the constraint (independent, mixture)."""
    support = _constraint(site)
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return str(support)


def _guide_support(site: Site, drawn: Site) -> Iterator[Finding]:
    wanted, given = _support(site), _support(drawn)
    if _constraint(site) is None or _constraint(drawn) is None:
        return
    if not bool(site["fn"].support.check(drawn["value"]).all()):
        message = f"the guide draws values outside the model's support (the guide has {given}, the model {wanted})."
        yield Finding("support mismatch", site["name"], message, "Use a guide distribution on the model's support.")
    elif given != wanted:
        message = f"the guide and the model have different supports (the guide has {given}, the model {wanted})."
        fix = "Use a guide distribution on the model's support."
        yield Finding("support mismatch", site["name"], message, fix, fatal=False)


def _first_values(context: CheckContext) -> Iterator[Finding]:
    for program, sites in (("guide", context.guide_sites), ("model", context.model_sites)):
        for site in sites:
            for what, tensor in (("value", site["value"]), ("log-density", site["fn"].log_prob(site["value"]))):
                if not bool(torch.isfinite(tensor).all()):
                    message = f"its {what} in the {program} is not finite on the first batch."
                    yield Finding("not finite", site["name"], message, "Check scales and the data's range.")
                    return


def _parameters(context: CheckContext) -> Iterator[Finding]:
    for player in context.trained.players:
        terms = context.trained.terms(context.programs.model, context.programs.guide, context.bound.args, {}, player)
        if not bool(torch.isfinite(terms.loss)):
            yield Finding("not finite", "loss", "the first loss is not finite.", "Check scales and the data's range.")
        modules = [*context.programs.modules, context.trained]
        named = named_parameters(context.latent_model, modules) if player == "all" else {}
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


_RULES: tuple[Callable[[CheckContext], Iterator[Finding]], ...] = (
    _unused_fields,
    _missing_sites,
    _supports,
    *OBJECTIVE_RULES,
    _first_values,
)


def _run_programs(latent_model: Any, batch: Mapping[str, Tensor], objective: Objective, fields: Fields) -> CheckContext:
    """Run both programs once; their layout is found from the same traces."""
    programs = bind(latent_model, batch, fields)
    bound = programs.bound_to(batch)
    with pyro.validation_enabled(False):  # a value outside a support is a finding here and no exception
        guide, model = bound.trace_both()
        layout = bound.find_layout(guide, model)
    if is_validation_enabled():
        check_site_shapes((guide, model), layout.nesting)
    sites = sample_sites(guide), sample_sites(model)
    return CheckContext(latent_model, batch, objective.bound_objective, objective, fields, programs, bound, *sites)


@contextmanager
def _ignore_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True)
class CheckResult:
    """The findings of a check, and what the programs created when they ran.

    Attributes:
        findings: the findings.
        created: the names of the ``pyro.param`` entries that did not exist before; they are removed again.
    """

    findings: Findings
    created: frozenset[str]


def check(latent_model: Any, batch: Mapping[str, Tensor], objective: Any = "elbo", fields: Fields = None) -> Findings:
    """Check a latent model and an objective on one batch, before training.

    Random generators, parameters, the parameter store and the state of the objective stay as they are.

    Args:
        latent_model: a `LatentModel`, a `pair`, or any object with ``model`` and ``guide``.
        batch: a few of the training data.
        objective: a `pvae.Objective`, a loss of `pyro.infer`, a factory of one, or a name of the command line.
        fields: as for `pvae.models.bind`.

    Returns:
        The findings, fatal ones among them; ``findings.require()`` raises for those.

    Raises:
        InputError: if `objective` is no objective, or the fields cannot be bound.
    """
    return run_check(latent_model, batch, objective, fields).findings


def run_check(latent_model: Any, batch: Mapping[str, Tensor], objective: Any, fields: Fields = None) -> CheckResult:
    """Check as `check` does, and report which ``pyro.param`` entries the programs create at their first run."""
    adapted = adapt(make_objective(objective) if isinstance(objective, str) else objective)
    findings = Findings()
    with (
        scope(latent_model, inherit=True),
        preserved_randomness(),
        preserved_buffers(latent_model),
        _ignore_warnings(),
        torch.enable_grad(),
    ):
        before = set(pyro.get_param_store().keys())
        created: set[str] = set()
        training = adapted.training
        adapted.eval()
        try:
            context = _run_programs(latent_model, batch, adapted, fields)
            for rule in _RULES:
                findings.extend(rule(context))
            if not findings.fatal:
                findings.extend(_parameters(context))
        except InputError as error:
            findings.append(Finding("not possible", type(adapted).__name__, str(error), ""))
        except (ArithmeticError, AttributeError, LookupError, NameError, NotImplementedError) as error:
            findings.append(failure(error))
        except (RuntimeError, TypeError, ValueError) as error:
            findings.append(failure(error))
        finally:
            adapted.train(training)
            created = set(pyro.get_param_store().keys()) - before
            forget(created)
    # Parameters of modules are entries of the store while their program runs; they are not created by it.
    own = {name for name in created if MODULE_DIVIDER not in name}
    return CheckResult(findings, frozenset(own))
