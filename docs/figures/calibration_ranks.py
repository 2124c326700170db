"""Ranks of four guides of a linear-Gaussian model: the posterior, the prior, a narrow guide and a shifted one.

Run ``python docs/figures/calibration_ranks.py --out docs/figures``. z ~ N(0, I) has two units, and x given z is
N(W z, I / 4) with three features. Each panel shows the distribution function of the ranks of z[0] and of log p(x given
z), minus that of uniform ranks, with the simultaneous 95 % band of uniform ranks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from drawing import command, panel
from matplotlib.figure import Figure

from pvae.evaluate.calibration.rank_tests import RankNull, ranks_among
from pvae.plots.base import PALETTE, new_figure

WEIGHT = np.array([[1.0, 0.5], [0.0, 1.0], [-1.0, 0.3]])
VARIANCE = 0.25
COVARIANCE = np.linalg.inv(np.eye(2) + WEIGHT.T @ WEIGHT / VARIANCE)
FACTOR, GAIN = np.linalg.cholesky(COVARIANCE), COVARIANCE @ WEIGHT.T / VARIANCE
SHIFT = 0.2 * np.sqrt(np.diag(COVARIANCE))

#: By title: the guide's mean for a posterior mean, and the factor of its covariance.
GUIDES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]] = {
    "q is the posterior": (lambda mean: mean, FACTOR),
    "q is the prior": (np.zeros_like, np.eye(2)),
    "sd of q times 0.8": (lambda mean: mean, 0.8 * FACTOR),
    "mean of q plus 0.2 sd": (lambda mean: mean + SHIFT, FACTOR),
}


def ranks(title: str, simulations: int, draws: int) -> dict[str, np.ndarray]:
    """Return the ranks of z[0] and of log p(x given z), shape (simulations,) each."""
    generator = np.random.default_rng(list(GUIDES).index(title))
    z = generator.standard_normal((simulations, 2))
    x = z @ WEIGHT.T + np.sqrt(VARIANCE) * generator.standard_normal((simulations, 3))
    mean_of, factor = GUIDES[title]
    drawn = mean_of(x @ GAIN.T) + generator.standard_normal((draws, simulations, 2)) @ factor.T

    def likelihood(latent: np.ndarray) -> np.ndarray:
        return -np.square(x - latent @ WEIGHT.T).sum(-1)

    return {
        "z[0]": ranks_among(z[:, 0], drawn[..., 0], generator),
        "log p(x given z)": ranks_among(likelihood(z), likelihood(drawn), generator),
    }


def draw(tiny: bool) -> Figure:
    """Return the figure; `tiny` takes few simulations."""
    simulations, draws = (60, 19) if tiny else (2000, 99)
    null = RankNull(simulations, draws, repeats=100 if tiny else 4000)
    low, high = null.band()
    figure = new_figure(5.4, 6.6)
    for index, title in enumerate(GUIDES):
        axes = panel(figure.add_subplot(2, 2, index + 1), title, "rank / (draws + 1)", "share below - rank")
        axes.fill_between(null.points, low - null.points, high - null.points, color="#d9d9d9")
        for (name, values), colour in zip(ranks(title, simulations, draws).items(), PALETTE, strict=False):
            axes.plot(null.points, null.distribution(values)[0] - null.points, color=colour, label=name)
        axes.axhline(0.0, color="#666666", linewidth=0.8, linestyle="--")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


if __name__ == "__main__":
    command("calibration_ranks", draw)
