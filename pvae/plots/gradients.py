"""How the quality of a gradient goes with the number of particles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter
from numpy.typing import ArrayLike

from pvae.plots.base import PALETTE, Array, as_array, blank, labelled_axes, legend, legend_height

__all__ = ["signal_to_noise"]

_MARKERS = "osD^vPX*"


def signal_to_noise(
    particles: Sequence[int],
    curves: Mapping[str, ArrayLike],
    errors: Mapping[str, ArrayLike] | None = None,
    *,
    ylabel: str = "signal-to-noise of the gradient",
) -> Figure:
    """Return both axes in logarithms, a line per name, and in the legend the slope of a straight line through it.

    A slope of 0.5 is what averaging gives; below 0 more particles make the gradient worse. The line is fitted by
    least squares, each point by its error where errors are given; what is not above 0 is left out.

    Args:
        particles: numbers of particles, (points,).
        curves: for each name, the ratios, (points,).
        errors: for each name, their standard errors, (points,).
        ylabel: what the ratios are.
    """
    labels, lines = [], []
    for name, values in curves.items():
        y = as_array(values)
        error = np.zeros_like(y) if errors is None else np.nan_to_num(as_array(errors[name]))
        kept = np.isfinite(y) & (y > 0)
        lines.append((as_array(particles)[kept], y[kept], error[kept]))
        labels.append(_label(name, *lines[-1]))
    figure = blank(3.1 + legend_height(labels))
    axes = labelled_axes(figure, "particles", ylabel)
    for index, (label, (x, y, error)) in enumerate(zip(labels, lines, strict=True)):
        colour, marker = PALETTE[index % len(PALETTE)], _MARKERS[index % len(_MARKERS)]
        low = np.minimum(error, 0.9 * y)  # a whisker to below 0 has no place on a logarithmic axis
        axes.errorbar(
            x, y, yerr=[low, error], color=colour, marker=marker, markersize=5, capsize=2.5, linewidth=1.5, label=label
        )
    _logarithmic(axes, as_array(particles))
    legend(figure, axes)
    return figure


def _label(name: str, x: Array, y: Array, error: Array) -> str:
    if len(x) < 2:
        return name
    slope, spread = _slope(np.log(x), np.log(y), error / y)
    return f"{name}: slope {slope:+.2f}" + (f" ± {spread:.2f}" if spread > 0 else "")


def _slope(x: Array, y: Array, error: Array) -> tuple[float, float]:
    """The slope of a straight line by weighted least squares, and its standard error from those of the points."""
    weight = 1 / error**2 if (error > 0).all() else np.ones_like(x)
    apart = x - (weight * x).sum() / weight.sum()
    scatter = (weight * apart**2).sum()
    known = float(scatter**-0.5) if (error > 0).all() else 0.0
    return float((weight * apart * y).sum() / scatter), known


def _logarithmic(axes: Axes, particles: Array) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(particles)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
