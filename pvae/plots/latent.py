"""A scatter plot of latent codes."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from pvae.plots.base import (
    PALETTE,
    Array,
    add_axes,
    add_legend,
    as_array,
    new_figure,
    plain_label,
    principal_components,
)

__all__ = ["latent_scatter"]

_CLASS_COLOURS = (*PALETTE, "#5E3C99", "#1B1B1B")
_CLASS_MARKERS = "os^Dv<>Pphs*"


def latent_scatter(codes: ArrayLike, labels: ArrayLike | None = None, *, kl: ArrayLike | None = None) -> Figure:
    """Return a scatter plot of the means of q(z given x), coloured by label if there are labels.

    Codes with more than two units are shown by the two units with the largest KL, or without ``kl`` by their first two
    principal components. The axis labels say which.

    Args:
        codes: latent codes, shape (data, latent).
        labels: class of each datum, shape (data,). Up to ten classes have a legend; more have a colour bar.
        kl: KL of each unit in nats, shape (latent,).
    """
    points, axis_labels = _points_in_plane(as_array(codes).reshape(len(np.asarray(codes)), -1), kl)
    classes = np.unique(np.asarray(labels)) if labels is not None else np.array([])
    has_legend = 0 < len(classes) <= len(_CLASS_COLOURS)
    figure = new_figure(4.2 + (0.45 if has_legend else 0.0))
    axes = add_axes(figure, *axis_labels)
    if has_legend:
        _draw_classes(axes, points, np.asarray(labels), classes)
        add_legend(figure, axes, title="label", columns=min(len(classes), 5))
    elif labels is not None:
        drawn = axes.scatter(points[:, 0], points[:, 1], s=11, c=np.asarray(labels), cmap="cividis")
        figure.colorbar(drawn, ax=axes, label="label")
    else:
        axes.scatter(points[:, 0], points[:, 1], s=11, color=PALETTE[0])
    return figure


def _draw_classes(axes: Axes, points: Array, labels: NDArray, classes: NDArray) -> None:
    """Draw points, shape (data, 2), with a colour and a marker for each class; labels have shape (data,)."""
    for index, label in enumerate(classes):
        in_class = labels == label
        axes.scatter(
            points[in_class, 0],
            points[in_class, 1],
            s=13,
            marker=_CLASS_MARKERS[index % len(_CLASS_MARKERS)],
            color=_CLASS_COLOURS[index],
            linewidths=0,
            label=plain_label(label),
        )


def _points_in_plane(codes: Array, kl: ArrayLike | None) -> tuple[Array, tuple[str, str]]:
    """Return two coordinates of each code, shape (data, 2) from (data, latent), and the axis labels."""
    if codes.shape[1] == 1:
        ranks = codes[:, 0].argsort().argsort() / max(1, len(codes) - 1)
        return np.stack([codes[:, 0], ranks], axis=1), ("z[0]", "rank of the datum")
    if kl is None and codes.shape[1] > 2:
        directions, axis_labels = principal_components(codes)
        return (codes - codes.mean(axis=0)) @ directions, axis_labels
    if kl is None:
        return codes, ("z[0]", "z[1]")
    kl_by_unit = as_array(kl)
    units = np.sort(np.argsort(-kl_by_unit, kind="stable")[:2])
    first, second = (f"z[{unit}] (KL {kl_by_unit[unit]:.2f} nats)" for unit in units)
    return codes[:, units], (first, second)
