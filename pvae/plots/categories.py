"""Figures of categorical latent sites: the number of data with each value, by label."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from pvae.plots.base import INK, Array, as_array, new_figure, plain_label
from pvae.plots.class_styles import CLASS_COLOURS, ClassStyles
from pvae.plots.titles import add_title

__all__ = ["category_bars", "draw_category"]

_PANEL_HEIGHT = 1.7  # inches
_MOST_NAMED_BARS = 20
_MOST_COLUMNS = 4096  # values of a heat map


def category_bars(
    categories: Mapping[str, ArrayLike],
    labels: ArrayLike | None = None,
    *,
    label_name: str = "label",
    title: str = "Inferred values of categorical latent sites",
    note: str = "",
) -> Figure:
    """Return one panel for each categorical site: the number of data with each value, coloured by label.

    A site with several positions for each datum, such as the codes of a VQ-VAE, has a heat map: the share of the data
    with each value at each position.

    Args:
        categories: for each site the inferred values, whole numbers of shape (data,) or (data, positions).
        labels: label of each datum, shape (data,).
        label_name: the meaning of the labels, for the legend.
        title: title of the figure.
        note: a sentence below the title.

    Example:
        >>> import numpy as np
        >>> from pvae import plots
        >>> figure = plots.category_bars({"y": np.array([0, 1, 1, 2])}, np.array([0, 1, 1, 0]))
        >>> figure.get_suptitle()
        'Inferred values of categorical latent sites'
    """
    styles = ClassStyles.of(labels)
    figure = new_figure(0.2 + _PANEL_HEIGHT * len(categories) + styles.legend_height)
    all_axes = figure.subplots(len(categories), 1, squeeze=False)[:, 0]
    for axes, (name, values) in zip(all_axes, categories.items(), strict=True):
        draw_category(axes, name, np.asarray(as_array(values)), styles)
    styles.add_legend(figure, label_name)
    return add_title(figure, title, note)


def draw_category(axes: Axes, name: str, values: Array, styles: ClassStyles) -> None:
    """Draw the values of one categorical site: bars by label, or a heat map if a datum has several positions.

    Args:
        axes: the axes.
        name: name of the site.
        values: whole numbers, shape (data,) or (data, positions).
        styles: the labels of the data and their colours.
    """
    flat = values.reshape(len(values), -1).astype(int)
    axes.tick_params(colors=INK, labelsize=8)
    if flat.shape[1] > 1:
        _draw_shares(axes, name, flat)
        return
    _draw_bars(axes, flat[:, 0], styles)
    axes.set_xlabel(f"{plain_label(name)}, inferred (a category; its order has no meaning)", color=INK, fontsize=9)
    axes.set_ylabel("data", color=INK, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_bars(axes: Axes, values: NDArray, styles: ClassStyles) -> None:
    """Draw the number of data with each value, shape (data,), as bars that are stacked by label."""
    found, positions = np.unique(values, return_inverse=True)
    below = np.zeros(len(found))
    groups = [(styles.members(index), colour) for index, colour in enumerate(styles.colours)]
    for members, colour in groups or [(np.ones(len(values), dtype=bool), CLASS_COLOURS[0])]:
        counts = np.bincount(positions[members], minlength=len(found))
        axes.bar(np.arange(len(found)), counts, bottom=below, color=colour, width=0.8)
        below = below + counts
    if len(found) <= _MOST_NAMED_BARS:
        axes.set_xticks(np.arange(len(found)), [str(value) for value in found])
    else:
        axes.set_xticks([])


def _draw_shares(axes: Axes, name: str, values: NDArray) -> None:
    """Draw the share of the data with each value at each position, for values of shape (data, positions)."""
    if values.min() < 0 or values.max() >= _MOST_COLUMNS:
        values = np.unique(values, return_inverse=True)[1].reshape(values.shape)
    count = int(values.max()) + 1
    shares = np.stack([np.bincount(column, minlength=count) / len(values) for column in values.T])
    drawn = axes.imshow(shares, cmap="cividis", aspect="auto", interpolation="nearest")
    axes.set_xlabel(f"value of {plain_label(name)}, inferred", color=INK, fontsize=9)
    axes.set_ylabel("position", color=INK, fontsize=9)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(8, integer=True))
    bar = axes.figure.colorbar(drawn, ax=axes, pad=0.02)
    bar.set_label("share of the data", color=INK, fontsize=9)
    bar.ax.tick_params(colors=INK, labelsize=8)
