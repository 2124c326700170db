"""The linter: run all rules on a model, a batch and an objective before training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pvae.errors import InputError
from pvae.linter.auxiliary_rules import AUXILIARY_RULES
from pvae.linter.check_context import CheckContext
from pvae.linter.findings import Finding, Findings, failure
from pvae.linter.objective_rules import OBJECTIVE_RULES
from pvae.linter.program_rules import PROGRAM_RULES, VALUE_RULES, find_missing_gradients
from pvae.objectives.base import Objective
from pvae.objectives.pyro.adapt_losses import adapt
from pvae.objectives.registry import make_objective
from pvae.programs.binding import Fields, bind
from pvae.programs.layout import check_site_shapes
from pvae.programs.parameter_scope import scope
from pvae.programs.registration import MODULE_DIVIDER, forget
from pvae.programs.sites import sample_sites
from pvae.randomness import preserved_buffers, preserved_randomness

__all__ = ["CheckResult", "check", "run_check"]

_RULES = (*PROGRAM_RULES, *OBJECTIVE_RULES, *AUXILIARY_RULES, *VALUE_RULES)


def _run_programs(latent_model: Any, batch: Mapping[str, Tensor], objective: Objective, fields: Fields) -> CheckContext:
    """Run both programs once; their layout is found from the same traces."""
    programs = bind(latent_model, batch, fields)
    bound = programs.bound_to(batch)
    with pyro.validation_enabled(False):  # the linter reports a value outside a support as a finding
        guide_trace, model_trace = bound.trace_both()
        bound.find_layout(guide_trace, model_trace)
    if is_validation_enabled():
        check_site_shapes((guide_trace, model_trace))
    return CheckContext(
        latent_model=latent_model,
        batch=batch,
        objective=objective.bound_objective,
        trained=objective,
        fields=fields,
        programs=programs,
        bound=bound,
        guide_sites=sample_sites(guide_trace),
        model_sites=sample_sites(model_trace),
    )


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
        The findings; ``findings.require()`` raises an error for the fatal ones among them.

    Raises:
        InputError: if `objective` is no objective, or the fields cannot be bound.
    """
    return run_check(latent_model, batch, objective, fields).findings


def run_check(latent_model: Any, batch: Mapping[str, Tensor], objective: Any, fields: Fields = None) -> CheckResult:
    """Check as `check` does, and report which ``pyro.param`` entries the programs create at their first run.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: a few of the training data.
        objective: as for `check`.
        fields: as for `pvae.models.bind`.
    """
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
                findings.extend(find_missing_gradients(context))
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
    # Parameters of modules are entries of the store while their program runs; no statement creates them.
    of_param_statements = {name for name in created if MODULE_DIVIDER not in name}
    return CheckResult(findings, frozenset(of_param_statements))
