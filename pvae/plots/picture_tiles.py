"""Pictures side by side on one canvas, and heat maps for data that are not pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from pvae.plots.base import INK, WIDTH, Array, new_figure, plain_label

__all__ = [
    "as_pictures",
    "draw_heat_maps",
    "draw_labelled_rows",
    "draw_named_pictures",
    "draw_tiles",
    "gap_between",
    "interleave_rows",
    "tile",
    "value_limits",
]

# In inches.
_LEAST_WIDTH = 2.8  # for the title
_MOST_PICTURE_WIDTH = 0.9
_BAR_WIDTH = 0.75


def as_pictures(x: Array) -> Array | None:
    """Return the data as pictures, or None if they are not pictures.

    Args:
        x: data, shape (n, height, width), or with 1 or 3 channels first or last; or any other shape.

    Returns:
        Grey pictures, shape (n, height, width), or colour pictures, shape (n, height, width, 3); or None.
    """
    if x.ndim == 3:
        return x
    if x.ndim == 4 and x.shape[1] in (1, 3):
        x = np.moveaxis(x, 1, -1)
    if x.ndim == 4 and x.shape[-1] in (1, 3):
        return x[..., 0] if x.shape[-1] == 1 else x
    return None


def gap_between(pictures: Array) -> int:
    """Return the number of empty pixels between two pictures of shape (n, height, width) on a canvas."""
    return max(1, min(pictures.shape[1:3]) // 14)


def tile(pictures: Array, columns: int) -> Array:
    """Return one canvas with the pictures in rows, with empty pixels (NaN, or white for colour) between them.

    Args:
        pictures: shape (n, height, width) or (n, height, width, 3).
        columns: number of pictures in a row.

    Returns:
        The canvas, shape (rows * (height + gap) - gap, columns * (width + gap) - gap), with 3 channels for colour.
    """
    count, height, width = pictures.shape[:3]
    rows, gap = -(-count // columns), gap_between(pictures)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, *pictures.shape[3:])
    canvas = np.full(shape, np.nan if pictures.ndim == 3 else 1.0)
    for index, picture in enumerate(pictures):
        top = (index // columns) * (height + gap)
        left = (index % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = picture
    return canvas


def interleave_rows(panels: Sequence[Array], columns: int) -> Array:
    """Return the pictures of several panels in the order of a canvas: a row of each panel in turn.

    Args:
        panels: the same number of pictures each, shape (n, height, width) or (n, height, width, 3).
        columns: largest number of pictures in a row.

    Returns:
        The pictures, shape (rows * panels * columns, height, width) or with 3 channels; the last row of each panel is
        filled with NaN.
    """
    shape, columns = panels[0].shape[1:], min(columns, len(panels[0]))
    filler = np.full((-len(panels[0]) % columns, *shape), np.nan)
    rows = [np.concatenate([panel, filler]).reshape(-1, columns, *shape) for panel in panels]
    return np.stack(rows, axis=1).reshape(-1, *shape)


def value_limits(*arrays: Array) -> tuple[float, float]:
    """Return the limits of a colour scale: (0, 1) if all values are in [0, 1], else the smallest and largest value."""
    low = min(float(np.nanmin(values)) for values in arrays)
    high = max(float(np.nanmax(values)) for values in arrays)
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)


def draw_tiles(
    pictures: Array, columns: int, limits: tuple[float, float], *, margin: float = 0.0
) -> tuple[Figure, Axes]:
    """Return a figure of pictures in rows, and its axes, which have no ticks.

    Args:
        pictures: shape (n, height, width) or (n, height, width, 3).
        columns: number of pictures in a row.
        limits: limits of the colour scale; limits other than (0, 1) are shown by a colour bar.
        margin: width that the labels of the rows need, in inches.
    """
    canvas = tile(_as_colours(pictures, limits), columns)
    width = max(_LEAST_WIDTH, WIDTH if columns >= 4 else 0.5 + 0.8 * columns)
    grey_levels = limits == (0.0, 1.0)
    has_bar = not grey_levels and canvas.ndim == 2
    shown_width = min(width - margin - (_BAR_WIDTH if has_bar else 0.0), _MOST_PICTURE_WIDTH * columns)
    figure = new_figure(max(0.6, shown_width * canvas.shape[0] / canvas.shape[1]) + 0.1, width)
    axes = figure.add_subplot()
    image = axes.imshow(canvas, cmap="gray" if grey_levels else "cividis", interpolation="nearest")
    image.set_clim(*limits)
    image.set_gid(f"pictures {canvas.shape}")
    if has_bar:
        figure.colorbar(image, ax=axes, shrink=0.8, label="value")
    if canvas.ndim == 3 and not grey_levels:
        axes.set_title(f"each channel from {limits[0]:.3g} (dark) to {limits[1]:.3g} (bright)", fontsize=8, color=INK)
        figure.set_figheight(figure.get_figheight() + 0.2)
    _draw_frames(axes, pictures, columns)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return figure, axes


def _as_colours(pictures: Array, limits: tuple[float, float]) -> Array:
    """Return colour pictures with channels from 0 to 1, and white where a value is NaN; grey pictures as they are."""
    if pictures.ndim == 3:
        return pictures
    low, high = limits
    return np.nan_to_num((pictures - low) / (high - low if high > low else 1.0), nan=1.0)


def _draw_frames(axes: Axes, pictures: Array, columns: int) -> None:
    """Draw a thin frame around each picture: without it, the white edge of a picture is not seen on white."""
    height, width = pictures.shape[1:3]
    gap = gap_between(pictures)
    frames = [
        Rectangle(((index % columns) * (width + gap) - 0.5, (index // columns) * (height + gap) - 0.5), width, height)
        for index, picture in enumerate(pictures)
        if not np.isnan(picture).all()
    ]
    axes.add_collection(
        PatchCollection(frames, facecolor="none", edgecolor="#999999", linewidth=0.4, clip_on=False), autolim=False
    )


def draw_heat_maps(panels: Mapping[str, Array], ylabel: str) -> Figure:
    """Return one heat map per panel, side by side, for data that are not pictures.

    Features have different units, so the colours of each have its own range, from its smallest value in all panels to
    its largest value.

    Args:
        panels: for each title the values, shape (rows, *data); a column of the heat map is a feature.
        ylabel: label of the rows.
    """
    flat_panels = {title: values.reshape(len(values), -1) for title, values in panels.items()}
    everything = np.concatenate(list(flat_panels.values()))
    low, high = np.nanmin(everything, axis=0), np.nanmax(everything, axis=0)
    span = np.where(high > low, high - low, 1.0)
    figure = new_figure(max(2.0, 0.9 + 0.16 * max(len(values) for values in flat_panels.values())))
    all_axes = figure.subplots(1, len(flat_panels), squeeze=False, sharey=True)[0]
    for axes, (title, values) in zip(all_axes, flat_panels.items(), strict=True):
        image = axes.imshow((values - low) / span, cmap="cividis", interpolation="nearest", aspect="auto")
        image.set_clim(0.0, 1.0)
        axes.set_title(plain_label(title), fontsize=10, color=INK)
        axes.set_xlabel("feature", color=INK)
        axes.tick_params(colors=INK)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, integer=True))
    all_axes[0].set_ylabel(ylabel, color=INK)
    figure.colorbar(image, ax=list(all_axes)).set_label("share of the feature's range", color=INK)
    return figure


def draw_labelled_rows(
    pictures: Array, columns: int, row_names: Sequence[str], column_names: Sequence[str], xlabel: str, ylabel: str = ""
) -> Figure:
    """Return a figure of pictures with a name for each row and column.

    Args:
        pictures: shape (rows * columns, height, width), or with 3 channels.
        columns: number of pictures in a row.
        row_names: a name for each row; an empty name is not shown.
        column_names: a name for each column; an empty name is not shown.
        xlabel: label of the columns.
        ylabel: label of the rows.
    """
    figure, axes = draw_tiles(pictures, columns, value_limits(pictures), margin=0.45)
    figure.set_figheight(figure.get_figheight() + 0.4)  # for the labels
    height, width = pictures.shape[1:3]
    gap = gap_between(pictures)
    for set_ticks, names, step in (
        (axes.set_yticks, row_names, height + gap),
        (axes.set_xticks, column_names, width + gap),
    ):
        ticks = {(index + 0.5) * step: plain_label(name) for index, name in enumerate(names) if name}
        set_ticks(list(ticks), list(ticks.values()), color=INK, fontsize=8)
    axes.set_xlabel(plain_label(xlabel), color=INK)
    axes.set_ylabel(plain_label(ylabel), color=INK)
    axes.tick_params(length=0)
    return figure


def draw_named_pictures(pictures: Array, names: Sequence[str], columns: int) -> Figure:
    """Return pictures in rows, each with its name above.

    Args:
        pictures: shape (n, height, width), or with 3 channels.
        names: a name for each picture.
        columns: largest number of pictures in a row.
    """
    rows = -(-len(pictures) // columns)
    columns = -(-len(pictures) // rows)
    width = max(_LEAST_WIDTH, WIDTH if columns >= 5 else 0.3 + 0.8 * columns)
    side = min(1.0, (width - 0.1) / columns)
    figure = new_figure(rows * (side * pictures.shape[1] / pictures.shape[2] + 0.2) + 0.1, width)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    low, high = float(pictures.min()), float(pictures.max())
    pictures = _as_colours(pictures, value_limits(pictures))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, picture, name in zip(grid, pictures, names, strict=False):
        axes.imshow(picture, cmap="gray", interpolation="nearest", vmin=low, vmax=high)
        axes.set_title(plain_label(name, 14), fontsize=8 if columns <= 6 else 6.5, color=INK, pad=2)
    return figure
