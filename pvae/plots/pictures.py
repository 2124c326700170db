"""Figures of data as pictures: draws, reconstructions, imputations, and decoded latent values.

Data that are not pictures become heat maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from pvae.errors import InputError
from pvae.plots.base import INK, PALETTE, Array, as_array
from pvae.plots.picture_tiles import (
    as_pictures,
    draw_heat_maps,
    draw_labelled_rows,
    draw_tiles,
    gap_between,
    interleave_rows,
    tile,
    value_limits,
)

__all__ = ["image_grid", "inpainting", "interpolations", "plane", "reconstructions", "traversal", "value_rows"]

_MOST_LABELS = 11  # a longer row of numbers would overlap
_PLANE_LABELS = 7


def image_grid(images: ArrayLike, *, columns: int = 10) -> Figure:
    """Return a grid of pictures, such as draws from a model.

    Data that are not pictures become a heat map with a row per datum and a column per feature.

    Args:
        images: grey pictures, shape (n, height, width); pictures with 1 or 3 channels, first or last; or other data,
            shape (n, ...). Black is 0 and white is 1 if all values are in [0, 1]; else the colours span their range.
        columns: largest number of pictures in a row.
    """
    x = as_array(images)
    pictures = as_pictures(x)
    if pictures is None:
        return draw_heat_maps({"": x}, "datum")
    return draw_tiles(pictures, min(columns, len(pictures)), value_limits(pictures))[0]


def reconstructions(originals: ArrayLike, reconstructed: ArrayLike, *, columns: int = 10) -> Figure:
    """Return data above their reconstructions, in labelled pairs of rows.

    Args:
        originals: data as for `image_grid`.
        reconstructed: mean of p(x given z) at the mean of q(z given x), with as many values as `originals`.
        columns: largest number of pairs side by side.

    Raises:
        InputError: if the numbers of values differ.
    """
    x = as_array(originals)
    panels = {"original": x, "reconstruction": _in_shape_of(x, reconstructed, "reconstructed")}
    return _draw_panels(panels, columns)[0]


def inpainting(originals: ArrayLike, mask: ArrayLike, imputed: ArrayLike, *, columns: int = 8) -> Figure:
    """Return labelled rows: the observed entries of data, the data with missing entries imputed, the complete data.

    Missing entries are drawn in a colour that is no grey level, the second of `PALETTE`.

    Args:
        originals: the complete data, as for `image_grid`.
        mask: 1 for observed and 0 for missing entries, with as many values as `originals`.
        imputed: data with the missing entries imputed, with as many values as `originals`.
        columns: largest number of data side by side.

    Raises:
        InputError: if the numbers of values differ.
    """
    x = as_array(originals)
    missing = (_in_shape_of(x, mask, "mask") == 0).astype(float)
    panels = {"observed": x, "imputed": _in_shape_of(x, imputed, "imputed"), "true": x}
    figure, axes = _draw_panels(panels, columns)
    pictures = as_pictures(missing)
    if pictures is None:
        axes.imshow(_missing_layer(missing.reshape(len(x), -1)), interpolation="nearest", aspect="auto")
        figure.set_figheight(figure.get_figheight() + 0.3)
    else:
        rows = interleave_rows([pictures, np.zeros_like(pictures), np.zeros_like(pictures)], columns)
        canvas = np.nan_to_num(tile(rows, min(columns, len(x))))
        axes.imshow(_missing_layer(canvas if canvas.ndim == 2 else canvas.min(-1)), interpolation="nearest")
    figure.legend(handles=[Patch(color=PALETTE[1], label="missing")], loc="outside lower center", frameon=False)
    return figure


def _in_shape_of(originals: Array, values: ArrayLike, name: str) -> Array:
    """Return values in the shape of the originals.

    Raises:
        InputError: if their number differs.
    """
    array = as_array(values)
    if array.size != originals.size:
        raise InputError(
            f"{name} needs as many values as the originals, {originals.shape}; got {array.shape}. Pass arrays of the "
            "same data."
        )
    return array.reshape(originals.shape)


def _missing_layer(missing: Array) -> Array:
    """Return colours (height, width, 4) that are opaque at missing entries and transparent elsewhere."""
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
    figure, axes = draw_tiles(rows, columns, value_limits(rows))
    height, step = rows.shape[1], rows.shape[1] + gap_between(rows)
    centres = [index * step + (height - 1) / 2 for index in range(len(rows) // columns)]
    axes.set_yticks(centres, list(panels) * (len(centres) // len(panels)), color=INK, fontsize=8)
    axes.tick_params(length=0)
    return figure, axes


def traversal(images: ArrayLike, values: ArrayLike, *, units: Sequence[int] | None = None) -> Figure:
    """Return the mean of p(x given z) while one latent unit changes and all others stay at their prior mean.

    Args:
        images: shape (units, steps, *data), each datum as for `image_grid`; a row for each unit.
        values: the values of the unit along a row, shape (steps,).
        units: index of the latent unit of each row; by default 0, 1, ...
    """
    x = as_array(images)
    row_names = [f"z[{unit}]" for unit in (units if units is not None else range(len(x)))]
    xlabel = "value of the latent unit (others at their prior mean)"
    return draw_labelled_rows(x, row_names, _number_labels(as_array(values)), xlabel)


def interpolations(images: ArrayLike) -> Figure:
    """Return the mean of p(x given z) on the line between the codes of two data, one row for each pair.

    Args:
        images: shape (pairs, steps, *data), each datum as for `image_grid`.
    """
    x = as_array(images)
    row_names = [str(pair) for pair in range(len(x))]
    shares = _number_labels(np.linspace(0, 1, x.shape[1]), "{:.2g}")
    return draw_labelled_rows(x, row_names, shares, "share of the way from one code to the other", "pair")


def plane(images: ArrayLike, values: ArrayLike) -> Figure:
    """Return the mean of p(x given z) over the plane of a two-dimensional z, at quantiles of its prior.

    Args:
        images: shape (size, size, *data), each datum as for `image_grid`. The rows are in descending order of z[1].
        values: values of z[0] and z[1] in ascending order, shape (2, size).
    """
    x = as_array(images)
    horizontal, vertical = as_array(values)
    label_step = max(1, -(-len(vertical) // _PLANE_LABELS))

    def label_some(numbers: Array) -> list[str]:
        return [f"{number:.1f}" if index % label_step == 0 else "" for index, number in enumerate(numbers)]

    xlabel = "z[0], at quantiles of the prior"
    return draw_labelled_rows(x, label_some(vertical[::-1]), label_some(horizontal), xlabel, "z[1]")


def value_rows(images: ArrayLike, names: Sequence[str], ylabel: str) -> Figure:
    """Return one row of pictures for each value of a label or component.

    Args:
        images: shape (values, columns, *data), each datum as for `image_grid`. All pictures of a column are made from
            the same draws of the other latent sites.
        names: name of each value, shape (values,).
        ylabel: name of the label or latent site.
    """
    x = as_array(images)
    return draw_labelled_rows(x, list(names), [""] * x.shape[1], "each column uses the same draws", ylabel)


def _number_labels(values: Array, form: str = "{:.1f}") -> list[str]:
    """Return a label for each value, shape (steps,); empty labels if there are too many."""
    return [form.format(value) if len(values) <= _MOST_LABELS else "" for value in values]
