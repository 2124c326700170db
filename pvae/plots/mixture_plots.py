"""Figures of Gaussian mixtures: components as pictures or ellipses, and criteria by number of components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from pvae.errors import InputError
from pvae.figure_source import also_of_runs
from pvae.plots.base import (
    INK,
    PALETTE,
    Array,
    add_axes,
    add_legend,
    as_array,
    new_figure,
    plain_label,
    principal_components,
)
from pvae.plots.feature_panels import feature_labels
from pvae.plots.feature_views import strips_or_heat_map
from pvae.plots.picture_tiles import as_pictures, draw_named_pictures
from pvae.plots.titles import add_title

__all__ = ["component_strips", "mixture_ellipses", "mixture_pictures", "selection_curve"]

_LEGEND_ENTRIES = 8


@also_of_runs("components")
def mixture_pictures(
    means: ArrayLike,
    weights: ArrayLike,
    *,
    columns: int = 10,
    most: int | None = None,
    title: str = "Means of the components, with their weights",
) -> Figure:
    """Return the mean of each component as a picture with its number and weight above, the largest weight first.

    With a run instead of the arrays, it is the figure of that run, see `pvae.plots`.

    Args:
        means: shape (components, height, width), with one or three channels first or last if there are channels.
        weights: shape (components,).
        columns: largest number of pictures in a row.
        most: number of components to draw, in order of their weights; by default all.
        title: title of the figure.

    Raises:
        InputError: if the means do not have the shape of pictures.

    Example:
        >>> import numpy as np
        >>> from pvae import plots
        >>> figure = plots.mixture_pictures(np.zeros((3, 8, 8)), np.array([0.5, 0.2, 0.3]))
        >>> [axes.get_title() for axes in figure.axes if axes.get_title()]
        ['0: 50.0%', '2: 30.0%', '1: 20.0%']
    """
    pictures, shares = as_pictures(as_array(means)), as_array(weights)
    if pictures is None:
        raise InputError(
            f"mixture_pictures needs means in the shape of pictures; got {as_array(means).shape}. Use component_strips."
        )
    order, note = _heaviest(shares, most)
    names = [f"{component}: {100 * shares[component]:.1f}%" for component in order]
    return add_title(draw_named_pictures(pictures[order], names, columns), title, note)


def component_strips(
    means: ArrayLike,
    weights: ArrayLike,
    *,
    most: int | None = None,
    feature_names: Sequence[str] | None = None,
    title: str = "Means of the components",
) -> Figure:
    """Return the mean of each component as points, one panel for each feature; the largest weight is on top.

    Args:
        means: shape (components, features).
        weights: shape (components,).
        most: number of components to draw, in order of their weights; by default all.
        feature_names: names of the features.
        title: title of the figure.

    Example:
        >>> import numpy as np
        >>> from pvae import plots
        >>> means, weights = np.array([[0.0, 1.0], [2.0, 3.0]]), np.array([0.3, 0.7])
        >>> figure = plots.component_strips(means, weights, feature_names=["a", "b"])
        >>> [axes.get_title() for axes in figure.axes]
        ['a', 'b']
    """
    x, shares = as_array(means), as_array(weights)
    x = x.reshape(len(x), 1, -1)
    order, note = _heaviest(shares, most)
    rows = [f"{component}: {100 * shares[component]:.1f}%" for component in order]
    return add_title(strips_or_heat_map(x[order], rows, feature_names, "component: weight"), title, note)


def _heaviest(shares: Array, most: int | None) -> tuple[NDArray, str]:
    """Return the components in order of decreasing weight, (at most `most`,), and a note if some are left out."""
    order = np.argsort(-shares, kind="stable")[:most]
    note = f"The {len(order)} largest of {len(shares)} weights are shown." if len(order) < len(shares) else ""
    return order, note


def mixture_ellipses(
    data: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike,
    means: ArrayLike,
    covariances: ArrayLike,
    *,
    feature_names: Sequence[str] | None = None,
    title: str = "Data by most probable component, with ellipses of one and two standard deviations",
) -> Figure:
    """Return a scatter plot of data, coloured by component, with ellipses of one and two standard deviations.

    Data with more than two features are shown by their first two principal components. Means and covariances are
    projected on them exactly.

    Args:
        data: shape (data, features).
        labels: the most probable component of each datum, shape (data,).
        weights: shape (components,). The eight largest are in the legend.
        means: shape (components, features).
        covariances: shape (components, features, features).
        feature_names: names of the features, for data with one or two.
        title: title of the figure.

    Example:
        >>> import numpy as np
        >>> from pvae import plots
        >>> data, labels = np.random.default_rng(0).normal(size=(20, 2)), np.zeros(20, int)
        >>> figure = plots.mixture_ellipses(data, labels, np.ones(1), np.zeros((1, 2)), np.eye(2)[None])
        >>> len(figure.axes)
        1
    """
    x, component_of_datum, shares = as_array(data), np.asarray(labels), as_array(weights)
    directions, axis_labels = _plane_directions(x, feature_names)
    origin = x.mean(axis=0) if x.shape[1] > 2 else np.zeros(x.shape[1])
    points, centres = (x - origin) @ directions, (as_array(means) - origin) @ directions
    projected_covariances = directions.T @ as_array(covariances) @ directions
    figure = new_figure(4.4)
    axes = add_axes(figure, *axis_labels)
    if x.shape[1] == 1:
        axes.set_yticks([])  # there is no second coordinate
    for rank, component in enumerate(np.argsort(-shares, kind="stable")):
        _draw_component(
            axes,
            points[component_of_datum == component],
            centres[component],
            projected_covariances[component],
            colour=PALETTE[rank % len(PALETTE)],
            label=f"{100 * shares[component]:.0f}%" if rank < _LEGEND_ENTRIES else None,
        )
    add_legend(figure, axes, title="weight of the component", columns=min(len(shares), 4))
    return add_title(figure, title)


def _draw_component(
    axes: Axes, points: Array, centre: Array, covariance: Array, *, colour: str, label: str | None
) -> None:
    """Draw the data of a component, shape (data, 2), its mean, (2,), and the ellipses of its covariance, (2, 2)."""
    axes.scatter(points[:, 0], points[:, 1], s=6, color=colour, alpha=0.45, linewidths=0)
    for deviations in (1, 2):
        axes.add_patch(_ellipse(centre, covariance, deviations, colour))
    axes.plot(*centre, "o", color=colour, markersize=5, markeredgecolor="white", label=label)


def _plane_directions(x: Array, feature_names: Sequence[str] | None) -> tuple[Array, tuple[str, str]]:
    """Return the two directions to draw, shape (features, 2), and the axis labels, for data (data, features)."""
    labels = [plain_label(name) for name in feature_labels(feature_names, x.shape[1])]
    if x.shape[1] == 1:
        return np.array([[1.0, 0.0]]), (labels[0], "")
    if x.shape[1] == 2:
        return np.eye(2), (labels[0], labels[1])
    return principal_components(x)


def _ellipse(centre: Array, covariance: Array, deviations: int, colour: str) -> Ellipse:
    """Return the ellipse at a number of standard deviations from the centre, (2,), by the covariance, (2, 2)."""
    variances, directions = np.linalg.eigh(covariance)
    width, height = 2 * deviations * np.sqrt(np.clip(variances[::-1], 0, None))
    angle = float(np.degrees(np.arctan2(directions[1, 1], directions[0, 1])))
    style = {"linewidth": 1.6, "linestyle": "-"} if deviations == 1 else {"linewidth": 0.9, "linestyle": "--"}
    return Ellipse((centre[0], centre[1]), width, height, angle=angle, fill=False, edgecolor=colour, **style)


def selection_curve(
    components: Sequence[int],
    criteria: Mapping[str, ArrayLike],
    *,
    best: int | None = None,
    title: str = "Criteria by number of components",
) -> Figure:
    """Return a figure with one line per criterion against the number of components; lower is better.

    Args:
        components: number of components of each fit, shape (fits,).
        criteria: for each name, the values in nats per datum, shape (fits,).
        best: the chosen number of components, which a vertical line marks.
        title: title of the figure.

    Example:
        >>> import numpy as np
        >>> from pvae import plots
        >>> figure = plots.selection_curve([1, 2, 3], {"bic": [3.0, 2.0, 2.1], "aic": [2.9, 1.8, 1.7]}, best=2)
        >>> figure.get_suptitle()
        'Criteria by number of components'
    """
    figure = new_figure(3.3)
    axes = add_axes(figure, "components", "nats per datum (lower is better)")
    for index, (name, values) in enumerate(criteria.items()):
        colour = PALETTE[index % len(PALETTE)]
        axes.plot(list(components), as_array(values), "o-", color=colour, markersize=4, label=plain_label(name))
    if best is not None:
        _mark_choice(axes, best, text_on_left=best > sum(components) / len(components))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    add_legend(figure, axes)
    return add_title(figure, title)


def _mark_choice(axes: Axes, best: int, *, text_on_left: bool) -> None:
    """Draw a vertical line at the chosen number of components, with its text on the side with more space."""
    axes.axvline(best, color="#999999", linewidth=1, zorder=0)
    axes.annotate(
        f"{best} chosen",
        (best, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if text_on_left else 4, -10),
        textcoords="offset points",
        ha="right" if text_on_left else "left",
        color=INK,
        fontsize=9,
    )
