"""The type of ``--grid``: a setting with several values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from pvae.commands.options.help_sections import FLAG_ALIASES
from pvae.commands.options.option_groups import FIT_OPTIONS, training_type
from pvae.errors import InputError
from pvae.names import value as parse_value

__all__ = ["GridType", "join_grids"]

_ADVICE = "--grid needs a setting and its values, such as learning_rate=1e-3,3e-4"


class GridType(click.ParamType):
    """A setting and its values: ``latent=2,8``, or ``hidden=200,200;100`` with semicolons between the values."""

    name = "setting=values"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, list[Any]]:
        """Return the name of the setting in Python, and its values; options of the training have their own type."""
        if isinstance(value, tuple):  # click converts a default value again
            return value
        name, separator, content = str(value).partition("=")
        setting = _python_name(name)
        parts = [part.strip() for part in content.split(";" if ";" in content else ",") if part.strip()]
        if not separator or not setting.isidentifier() or not parts:
            raise InputError(f"{_ADVICE}; got {value!r}.")
        kind = training_type(setting) if setting in FIT_OPTIONS else None
        if kind is None:
            return setting, [parse_value(part) for part in parts]
        return setting, [None if part == "none" else kind.convert(part, param, ctx) for part in parts]


def _python_name(flag: str) -> str:
    """Return the name of a setting in Python from any spelling of its flag."""
    spelling = "--" + flag.strip().lstrip("-").replace("_", "-")
    original = {alias: name for name, alias in FLAG_ALIASES.items()}
    return original.get(spelling, spelling).removeprefix("--").replace("-", "_")


def join_grids(grids: Iterable[tuple[str, list[Any]]]) -> dict[str, list[Any]]:
    """Return the values by setting.

    Args:
        grids: the settings of several ``--grid``.

    Raises:
        InputError: if a setting comes twice.
    """
    joined: dict[str, list[Any]] = {}
    for name, values in grids:
        if name in joined:
            raise InputError(f"--grid {name} is given twice; write all its values in one list.")
        joined[name] = values
    return joined
