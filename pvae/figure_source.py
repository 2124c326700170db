"""Functions of `pvae.plots` that also accept a run, and draw the figure with its model and its data."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FigureSource", "also_of_runs"]

Function = TypeVar("Function", bound=Callable[..., Any])


class FigureSource(ABC):
    """Draws the figures of an object by their names, as ``run.plot`` does."""

    @abstractmethod
    def draw(self, name: str, data: Any = None, **options: Any) -> Figure:
        """Return one figure.

        Args:
            name: the name of the figure, such as ``"latent"``.
            data: the data; None for the data of the object.
            options: the split, the number of data and the seed of the draws.
        """


def also_of_runs(name: str) -> Callable[[Function], Function]:
    """Return a decorator that lets a function of arrays also accept a run, followed by data.

    Args:
        name: the name of the same figure in ``run.plot``.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def draw(*arguments: Any, **options: Any) -> Figure:
            source = getattr(arguments[0], "plot", None) if arguments else None
            if isinstance(source, FigureSource):
                return source.draw(name, *arguments[1:], **options)
            return function(*arguments, **options)

        return cast(Function, draw)

    return decorate
