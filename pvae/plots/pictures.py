"""Data as pictures: draws, reconstructions, walks through z; a heat map where data are not pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from pvae.plots.base import INK, PALETTE, WIDTH, Array, as_array, blank

__all__ = ["image_grid", "inpainting", "interpolations", "plane", "reconstructions", "traversal", "value_rows"]


def _pictures(x: Array) -> Array | None:
    """Return grey (n, height, width) or colour (n, height, width, 3) pictures; None where x is neither."""
    if x.ndim == 3:
        return x
    if x.ndim == 4 and x.shape[1] in (1, 3):
        x = np.moveaxis(x, 1, -1)
    if x.ndim == 4 and x.shape[-1] in (1, 3):
        return x[..., 0] if x.shape[-1] == 1 else np.clip(x, 0, 1)
    return None


def _tiles(pictures: Array, columns: int) -> Array:
    """Return one canvas with a line of NaN between the pictures, laid out row by row."""
    count, height, width = pictures.shape[:3]
    rows, gap = -(-count // columns), max(1, min(height, width) // 14)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, *pictures.shape[3:])
    canvas = np.full(shape, np.nan if pictures.ndim == 3 else 1.0)
    for index, picture in enumerate(pictures):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = picture
    return canvas


def _show(figure: Figure, axes: Axes, values: Array, *, bar: bool, limits: tuple[float, float]) -> None:
    image = axes.imshow(values, cmap="gray" if limits == (0.0, 1.0) else "cividis", interpolation="nearest")
    image.set_clim(*limits)
    image.set_gid(f"pictures {values.shape}")
    if bar and values.ndim == 2:
        figure.colorbar(image, ax=axes, shrink=0.8, label="value")


def _limits(*arrays: Array) -> tuple[float, float]:
    low = min(float(np.nanmin(each)) for each in arrays)
    high = max(float(np.nanmax(each)) for each in arrays)
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _tiled(pictures: Array, columns: int, limits: tuple[float, float]) -> tuple[Figure, Axes]:
    canvas = _tiles(pictures, columns)
    width = WIDTH if columns >= 4 else 0.5 + 0.8 * columns
    figure = blank(max(0.6, width * canvas.shape[0] / canvas.shape[1]) + 0.1, width)
    axes = figure.add_subplot()
    _show(figure, axes, canvas, bar=limits != (0.0, 1.0), limits=limits)
    _bare(axes)
    return figure, axes


def _row_map(panels: Mapping[str, Array], ylabel: str) -> Figure:
    """Draw data that are not pictures: a heat map for each panel, a row per datum, a column per feature."""
    flat = {title: values.reshape(len(values), -1) for title, values in panels.items()}
    limits = _limits(*flat.values())
    figure = blank(0.9 + 0.16 * max(len(values) for values in flat.values()))
    parts = figure.subplots(1, len(flat), squeeze=False, sharey=True)[0]
    for axes, (title, values) in zip(parts, flat.items(), strict=True):
        image = axes.imshow(values, cmap="cividis", interpolation="nearest", aspect="auto")
        image.set_clim(*limits)
        axes.set_title(title, fontsize=10, color=INK)
        axes.set_xlabel("feature", color=INK)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, integer=True))
    parts[0].set_ylabel(ylabel, color=INK)
    figure.colorbar(image, ax=list(parts), label="value (units of the data)", shrink=0.9)
    return figure


def image_grid(images: ArrayLike, *, columns: int = 10) -> Figure:
    """Return a grid of pictures, such as draws from a model.

    Data that are not pictures become a heat map, a row per datum and a column per feature.

    Args:
        images: grey (n, height, width); or with 1 or 3 channels, first or last; or no pictures, (n, ...).
            Grey levels are drawn black at 0 and white at 1 where all lie in [0, 1], else over their range.
        columns: pictures beside each other.
    """
    x = as_array(images)
    pictures = _pictures(x)
    if pictures is None:
        return _row_map({"": x}, "datum")
    return _tiled(pictures, min(columns, len(pictures)), _limits(pictures))[0]


def reconstructions(originals: ArrayLike, reconstructed: ArrayLike, *, columns: int = 10) -> Figure:
    """Return data above their reconstructions, in labelled pairs of rows.

    Args:
        originals: as for ``image_grid``.
        reconstructed: the same shape, mean of p(x given z) at the mean of q(z given x).
        columns: pairs beside each other.
    """
    x, again = as_array(originals), as_array(reconstructed).reshape(np.shape(originals))
    return _beneath({"original": x, "reconstruction": again}, columns)[0]


def inpainting(originals: ArrayLike, mask: ArrayLike, imputed: ArrayLike, *, columns: int = 8) -> Figure:
    """Return data as observed, above the same with missing entries imputed, above the truth, in labelled rows.

    Missing entries are drawn in a colour that no grey level has, the second of ``PALETTE``.

    Args:
        originals: the complete data, as for ``image_grid``.
        mask: 1 observed, 0 missing, of the same shape.
        imputed: the same shape, with the missing entries filled in.
        columns: data beside each other.
    """
    x, again = as_array(originals), as_array(imputed).reshape(np.shape(originals))
    hidden = (as_array(mask).reshape(x.shape) == 0).astype(float)
    figure, axes = _beneath({"observed": x, "imputed": again, "true": x}, columns)
    if _pictures(x) is None:
        axes.imshow(_painted(hidden.reshape(len(x), -1)), interpolation="nearest", aspect="auto")
        figure.set_figheight(figure.get_figheight() + 0.3)
    else:
        laid = _laid([hidden, 0 * hidden, 0 * hidden], columns)
        canvas = np.nan_to_num(_tiles(laid, min(columns, len(x))))
        axes.imshow(_painted(canvas if canvas.ndim == 2 else canvas.min(-1)), interpolation="nearest")
    figure.legend(handles=[Patch(color=PALETTE[1], label="missing")], loc="outside lower center", frameon=False)
    return figure


def _painted(where: Array) -> Array:
    """A layer in the colour of what is missing, where it is; clear elsewhere."""
    return np.where(where[..., None] > 0, to_rgba(PALETTE[1]), 0.0)


def _laid(panels: Sequence[Array], columns: int) -> Array:
    """Pictures of several panels in the order of a canvas: `columns` of the first, of the second, ..., the next."""
    parts = [pictures for each in panels if (pictures := _pictures(each)) is not None]
    shape, columns = parts[0].shape[1:], min(columns, len(parts[0]))
    filler = np.full((-len(parts[0]) % columns, *shape), np.nan)
    rows = [np.concatenate([part, filler]).reshape(-1, columns, *shape) for part in parts]
    return np.stack(rows, axis=1).reshape(-1, *shape)


def _beneath(panels: Mapping[str, Array], columns: int) -> tuple[Figure, Axes]:
    """Draw panels of the same data in rows beneath each other, with their names; side by side where no pictures."""
    if any(_pictures(each) is None for each in panels.values()):
        figure = _row_map(panels, "datum")
        return figure, figure.axes[0]
    laid, columns = _laid(list(panels.values()), columns), min(columns, len(next(iter(panels.values()))))
    figure, axes = _tiled(laid, columns, _limits(laid))
    height, step = laid.shape[1], _tiles(laid[: 2 * columns], columns).shape[0] - laid.shape[1]
    positions = [row * step + (height - 1) / 2 for row in range(len(laid) // columns)]
    axes.set_yticks(positions, list(panels) * (len(positions) // len(panels)), color=INK, fontsize=8)
    axes.tick_params(length=0)
    return figure, axes


def traversal(images: ArrayLike, values: ArrayLike, *, units: Sequence[int] | None = None) -> Figure:
    """Return how p(x given z) changes with one latent unit at a time, a row per unit.

    Args:
        images: (units, steps, *data), each ``data`` as for ``image_grid``.
        values: the latent values along a row, (steps,).
        units: the index of each row's latent unit; counted from 0 where not given.
    """
    x = as_array(images)
    names = [f"z[{unit}]" for unit in (units if units is not None else range(len(x)))]
    return _labelled(x, names, _numbers(as_array(values)), "value of the latent unit (others at their prior mean)")


def interpolations(images: ArrayLike) -> Figure:
    """Return what lies between the codes of two data, a row per pair, from left to right.

    Args:
        images: (pairs, steps, *data), each ``data`` as for ``image_grid``.
    """
    x = as_array(images)
    names = [str(number) for number in range(len(x))]
    along = _numbers(np.linspace(0, 1, x.shape[1]), "{:.2g}")
    return _labelled(x, names, along, "share of the way from one code to the other", "pair")


def plane(images: ArrayLike, values: ArrayLike) -> Figure:
    """Return p(x given z) over the plane of a two-dimensional z, at quantiles of its prior.

    Args:
        images: (size, size, *data), each ``data`` as for ``image_grid``; rows from the greatest value down.
        values: of both dimensions, (2, size), rising.
    """
    x, (across, up) = as_array(images), as_array(values)
    every = max(1, -(-len(up) // 7))

    def named(numbers: Array) -> list[str]:
        return [f"{each:.1f}" if index % every == 0 else "" for index, each in enumerate(numbers)]

    return _labelled(x, named(up[::-1]), named(across), "z[0], at quantiles of the prior", "z[1]")


def value_rows(images: ArrayLike, names: Sequence[str], ylabel: str) -> Figure:
    """Return pictures for each value of a label or a component, a row per value.

    Args:
        images: (values, columns, *data), each ``data`` as for ``image_grid``; a column has the same noise everywhere.
        names: of the values.
        ylabel: what they are values of.
    """
    x = as_array(images)
    return _labelled(x, list(names), [""] * x.shape[1], "a column has the same draws", ylabel)


def _numbers(values: Array, form: str = "{:.1f}") -> list[str]:
    return [form.format(value) if len(values) <= 11 else "" for value in values]


def _labelled(x: Array, rows: list[str], columns: list[str], xlabel: str, ylabel: str = "") -> Figure:
    """Draw (rows, columns, *data) with a name for each row and column; a heat map for each row of no pictures."""
    flat = x.reshape(-1, *x.shape[2:])
    pictures = _pictures(flat)
    if pictures is None:
        return _row_map({f"{ylabel} {row}".strip(): each for row, each in zip(rows, x, strict=True)}, "column")
    figure, axes = _tiled(pictures, x.shape[1], _limits(pictures))
    figure.set_figheight(figure.get_figheight() + 0.4)  # for the labels
    height, width = _tiles(pictures[:1], 1).shape[:2]
    gap = max(1, min(height, width) // 14)
    for set_ticks, names, step in (
        (axes.set_yticks, rows, height + gap),
        (axes.set_xticks, columns, width + gap),
    ):
        shown = [index for index, name in enumerate(names) if name]
        set_ticks([(index + 0.5) * step for index in shown], [names[index] for index in shown], color=INK, fontsize=8)
    axes.set_xlabel(xlabel, color=INK)
    axes.set_ylabel(ylabel, color=INK)
    axes.tick_params(length=0)
    return figure
