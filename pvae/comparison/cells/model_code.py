"""Checksums of the user's code of a comparison, by which finished cells of other code are noticed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pvae.comparison.cells.drawings import SEED
from pvae.data import Splits
from pvae.models import MODELS, ModelSpec
from pvae.models.build import describe_arguments
from pvae.models.make_model import build_model
from pvae.models.source_code import code_digests, session_digests
from pvae.train.devices import isolated

__all__ = ["code_of_models", "code_of_objective"]

_DIGITS = 12  # of a checksum in a message


def code_of_models(models: Mapping[str, Any], splits: Splits) -> dict[str, dict[str, Any]]:
    """Return the checksums of the user's code of each model, and its arguments, as entries of the options of a cell.

    A built-in model is described by its settings, and has no entries; nor has a model that cannot be built, because its
    cells will fail, with the reason.

    Args:
        models: model factories by name.
        splits: the data.
    """
    return {name: _code_of_model(factory, splits) for name, factory in models.items()}


def _code_of_model(factory: Any, splits: Splits) -> dict[str, Any]:
    if isinstance(factory, ModelSpec) and factory.name in MODELS:
        return {}
    try:
        with isolated(SEED):
            model = build_model(factory, splits)
    except Exception:  # a user's constructor may raise any error
        return {}
    owners = [model] if isinstance(factory, ModelSpec) else [factory, model]
    entries = {"model code": _checksums(*owners), "model arguments": describe_arguments(model)}
    return {key: value for key, value in entries.items() if value}


def code_of_objective(factory: Callable[[], Any], objective: Any) -> dict[str, Any]:
    """Return the checksums of the user's code of an objective, as an entry of the options of a cell.

    Args:
        factory: what makes the objective.
        objective: the objective itself.
    """
    code = _checksums(factory, objective)
    return {"objective code": code} if code else {}


def _checksums(*owners: Any) -> dict[str, str]:
    """Return the first digits of the checksums of the code that objects are made of, by file or by name."""
    digests = {**code_digests(*owners), **session_digests(*owners)}
    return {name: f"sha256 {checksum[:_DIGITS]}..." for name, checksum in digests.items()}
