"""Gaussian mixtures: components as pictures or ellipses, and criteria against the number of components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from pvae.plots.base import INK, PALETTE, WIDTH, Array, as_array, blank, labelled_axes, legend

__all__ = ["mixture_ellipses", "mixture_pictures", "selection_curve"]

_FEW = 8


def mixture_pictures(means: ArrayLike, weights: ArrayLike, *, columns: int = 10) -> Figure:
    """Return the components' means as pictures, the heaviest first, each under its weight.

    Args:
        means: (components, height, width), or with one or three channels before or after.
        weights: (components,).
        columns: most pictures in a row.
    """
    pictures, shares = _channels_last(as_array(means)), as_array(weights)
    order = np.argsort(-shares, kind="stable")
    rows = -(-len(order) // columns)
    columns = -(-len(order) // rows)
    width = WIDTH if columns >= 5 else 0.3 + 0.8 * columns
    tile = (width - 0.1) / columns
    figure = blank(rows * (tile * pictures.shape[1] / pictures.shape[2] + 0.17) + 0.1, width)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    limits = (float(pictures.min()), float(pictures.max()))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, component in zip(grid, order, strict=False):
        axes.imshow(pictures[component], cmap="gray", interpolation="nearest", vmin=limits[0], vmax=limits[1])
        axes.set_title(f"{100 * shares[component]:.1f}%", fontsize=8, color=INK, pad=2)
    return figure


def _channels_last(x: Array) -> Array:
    if x.ndim == 4 and x.shape[1] in (1, 3):
        x = np.moveaxis(x, 1, -1)
    return x[..., 0] if x.ndim == 4 and x.shape[-1] == 1 else x


def mixture_ellipses(
    data: ArrayLike, labels: ArrayLike, weights: ArrayLike, means: ArrayLike, covariances: ArrayLike
) -> Figure:
    """Return data in the plane, coloured by component, with an ellipse of one and of two standard deviations each.

    More than two features are shown on the data's two first principal components, onto which means and
    covariances are projected exactly.

    Args:
        data: (data, features).
        labels: the most probable component of each datum, (data,).
        weights: (components,); the heaviest eight are named in the legend.
        means: (components, features).
        covariances: (components, features, features).
    """
    x, kinds, shares = as_array(data), np.asarray(labels), as_array(weights)
    basis, names = _plane(x)
    origin = x.mean(axis=0) if x.shape[1] > 2 else np.zeros(x.shape[1])
    points, centres = (x - origin) @ basis, (as_array(means) - origin) @ basis
    spreads = basis.T @ as_array(covariances) @ basis
    figure = blank(4.4)
    axes = labelled_axes(figure, *names)
    for rank, component in enumerate(np.argsort(-shares, kind="stable")):
        colour = PALETTE[rank % len(PALETTE)]
        own = kinds == component
        axes.scatter(points[own, 0], points[own, 1], s=6, color=colour, alpha=0.45, linewidths=0)
        name = f"{100 * shares[component]:.0f}%" if rank < _FEW else None
        for deviations in (1, 2):
            axes.add_patch(_ellipse(centres[component], spreads[component], deviations, colour))
        axes.plot(*centres[component], "o", color=colour, markersize=5, markeredgecolor="white", label=name)
    legend(figure, axes, title="weight of the component", columns=min(len(shares), 4))
    return figure


def _plane(x: Array) -> tuple[Array, tuple[str, str]]:
    """Return the two directions that are drawn, (features, 2), and what they are."""
    if x.shape[1] == 1:
        return np.array([[1.0, 0.0]]), ("x[0]", "")
    if x.shape[1] == 2:
        return np.eye(2), ("x[0]", "x[1]")
    _, spread, directions = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    share = 100 * spread**2 / max((spread**2).sum(), 1e-300)
    first, second = (f"principal component {i + 1} ({share[i]:.0f}% of variance)" for i in (0, 1))
    return directions[:2].T, (first, second)


def _ellipse(centre: Array, covariance: Array, deviations: int, colour: str) -> Ellipse:
    values, vectors = np.linalg.eigh(covariance)
    width, height = 2 * deviations * np.sqrt(np.clip(values[::-1], 0, None))
    angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
    style = {"linewidth": 1.6 if deviations == 1 else 0.9, "linestyle": "-" if deviations == 1 else "--"}
    return Ellipse((centre[0], centre[1]), width, height, angle=angle, fill=False, edgecolor=colour, **style)


def selection_curve(components: Sequence[int], criteria: Mapping[str, ArrayLike], *, best: int | None = None) -> Figure:
    """Return criteria against the number of components, a line each; lower is better.

    Args:
        components: numbers of components that were fitted, (fits,).
        criteria: for each name, its value for each fit, (fits,), in nats per datum.
        best: the number that was chosen, marked by a line.
    """
    figure = blank(3.3)
    axes = labelled_axes(figure, "components", "nats per datum (lower is better)")
    for index, (name, values) in enumerate(criteria.items()):
        colour = PALETTE[index % len(PALETTE)]
        axes.plot(list(components), as_array(values), "o-", color=colour, markersize=4, label=name)
    if best is not None:
        axes.axvline(best, color="#999999", linewidth=1, zorder=0)
        left = best > sum(components) / len(components)
        axes.annotate(
            f"{best} chosen",
            (best, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-4 if left else 4, -10),
            textcoords="offset points",
            ha="right" if left else "left",
            color=INK,
            fontsize=9,
        )
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    legend(figure, axes)
    return figure
