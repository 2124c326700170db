"""The options of `pvae.fit` for every cell of a comparison."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pvae.names import unknown

__all__ = ["resolve_fit_options"]

# A comparison sets these for each cell.
_SET_BY_CELL = {"objective", "seed", "out", "resume", "progress", "callbacks", "threads", "model_spec"}
# Every epoch of every cell computes the validation bound. With fit's default of 100 particles, the bound would cost
# more than the training.
_COMPARISON_DEFAULTS = {"validation_particles": 25}


def resolve_fit_options(fit: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return every option of `pvae.fit` that a comparison may set, with the user's values or defaults.

    The defaults are those of `fit`, except for 25 particles in the validation bound.

    Args:
        fit: the function that has the options as keyword-only parameters.
        options: the user's values by name.

    Raises:
        InputError: for an option that `fit` does not have, or that a comparison sets itself; the message names the
            nearest option.
    """
    parameters = inspect.signature(fit).parameters.values()
    defaults = {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in _SET_BY_CELL
    }
    for name in options:
        if name not in defaults:
            raise unknown("option of fit", name, defaults)
    return {**defaults, **_COMPARISON_DEFAULTS, **options}
