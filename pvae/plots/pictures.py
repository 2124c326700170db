"""Figures of data: draws, reconstructions and imputations, as pictures, or with one panel for each feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from pvae.errors import InputError
from pvae.figure_source import also_of_runs
from pvae.plots.base import INK, PALETTE, Array, as_array, new_figure, plain_label, style_axes
from pvae.plots.feature_panels import MOST_PANELS, feature_histograms, feature_labels, feature_pairs
from pvae.plots.picture_tiles import (
    as_pictures,
    draw_heat_maps,
    draw_tiles,
    gap_between,
    interleave_rows,
    tile,
    value_limits,
)
from pvae.plots.titles import add_title

__all__ = ["draws", "image_grid", "inpainting", "reconstructions"]

_MISSING_LABEL = "missing"


def image_grid(images: ArrayLike, *, columns: int = 10, title: str = "", note: str = "") -> Figure:
    """Return a grid of pictures, such as draws from a model.

    Data that are not pictures become a heat map with a row per datum and a column per feature.

    Args:
        images: grey pictures, shape (n, height, width); pictures with 1 or 3 channels, first or last; or other data,
            shape (n, ...). Black is 0 and white is 1 if all values are in [0, 1]; else the colours span their range.
        columns: largest number of pictures in a row.
        title: title of the figure.
        note: a sentence below the title.

    Example:
        >>> import numpy as np
        >>> from pvae import plots
        >>> figure = plots.image_grid(np.zeros((6, 8, 8)), columns=3, title="Six pictures")
        >>> len(figure.axes[0].images)
        1
    """
    x = as_array(images)
    pictures = as_pictures(x)
    if pictures is None:
        return add_title(draw_heat_maps({"": x}, "datum"), title, note)
    return add_title(draw_tiles(pictures, min(columns, len(pictures)), value_limits(pictures))[0], title, note)


@also_of_runs("samples")
def draws(
    x: ArrayLike,
    data: ArrayLike | None = None,
    *,
    feature_names: Sequence[str] | None = None,
    title: str = "Draws from the model",
    note: str = "",
) -> Figure:
    """Return draws from a model over the data that it was trained on, for data that are not pictures.

    Two features have a scatter plot, other data a histogram for each feature, and data of many features a heat map of
    only the draws.

    With a run instead of the arrays, it is the figure of that run, see `pvae.plots`.

    Args:
        x: draws of x, not means of x given z, which vary less than data; shape (draws, ...).
        data: data, shape (data, ...) with the same number of features.
        feature_names: names of the features.
        title: title of the figure.
        note: a sentence below the title.

    Example:
        >>> import numpy as np
        >>> from pvae import plots
        >>> draws, data = np.random.default_rng(0).normal(size=(2, 50, 1))
        >>> figure = plots.draws(draws, data, feature_names=["height"])
        >>> figure.get_suptitle()
        'Draws from the model'
    """
    drawn = as_array(x).reshape(len(as_array(x)), -1)
    known = None if data is None else as_array(data).reshape(-1, drawn.shape[1])
    labels = feature_labels(feature_names, drawn.shape[1])
    if len(labels) == 2:
        figure = _scatter_over_data(drawn, known, labels)
    elif len(labels) <= MOST_PANELS:
        figure = feature_histograms(drawn, known, labels, ("draws", "data"))
    else:
        figure = draw_heat_maps({"": drawn}, "draw")
    return add_title(figure, title, note)


def _scatter_over_data(drawn: Array, data: Array | None, labels: Sequence[str]) -> Figure:
    """Return a scatter plot of draws, shape (draws, 2), over data, shape (data, 2)."""
    figure = new_figure(3.9)
    axes = figure.add_subplot()
    style_axes(axes, plain_label(labels[0]), plain_label(labels[1]))
    if data is not None:
        axes.scatter(data[:, 0], data[:, 1], s=10, color="#a8a8a8", linewidths=0, label="data")
    axes.scatter(drawn[:, 0], drawn[:, 1], s=12, marker="x", linewidths=0.9, color=PALETTE[0], label="draws")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


@also_of_runs("reconstructions")
def reconstructions(
    originals: ArrayLike,
    reconstructed: ArrayLike,
    *,
    columns: int = 10,
    feature_names: Sequence[str] | None = None,
    title: str = "Data and their reconstructions",
    note: str = "",
    name: str = "reconstruction",
) -> Figure:
    """Return data above their reconstructions, in labelled pairs of rows.

    Data that are not pictures have one panel for each feature, with reconstructions against originals.

    With a run instead of the arrays, it is the figure of that run, see `pvae.plots`.

    Args:
        originals: data as for `image_grid`.
        reconstructed: mean of p(x given z) for z from q(z given x), with the same number of values as `originals`.
        columns: largest number of pairs side by side.
        feature_names: names of the features, for data that are not pictures.
        title: title of the figure.
        note: a sentence below the title.
        name: the content of the second row, for its label.

    Raises:
        InputError: if the numbers of values differ.

    Example:
        >>> import numpy as np
        >>> from pvae import plots
        >>> x = np.random.default_rng(0).uniform(size=(5, 8, 8))
        >>> figure = plots.reconstructions(x, 0.9 * x)
        >>> figure.get_suptitle()
        'Data and their reconstructions'
    """
    x = as_array(originals)
    again = _in_shape_of(x, reconstructed, "reconstructed")
    if as_pictures(x) is None and x[0].size <= MOST_PANELS:
        flat = x.reshape(len(x), -1)
        labels = feature_labels(feature_names, flat.shape[1])
        figure = feature_pairs(flat, again.reshape(flat.shape), labels, "original value", name)
        return add_title(figure, title, note)
    return add_title(_draw_panels({"original": x, name: again}, columns)[0], title, note)


@also_of_runs("inpainting")
def inpainting(
    originals: ArrayLike,
    mask: ArrayLike,
    imputed: ArrayLike,
    *,
    columns: int = 8,
    feature_names: Sequence[str] | None = None,
    title: str = "Data with missing entries, and the entries that the model imputes",
    note: str = "",
) -> Figure:
    """Return labelled rows: the observed entries of data, the data with missing entries imputed, the complete data.

    Missing entries are drawn in a colour that is not a grey level, the second of `PALETTE`. Data that are not pictures
    have one panel for each feature, with the imputed values of the missing entries against their true values.

    With a run instead of the arrays, it is the figure of that run, see `pvae.plots`.

    Args:
        originals: the complete data, as for `image_grid`.
        mask: 1 for observed and 0 for missing entries, with the same number of values as `originals`.
        imputed: data with the missing entries imputed, with the same number of values as `originals`.
        columns: largest number of data side by side.
        feature_names: names of the features, for data that are not pictures.
        title: title of the figure.
        note: a sentence below the title.

    Raises:
        InputError: if the numbers of values differ.

    Example:
        >>> import numpy as np
        >>> from pvae import plots
        >>> x, mask = np.ones((4, 8, 8)), np.ones((4, 8, 8))
        >>> mask[:, :, 4:] = 0  # the right half is missing
        >>> figure = plots.inpainting(x, mask, 0.8 * x)
        >>> len(figure.axes)
        1
    """
    x = as_array(originals)
    missing = (_in_shape_of(x, mask, "mask") == 0).astype(float)
    filled = _in_shape_of(x, imputed, "imputed")
    pictures = as_pictures(missing)
    if pictures is None and x[0].size <= MOST_PANELS:
        flat = [values.reshape(len(x), -1) for values in (x, filled, missing)]
        labels = feature_labels(feature_names, flat[0].shape[1])
        figure = feature_pairs(flat[0], flat[1], labels, "true value of a missing entry", "imputed value", flat[2])
        return add_title(figure, title, note)
    figure, axes = _draw_panels({"observed": x, "imputed": filled, "true": x}, columns)
    if pictures is None:
        axes.imshow(_missing_layer(missing.reshape(len(x), -1)), interpolation="nearest", aspect="auto")
    else:
        rows = interleave_rows([pictures, np.zeros_like(pictures), np.zeros_like(pictures)], columns)
        canvas = np.nan_to_num(tile(rows, min(columns, len(x))))
        axes.imshow(_missing_layer(canvas if canvas.ndim == 2 else canvas.min(-1)), interpolation="nearest")
    figure.set_figheight(figure.get_figheight() + 0.3)
    figure.legend(handles=[Patch(color=PALETTE[1], label=_MISSING_LABEL)], loc="outside lower center", frameon=False)
    return add_title(figure, title, note)


def _in_shape_of(originals: Array, values: ArrayLike, name: str) -> Array:
    """Return values in the shape of the originals.

    Raises:
        InputError: if their number differs.
    """
    array = as_array(values)
    if array.size != originals.size:
        raise InputError(
            f"{name} needs the same number of values as the originals, {originals.shape}; got {array.shape}. Give "
            "arrays of the same data."
        )
    return array.reshape(originals.shape)


def _missing_layer(missing: Array) -> Array:
    """Return colours (height, width, 4) that are opaque at missing entries and transparent at others."""
    return np.where(missing[..., None] > 0, to_rgba(PALETTE[1]), 0.0)


def _draw_panels(panels: Mapping[str, Array], columns: int) -> tuple[Figure, Axes]:
    """Draw several versions of the same data in labelled rows, or as heat maps if they are not pictures.

    Args:
        panels: for each name the data, as for `image_grid`, all of one shape.
        columns: largest number of data side by side.
    """
    pictures = [as_pictures(x) for x in panels.values()]
    grids = [grid for grid in pictures if grid is not None]
    if len(grids) < len(pictures):
        figure = draw_heat_maps(panels, "datum")
        return figure, figure.axes[0]
    rows = interleave_rows(grids, columns)
    columns = min(columns, len(grids[0]))
    figure, axes = draw_tiles(rows, columns, value_limits(rows), margin=0.9)
    height, step = rows.shape[1], rows.shape[1] + gap_between(rows)
    centres = [index * step + (height - 1) / 2 for index in range(len(rows) // columns)]
    axes.set_yticks(centres, list(panels) * (len(centres) // len(panels)), color=INK, fontsize=8)
    axes.tick_params(length=0)
    return figure, axes
