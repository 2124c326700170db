"""What all figures share: colours, sizes, axes and legends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

__all__ = [
    "INK",
    "PALETTE",
    "WIDTH",
    "Array",
    "as_array",
    "blank",
    "labelled_axes",
    "legend",
    "legend_height",
]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#8C6D31")
WIDTH = 4.6  # inches: 10 pt text is 11 px high where the picture is 350 px wide
INK = "#333333"
Array = NDArray[np.float64]


def as_array(values: Any) -> Array:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    return np.asarray(values, dtype=np.float64)


def blank(height: float, width: float = WIDTH) -> Figure:
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    return figure


def labelled_axes(figure: Figure, xlabel: str, ylabel: str) -> Axes:
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel, color=INK)
    axes.set_ylabel(ylabel, color=INK)
    axes.tick_params(colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def legend(figure: Figure, axes: Axes, title: str | None = None, columns: int | None = None) -> None:
    handles, labels = axes.get_legend_handles_labels()
    longest = max((len(label) for label in labels), default=1)
    columns = columns or max(1, min(len(labels), 48 // (longest + 5)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, title=title)


def legend_height(labels: Sequence[str]) -> float:
    longest = max((len(label) for label in labels), default=1)
    return 0.2 * -(-len(labels) // max(1, 48 // (longest + 5)))
