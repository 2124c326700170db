"""MNIST with missing quadrants: the table of Pyro's tutorial on conditional VAEs, with its programs."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

import pvae
from published_rows.lines import Budget, Cell, Line, PublishedRow, Target
from published_rows.training import EVERY_SMOKE, load, train

__all__ = ["QUADRANTS", "Baseline", "PictureCVAE", "missing_pixels"]


class GreyBernoulli(dist.Bernoulli):
    """Bernoulli's log probability at grey levels, x log p + (1 - x) log(1 - p), as in the tutorial; no density."""

    support = constraints.unit_interval


def missing_pixels(data_shape: tuple[int, int], observed: int) -> Tensor:
    """Return which pixels are missing, flat.

    Args:
        data_shape: (height, width).
        observed: number of observed quadrants: lower left, then upper left, then upper right.
    """
    height, width = data_shape
    missing = torch.ones(height, width, dtype=torch.bool)
    missing[height // 2 :, : width // 2] = False
    if observed > 1:
        missing[:, : width // 2] = False
    if observed > 2:
        missing[: height // 2] = False
    return missing.flatten()


def _network(inputs: int, hidden: int, outputs: int) -> pvae.MLP:
    return pvae.MLP(inputs, outputs, hidden=(hidden, hidden), activation="relu", initialisation="default")


class Baseline(pvae.LatentModel):
    """Missing pixels that are independent given the others; there is no latent variable, and the guide is empty.

    Args:
        data_shape: (height, width) of one x, grey levels in [0, 1].
        observed: number of observed quadrants.
        hidden: number of units of each of two hidden layers.
    """

    def __init__(self, data_shape: tuple[int, int], observed: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("missing", missing_pixels(data_shape, observed))
        pixels = math.prod(data_shape)
        self.network = _network(pixels, hidden, pixels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of all pixels, shape (batch, pixels), computed from the observed pixels only."""
        return self.network(torch.where(self.missing, -1.0, x.flatten(1)))

    def model(self, x: Tensor) -> Tensor:
        """Observe the missing pixels."""
        with pyro.plate("data", len(x)):
            logits = self(x)[..., self.missing]
            return pyro.sample("y", GreyBernoulli(logits=logits).to_event(1), obs=x.flatten(1)[..., self.missing])

    def guide(self, x: Tensor) -> None:
        """Draw nothing."""


class PictureCVAE(pvae.LatentModel):
    """z ~ prior(observed pixels and the baseline's guess), missing pixels ~ generation(z); q(z given all pixels).

    Args:
        baseline: a trained `Baseline`, which stays as it is.
        latent: number of dimensions of z.
        hidden: number of units of each of two hidden layers of each network.
    """

    def __init__(self, baseline: Baseline, latent: int, hidden: int) -> None:
        super().__init__()
        self.baseline = baseline.requires_grad_(False)
        pixels = len(baseline.missing)
        self.prior_network = _network(pixels, hidden, 2 * latent)
        self.recognition = _network(pixels, hidden, 2 * latent)
        self.generation = _network(latent, hidden, pixels)

    def model(self, x: Tensor) -> Tensor:
        """Draw z given the observed pixels, and observe the others."""
        missing, flat = self.baseline.missing, x.flatten(1)
        with pyro.plate("data", len(x)):
            guess = torch.where(missing, self.baseline(x).sigmoid(), flat)
            z = pyro.sample("z", _normal(self.prior_network(guess)))
            logits = self.generation(z)[..., missing]
            return pyro.sample("y", GreyBernoulli(logits=logits).to_event(1), obs=flat[..., missing])

    def guide(self, x: Tensor) -> Tensor:
        """Infer z from all pixels."""
        with pyro.plate("data", len(x)):
            return pyro.sample("z", _normal(self.recognition(x.flatten(1))))


def _normal(numbers: Tensor) -> dist.TorchDistribution:
    loc, log_scale = numbers.chunk(2, dim=-1)
    return dist.Normal(loc, log_scale.exp()).to_event(1)


def _train_baseline(cell: Cell, data: pvae.Splits) -> Baseline:
    """Return the trained network; the lines of one number of quadrants and one seed share it."""
    observed, side = cell.line.settings["observed"], math.isqrt(data.test["x"][0].numel())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        baseline = Baseline((side, side), observed, cell.settings["hidden"])
    folder = cell.folder.with_name(f"baseline-{observed}-seed{cell.seed}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The validation bound is the objective's own")
        return train(baseline, data, "elbo", cell, folder).model


def _measure(cell: Cell) -> dict[str, Any]:
    settings = cell.settings
    data = load(settings, binarise="none")
    baseline = _train_baseline(cell, data)
    if cell.line.settings["kind"] == "network":
        x = data.test["x"].flatten(1)
        with torch.no_grad():
            logits = baseline.cpu()(x)[:, baseline.missing]
        score = nn.functional.binary_cross_entropy_with_logits(logits, x[:, baseline.missing], reduction="none").sum(1)
        return {"value": float(score.mean()), "error": float(score.std()) / math.sqrt(len(score)), "bias": None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        model = PictureCVAE(baseline, settings["latent"], settings["hidden"])
    run = train(model, data, "elbo", cell)
    found = pvae.evaluate.elbo(run, data, particles=settings["particles"])
    return {"value": -found.value, "error": found.error, "bias": None}


#: For each kind of line and number of quadrants: the tutorial's figure; that of Pyro's example at the budget "short" by
#: benchmarks/pyro_cvae.py, seed 0 alone or the mean of seeds 0 to 3; and the standard error of this mean.
_FIGURES = {
    ("network", 1): (100.4, 116.00, 0.52),
    ("network", 2): (61.9, 71.68, None),
    ("network", 3): (25.4, 29.78, None),
    ("cvae", 1): (71.8, 111.44, None),
    ("cvae", 2): (51.0, 80.60, None),
    ("cvae", 3): (24.2, 35.73, None),
}


def _line(kind: str, observed: int) -> Line:
    published, example, error = _FIGURES[kind, observed]
    label = {"network": "network alone", "cvae": "CVAE"}[kind]
    return Line(
        f"{kind}-{observed}",
        f"{label}, {observed} quadrant{'s' if observed > 1 else ''} observed",
        (
            Target("Pyro's tutorial", published, 2.0),
            Target("Pyro's example, the same 5 epochs", example, 1.5, error, "short"),
        ),
        budgets=("smoke", "short", "full") if observed == 1 else ("short", "full"),
        settings={"kind": kind, "observed": observed},
    )


_COMMON = {"data": "mnist", "hidden": 500, "latent": 200, "batch_size": 128, "learning_rate": 1e-3, "particles": 10}
_NETWORKS = "All networks have two hidden layers of 500 units with relu, and z has 200 dimensions."
QUADRANTS = PublishedRow(
    title="Missing quadrants",
    source=(
        "Pyro's tutorial Conditional Variational Auto-encoder, the table of conditional log-likelihoods. Its programs "
        "are written here as they are in Pyro's example, with grey pixels."
    ),
    quantity=(
        "Minus the score of the missing pixels in nats per image: the ELBO of 10 particles for the CVAE, the log "
        "probability for the network alone; smaller is better. The pixels are grey and the score is no density, so "
        "these numbers must not be compared with those of binary pixels."
    ),
    lines=tuple(_line(kind, observed) for observed in (1, 2, 3) for kind in ("network", "cvae")),
    budgets={
        "smoke": Budget(
            1,
            EVERY_SMOKE,
            "The data are 100 digits of 8 x 8 grey pixels; one epoch, networks with 8 hidden units, 2 dimensions of z.",
        ),
        "short": Budget(
            2,
            {**_COMMON, "validation": 0, "images": 20000, "test": 2000, "epochs": 5},
            f"The data are the first 20000 training images of MNIST, grey. {_NETWORKS} The training takes 5 epochs in "
            "batches of 128 by Adam 1e-3, first of the network alone, then of the CVAE. A fixed random part of 2000 "
            "test images is evaluated.",
        ),
        "full": Budget(
            3,
            {**_COMMON, "validation": None, "images": None, "test": None, "epochs": 50, "patience": 3},
            f"The data are 50000 training images of MNIST, grey. {_NETWORKS} The training takes at most 50 epochs in "
            "batches of 128 by Adam 1e-3, and stops after 3 epochs without a better bound on the 10000 validation "
            "images; first of the network alone, then of the CVAE. All 10000 test images are evaluated.",
        ),
    },
    measure=_measure,
    shortfall=(
        "The budget `short` takes 785 steps for each network, and the tutorial up to 23450. So the tutorial's "
        "figures are not comparable: the network alone is 4 to 15 nats above its figure, and the CVAE 12 to 40. Each "
        "line has a second comparison, with Pyro's own example on the same images with the same number of epochs "
        "(`benchmarks/pyro_cvae.py`, Pyro at commit ff6ae1c). It was run with seeds 0 to 3 for the network alone "
        "with one quadrant, which gave 117.5, 115.2, 115.5 and 115.8, and with seed 0 for the others."
    ),
    tolerances=(
        "No reruns of the tutorial's table are published, so the tolerance of 2 nats is a choice. The tolerance of "
        "1.5 nats at the budget `short` is one too; the standard deviation over the four seeds of Pyro's network is "
        "1.0."
    ),
    deviations=(
        "The tutorial trains on all 60000 images and stops by the test images, which favours its figures; this row "
        "keeps 10000 training images for this purpose."
    ),
    digits=1,
)
