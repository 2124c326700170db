"""What the encoder's noise is for: an autoencoder's codes, gap and evidence as its noise goes to zero.

Run ``python docs/figures/why_noise.py --out docs/figures``: it prints the page's table and draws its figure. The same
networks are trained on the digits with q(z given x) = N(mean(x), s^2) at a fixed s, from s = 0 up (which is the
objective ``dirac``), and with s learned. The evidence is that of the decoder: for each one the posterior is fitted
anew, from the trained means on, with a scale of its own for each code and datum, and 500 draws are weighted.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from drawing import command, panel
from matplotlib.figure import Figure
from torch import Tensor, nn

import pvae
from pvae.plots.base import INK, PALETTE, new_figure

LATENT, HIDDEN = 8, 100
NOISES: tuple[float | None, ...] = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, None)  # None: learned
SEEDS = range(3)


class Noisy(pvae.LatentModel):
    """A Bernoulli autoencoder of the digits; the noise of its codes is fixed at `noise`, none at 0, learned at None."""

    def __init__(self, noise: float | None) -> None:
        super().__init__()
        self.noise = noise
        self.decoder = pvae.MLP(LATENT, 64, hidden=(HIDDEN,))
        self.mean = pvae.MLP(64, LATENT, hidden=(HIDDEN,))
        self.log_sd = pvae.MLP(64, LATENT, hidden=(HIDDEN,))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x.flatten(1))

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.q(x.flatten(1)).to_event(1))

    def q(self, x: Tensor) -> Any:
        if self.noise == 0.0:
            return dist.Delta(self.mean(x))
        return dist.Normal(self.mean(x), self.log_sd(x).exp() if self.noise is None else self.noise)

    def theta(self) -> list[nn.Parameter]:
        return list(self.decoder.parameters())

    def phi(self) -> list[nn.Parameter]:
        return [*self.mean.parameters(), *self.log_sd.parameters()]


@dataclass(frozen=True)
class Row:
    """One training: variance of the codes, log p(x given z) at draws of q, and log p(x), by split, in nats."""

    variance: float
    fit: dict[str, float]
    evidence: dict[str, float]


def fitted(model: Noisy, data: pvae.Splits, objective: str, epochs: int, seed: int) -> Noisy:
    with warnings.catch_warnings():  # scale heads without a part in it get no gradient
        warnings.simplefilter("ignore")
        pvae.fit(model, data, objective=objective, epochs=epochs, learning_rate=2e-3, seed=seed, progress=False)
    return model


def codes(model: Noisy, data: pvae.Splits) -> Tensor:
    with torch.no_grad():
        return model.mean(data.train.x.flatten(1))


def likelihood(model: Noisy, x: Tensor) -> float:
    """The mean of log p(x given z) at one draw of q for each datum."""
    with torch.no_grad():
        density = dist.Bernoulli(logits=model.decoder(model.q(x.flatten(1)).sample())).to_event(1)
        return float(density.log_prob(x.flatten(1)).mean())


def judge(model: Noisy, data: pvae.Splits, epochs: int, seed: int, limit: int) -> Row:
    spread = codes(model, data).var(0).mean().item()
    fit = {name: likelihood(model, getattr(data, name).x) for name in ("train", "test")}
    other = Noisy(None)
    other.load_state_dict(model.state_dict())
    other.decoder.requires_grad_(False)
    if model.noise is not None:  # begin with noise of a third of the codes' spread
        last = [each for each in other.log_sd.modules() if isinstance(each, nn.Linear)][-1]
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, math.log(math.sqrt(spread) / 3))
    fitted(other, data, "elbo", epochs, seed)
    evidence = {
        name: pvae.evaluate.log_evidence(other, data, 500, split=name, limit=limit, seed=seed).value
        for name in ("train", "test")
    }
    return Row(spread, fit, evidence)


def sweep(tiny: bool) -> dict[float | None, list[Row]]:
    data = pvae.load_data("digits", binarise="static", validation=0)
    epochs, limit, seeds = (1, 50, range(2)) if tiny else (150, 360, SEEDS)
    found: dict[float | None, list[Row]] = {}
    for noise in (0.0, None) if tiny else NOISES:
        for seed in seeds:
            torch.manual_seed(seed)
            model = fitted(Noisy(noise), data, "dirac" if noise == 0.0 else "elbo", epochs, seed)
            found.setdefault(noise, []).append(judge(model, data, epochs, seed, limit))
    return found


def summary(values: list[float]) -> tuple[float, float]:
    """Mean over seeds and its standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))


def columns(rows: list[Row]) -> dict[str, tuple[float, float]]:
    return {
        "variance of codes": summary([row.variance for row in rows]),
        "log p(x given z), train": summary([row.fit["train"] for row in rows]),
        "gap, train - test": summary([row.fit["train"] - row.fit["test"] for row in rows]),
        "log p(x), test": summary([row.evidence["test"] for row in rows]),
        "gap of log p(x)": summary([row.evidence["train"] - row.evidence["test"] for row in rows]),
    }


def table(found: dict[float | None, list[Row]]) -> str:
    names = list(columns(next(iter(found.values()))))
    lines = ["| noise | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for noise, rows in found.items():
        cells = [f"{mean:.3f} ± {error:.3f}" if name == names[0] else f"{mean:.2f} ± {error:.2f}"
                 for name, (mean, error) in columns(rows).items()]  # fmt: skip
        lines.append(f"| {'learned' if noise is None else format(noise, 'g')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(tiny: bool) -> Figure:
    found = sweep(tiny)
    print(table(found))
    figure = new_figure(3.0, 9.6)
    shown = {noise: columns(rows) for noise, rows in found.items() if noise is not None}
    learned = columns(found[None])
    words = {"variance of codes": "collapse", "gap, train - test": "overfitting", "log p(x), test": "evidence"}
    for axes, (name, title), colour in zip(figure.subplots(1, 3), words.items(), PALETTE, strict=False):
        panel(axes, title, "noise s of the encoder", name)
        values = np.array([each[name] for each in shown.values()])
        axes.errorbar(list(shown), values[:, 0], yerr=values[:, 1], fmt="o-", color=colour, markersize=4, capsize=3)
        axes.axhline(learned[name][0], color=INK, linewidth=1, linestyle="--")
        axes.annotate("learned", (0.0, learned[name][0]), xytext=(4, 3), textcoords="offset points", fontsize=8)
        axes.set_xscale("symlog", linthresh=0.01)
        axes.set_xlim(-0.002, 1.4)
    return figure


if __name__ == "__main__":
    command("why_noise", draw)
