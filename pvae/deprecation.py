"""Old names of functions and methods, kept for one version."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

__all__ = ["renamed_method"]


def renamed_method(old_name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function or method that warns about its old name and calls the new one.

    Args:
        old_name: the old name.
        method: the function or method under its new name.
    """

    @functools.wraps(method)
    def renamed(*args: Any, **kwargs: Any) -> Any:
        warnings.warn(f"{old_name} is now called {method.__name__}.", DeprecationWarning, stacklevel=2)
        return method(*args, **kwargs)

    return renamed
