"""A colour and a marker for each label of the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from pvae.plots.base import PALETTE, plain_label

__all__ = ["CLASS_COLOURS", "CLASS_MARKERS", "ClassStyles"]

CLASS_COLOURS = (*PALETTE, "#5E3C99", "#1B1B1B")
CLASS_MARKERS = "os^Dv<>Pphs*"
_LEGEND_COLUMNS = 5


@dataclass(frozen=True)
class ClassStyles:
    """The labels of the data, with a colour and a marker for each; empty without labels, or with more than ten.

    Attributes:
        labels: label of each datum, shape (data,), or None.
        classes: the different labels, in order.
    """

    labels: NDArray | None
    classes: NDArray

    @classmethod
    def of(cls, labels: ArrayLike | None) -> ClassStyles:
        """Return the styles of labels, shape (data,)."""
        if labels is None:
            return cls(None, np.array([]))
        values = np.asarray(labels)
        classes = np.unique(values)
        return cls(values, classes if len(classes) <= len(CLASS_COLOURS) else np.array([]))

    @property
    def colours(self) -> tuple[str, ...]:
        """The colour of each class."""
        return CLASS_COLOURS[: len(self.classes)]

    @property
    def legend_height(self) -> float:
        """The height of the legend in inches; 0 without classes."""
        return 0.25 + 0.2 * -(-len(self.classes) // _LEGEND_COLUMNS) if len(self.classes) else 0.0

    def members(self, index: int) -> NDArray:
        """Return whether each datum has the class of an index, shape (data,)."""
        return np.asarray(self.labels == self.classes[index])

    def add_legend(self, figure: Figure, title: str) -> None:
        """Add the legend of the classes below a figure, with a title, if there are classes."""
        if not len(self.classes):
            return
        handles = [
            Line2D([], [], linestyle="", marker=CLASS_MARKERS[index], color=colour, label=plain_label(label, 18))
            for index, (label, colour) in enumerate(zip(self.classes, self.colours, strict=True))
        ]
        columns = min(len(handles), _LEGEND_COLUMNS)
        figure.legend(
            handles=handles, loc="outside lower center", ncols=columns, frameon=False, title=plain_label(title)
        )
