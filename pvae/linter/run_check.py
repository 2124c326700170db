"""The linter: run all rules on a model, a batch and an objective before training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.fit_options import FitOptions
from pvae.linter.agreement_rules import AGREEMENT_RULES
from pvae.linter.auxiliary_rules import AUXILIARY_RULES
from pvae.linter.check_context import CheckContext
from pvae.linter.checked_data import built_model, checked_batch
from pvae.linter.findings import Finding, Findings, failure
from pvae.linter.memory_rules import describe_shortage, find_shortage, memory_limit
from pvae.linter.objective_rules import OBJECTIVE_RULES, find_bias
from pvae.linter.program_rules import PROGRAM_RULES, VALUE_RULES, find_missing_gradients
from pvae.linter.row_rules import examine_rows_of, find_other_axis, find_tied_rows
from pvae.models.make_model import ModelOrRecipe, is_recipe
from pvae.objectives.base import Objective
from pvae.objectives.pyro.adapt_losses import adapt
from pvae.objectives.registry import make_objective
from pvae.programs.binding import Fields, bind, held_modules
from pvae.programs.explicit_rows import ExplicitRows, rows_of_plates
from pvae.programs.model_traits import require_latent_model
from pvae.programs.parameter_scope import names_of_modules, scope
from pvae.programs.registration import forget
from pvae.programs.row_dependence import RowReport
from pvae.programs.site_shapes import SiteShapeError, check_site_shapes
from pvae.programs.sites import sample_sites
from pvae.programs.usable_data import require_usable
from pvae.randomness import preserved_buffers, preserved_randomness
from pvae.structures import map_tensors

__all__ = ["CheckResult", "check", "run_check"]

_RULES = (*PROGRAM_RULES, *AGREEMENT_RULES, *OBJECTIVE_RULES, *AUXILIARY_RULES, *VALUE_RULES, find_other_axis)


def _run_programs(
    latent_model: Any, batch: Mapping[str, Tensor], objective: Objective, fields: Fields, data_size: int | None
) -> CheckContext:
    """Run both programs once; their layout is found from the same traces."""
    programs = bind(latent_model, batch, fields)
    bound = programs.bound_to(batch)
    has_validation = is_validation_enabled()
    with pyro.validation_enabled(False):  # the linter reports a value outside a support as a finding
        in_model, in_guide = ExplicitRows(), ExplicitRows()
        recorded = bound.with_programs(in_model(bound.model), in_guide(bound.guide))
        guide_trace, model_trace = recorded.trace_both()
        if has_validation:  # this check is first, because later runs use the cached layout and do not check shapes
            check_site_shapes(guide_trace, model_trace)
        bound.find_layout(guide_trace, model_trace)
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
        guide_rows=rows_of_plates(guide_trace) | in_guide.indices,
        model_rows=rows_of_plates(model_trace) | in_model.indices,
        data_size=data_size,
        param_names=frozenset(
            name
            for trace in (guide_trace, model_trace)
            for name, node in trace.nodes.items()
            if node["type"] == "param"
        ),
    )


@contextmanager
def _ignore_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True)
class CheckResult:
    """The findings of a check, and the parameters that the programs created.

    Attributes:
        findings: the findings.
        created: the names of the entries of ``pyro.param`` and ``pyro.module`` that did not exist before; they are
            removed again.
        rows: the changes of the log-densities with the rows of the batch; None if they were not examined.
    """

    findings: Findings
    created: frozenset[str]
    rows: RowReport | None = None


def check(
    latent_model: ModelOrRecipe,
    batch: Any,
    objective: ELBO | Callable[..., Any] | str = "elbo",
    fields: Fields = None,
    *,
    data_size: int | None = None,
    batch_size: int = FitOptions.batch_size,
) -> Findings:
    """Check a latent model and an objective on one batch, before training.

    Random generators, parameters, the parameter store and the state of the objective do not change.

    Args:
        latent_model: a `LatentModel`, a `pair`, or any object with ``model`` and ``guide``; or a recipe that makes one
            for the data, as for `pvae.fit`.
        batch: a few of the training data as a `Batch` or as tensors by name; or any data that `pvae.fit` takes, such as
            `Splits`, an array, a path, a data set or a loader of PyTorch, of which the first batch is checked.
        objective: a `pvae.Objective`, a loss of `pyro.infer`, a factory of one, or a name of the command line.
        fields: as for `pvae.models.bind`.
        data_size: the number of all training data. A parameter with one row for each position of the batch is fatal if
            a batch does not hold all data, and right if it does; if the number is not known, the finding is a note.
        batch_size: the number of data that are checked if `batch` is not a batch; a loader has its own.

    Returns:
        The findings; ``findings.require()`` raises an error if some of them are fatal.

    Raises:
        InputError: if there is no latent model, `objective` is not an objective, the data cannot be read, or the fields
            cannot be bound.

    Example:
        >>> import pvae, torch
        >>> findings = pvae.check(pvae.VAE(4, latent=2, hidden=8), torch.eye(4), "iwae:particles=8")
        >>> findings.fatal
        []
    """
    if is_recipe(latent_model):
        with preserved_randomness():
            latent_model, batch = built_model(latent_model, batch)
    require_latent_model(latent_model, "check")
    batch, known_size = checked_batch(latent_model, batch, fields, require_whole(batch_size, "batch_size"))
    data_size = known_size if data_size is None else data_size
    if data_size is not None:
        data_size = require_whole(data_size, "data_size", advice="It is the number of all training data.")
    # A training casts real numbers to the type of the parameters before it checks them.
    dtype = bind(latent_model, batch, fields).in_dtype_of_parameters().dtype
    if dtype is not None:
        batch = {name: map_tensors(value, lambda tensor: tensor.to(dtype)) for name, value in batch.items()}
    return run_check(latent_model, batch, objective, fields, data_size).findings


def run_check(
    latent_model: Any, batch: Mapping[str, Tensor], objective: Any, fields: Fields = None, data_size: int | None = None
) -> CheckResult:
    """Check like `check`, and report which ``pyro.param`` entries the programs create in their first run.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: a few of the training data.
        objective: as for `check`.
        fields: as for `pvae.models.bind`.
        data_size: as for `check`.
    """
    adapted = adapt(make_objective(objective) if isinstance(objective, str) else objective)

    def examine(part: Mapping[str, Tensor]) -> tuple[Findings, RowReport | None]:
        return _examine(latent_model, part, adapted, fields, data_size)

    with (
        scope(latent_model, inherit=True),
        preserved_randomness(),
        preserved_buffers(latent_model, *held_modules(latent_model).values()),
        _ignore_warnings(),
        torch.enable_grad(),
    ):
        before = set(pyro.get_param_store().keys())
        created: set[str] = set()
        training = adapted.training
        adapted.eval()
        try:
            limit = memory_limit(latent_model, batch, adapted, fields)
            with nullcontext() if limit is None else limit:
                findings, rows = examine(batch)
            if limit is not None and limit.needed is not None:
                findings, rows = Findings([describe_shortage(limit, batch, examine)]), None
        finally:
            adapted.train(training)
            created = set(pyro.get_param_store().keys()) - before
            forget(created)
    # Parameters of the latent model are entries of the store while a program runs; no statement creates them.
    return CheckResult(findings, frozenset(created - names_of_modules(latent_model)), rows)


def _examine(
    latent_model: Any, batch: Mapping[str, Tensor], objective: Objective, fields: Fields, data_size: int | None
) -> tuple[Findings, RowReport | None]:
    """Apply all rules; return the findings, and the changes of the log-densities with the rows of the batch."""
    findings = Findings()
    rows: RowReport | None = None
    try:
        require_usable(batch)
    except InputError as error:
        return Findings([Finding("unusable data", "batch", str(error), "")]), None
    try:
        context = _run_programs(latent_model, batch, objective, fields, data_size)
        for rule in _RULES:
            findings.extend(rule(context))
        if not findings.fatal:
            rows = examine_rows_of(context)
            findings.extend(find_tied_rows(context, rows))
        if not findings.fatal:
            findings.extend(find_shortage(context))
        if not findings.fatal:
            findings.extend(find_missing_gradients(context))
        findings.extend(find_bias(context))
    except SiteShapeError as error:
        findings.append(Finding("wrong shape", error.site, str(error), ""))
    except InputError as error:
        findings.append(Finding("not possible", type(objective).__name__, str(error), ""))
    except (ArithmeticError, AttributeError, LookupError, NameError, NotImplementedError) as error:
        findings.append(failure(error))
    except (RuntimeError, TypeError, ValueError) as error:
        findings.append(failure(error))
    return findings, rows
