"""The choice between small panels and a heat map for data that are not pictures, by their number of features."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from pvae.plots.base import Array
from pvae.plots.feature_panels import MOST_PANELS, feature_labels, feature_lines, feature_planes, feature_strips
from pvae.plots.picture_tiles import draw_heat_maps

__all__ = ["lines_or_heat_map", "planes_or_first", "strips_or_heat_map"]


def strips_or_heat_map(x: Array, row_names: Sequence[str], names: Sequence[str] | None, ylabel: str) -> Figure:
    """Return points for each row and feature; a heat map of the means of the rows if there are many features.

    Args:
        x: shape (rows, points, *data).
        row_names: name of each row.
        names: names of the features, or None.
        ylabel: the meaning of the rows.
    """
    flat = x.reshape(*x.shape[:2], -1)
    if flat.shape[-1] > MOST_PANELS:
        return draw_heat_maps({"": flat.mean(axis=1)}, ylabel)
    return feature_strips(flat, row_names, feature_labels(names, flat.shape[-1]), ylabel)


def lines_or_heat_map(
    x: Array, values: Array, line_names: Sequence[str], names: Sequence[str] | None, xlabel: str
) -> Figure:
    """Return one line for each row of x and each feature; one heat map for each row if there are many features.

    Args:
        x: shape (lines, steps, *data).
        values: position of each step on the horizontal axis, shape (steps,).
        line_names: name of each line.
        names: names of the features, or None.
        xlabel: label of the horizontal axis.
    """
    flat = x.reshape(*x.shape[:2], -1)
    if flat.shape[-1] > MOST_PANELS:
        return draw_heat_maps(dict(zip(line_names, flat, strict=True)), "step")
    return feature_lines(flat, values, line_names, feature_labels(names, flat.shape[-1]), xlabel)


def planes_or_first(x: Array, values: Array, names: Sequence[str] | None) -> tuple[Figure, str]:
    """Return a heat map over the plane for each of the first features, and a note if some are left out.

    Args:
        x: shape (size, size, *data), the rows in descending order of z[1].
        values: values of z[0] and z[1] in ascending order, shape (2, size).
        names: names of the features, or None.
    """
    flat = x.reshape(*x.shape[:2], -1)
    labels = feature_labels(names, flat.shape[-1])
    left_out = max(0, len(labels) - MOST_PANELS)
    figure = feature_planes(flat[..., :MOST_PANELS], values, labels[:MOST_PANELS], ("z[0]", "z[1]"))
    note = f"The first {MOST_PANELS} of {len(labels)} features are shown." if left_out else ""
    return figure, note
