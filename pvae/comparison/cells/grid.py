"""The rows of a comparison that differ by settings: of the model, or of the training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch

from pvae.errors import InputError
from pvae.fit_options import FitOptions
from pvae.models import ModelSpec
from pvae.models.build import setting_names
from pvae.names import unknown
from pvae.train.optimisers import make_optimiser, make_schedule
from pvae.train.options import resolved

__all__ = ["check_training", "checked_grid", "describe_training", "expand_rows"]

# A grid cannot contain these: all rows have the same seeds, and the other options depend on the machine.
_COMMON = ("seed", "device", "threads", "checkpoint_seconds")
_OF_TRAINING = tuple(name for name in FitOptions.__dataclass_fields__ if name not in _COMMON)
_NEEDS = "grid is a mapping from a setting to its values, such as {'learning_rate': [1e-3, 3e-4]}"


def checked_grid(grid: Mapping[str, Iterable[Any]] | None, common: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the values of each setting of a grid as a list.

    Args:
        grid: for each setting its values; None for no grid.
        common: the options of the call for all rows.

    Raises:
        InputError: if a setting has no value or one value twice, or is given for all rows too.
    """
    if not isinstance(grid, Mapping | None):
        raise InputError(f"{_NEEDS}; got {grid!r}.")
    values_by_name = {str(name): _values(str(name), values) for name, values in (grid or {}).items()}
    for name in values_by_name:
        if common.get(name) is not None:
            raise InputError(f"{name} is given for all rows and in the grid. Leave one of them out.")
    return values_by_name


def _values(name: str, values: Any) -> list[Any]:
    if not isinstance(values, Iterable) or isinstance(values, str | Mapping):
        raise InputError(f"{_NEEDS}; got {values!r} for {name}.")
    listed = list(values)
    if not listed or len({_text(value) for value in listed}) < len(listed):
        raise InputError(f"The grid needs one or more different values of {name}; got {listed}. Correct the list.")
    return listed


def expand_rows(
    models: Mapping[str, Any], grid: Mapping[str, Sequence[Any]]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the factory of the model of each row, and the row's own options of `pvae.fit`.

    The rows are each model at each point of the grid. A name ends with the settings of the grid, as
    ``"vae:latent=8:learning_rate=0.001"``. Settings of a `ModelSpec` that are options of the training and not of the
    model become options of the row.

    Args:
        models: factories by name.
        grid: the values of each setting.

    Returns:
        A factory of latent models for each row, and its own options, both by the name of the row.

    Raises:
        InputError: for a setting that neither the model nor the training has; the message names the existing ones.
    """
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    factories, training = {}, {}
    for name, factory in models.items():
        for point in points:
            row = ":".join([name, *(f"{setting}={_text(value)}" for setting, value in point.items())])
            factories[row], training[row] = _factory_and_training(name, factory, point)
    return factories, training


def _factory_and_training(name: str, factory: Any, point: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    own = dict(factory.settings) if isinstance(factory, ModelSpec) else {}
    if not own and not point:
        return factory, {}
    known = factory.setting_names() if isinstance(factory, ModelSpec) else setting_names(factory)
    is_training = {key: known is not None and key in _OF_TRAINING and key not in known for key in own}
    training = {key: own.pop(key) for key, moves in is_training.items() if moves}
    settings: dict[str, Any] = {}
    for key, value in point.items():
        if key in own or key in training:
            raise InputError(f"{name} has a value of {key} already, but the grid varies it. Leave one of them out.")
        belongs = settings if _is_of_model(name, key, known) else training
        belongs[key] = value
    if isinstance(factory, ModelSpec):
        return replace(factory, settings={**own, **settings}), training
    return partial(factory, **settings) if settings else factory, training


def _is_of_model(name: str, key: str, known: Sequence[str] | None) -> bool:
    """Return whether a setting of the grid is one of the model; otherwise it is an option of the training."""
    is_of_training = key in _OF_TRAINING
    if is_of_training and known is not None and key in known:
        raise InputError(
            f"{key} is a setting of {name} and an option of the training, so the grid is not clear. Write it after the "
            f"name of the model, as {name}:{key}=..."
        )
    if key in _COMMON and key not in (known or ()):
        raise InputError(f"{key} is the same in all rows, so the grid cannot vary it. Leave it out of the grid.")
    if not is_of_training and known is not None and key not in known:
        raise unknown("setting", key, [*known, *_OF_TRAINING], owner=f"{name} in the grid")
    return not is_of_training


def check_training(options: Mapping[str, Any]) -> None:
    """Raise InputError for options of `pvae.fit` that cannot be used, before any training.

    Args:
        options: the options by name; others than the fields of `FitOptions` are not checked.

    Raises:
        InputError: for a value that cannot be used.
    """
    checked = resolved({**_defaults(), **{name: options[name] for name in _defaults() if name in options}}, None)
    parameters: dict[str, list[torch.Tensor]] = {"theta": [torch.nn.Parameter(torch.zeros(1))]}
    if isinstance(checked.optimiser, str):
        optimiser = make_optimiser(checked.optimiser, parameters, FitOptions.learning_rate)
        if isinstance(checked.schedule, str):
            make_schedule(checked.schedule, optimiser)


def _defaults() -> dict[str, Any]:
    return {name: getattr(FitOptions, name) for name in FitOptions.__dataclass_fields__}


def describe_training(options_by_row: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the options of all trainings as text; an option that differs between rows lists its values.

    Args:
        options_by_row: the options of `pvae.fit`, by row.
    """
    described = {}
    for name, value in next(iter(options_by_row.values())).items():
        texts = list(dict.fromkeys(_text(options[name]) for options in options_by_row.values()))
        described[name] = value if len(texts) == 1 else f"{' or '.join(texts)}, by row"
    return described


def _text(value: Any) -> str:
    """Return a value in the form of a setting after a name.

    >>> _text(3e-4), _text((200, 100)), _text({"theta": 0.1}), _text(None)
    ('0.0003', '200,100', 'theta=0.1', 'none')
    """
    if isinstance(value, Mapping):
        return ",".join(f"{name}={_text(element)}" for name, element in value.items())
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    if value is None:
        return "none"
    return str(getattr(value, "__qualname__", type(value).__qualname__)) if callable(value) else str(value)
