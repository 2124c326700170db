"""Make a latent model from an argument of a user: an instance, a name, a `ModelSpec`, a class or a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

from pvae.models.build import FACTS, MODELS, ModelSpec
from pvae.names import parse
from pvae.programs.base import LatentModel
from pvae.programs.model_traits import HasPrograms, is_latent_model, require_latent_model

__all__ = ["ModelOrRecipe", "build_model", "is_recipe", "spec_from_text"]

#: A latent model or a recipe for one, the first argument of `pvae.fit` and `pvae.check`.
ModelOrRecipe: TypeAlias = LatentModel | HasPrograms | ModelSpec | str | Callable[..., Any]


def spec_from_text(text: str) -> ModelSpec:
    """Return the specification that a text names, with settings after colons.

    >>> spec_from_text("vae:prior=vamp:latent=8")
    ModelSpec(name='vae', settings={'prior': 'vamp', 'latent': 8})
    >>> spec_from_text("my_model.py:MyModel:latent=8")
    ModelSpec(name='my_model.py:MyModel', settings={'latent': 8})

    Args:
        text: a name of `pvae.models.MODELS`, or a file or module and a class.

    Raises:
        InputError: for a setting that is badly written or given twice.
    """
    parts = text.split(":")
    first = next((index for index, part in enumerate(parts) if index and "=" in part), len(parts))
    count = 1 if parts[0].strip() in MODELS else first
    _, settings = parse(":".join([parts[0], *parts[count:]]))
    return ModelSpec(":".join(parts[:count]).strip(), settings)


def is_recipe(model: Any) -> bool:
    """Return whether an object makes a latent model: a text, a `ModelSpec`, a class, or a function."""
    if isinstance(model, str | ModelSpec | type):
        return True
    return callable(model) and not is_latent_model(model)


def build_model(recipe: Any, splits: Any) -> Any:
    """Return a fresh latent model.

    Args:
        recipe: a text, as for `spec_from_text`; a `ModelSpec`; or a class or function. Parameters that are named as
            facts of the data (`FACTS`) get them; otherwise a single required parameter gets the splits.
        splits: the data.

    Raises:
        InputError: if the model cannot be built.
    """
    if isinstance(recipe, str):
        return spec_from_text(recipe).build(splits)
    if isinstance(recipe, ModelSpec):
        return recipe.build(splits)
    required = _required(recipe)
    if required and set(required) <= set(FACTS):
        made = recipe(**{name: getattr(splits, name) for name in required})
    else:
        made = recipe(splits) if len(required) == 1 else recipe()
    require_latent_model(made, getattr(recipe, "__qualname__", "a factory"))
    return made


def _required(factory: Any) -> list[str]:
    """Return the names of the parameters that have no default; none for classes in C, which have no signature."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:
        return []
    return [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
