"""More draws per datum, or more data per step: the variance of an ELBO's gradient at equal cost.

Run ``python docs/figures/draws_or_data.py --out docs/figures``. A small autoencoder on the digits, after two epochs.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from drawing import command, panel
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

import pvae
from pvae.plots.base import PALETTE, new_figure

COST = 64  # decoder runs of a step: data times draws
Array = NDArray[np.float64]


def trained(epochs: int) -> tuple[pvae.VAE, Tensor]:
    data = pvae.load_data("digits", binarise="static")
    vae = pvae.VAE(data.data_shape, latent=4, hidden=32)
    run = pvae.fit(vae, data, epochs=epochs, seed=0)
    return run.model, data.train["x"]


def gradient(vae: pvae.VAE, x: Tensor, draws: int) -> tuple[Array, Array]:
    """The gradient of the mean ELBO over a batch, for theta and for phi, each flat."""
    loss = pvae.Renyi(alpha=1.0, particles=draws).differentiable_loss(vae.model, vae.guide, x) / len(x)
    theta, phi = vae.theta(), vae.phi()
    found = [each.flatten() for each in torch.autograd.grad(loss, [*theta, *phi])]
    split = len(theta)
    return torch.cat(found[:split]).double().numpy(), torch.cat(found[split:]).double().numpy()


def batch(x: Tensor, data: int) -> Tensor:
    """Data drawn with replacement, as the formula has it."""
    return x[torch.randint(len(x), (data,))]


def variance(gradients: list[Array]) -> tuple[float, float]:
    """The variance of repeated gradients, summed over parameters, and its standard error."""
    every = np.stack(gradients)
    square = ((every - every.mean(0)) ** 2).sum(1) * len(every) / (len(every) - 1)
    return float(square.mean()), float(square.std() / math.sqrt(len(square)))


def predicted(vae: pvae.VAE, x: Tensor, repeats: int) -> list[tuple[float, float]]:
    """(V_data, V_draws) for theta and phi, from two independent draws for each of many single data."""
    singles = [batch(x, 1) for _ in range(repeats)]
    pairs = [(gradient(vae, each, 1), gradient(vae, each, 1)) for each in singles]
    found = []
    for group in (0, 1):
        first, second = (np.stack([pair[which][group] for pair in pairs]) for which in (0, 1))
        draws = float(((first - second) ** 2).sum(1).mean() / 2)
        total = float(np.concatenate([first, second]).var(0).sum())
        found.append((total - draws, draws))
    return found


def line(axes: Axes, draws: Array, measured: list[tuple[float, float]], parts: tuple[float, float], title: str) -> None:
    panel(axes, title, "draws per datum L (64 / L data)", "variance of the gradient")
    data, noise = parts
    axes.plot(draws, (draws * data + noise) / COST, "--", color=PALETTE[1], label="predicted from single data")
    values, errors = np.array(measured).T
    axes.errorbar(draws, values, 2 * errors, fmt="o", color=PALETTE[0], markersize=4, capsize=3, label="measured")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(draws, [str(int(each)) for each in draws])
    axes.legend(frameon=False, fontsize=9, loc="upper left")


def draw(tiny: bool) -> Figure:
    draws = 2 ** np.arange(0, 7, 3 if tiny else 1)
    repeats = 2 if tiny else 200
    vae, x = trained(1 if tiny else 2)
    torch.manual_seed(1)
    parts = predicted(vae, x, 2 * repeats)
    found = [[gradient(vae, batch(x, COST // L), int(L)) for _ in range(repeats)] for L in draws]
    figure = new_figure(3.3, 7.6)
    for group, (axes, title) in enumerate(zip(figure.subplots(1, 2), ("decoder", "encoder"), strict=True)):
        line(axes, draws, [variance([each[group] for each in repeated]) for repeated in found], parts[group], title)
    return figure


if __name__ == "__main__":
    command("draws_or_data", draw)
