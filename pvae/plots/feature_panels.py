"""Figures of data that are not pictures: one small panel for each feature, in the unit of the feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from pvae.plots.base import INK, PALETTE, WIDTH, Array, line_style, new_figure, plain_label

__all__ = [
    "MOST_PANELS",
    "add_shared_legend",
    "feature_histograms",
    "feature_labels",
    "feature_lines",
    "feature_pairs",
    "feature_planes",
    "feature_strips",
    "new_panels",
]

MOST_PANELS = 24
_MOST_TICK_CHARACTERS = 6  # longer labels of neighbouring ticks overlap
_SHORT_NAME = 14  # a longer name is written in smaller letters, so that the figure does not cut it off
_COLUMNS = 3
_NAME_CHARACTERS = 20  # of a feature, above its panel


def feature_labels(names: Sequence[str] | None, features: int) -> list[str]:
    """Return a name for each feature: the names of the columns if there is one for each, else "x[0]", "x[1]" and so on.

    Args:
        names: names of the columns, or None.
        features: the number of features.
    """
    known = list(names or ())
    return known if len(known) == features else [f"x[{index}]" for index in range(features)]


def feature_lines(x: Array, values: Array, line_names: Sequence[str], names: Sequence[str], xlabel: str) -> Figure:
    """Return one panel for each feature, with one line for each row of x.

    Args:
        x: shape (lines, steps, features).
        values: position of each step on the horizontal axis, shape (steps,).
        line_names: name of each line, for the legend.
        names: name of each feature.
        xlabel: label of the horizontal axis.
    """
    figure, panels = new_panels(names, "", share_y=False)
    for feature, axes in enumerate(panels):
        for index, line in enumerate(x):
            axes.plot(values, line[:, feature], **line_style(index), linewidth=1.3)
    add_shared_legend(figure, list(panels[0].lines), [plain_label(name) for name in line_names], xlabel)
    return figure


def feature_strips(x: Array, row_names: Sequence[str], names: Sequence[str], ylabel: str) -> Figure:
    """Return one panel for each feature, with the values of each row of x as points on a horizontal line.

    Args:
        x: shape (rows, points, features).
        row_names: name of each row.
        names: name of each feature.
        ylabel: the meaning of the rows.
    """
    figure, panels = new_panels(names, "value, in the unit of the feature", share_y=True, height=0.55 + 0.2 * len(x))
    heights = np.arange(len(x))
    for feature, axes in enumerate(panels):
        for row, points in enumerate(x[..., feature]):
            axes.plot(
                points, np.full(len(points), row), "o", color=PALETTE[row % len(PALETTE)], markersize=4, alpha=0.6
            )
        axes.set_yticks(heights, [plain_label(name, 16) for name in row_names], fontsize=8)
        axes.set_ylim(len(x) - 0.5, -0.5)
    figure.supylabel(plain_label(ylabel), color=INK, fontsize=9)
    return figure


def feature_pairs(
    first: Array, second: Array, names: Sequence[str], xlabel: str, ylabel: str, shown: Array | None = None
) -> Figure:
    """Return one panel for each feature with the second values against the first, and the line of equal values.

    Args:
        first: shape (data, features).
        second: shape (data, features).
        names: name of each feature.
        xlabel: the meaning of the first values.
        ylabel: the meaning of the second values.
        shown: True for the values that are drawn, shape (data, features); all of them by default.
    """
    figure, panels = new_panels(names, xlabel, share_y=False)
    for feature, axes in enumerate(panels):
        chosen = slice(None) if shown is None else shown[:, feature].astype(bool)
        x, y = first[chosen, feature], second[chosen, feature]
        axes.plot(x, y, "o", color=PALETTE[0], markersize=3.5, alpha=0.7)
        ends = first[:, feature].min(), first[:, feature].max()
        axes.plot(ends, ends, "-", color="#999999", linewidth=0.9, zorder=1)
    figure.supylabel(ylabel, color=INK, fontsize=9)
    return figure


def feature_planes(x: Array, values: Array, names: Sequence[str], axis_names: tuple[str, str]) -> Figure:
    """Return one heat map for each feature over a plane, each with its own colour scale.

    Args:
        x: shape (rows, columns, features); the rows are in descending order of the vertical coordinate.
        values: coordinates of the columns and of the rows in ascending order, shape (2, size).
        names: name of each feature.
        axis_names: names of the horizontal and of the vertical coordinate.
    """
    figure, panels = new_panels(names, axis_names[0], share_y=True, height=1.5)
    horizontal, vertical = (_edges(axis) for axis in values)
    for feature, axes in enumerate(panels):
        drawn = axes.pcolormesh(horizontal, vertical, x[::-1, :, feature], cmap="cividis")
        bar = figure.colorbar(drawn, ax=axes, shrink=0.9, aspect=12, pad=0.03)
        bar.ax.tick_params(labelsize=7, colors=INK)
        bar.locator = MaxNLocator(4)
        bar.update_ticks()
    figure.supylabel(axis_names[1], color=INK, fontsize=9)
    return figure


def feature_histograms(x: Array, data: Array | None, names: Sequence[str], labels: tuple[str, str]) -> Figure:
    """Return one panel for each feature with the histogram of x, over the histogram of data if there are data.

    Args:
        x: shape (draws, features).
        data: shape (data, features), or None.
        names: name of each feature.
        labels: the meaning of x and of the data, for the legend.
    """
    figure, panels = new_panels(names, "", share_y=False)
    for feature, axes in enumerate(panels):
        everything = x[:, feature] if data is None else np.concatenate([x[:, feature], data[:, feature]])
        bins = np.histogram_bin_edges(everything[np.isfinite(everything)], bins=20).tolist()
        if data is not None:
            axes.hist(data[:, feature], bins=bins, density=True, color="#b0b0b0", label=labels[1])
        axes.hist(x[:, feature], bins=bins, density=True, histtype="step", color=PALETTE[0], label=labels[0])
        axes.set_yticks([])
    figure.supylabel("density", color=INK, fontsize=9)
    add_shared_legend(figure, *panels[0].get_legend_handles_labels(), "value, in the unit of the feature")
    return figure


def add_shared_legend(
    figure: Figure, handles: Sequence[Any], labels: Sequence[str], xlabel: str, columns: int = 4
) -> None:
    """Add a legend below the panels, with the label of all horizontal axes as its title.

    Args:
        figure: the figure.
        handles: lines and areas of the legend.
        labels: their names.
        xlabel: label of the horizontal axes.
        columns: number of columns.
    """
    text = f"horizontal axes: {xlabel}"
    legend = figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8, title=text
    )
    legend.get_title().set(fontsize=9, color=INK)
    figure.set_figheight(figure.get_figheight() + 0.2 + 0.2 * -(-len(labels) // columns))


def new_panels(
    names: Sequence[str], xlabel: str, *, share_y: bool = False, height: float = 1.25
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel for each name, and the panels.

    Args:
        names: title of each panel.
        xlabel: label of all horizontal axes, below the figure; "" for none.
        share_y: whether all panels have the same vertical axis.
        height: height of a row of panels, in inches.
    """
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(0.35 + height * rows, WIDTH + 0.4)
    figure.set_layout_engine("constrained", w_pad=0.04, h_pad=0.04)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share_y).ravel()
    for axes in grid[len(names) :]:
        axes.remove()
    panels = list(grid[: len(names)])
    for axes, name in zip(panels, names, strict=True):
        label = plain_label(name, _NAME_CHARACTERS)
        is_short = len(label) <= _SHORT_NAME
        axes.set_title(label, fontsize=8.5 if is_short else 7.5, color=INK)
        axes.tick_params(labelsize=7.5, colors=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(_ShortNumbers())
            axis.get_offset_text().set_fontsize(7.5)
    if xlabel:
        figure.supxlabel(plain_label(xlabel), color=INK, fontsize=9)
    return figure, panels


class _ShortNumbers(ScalarFormatter):
    """Labels of ticks, in which long numbers are short: -1e5 in place of -100000, if no two labels become equal."""

    def format_ticks(self, values: Any) -> list[str]:
        """Return a label for each tick.

        Args:
            values: the places of the ticks.
        """
        usual = super().format_ticks(values)
        texts = [f"{value:.3g}".replace("e+0", "e").replace("e-0", "e-") for value in values]
        is_needed = max(map(len, usual), default=0) > _MOST_TICK_CHARACTERS and not self.get_offset()
        if not is_needed or len(set(texts)) < len(texts):
            return usual
        return [text.replace("-", "\u2212") for text in texts]


def _edges(centres: Array) -> Array:
    """Return the edges of cells around ascending centres, shape (n + 1,) from (n,)."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])
