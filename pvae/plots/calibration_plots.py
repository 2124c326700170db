"""Figures of the calibration of a guide."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from pvae.plots.base import PALETTE, Array, add_axes, add_legend, legend_height, new_figure, plain_label
from pvae.plots.titles import add_title

__all__ = ["rank_distributions"]

#: The largest number of curves with distinct colours and labels.
_MOST_LABELS = 6


def rank_distributions(points: Array, curves: Mapping[str, Array], band: tuple[Array, Array]) -> Figure:
    """Return the empirical distribution functions of normalised ranks on [0, 1], with a simultaneous 95 % band.

    The curves of a calibrated guide stay within the band, around the diagonal.

    Args:
        points: the arguments of the functions, shape (points,), from 0 to 1.
        curves: the function of each quantity, shape (points,), in the order of the legend; after the first six, the
            curves are grey.
        band: the lower and the upper limit, shape (points,) each.

    Example:
        >>> import numpy as np
        >>> from pvae import plots
        >>> points = np.linspace(0, 1, 11)
        >>> figure = plots.rank_distributions(points, {"z[0]": points**1.2}, (points - 0.1, points + 0.1))
        >>> figure.get_suptitle()
        "Ranks of the generating values among the guide's draws"
    """
    names = list(curves)
    labels = [plain_label(name) for name in names[:_MOST_LABELS]]
    figure = new_figure(3.6 + legend_height([*labels, "95 % band of uniform ranks"]))
    axes = add_axes(figure, "rank of the generating value / (draws + 1)", "share of simulations below")
    axes.fill_between(points, band[0], band[1], color="#d9d9d9", label="95 % band of uniform ranks")
    axes.plot([0, 1], [0, 1], color="#666666", linewidth=0.8, linestyle="--")
    for name in reversed(names[_MOST_LABELS:]):
        axes.plot(points, curves[name], color="#999999", linewidth=0.8)
    for index, name in enumerate(names[:_MOST_LABELS]):
        axes.plot(points, curves[name], color=PALETTE[index], linewidth=1.4, label=labels[index])
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    add_legend(figure, axes)
    return add_title(figure, "Ranks of the generating values among the guide's draws")
