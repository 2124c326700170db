"""Numbers over training, and evidences with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from pvae.plots.base import INK, PALETTE, Array, as_array, blank, labelled_axes, legend, legend_height

__all__ = ["evidence_intervals", "history", "learning_curves"]


def learning_curves(
    curves: Mapping[str, Sequence[tuple[ArrayLike, ArrayLike]]],
    *,
    xlabel: str = "epoch",
    ylabel: str = "validation bound (nats per datum)",
) -> Figure:
    """Return one colour per name: a thin line per seed, and their mean where seeds have as many records.

    The axis leaves out the steep first tenth of training where that would flatten the rest.

    Args:
        curves: for each name, the (epochs, values) of each seed, both (records,).
        xlabel: what the first of each pair is.
        ylabel: what the second is, with its unit.
    """
    figure = blank(3.1 + legend_height(list(curves)))
    axes = labelled_axes(figure, xlabel, ylabel)
    for index, (name, seeds) in enumerate(curves.items()):
        _curve(axes, name, [(as_array(x), as_array(y)) for x, y in seeds], PALETTE[index % len(PALETTE)])
    _frame(axes, [as_array(y) for seeds in curves.values() for _, y in seeds])
    legend(figure, axes)
    return figure


def _curve(axes: Axes, name: str, seeds: Sequence[tuple[Array, Array]], colour: str) -> None:
    together = len({len(x) for x, _ in seeds}) == 1
    for x, y in seeds:
        axes.plot(x, y, color=colour, linewidth=0.7 if together else 1.3, alpha=0.5 if together else 1.0)
    if together:
        x, y = np.mean([x for x, _ in seeds], axis=0), np.mean([y for _, y in seeds], axis=0)
        axes.plot(x, y, color=colour, linewidth=1.8)
    axes.lines[-1].set_label(name)


def _frame(axes: Axes, values: Sequence[Array]) -> None:
    kept = [y[len(y) // 10 :] for y in values]
    kept = [y[np.isfinite(y)] for y in kept]
    low, high = (
        min((y.min() for y in kept if y.size), default=0),
        max((y.max() for y in kept if y.size), default=1),
    )
    if high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))


def evidence_intervals(
    values: Mapping[str, Sequence[float]],
    errors: Mapping[str, float],
    *,
    xlabel: str = "log evidence (nats per datum)",
    zero: bool = False,
) -> Figure:
    """Return a dot with whiskers per name: the mean over seeds and one standard error; small dots are seeds.

    Args:
        values: for each name, a number per seed.
        errors: for each name, the standard error of the mean of its numbers.
        xlabel: what the numbers are, with their unit.
        zero: draw a line at 0, for differences.
    """
    names = list(values)
    figure = blank(0.75 + 0.62 * len(names))
    axes = labelled_axes(figure, xlabel, "")
    axes.grid(False, axis="y")
    if zero:
        axes.axvline(0, color="#999999", linewidth=1)
    for index, name in enumerate(names):
        colour, seeds = PALETTE[index % len(PALETTE)], as_array(values[name])
        axes.errorbar(seeds.mean(), index, xerr=errors[name], fmt="o", color=colour, capsize=4, markersize=7)
        axes.plot(seeds, np.full(len(seeds), index + 0.18), "o", color=colour, markersize=3.5, alpha=0.7)
        # The name stands above its interval: beside it, long names leave no room on a phone.
        axes.annotate(name, (0.0, index - 0.3), xycoords=("axes fraction", "data"), color=INK, va="center")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(names) - 0.55, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure


def history(records: Sequence[Mapping[str, Any]], *, names: Sequence[str] | None = None) -> Figure:
    """Return what one run wrote per epoch, in nats per datum; a loss is drawn with its sign changed, so that
    every line goes up when training goes well.

    Args:
        records: a mapping per epoch with ``"epoch"`` and numbers.
        names: which numbers to draw; by default those named ``bound``, ``elbo`` or ``loss`` in part.
    """
    if names is None:
        found = dict.fromkeys(key for record in records for key in record)
        names = [key for key in found if any(word in key for word in ("bound", "elbo", "loss"))]
    lines = {name: _line(records, name) for name in names}
    lines = {name: line for name, line in lines.items() if line.size}
    figure = blank(3.0 + legend_height(list(lines)))
    axes = labelled_axes(figure, "epoch", "nats per datum")
    for index, (name, (x, y)) in enumerate(lines.items()):
        axes.plot(x, y, color=PALETTE[index % len(PALETTE)], label=_title(name))
    _frame(axes, [y for _, y in lines.values()])
    if lines:
        legend(figure, axes)
    return figure


def _title(name: str) -> str:
    words = name.replace("_", " ").replace(".", " ")
    return f"minus {words}" if "loss" in name else words


def _line(records: Sequence[Mapping[str, Any]], name: str) -> Array:
    """Return the epochs and values of one number, (2, records that hold it)."""
    pairs = [(r.get("epoch", i + 1), r[name]) for i, r in enumerate(records) if r.get(name) is not None]
    sign = -1.0 if "loss" in name else 1.0
    return as_array(pairs).reshape(-1, 2).T * np.array([[1.0], [sign]]) if pairs else np.empty(0)
