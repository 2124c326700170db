"""How the quality of a gradient goes with the number of particles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
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
    fit_from: int = 1,
) -> Figure:
    """Return both axes in logarithms, a line per name, and in the legend the slope of a straight line through it.

    A slope of 0.5 is what averaging gives; below 0 more particles make the gradient worse. The line (dotted) is fitted
    by least squares, each point by its error where errors are given; its own error grows where the points lie on no
    straight line. What is not above 0 is left out.

    Args:
        particles: numbers of particles, (points,).
        curves: for each name, the ratios, (points,).
        errors: for each name, their standard errors, (points,).
        ylabel: what the ratios are.
        fit_from: the least number of particles that the straight line is fitted to: the theory is of many.
    Source: Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, arXiv:1802.04537, theorem 1.
    """
    lines = {}
    for name, values in curves.items():
        y = as_array(values)
        error = np.zeros_like(y) if errors is None else np.nan_to_num(as_array(errors[name]))
        kept = np.isfinite(y) & (y > 0)
        lines[name] = _Line(as_array(particles)[kept], y[kept], error[kept], fit_from)
    figure = blank(3.1 + legend_height([line.label(name) for name, line in lines.items()]))
    axes = labelled_axes(figure, "particles", ylabel)
    for index, (name, line) in enumerate(lines.items()):
        line.draw(axes, name, PALETTE[index % len(PALETTE)], _MARKERS[index % len(_MARKERS)])
    _logarithmic(axes, as_array(particles))
    legend(figure, axes)
    return figure


@dataclass(frozen=True)
class _Line:
    """Points above 0 with their errors, 0 where unknown."""

    x: Array
    y: Array
    error: Array
    fit_from: int

    def fit(self) -> tuple[float, float, float] | None:
        """Slope, its standard error (0 where unknown) and intercept in logarithms, by least squares."""
        far = self.x >= self.fit_from
        if far.sum() < 2:
            return None
        x, y, known = np.log(self.x[far]), np.log(self.y[far]), bool((self.error > 0).all())
        weight = (self.y[far] / self.error[far]) ** 2 if known else np.ones_like(x)
        middle, height = (weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()
        scatter = (weight * (x - middle) ** 2).sum()
        slope = float((weight * (x - middle) * y).sum() / scatter)
        misfit = (weight * (y - height - slope * (x - middle)) ** 2).sum() / max(len(x) - 2, 1)
        spread = math.sqrt(max(1.0, misfit) / scatter) if known else 0.0
        return slope, spread, float(height - slope * middle)

    def label(self, name: str) -> str:
        found = self.fit()
        if found is None:
            return name
        slope, spread, _ = found
        decimals = 3 if 0 < spread < 0.005 else 2
        text = f"{name}: slope {slope:.{decimals}f}".replace("slope -", "slope −")
        return text + (f" ± {spread:.{decimals}f}" if spread > 0 else "")

    def draw(self, axes: Axes, name: str, colour: str, marker: str) -> None:
        low = np.minimum(self.error, 0.9 * self.y)  # a whisker to below 0 has no place on a logarithmic axis
        axes.errorbar(
            self.x,
            self.y,
            yerr=[low, self.error],
            color=colour,
            marker=marker,
            markersize=5,
            capsize=2.5,
            linewidth=1.5,
            label=self.label(name),
        )
        found = self.fit()
        if found is not None:
            x = self.x[self.x >= self.fit_from]
            axes.plot(x, np.exp(found[2]) * x ** found[0], ":", color=colour, linewidth=1.2)


def _logarithmic(axes: Axes, particles: Array) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(particles)
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_formatter(plain)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(NullFormatter())
