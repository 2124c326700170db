"""Colours, sizes, axes and legends that all figures share."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pvae.batch import Batch
from pvae.data import Splits, load_data
from pvae.errors import InputError
from pvae.names import short_label
from pvae.plots.figure_files import save_figure

__all__ = [
    "INK",
    "PALETTE",
    "WIDTH",
    "Array",
    "add_axes",
    "add_legend",
    "as_array",
    "legend_height",
    "line_style",
    "new_figure",
    "plain_label",
    "principal_components",
    "save_figure",
    "style_axes",
]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#8C6D31")
_DASHES = ("-", "--", "-.", ":")
WIDTH = 4.6  # inches: 10 pt text is 11 px high where the picture is 350 px wide
INK = "#333333"  # colour of text and ticks
LINE_CHARACTERS = 48  # characters in one row of a legend
KEY_CHARACTERS = 5  # width of a legend's line or marker, in characters
Array = NDArray[np.float64]


def plain_label(name: object, most: int = 60) -> str:
    """Return a name that matplotlib draws literally: on one line, of a readable length, and not as mathematics.

    Args:
        name: any text of a user, such as the name of a model, or a value.
        most: the largest number of characters.
    """
    text = short_label(name, most).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text  # matplotlib leaves labels with _ out of legends


def line_style(index: int) -> dict[str, Any]:
    """Return colour and dashes of a line as arguments of ``axes.plot``, so that colour is not the only difference.

    The first 32 lines of a figure all differ.

    Args:
        index: the number of the line, counted from 0.
    """
    turn = index // len(PALETTE)
    return {"color": PALETTE[index % len(PALETTE)], "linestyle": _DASHES[(index + turn) % len(_DASHES)]}


def as_array(values: Any) -> Array:
    """Return values as a float64 array.

    Args:
        values: a tensor (of any device, with or without gradient), an array, a frame or a sequence; or data, of which x
            is used: a batch, splits (the test split), or the name or path of data.

    Raises:
        InputError: if data of this name cannot be loaded, or splits have no test split.
    """
    if isinstance(values, str | os.PathLike):
        values = load_data(values)
    if isinstance(values, Splits):
        if values.test is None:
            raise InputError("A figure draws the test split of data, but these have none. Give data.train.")
        values = values.test
    if isinstance(values, Batch):
        values = values["x"]
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    return np.asarray(values, dtype=np.float64)


class NotebookFigure(Figure):
    """A figure that a notebook displays if it is the last value of a cell, with or without ``%matplotlib inline``.

    It is not registered in pyplot, so it is not displayed a second time at the end of the cell.
    """

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure with a white background.

    Args:
        height: in inches.
        width: in inches.
    """
    figure = NotebookFigure(figsize=(width, height), dpi=150, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    return figure


def add_axes(figure: Figure, xlabel: str, ylabel: str) -> Axes:
    """Add axes with labels and a grid to a figure, and return them.

    Args:
        figure: the figure.
        xlabel: label of the horizontal axis, with its unit.
        ylabel: label of the vertical axis, with its unit.
    """
    axes = figure.add_subplot()
    style_axes(axes, xlabel, ylabel)
    return axes


def style_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Give axes their labels, their colours and a grid.

    Args:
        axes: the axes.
        xlabel: label of the horizontal axis, with its unit.
        ylabel: label of the vertical axis, with its unit.
    """
    axes.set_xlabel(xlabel, color=INK)
    axes.set_ylabel(ylabel, color=INK)
    axes.tick_params(colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)


def add_legend(figure: Figure, axes: Axes, title: str | None = None, columns: int | None = None) -> None:
    """Add the legend of the axes below them.

    Args:
        figure: the figure.
        axes: axes with labelled lines or markers.
        title: title of the legend.
        columns: number of columns; by default as many as the width allows.
    """
    handles, labels = axes.get_legend_handles_labels()
    columns = columns or max(1, min(len(labels), _columns_that_fit(labels)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, title=title)


def legend_height(labels: Sequence[str]) -> float:
    """Return the height of a legend with these labels, in inches."""
    return 0.2 * -(-len(labels) // max(1, _columns_that_fit(labels)))


def _columns_that_fit(labels: Sequence[str]) -> int:
    longest = max((len(label) for label in labels), default=1)
    return LINE_CHARACTERS // (longest + KEY_CHARACTERS)


def principal_components(x: Array) -> tuple[Array, tuple[str, str]]:
    """Return the two directions of largest variance of data, and an axis label for each.

    Args:
        x: data, shape (data, features), with at least two features.

    Returns:
        The directions as columns, shape (features, 2), and the labels, with the share of the variance.
    """
    _, singular_values, directions = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    percent = 100 * singular_values**2 / max((singular_values**2).sum(), 1e-300)
    first, second = (f"principal component {i + 1} ({percent[i]:.0f}% of variance)" for i in (0, 1))
    return directions[:2].T, (first, second)
