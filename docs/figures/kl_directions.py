"""Forward and reverse KL: the best normal guide of two unit normal modes at -a and a.

Run ``python docs/figures/kl_directions.py --out docs/figures``. Everything is quadrature on a grid.
"""

from __future__ import annotations

import numpy as np
from drawing import command, panel
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize, minimize_scalar

from pvae.plots.base import INK, PALETTE, new_figure

GRID = np.linspace(-24.0, 24.0, 8001)
STEP = GRID[1] - GRID[0]
EXCLUSIVE, INCLUSIVE = PALETTE[0], PALETTE[1]


def log_normal(mean: float, deviation: float) -> NDArray[np.float64]:
    """The log-density of a normal distribution on the grid."""
    return -0.5 * ((GRID - mean) / deviation) ** 2 - np.log(deviation) - 0.5 * np.log(2 * np.pi)


def log_target(a: float) -> NDArray[np.float64]:
    """The log-density of the two modes on the grid."""
    return np.logaddexp(log_normal(-a, 1.0), log_normal(a, 1.0)) - np.log(2)


def divergence(log_q: NDArray[np.float64], log_p: NDArray[np.float64]) -> float:
    """KL(q to p) in nats."""
    return float((np.exp(log_q) * (log_q - log_p)).sum() * STEP)


def symmetric(a: float) -> tuple[float, float, float]:
    """Mean (0), standard deviation and exclusive divergence of the best guide in the middle."""
    log_p = log_target(a)
    best = minimize_scalar(
        lambda s: divergence(log_normal(0.0, np.exp(s)), log_p), bounds=(-1.0, 2.0), method="bounded"
    )
    return 0.0, float(np.exp(best.x)), float(best.fun)


def one_sided(a: float) -> tuple[float, float, float] | None:
    """Mean, standard deviation and exclusive divergence of the optimum on the right, where there is one."""
    log_p = log_target(a)
    best = minimize(
        lambda at: divergence(log_normal(at[0], np.exp(at[1])), log_p),
        [a, 0.0],
        method="Nelder-Mead",
        options={"xatol": 1e-8, "fatol": 1e-13},
    )
    found = float(best.x[0]), float(np.exp(best.x[1])), float(best.fun)
    return found if found[0] > 0.5 else None


def crossing() -> float:
    """The distance beyond which the one-sided guide is the better one: a_c."""

    def lead(a: float) -> float:
        found = one_sided(a)
        return 1.0 if found is None else found[2] - symmetric(a)[2]

    return float(brentq(lead, 2.6, 3.0, xtol=1e-6))


def densities(axes: Axes, a: float) -> None:
    """The two modes, and the best guide under either divergence."""
    panel(axes, f"a = {a:g}", "z")
    axes.fill_between(GRID, np.exp(log_target(a)), color="#d9d9d9", label="target p")
    found, middle = one_sided(a), symmetric(a)
    best = found if found is not None and found[2] < middle[2] else middle
    other = None if found is None else (middle if best is found else found)
    axes.plot(GRID, np.exp(log_normal(*best[:2])), color=EXCLUSIVE, linewidth=2, label="exclusive KL(q‖p), global")
    if other is not None:
        style = {"color": EXCLUSIVE, "linewidth": 1.4, "linestyle": ":", "label": "exclusive, the other kind"}
        axes.plot(GRID, np.exp(log_normal(*other[:2])), **style)
    wide = np.exp(log_normal(0.0, np.sqrt(1 + a**2)))
    axes.plot(GRID, wide, color=INCLUSIVE, linewidth=2, linestyle="--", label="inclusive KL(p‖q)")
    axes.set_xlim(-8, 8)
    axes.set_ylim(0, 0.43)
    axes.set_xticks([-a, 0, a], ["−a", "0", "a"])


def prices(axes: Axes, distances: NDArray[np.float64], a_c: float) -> None:
    """The exclusive divergence of both kinds of optimum as the modes part."""
    panel(axes, "", "a, half the distance of the modes", "KL(q‖p), nats")
    sided = np.array([found[2] if (found := one_sided(a)) else np.nan for a in distances])
    axes.plot(distances, [symmetric(a)[2] for a in distances], color=PALETTE[2], label="symmetric")
    axes.plot(distances, sided, color=PALETTE[3], label="one-sided")
    axes.axhline(np.log(2), color="#999999", linewidth=1, linestyle="--")
    axes.axvline(a_c, color=INK, linewidth=1)
    axes.annotate("log 2", (1.05, np.log(2) + 0.03), color=INK, fontsize=9)
    axes.annotate(f"$a_c$ = {a_c:.4f}", (a_c + 0.04, 0.1), color=INK, fontsize=9)
    axes.set_xlim(1, 4)
    axes.set_ylim(0, 1.4)
    axes.legend(frameon=False, fontsize=9, loc="upper left")


def draw(tiny: bool) -> Figure:
    figure = new_figure(5.4, 7.6)
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.15, 1.0])
    for axes, a in zip(top.subplots(1, 4, sharey=True), (2.0, 2.6, 3.0, 4.0), strict=True):
        densities(axes, a)
    handles, labels = top.axes[1].get_legend_handles_labels()
    top.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)
    prices(bottom.subplots(), np.linspace(1.0, 4.0, 7 if tiny else 121), crossing())
    return figure


if __name__ == "__main__":
    command("kl_directions", draw)
