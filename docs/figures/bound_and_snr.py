"""The bound, and the signal in its gradients, against the number of particles.

Run ``python docs/figures/bound_and_snr.py --out docs/figures``. The toy of Rainforth and others (arXiv:1802.04537),
with the guide's parameters off their optimum: z ~ N(mu, I), x ~ N(z, I), guide N(mean, 2/3 I), five dimensions.
"""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from drawing import command, panel
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import pvae
from pvae.plots.base import INK, PALETTE, new_figure

LATENT, X, ROWS = 5, 0.7, 2000
LOG_EVIDENCE = -0.5 * LATENT * (math.log(4 * math.pi) + X**2 / 2)


class Toy(pvae.LatentModel):
    """Each row of the batch has parameters of its own, so that one backward pass gives a gradient per row."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.mu = torch.nn.Parameter(torch.zeros(rows, LATENT, dtype=torch.float64))
        self.mean = torch.nn.Parameter(torch.full((rows, LATENT), X / 2 + 0.3, dtype=torch.float64))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.mu, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.mean, (2 / 3) ** 0.5).to_event(1))


def draws(objective: pvae.Objective, rows: int) -> tuple[float, Tensor, Tensor]:
    """The mean bound over the rows, in nats, and their gradients for theta and for phi, each (rows, latent)."""
    toy = Toy(rows)
    x = torch.full((rows, LATENT), X, dtype=torch.float64)
    loss = objective.differentiable_loss(toy.model, toy.guide, x)
    theta, phi = torch.autograd.grad(-loss, [toy.mu, toy.mean])
    return -loss.item() / rows, theta, phi


def signal_to_noise(gradients: list[Tensor]) -> float:
    """abs(mean) / standard deviation. The coordinates are alike, and are pooled."""
    every = torch.cat(gradients)
    return float(every.mean().abs() / every.std(0).mean())


def measure(particles: int, repeats: int) -> dict[str, float]:
    """The bound, and the signal-to-noise ratios: the plain gradient, which is mostly noise, takes the most draws."""
    plain = [draws(pvae.IWAE(particles), ROWS) for _ in range(repeats)]
    doubly = [draws(pvae.DReG(particles), ROWS) for _ in range(max(1, repeats // 5))]
    return {
        "bound": float(np.mean([bound for bound, _, _ in plain])),
        "theta": signal_to_noise([theta for _, theta, _ in plain]),
        "phi": signal_to_noise([phi for _, _, phi in plain]),
        "phi, doubly": signal_to_noise([phi for _, _, phi in doubly]),
    }


def bounds(axes: Axes, particles: np.ndarray, values: np.ndarray) -> None:
    panel(axes, "the bound rises ...", "particles K", "nats")
    axes.axhline(LOG_EVIDENCE, color=INK, linewidth=1, linestyle="--")
    axes.annotate("log p(x)", (1.0, LOG_EVIDENCE), xytext=(0, 4), textcoords="offset points", color=INK, fontsize=9)
    axes.plot(particles, values, "o-", color=PALETTE[0], markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_ylim(top=LOG_EVIDENCE + 0.12 * (LOG_EVIDENCE - values[0]))


def ratios(axes: Axes, particles: np.ndarray, found: list[dict[str, float]]) -> None:
    panel(axes, "... and so does the signal, but for one", "particles K", "|mean| / standard deviation")
    lines = {"phi, doubly": ("guide, DReG", 0.5, 10), "theta": ("model", 0.5, -16), "phi": ("guide, plain", -0.5, -36)}
    for colour, (key, (label, slope, offset)) in zip(PALETTE[2::-1], lines.items(), strict=True):
        values = np.array([each[key] for each in found])
        axes.plot(particles, values, "o-", color=colour, markersize=4)
        axes.annotate(label, (1.0, values[0]), xytext=(0, offset), textcoords="offset points", color=colour, fontsize=9)
        late = particles >= 16
        height = np.exp(np.mean(np.log(values[late]) - slope * np.log(particles[late])))
        axes.plot(particles[late], height * particles[late] ** slope, "--", color=INK, linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")


def draw(tiny: bool) -> Figure:
    particles = 2 ** np.arange(0, 5, 2) if tiny else 2 ** np.arange(9)
    torch.manual_seed(1)
    found = [measure(int(each), 1 if tiny else 10) for each in particles]
    figure = new_figure(3.3, 7.6)
    left, right = figure.subplots(1, 2)
    bounds(left, particles, np.array([each["bound"] for each in found]))
    ratios(right, particles, found)
    return figure


if __name__ == "__main__":
    command("bound_and_snr", draw)
