"""A sigmoid belief net on static MNIST, trained by VIMCO: the table of Mnih and Rezende."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pvae
from published_rows.lines import Budget, Cell, Line, PublishedRow, Target
from published_rows.training import EVERY_SMOKE, load, minus_log_evidence, train

__all__ = ["BELIEF_NET", "AdamByEpochs", "BeliefNet"]


class BeliefNet(pvae.LatentModel):
    """Layers of Bernoulli units, each given the layer above; the guide draws them from the data upwards.

    Weights start as Normal(0, 1 / inputs) with this variance, and biases as 0, as in the repository y0ast/VIMCO.

    Args:
        pixels: number of pixels of one x.
        layers: numbers of units; the first layer is the one next to the data.
    """

    def __init__(self, pixels: int, layers: tuple[int, ...]) -> None:
        super().__init__()
        sizes = list(itertools.pairwise((pixels, *layers)))
        self.up = nn.ModuleList(nn.Linear(below, above) for below, above in sizes)
        self.down = nn.ModuleList(nn.Linear(above, below) for below, above in sizes)
        self.top = nn.Parameter(torch.zeros(layers[-1]))
        for linear in (*self.up, *self.down):
            nn.init.normal_(linear.weight, std=1 / math.sqrt(linear.in_features))
            nn.init.zeros_(linear.bias)

    def model(self, x: Tensor) -> Tensor:
        """Draw the layers from the top downwards, and observe x."""
        with pyro.plate("data", len(x)):
            logits = self.top.expand(len(x), -1)
            for number in range(len(self.down), 0, -1):
                z = pyro.sample(f"z{number}", dist.Bernoulli(logits=logits).to_event(1))
                logits = self.down[number - 1](z)
            return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x.flatten(1))

    def guide(self, x: Tensor) -> None:
        """Draw the layers from the data upwards."""
        z = x.flatten(1)
        with pyro.plate("data", len(x)):
            for number, up in enumerate(self.up, start=1):
                z = pyro.sample(f"z{number}", dist.Bernoulli(logits=up(z)).to_event(1))


class AdamByEpochs(torch.optim.Optimizer):
    """Adam as in the repository y0ast/VIMCO.

    It corrects its moments by the number of epochs in place of steps, has 1e-6 under the square root, and decays the
    weights (not the biases) by the share ``lr * decay`` in each step.

    Args:
        parameters: the parameters.
        lr: the learning rate.
        steps: the number of steps in an epoch.
        decay: the strength of the decay.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, steps: int, decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "betas": (0.95, 0.999)})
        self.steps_of_epoch, self.decay = steps, decay

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Take one step."""
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state.update(step=torch.zeros(()), m=torch.zeros_like(parameter), v=torch.zeros_like(parameter))
                epoch = 1 + int(state["step"]) // self.steps_of_epoch
                state["step"] += 1
                state["m"].lerp_(parameter.grad, 1 - first)
                state["v"].lerp_(parameter.grad**2, 1 - second)
                rate = group["lr"] * math.sqrt(1 - second**epoch) / (1 - first**epoch)
                decay = group["lr"] * self.decay * parameter if parameter.dim() > 1 else 0.0
                parameter.sub_(rate * state["m"] / (state["v"] + 1e-6).sqrt() + decay)


def _measure(cell: Cell) -> dict[str, Any]:
    settings = cell.settings
    data = load(settings, binarise="static" if settings["data"] == "digits" else "none")
    if settings.get("on_validation"):
        data = replace(data, test=data.validation)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        model = BeliefNet(data.test["x"][0].numel(), settings["layers"])
    steps = -(-data.train.size // settings["batch_size"])
    optimiser = partial(AdamByEpochs, lr=1e-3, steps=steps, decay=settings["batch_size"] / data.train.size)
    run = train(model, data, cell.line.settings["objective"], cell, optimiser=optimiser)
    return minus_log_evidence(run, data, settings["particles"])


_COMMON = {"data": "mnist_static", "images": None, "layers": (200, 200, 200), "batch_size": 24, "validation": None}
_TRAINING = (
    "The data are the 50000 training images of static MNIST. Initial values and Adam (1e-3, betas 0.95 and 0.999) "
    "are those of the repository y0ast/VIMCO. The training takes"
)
BELIEF_NET = PublishedRow(
    title="A sigmoid belief net by VIMCO",
    source=(
        "Mnih and Rezende, Variational Inference for Monte Carlo Objectives, ICML 2016 (arXiv:1602.06725): static "
        "MNIST, three layers of 200 units, VIMCO with five particles."
    ),
    quantity="Minus the log evidence of test images in nats per image; smaller is better.",
    lines=(
        Line(
            "vimco-5",
            "VIMCO, 5 particles",
            (
                Target("Mnih and Rezende", 93.6, 2.0),
                Target("y0ast/VIMCO, 2000 epochs", 91.65, 2.0),
                Target("y0ast/VIMCO, one epoch", 145.71, 2.0, budget="short"),
            ),
            settings={"objective": "vimco:particles=5"},
        ),
    ),
    budgets={
        "smoke": Budget(
            1,
            {**EVERY_SMOKE, "layers": (8, 8)},
            "The data are 100 digits of 8 x 8 pixels, binarised once; one epoch, layers of 8 and 8 units, 10 "
            "particles.",
        ),
        "short": Budget(
            2,
            {**_COMMON, "test": None, "on_validation": True, "epochs": 1, "particles": 5},
            f"{_TRAINING} one epoch in batches of 24. The number is minus the bound of five particles on all 10000 "
            "validation images, as in the log of this repository.",
        ),
        "full": Budget(
            3,
            {**_COMMON, "test": None, "epochs": 2000, "particles": 1000},
            f"{_TRAINING} 2000 epochs in batches of 24. The parameters with the best bound on the validation images "
            "are kept. All 10000 test images are evaluated with 1000 particles.",
        ),
    },
    measure=_measure,
    shortfall=(
        "The budget `short` takes 2084 steps, and the rerun 4.2 million. Such a network learns slowly: the log of "
        "the rerun shows 145.7 on the validation images after one epoch, and 96.2 after 2000. The first of these is "
        "the comparison at the budget `short`. Initial values and optimiser matter at this early stage: with "
        "those of PyTorch, inputs of -1 and 1 in place of 0 and 1, and the same betas, pvae's bound was 154.1 at "
        "seed 0."
    ),
    tolerances=(
        "The paper and the rerun differ by 1.95 nats, so the tolerance is 2. It is the same after one epoch, which "
        "is a choice that was made after a first run of this network."
    ),
    deviations=(
        "The settings are those of the repository, which follows the paper. It keeps the last parameters and leaves "
        "out the last, smaller batch of an epoch; this row keeps the best parameters on validation images, and all "
        "batches."
    ),
)
