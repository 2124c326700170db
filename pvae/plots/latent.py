"""A scatter plot of continuous latent codes, with the categorical latent sites as bars below it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from pvae.errors import InputError
from pvae.figure_source import also_of_runs
from pvae.plots.base import INK, PALETTE, Array, as_array, new_figure, plain_label, principal_components, style_axes
from pvae.plots.categories import draw_category
from pvae.plots.class_styles import CLASS_MARKERS, ClassStyles
from pvae.plots.titles import add_title

__all__ = ["latent_scatter"]

_SCATTER_HEIGHT, _BARS_HEIGHT = 3.7, 1.5  # inches


@also_of_runs("latent")
def latent_scatter(
    codes: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    kl: ArrayLike | None = None,
    unit_names: tuple[str, ...] = (),
    label_name: str = "label",
    categories: Mapping[str, ArrayLike] = MappingProxyType({}),
    title: str = "Latent codes: means under the guide",
    note: str = "",
) -> Figure:
    """Return a scatter plot of continuous codes, coloured by label if there are labels.

    Codes with more than two units are shown by the two units with the largest KL, or without ``kl`` by their first two
    principal components. The axis labels name them. Categories are not coordinates: bars below the scatter plot show
    them.

    With a run instead of the arrays, it is the figure of that run, see `pvae.plots`.

    Args:
        codes: continuous latent codes, shape (data, latent).
        labels: class of each datum, shape (data,). Up to ten classes have a legend; more have a colour bar.
        kl: KL of each unit in nats, shape (latent,).
        unit_names: name of each unit; by default ``z[0]``, ``z[1]``, ...
        label_name: the meaning of the labels, for the legend.
        categories: for each categorical site its inferred values, shape (data,) or (data, positions).
        title: title of the figure.
        note: a sentence below the title, for example on given and inferred values.

    Raises:
        InputError: if there are no continuous codes.

    Example:
        >>> import numpy as np
        >>> from pvae import plots
        >>> codes = np.random.default_rng(0).normal(size=(20, 2))
        >>> figure = plots.latent_scatter(codes, np.arange(20) % 3, label_name="digit")
        >>> figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()
        ('z[0]', 'z[1]')
    """
    points = as_array(codes).reshape(len(np.asarray(codes)), -1)
    if not points.shape[1]:
        raise InputError("A scatter plot needs continuous codes; got none. Use category_bars for categorical sites.")
    labelled = unit_names or tuple(f"z[{unit}]" for unit in range(points.shape[1]))
    points, axis_labels = _points_in_plane(points, kl, labelled)
    styles = ClassStyles.of(labels)
    heights = [_SCATTER_HEIGHT, *[_BARS_HEIGHT] * len(categories)]
    figure = new_figure(sum(heights) + styles.legend_height)
    scatter, *bars = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    style_axes(scatter, *axis_labels)
    _draw_points(scatter, points, styles, label_name)
    for axes, (name, values) in zip(bars, categories.items(), strict=True):
        draw_category(axes, name, as_array(values), styles)
    styles.add_legend(figure, label_name)
    return add_title(figure, title, note)


def _draw_points(axes: Axes, points: Array, styles: ClassStyles, label_name: str) -> None:
    """Draw points, shape (data, 2), with a colour and a marker for each class, or by a colour bar."""
    for index, colour in enumerate(styles.colours):
        x, y = points[styles.members(index)].T
        axes.scatter(x, y, s=13, marker=CLASS_MARKERS[index], color=colour, linewidths=0)
    if styles.colours:
        return
    if styles.labels is None or not np.issubdtype(styles.labels.dtype, np.number):
        axes.scatter(points[:, 0], points[:, 1], s=11, color=PALETTE[0])
        return
    drawn = axes.scatter(points[:, 0], points[:, 1], s=11, c=styles.labels, cmap="cividis")
    axes.figure.colorbar(drawn, ax=axes).set_label(plain_label(label_name), color=INK)


def _points_in_plane(codes: Array, kl: ArrayLike | None, names: tuple[str, ...]) -> tuple[Array, tuple[str, str]]:
    """Return two coordinates of each code, shape (data, 2) from (data, latent), and the axis labels."""
    labels = [plain_label(name) for name in names]
    if codes.shape[1] == 1:
        ranks = codes[:, 0].argsort().argsort() / max(1, len(codes) - 1)
        return np.stack([codes[:, 0], ranks], axis=1), (labels[0], f"rank of {labels[0]}, as a share of the data")
    if kl is None and codes.shape[1] > 2:
        directions, axis_labels = principal_components(codes)
        return (codes - codes.mean(axis=0)) @ directions, axis_labels
    if kl is None:
        return codes, (labels[0], labels[1])
    kl_by_unit = as_array(kl)
    units = np.sort(np.argsort(-kl_by_unit, kind="stable")[:2])
    first, second = (f"{labels[unit]} (KL {kl_by_unit[unit]:.2f} nats)" for unit in units)
    return codes[:, units], (first, second)
