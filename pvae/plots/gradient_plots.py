"""A figure of the signal-to-noise ratio of gradients against the number of particles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import ArrayLike

from pvae.plots.base import PALETTE, Array, add_axes, add_legend, as_array, legend_height, new_figure, plain_label
from pvae.plots.titles import add_title

__all__ = ["signal_to_noise"]

_MARKERS = "osD^vPX*"


def signal_to_noise(
    particles: Sequence[int],
    curves: Mapping[str, ArrayLike],
    errors: Mapping[str, ArrayLike] | None = None,
    *,
    ylabel: str = "signal-to-noise of the gradient",
    fit_from: int = 1,
    title: str = "Signal-to-noise of the gradient, and slope of each curve",
) -> Figure:
    """Return a figure with logarithmic axes, one curve per name, and the slope of each curve in the legend.

    A slope of 0.5 is the slope of an average of independent draws; with a negative slope, more particles make the
    gradient worse. The slope belongs to a straight line (dotted), fitted by least squares, which weights each point by
    its standard error if all errors are known. The standard error of the slope is larger if the points are not on a
    line. Ratios that are not positive are left out.

    Args:
        particles: numbers of particles, shape (points,).
        curves: for each name, the ratios, shape (points,).
        errors: for each name, the standard errors of the ratios, shape (points,).
        ylabel: label of the vertical axis.
        fit_from: the smallest number of particles in the fit, because the theory holds for many particles.
        title: title of the figure.

    Source: Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, arXiv:1802.04537, theorem 1.

    Example:
        >>> import numpy as np
        >>> from pvae import plots
        >>> figure = plots.signal_to_noise([1, 4, 16], {"dreg": [1.0, 2.0, 4.0], "iwae": [1.0, 0.5, 0.25]})
        >>> figure.axes[0].get_xscale()
        'log'
    """
    ratio_curves = {}
    for name, values in curves.items():
        ratios = as_array(values)
        ratio_errors = np.zeros_like(ratios) if errors is None else np.nan_to_num(as_array(errors[name]))
        positive = np.isfinite(ratios) & (ratios > 0)
        ratio_curves[name] = _RatioCurve(
            as_array(particles)[positive], ratios[positive], ratio_errors[positive], fit_from
        )
    figure = new_figure(3.1 + legend_height([curve.label(name) for name, curve in ratio_curves.items()]))
    axes = add_axes(figure, "particles", ylabel)
    for index, (name, curve) in enumerate(ratio_curves.items()):
        curve.draw(axes, name, PALETTE[index % len(PALETTE)], _MARKERS[index % len(_MARKERS)])
    _make_logarithmic(axes, as_array(particles))
    add_legend(figure, axes)
    return add_title(figure, title)


@dataclass(frozen=True)
class _LineFit:
    """A straight line in logarithms: log ratio = intercept + slope log particles.

    Attributes:
        slope: the slope.
        slope_error: its standard error; 0 if unknown.
        intercept: the intercept.
    """

    slope: float
    slope_error: float
    intercept: float


@dataclass(frozen=True)
class _RatioCurve:
    """Positive ratios for several numbers of particles.

    Attributes:
        particles: numbers of particles, shape (points,).
        ratios: the ratios, shape (points,).
        errors: their standard errors, shape (points,); 0 if unknown.
        fit_from: the smallest number of particles in the fit.
    """

    particles: Array
    ratios: Array
    errors: Array
    fit_from: int

    def fit(self) -> _LineFit | None:
        """Return the line through the points, by weighted least squares; None for fewer than two points."""
        chosen = self.particles >= self.fit_from
        if chosen.sum() < 2:
            return None
        x, y = np.log(self.particles[chosen]), np.log(self.ratios[chosen])
        has_errors = bool((self.errors > 0).all())
        # By the delta method, the standard error of log(ratio) is error / ratio.
        weights = (self.ratios[chosen] / self.errors[chosen]) ** 2 if has_errors else np.ones_like(x)
        mean_x, mean_y = (weights * x).sum() / weights.sum(), (weights * y).sum() / weights.sum()
        sum_of_squares = (weights * (x - mean_x) ** 2).sum()
        slope = float((weights * (x - mean_x) * y).sum() / sum_of_squares)
        residuals = y - mean_y - slope * (x - mean_x)
        # Mean weighted squared residual: about 1 if the points lie on a line up to their errors.
        chi_squared = (weights * residuals**2).sum() / max(len(x) - 2, 1)
        slope_error = math.sqrt(max(1.0, chi_squared) / sum_of_squares) if has_errors else 0.0
        return _LineFit(slope, slope_error, float(mean_y - slope * mean_x))

    def label(self, name: str) -> str:
        """Return the displayed name with the slope and its standard error."""
        name, line = plain_label(name), self.fit()
        if line is None:
            return name
        decimals = 3 if 0 < line.slope_error < 0.005 else 2
        text = f"{name}: slope {line.slope:.{decimals}f}".replace("slope -", "slope −")
        return text + (f" ± {line.slope_error:.{decimals}f}" if line.slope_error > 0 else "")

    def draw(self, axes: Axes, name: str, colour: str, marker: str) -> None:
        """Draw the points with bars of one standard error, and the fitted line."""
        lower_errors = np.minimum(self.errors, 0.9 * self.ratios)  # a logarithmic axis cannot show values below 0
        axes.errorbar(
            self.particles,
            self.ratios,
            yerr=[lower_errors, self.errors],
            color=colour,
            marker=marker,
            markersize=5,
            capsize=2.5,
            linewidth=1.5,
            label=self.label(name),
        )
        line = self.fit()
        if line is not None:
            x = self.particles[self.particles >= self.fit_from]
            axes.plot(x, np.exp(line.intercept) * x**line.slope, ":", color=colour, linewidth=1.2)


def _make_logarithmic(axes: Axes, particles: Array) -> None:
    """Make both axes logarithmic, with the numbers of particles, shape (points,), as ticks."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(particles)
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_formatter(plain)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(NullFormatter())
