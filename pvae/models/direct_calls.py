"""Checks of the data that a user gives to a method of a model directly, outside of a training or an evaluation."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from pyro.poutine.runtime import am_i_wrapped

from pvae.programs.usable_data import require_usable
from pvae.weights.tracing import is_traced

__all__ = ["takes_data"]

_Method = TypeVar("_Method", bound=Callable[..., Any])


def takes_data(method: _Method) -> _Method:
    """Return a method of a model that refuses an empty batch and values that are not finite.

    Inside a program nothing is checked: the data of a training or an evaluation are checked before it starts, and a
    step on an accelerator must not wait for their values.

    Args:
        method: a method; its tensors are checked by the names of its parameters.
    """
    names = list(inspect.signature(method).parameters)[1:]

    @functools.wraps(method)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not am_i_wrapped() and not is_traced():
            require_usable({**dict(zip(names, args, strict=False)), **kwargs})
        return method(self, *args, **kwargs)

    return checked  # type: ignore[return-value]
