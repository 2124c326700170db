"""Figures of numbers over training, and of log evidences with their standard errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from pvae.plots.base import (
    INK,
    KEY_CHARACTERS,
    LINE_CHARACTERS,
    PALETTE,
    Array,
    add_axes,
    add_legend,
    as_array,
    legend_height,
    new_figure,
    plain_label,
)

__all__ = ["evidence_intervals", "history", "learning_curves"]

_Values = TypeVar("_Values")


def learning_curves(
    curves: Mapping[str, Sequence[tuple[ArrayLike, ArrayLike]]],
    *,
    xlabel: str = "epoch",
    ylabel: str = "validation bound (nats per datum)",
) -> Figure:
    """Return a figure with one colour per name: a thin line for each seed, and a thick line for their mean.

    The mean is drawn only if all seeds of a name have as many records. The vertical axis leaves out the values of the
    first tenth of training, which are often so low that they would flatten the rest.

    Args:
        curves: for each name, a pair (epochs, values) for each seed, both of shape (records,).
        xlabel: label of the horizontal axis.
        ylabel: label of the vertical axis, with its unit.
    """
    curves = _by_label(curves)
    figure = new_figure(3.1 + legend_height(list(curves)))
    axes = add_axes(figure, xlabel, ylabel)
    for index, (name, seeds) in enumerate(curves.items()):
        _draw_seeds(axes, name, [(as_array(x), as_array(y)) for x, y in seeds], PALETTE[index % len(PALETTE)])
    _limit_values(axes, [as_array(y) for seeds in curves.values() for _, y in seeds])
    add_legend(figure, axes)
    return figure


def _by_label(curves: Mapping[str, _Values]) -> dict[str, _Values]:
    """Return curves by the text that is drawn for their names; names that look alike then get a number."""
    labelled: dict[str, _Values] = {}
    for name, values in curves.items():
        label = plain_label(name)
        labelled[label if label not in labelled else f"{label} ({len(labelled) + 1})"] = values
    return labelled


def _draw_seeds(axes: Axes, name: str, seeds: Sequence[tuple[Array, Array]], colour: str) -> None:
    """Draw a line for each seed, and their mean if all seeds have as many records; (records,) each."""
    has_mean = len({len(x) for x, _ in seeds}) == 1
    for x, y in seeds:
        axes.plot(x, y, color=colour, linewidth=0.7 if has_mean else 1.3, alpha=0.5 if has_mean else 1.0)
    if has_mean:
        mean_x = np.mean([x for x, _ in seeds], axis=0)
        mean_y = np.mean([y for _, y in seeds], axis=0)
        axes.plot(mean_x, mean_y, color=colour, linewidth=1.8)
    axes.lines[-1].set_label(name)


def _limit_values(axes: Axes, curves: Sequence[Array]) -> None:
    """Set the limits of the vertical axis by the finite values after the first tenth of each curve, (records,)."""
    later = [y[len(y) // 10 :] for y in curves]
    finite = [y[np.isfinite(y)] for y in later]
    low = min((y.min() for y in finite if y.size), default=0)
    high = max((y.max() for y in finite if y.size), default=1)
    if high > low:
        margin = 0.05 * (high - low)
        axes.set_ylim(low - margin, high + margin)


def evidence_intervals(
    values: Mapping[str, Sequence[float]],
    errors: Mapping[str, float],
    *,
    xlabel: str = "log evidence (nats per datum)",
    zero: bool = False,
) -> Figure:
    """Return a figure with one row per name: a large dot for the mean over seeds, with a bar of one standard error.

    A small dot below shows each seed.

    Args:
        values: for each name, one number per seed.
        errors: for each name, the standard error of the mean of its numbers.
        xlabel: label of the horizontal axis, with its unit.
        zero: whether to draw a vertical line at 0, for differences.
    """
    names = list(values)
    figure = new_figure(0.75 + 0.62 * len(names))
    axes = add_axes(figure, xlabel, "")
    axes.grid(False, axis="y")
    if zero:
        axes.axvline(0, color="#999999", linewidth=1, zorder=1)
    for index, name in enumerate(names):
        colour, seeds = PALETTE[index % len(PALETTE)], as_array(values[name])
        axes.errorbar(seeds.mean(), index, xerr=errors[name], fmt="o", color=colour, capsize=4, markersize=7)
        axes.plot(seeds, np.full(len(seeds), index + 0.18), "o", color=colour, markersize=3.5, alpha=0.7)
        _write_name(axes, name, index - 0.3)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(names) - 0.55, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure


def _write_name(axes: Axes, name: str, height: float) -> None:
    """Write a name above its interval: a long name beside it would leave no room on a phone."""
    background = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # hides the grid and the line at 0
    written = axes.annotate(
        plain_label(name, LINE_CHARACTERS - KEY_CHARACTERS),
        (0.0, height),
        xycoords=("axes fraction", "data"),
        color=INK,
        va="center",
        bbox=background,
        zorder=1.5,
    )
    written.set_in_layout(False)  # a long name would take the width of the axes


def history(records: Sequence[Mapping[str, Any]], *, names: Sequence[str] | None = None) -> Figure:
    """Return a figure of the numbers that one run recorded in each epoch, in nats per datum.

    A loss is drawn with its sign changed, so that every line rises when training goes well.

    Args:
        records: for each epoch a mapping with the key ``"epoch"`` and numbers by name.
        names: the numbers to draw; by default those with ``bound``, ``elbo`` or ``loss`` in their name.
    """
    if names is None:
        keys = dict.fromkeys(key for record in records for key in record)
        names = [key for key in keys if any(word in key for word in ("bound", "elbo", "loss"))]
    curves = {name: _curve(records, name) for name in names}
    curves = _by_label({_curve_label(name): curve for name, curve in curves.items() if curve.size})
    figure = new_figure(3.0 + legend_height(list(curves)))
    axes = add_axes(figure, "epoch", "nats per datum")
    for index, (name, (epochs, values)) in enumerate(curves.items()):
        axes.plot(epochs, values, color=PALETTE[index % len(PALETTE)], label=name)
    _limit_values(axes, [values for _, values in curves.values()])
    if curves:
        add_legend(figure, axes)
    return figure


def _curve_label(name: str) -> str:
    words = name.replace("_", " ").replace(".", " ")
    return f"minus {words}" if "loss" in name else words


def _curve(records: Sequence[Mapping[str, Any]], name: str) -> Array:
    """Return the epochs and values of one number, shape (2, records that hold it)."""
    pairs = [
        (record.get("epoch", index + 1), record[name])
        for index, record in enumerate(records)
        if record.get(name) is not None
    ]
    sign = -1.0 if "loss" in name else 1.0
    return as_array(pairs).reshape(-1, 2).T * np.array([[1.0], [sign]]) if pairs else np.empty(0)
