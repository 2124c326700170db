"""The models and objectives that a user passes to `compare`: check them and describe them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from pyro.infer import ELBO

from pvae.errors import InputError
from pvae.models import ModelSpec
from pvae.models.make_model import spec_from_text
from pvae.objectives import make_objective

__all__ = ["describe_factory", "models_by_name", "objectives_by_name"]


def models_by_name(models: Any) -> dict[str, Any]:
    """Return the model factories by name.

    Args:
        models: for each name a text such as ``"vae:latent=8"``, a class, a function or a `ModelSpec`; or only texts.

    Raises:
        InputError: if there is no model, or one is an instance, because all cells would train the same parameters.
    """
    if isinstance(models, str):
        models = [models]
    if isinstance(models, list | tuple) and models and all(isinstance(text, str) for text in models):
        models = {text: text for text in models}
    if not isinstance(models, Mapping) or not models:
        raise InputError(
            "models is a mapping from names to factories, such as {'vae': make_vae}, or texts, such as 'vae:latent=8'; "
            f"got {models!r}."
        )
    return {str(name): _model_factory(str(name), model) for name, model in models.items()}


def _model_factory(name: str, model: Any) -> Any:
    if isinstance(model, str):
        spec = spec_from_text(model)
        spec.check()
        return spec
    if not isinstance(model, ModelSpec) and not callable(model):
        raise InputError(
            f"Each model is a text, a class, a function or a ModelSpec; {name!r} is {type(model).__name__}. Give one "
            "of these four."
        )
    if hasattr(model, "model") and not isinstance(model, type):
        raise InputError(
            f"Each cell needs a new model, but {name!r} is an instance. Give its class, or a function that makes it."
        )
    return model


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
            f"Each cell needs a new objective, but {name!r} is an instance of {type(value).__name__}: "
            "give its class, a function that makes it, or a text such as 'iwae:particles=8'."
        )
    factory: Callable[[], Any] = value
    return factory


def describe_factory(model: Any) -> str:
    """Return the name of a factory with the arguments that are visible without reading its code."""
    if isinstance(model, ModelSpec):
        settings = ", ".join(f"{name}={value!r}" for name, value in sorted(model.settings.items()))
        return f"{model.name}({settings})"
    if isinstance(model, partial):
        positional = [repr(value) for value in model.args]
        named = [f"{name}={value!r}" for name, value in model.keywords.items()]
        return f"{describe_factory(model.func)} with {', '.join([*positional, *named])}"
    return f"{getattr(model, '__module__', '?')}.{getattr(model, '__qualname__', type(model).__qualname__)}"
