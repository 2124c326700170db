"""The models and objectives that a user passes to `compare`: check them, describe them, build a fresh model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from pyro.infer import ELBO

from pvae.data import Splits
from pvae.errors import InputError
from pvae.models import ModelSpec
from pvae.objectives import make_objective

__all__ = ["build_model", "describe_factory", "models_by_name", "objectives_by_name"]


def models_by_name(models: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model factories by name.

    Args:
        models: for each name a class, a function or a `ModelSpec`.

    Raises:
        InputError: if there is no model, or one is an instance: every cell would go on training its parameters.
    """
    if not isinstance(models, Mapping) or not models:
        raise InputError(f"models is a mapping from names to factories, such as {{'vae': make_vae}}; got {models!r}.")
    for name, model in models.items():
        if not isinstance(model, ModelSpec) and not callable(model):
            raise InputError(
                f"Each model is a class, a function or a ModelSpec; {name!r} is {type(model).__name__}. "
                "Give one of the three."
            )
        if hasattr(model, "model") and not isinstance(model, type):
            raise InputError(
                f"Each cell needs a fresh model, and {name!r} is an instance. Give its class, or a function that "
                "makes it."
            )
    return {str(name): model for name, model in models.items()}


def objectives_by_name(objectives: Mapping[str, Any] | Iterable[str] | str) -> dict[str, Callable[[], Any]]:
    """Return the objective factories by name; a text such as ``"iwae:particles=8"`` is its own name.

    Args:
        objectives: for each name a class, a function or a text; or only texts.

    Raises:
        InputError: if there is no objective, a text is unknown, or one is an instance.
    """
    if isinstance(objectives, str):
        objectives = [objectives]
    if not isinstance(objectives, Mapping):
        objectives = {str(text): text for text in objectives}
    if not objectives:
        raise InputError("objectives is a mapping from names to factories, or texts such as 'elbo'; got none.")
    return {str(name): _objective_factory(str(name), value) for name, value in objectives.items()}


def _objective_factory(name: str, value: Any) -> Callable[[], Any]:
    if isinstance(value, str):
        return make_objective(value)
    if isinstance(value, ELBO) or not callable(value):
        raise InputError(
            f"Each cell needs a fresh objective, and {name!r} is an instance of {type(value).__name__}: "
            "give its class, a function that makes it, or a text such as 'iwae:particles=8'."
        )
    factory: Callable[[], Any] = value
    return factory


def describe_factory(model: Any) -> str:
    """Return the name of a factory with its arguments, as far as they are visible without reading its code."""
    if isinstance(model, ModelSpec):
        settings = ", ".join(f"{name}={value!r}" for name, value in sorted(model.settings.items()))
        return f"{model.name}({settings})"
    if isinstance(model, partial):
        positional = [repr(value) for value in model.args]
        named = [f"{name}={value!r}" for name, value in model.keywords.items()]
        return f"{describe_factory(model.func)} with {', '.join([*positional, *named])}"
    return f"{getattr(model, '__module__', '?')}.{getattr(model, '__qualname__', type(model).__qualname__)}"


def build_model(factory: Any, splits: Splits) -> Any:
    """Return a fresh latent model; a factory with exactly one required parameter gets the splits.

    Args:
        factory: a class, a function or a `ModelSpec`.
        splits: the data.
    """
    if isinstance(factory, ModelSpec):
        return factory.build(splits)
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # classes written in C have no signature
        return factory()
    required = [
        parameter
        for parameter in parameters
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    return factory(splits) if len(required) == 1 else factory()
