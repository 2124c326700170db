"""Figures of a run by the functions of `pvae.plots`: the object draws itself, with its model and its data."""

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
    """What draws the figures of an object by their names, as ``run.plot`` does."""

    @abstractmethod
    def draw(self, name: str, data: Any = None, **options: Any) -> Figure:
        """Return one figure.

        Args:
            name: the name of the figure, such as ``"latent"``.
            data: the data; None for those of the object.
            options: the split, the number of data and the seed of the draws.
        """


def also_of_runs(name: str) -> Callable[[Function], Function]:
    """Return the decorator by which a function of arrays also takes a run, and its data after it.

    Args:
        name: the name of the figure of a run that shows the same.
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
