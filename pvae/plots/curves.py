"""Figures of a quantity over training for several names, and of log evidences with their standard errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
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
    line_style,
    new_figure,
    plain_label,
)
from pvae.plots.titles import add_title

__all__ = ["evidence_intervals", "learning_curves", "limit_values", "unique_labels"]

_Values = TypeVar("_Values")


def learning_curves(
    curves: Mapping[str, Sequence[tuple[ArrayLike, ArrayLike]]],
    *,
    xlabel: str = "epoch",
    ylabel: str = "validation bound (nats per datum)",
    title: str = "",
) -> Figure:
    """Return a figure with one colour and kind of line per name: thin for each seed, and thick for their mean.

    The mean is drawn only if all seeds of a name have the same number of records. The vertical axis leaves out the
    values of the first tenth of training, because they are often so low that later changes would not be visible.

    Args:
        curves: for each name, a pair (epochs, values) for each seed, both of shape (records,).
        xlabel: label of the horizontal axis.
        ylabel: label of the vertical axis, with its unit.
        title: title of the figure; by default the vertical axis against the horizontal axis.

    Example:
        >>> import numpy as np
        >>> from pvae import plots
        >>> epochs = np.arange(1, 6)
        >>> figure = plots.learning_curves({"elbo": [(epochs, -9.0 / epochs), (epochs, -8.0 / epochs)]})
        >>> figure.axes[0].get_ylabel()
        'validation bound (nats per datum)'
    """
    curves = unique_labels(curves)
    figure = new_figure(3.1 + legend_height(list(curves)))
    axes = add_axes(figure, xlabel, ylabel)
    for index, (name, seeds) in enumerate(curves.items()):
        _draw_seeds(axes, name, [(as_array(x), as_array(y)) for x, y in seeds], line_style(index))
    limit_values(axes, [as_array(y) for seeds in curves.values() for _, y in seeds])
    counts = all((as_array(x) % 1 == 0).all() for seeds in curves.values() for x, _ in seeds)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=counts))
    add_legend(figure, axes)
    return add_title(figure, title or f"{_without_unit(ylabel)} against {xlabel}")


def _without_unit(label: str) -> str:
    """Return the label of an axis as a title: on one line, with a capital letter, without its unit in brackets."""
    words = " ".join(label.split("(")[0].split())
    return words[:1].upper() + words[1:]


def unique_labels(curves: Mapping[str, _Values]) -> dict[str, _Values]:
    """Return curves by the text that is drawn for their names; names with the same text then get a number.

    Args:
        curves: any values by name.
    """
    labelled: dict[str, _Values] = {}
    for name, values in curves.items():
        label = plain_label(name, LINE_CHARACTERS - KEY_CHARACTERS)
        labelled[label if label not in labelled else f"{label} ({len(labelled) + 1})"] = values
    return labelled


def _draw_seeds(axes: Axes, name: str, seeds: Sequence[tuple[Array, Array]], style: Mapping[str, Any]) -> None:
    """Draw a line for each seed, and their mean if all seeds have the same number of records; (records,) each."""
    has_mean = len({len(x) for x, _ in seeds}) == 1
    for x, y in seeds:
        marker = "o" if len(x) == 1 else None  # a line of one point is not visible
        axes.plot(x, y, **style, linewidth=0.7 if has_mean else 1.3, alpha=0.5 if has_mean else 1.0, marker=marker)
    if has_mean:
        mean_x = np.mean([x for x, _ in seeds], axis=0)
        mean_y = np.mean([y for _, y in seeds], axis=0)
        axes.plot(mean_x, mean_y, **style, linewidth=1.8)
    axes.lines[-1].set_label(name)


def limit_values(axes: Axes, curves: Sequence[Array]) -> None:
    """Set the limits of the vertical axis by the finite values after the first tenth of each curve.

    Args:
        axes: the axes.
        curves: the values of each curve, shape (records,).
    """
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
    critical: Mapping[str, float | tuple[float, float]] = MappingProxyType({}),
    brackets: Mapping[str, tuple[float, float]] = MappingProxyType({}),
    title: str = "",
) -> Figure:
    """Return a figure with one row per name: a large dot for the mean over seeds, with a bar of one standard error.

    A small dot below shows each seed. A thin line shows the critical value if it is known: a difference is shown only
    if this line does not reach 0.

    Args:
        values: for each name, one number per seed.
        errors: for each name, the standard error of the mean of its numbers.
        xlabel: label of the horizontal axis, with its unit.
        zero: whether to draw a vertical line at 0, for differences.
        critical: for names with a test, the smallest significant difference from 0, or the ends of the thin line; in
            the unit of the axis.
        brackets: for names with a lower and an upper estimate, both estimates, drawn as a thick bar.
        title: title of the figure; by default the label of the axis without its unit.

    Example:
        >>> import numpy as np
        >>> from pvae import plots
        >>> values = {"vae": [-95.1, -95.3], "iwae": [-93.9, -94.2]}
        >>> figure = plots.evidence_intervals(values, {"vae": 0.1, "iwae": 0.15})
        >>> figure.axes[0].get_xlabel()
        'log evidence (nats per datum)'
    """
    names, labels = list(values), list(unique_labels(values))
    figure = new_figure(0.75 + 0.62 * len(names))
    axes = add_axes(figure, xlabel, "")
    axes.grid(False, axis="y")
    if zero:
        axes.axvline(0, color="#999999", linewidth=1, zorder=1)
    for index, name in enumerate(names):
        colour, seeds = PALETTE[index % len(PALETTE)], as_array(values[name])
        if name in critical:
            ends = _ends_of_line(critical[name], float(seeds.mean()))
            axes.plot(ends, (index, index), "-|", color=colour, linewidth=0.9, markersize=9, zorder=1.8)
        if name in brackets:
            axes.plot(brackets[name], (index, index), color=colour, linewidth=9, alpha=0.3, solid_capstyle="butt")
        axes.errorbar(seeds.mean(), index, xerr=errors[name], fmt="o", color=colour, capsize=4, markersize=7)
        axes.plot(seeds, np.full(len(seeds), index + 0.18), "o", color=colour, markersize=3.5, alpha=0.7)
        _write_name(axes, labels[index], index - 0.3)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(names) - 0.55, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return add_title(figure, title or _without_unit(xlabel))


def _ends_of_line(critical: float | tuple[float, float], mean: float) -> tuple[float, float]:
    return critical if isinstance(critical, tuple) else (mean - critical, mean + critical)


def _write_name(axes: Axes, name: str, height: float) -> None:
    """Write a name above its interval: a long name next to it would not leave enough room on a phone."""
    background = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # hides the grid and the line at 0
    written = axes.annotate(
        name,
        (0.0, height),
        xycoords=("axes fraction", "data"),
        color=INK,
        va="center",
        bbox=background,
        zorder=1.5,
    )
    written.set_in_layout(False)  # a long name would take the width of the axes
