"""MNIST in a short budget: `pvae train` beside the same network, hand-written in PyTorch.

One stochastic layer 784-200-200-50, tanh, Glorot, Adam 1e-3, batch 100, dynamic binarisation, no validation split, the
last parameters. Both are judged on the first 1000 test images, binarised once from seed 0, by 1000 particles. For each
seed the two train one after the other in one process, on one thread; the cost is CPU time in training.

    PVAE_DATA=... python benchmarks/mnist_short.py [--epochs 20] [--seeds 0,1,2] [--objectives elbo,iwae:particles=5]
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

import pvae
from pvae import evaluate
from pvae.cli import cli
from pvae.names import parse

JUDGED, PARTICLES, BATCH = 1000, 1000, 100


class Result(NamedTuple):
    """Minus log evidence and minus ELBO on the test images, nats per datum; CPU seconds of training."""

    nll: float
    negative_elbo: float
    seconds: float


class Reference(nn.Module):
    """The network, as a person writes it."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh())
        self.loc, self.log_scale = nn.Linear(200, 50), nn.Linear(200, 50)
        self.decoder = nn.Sequential(nn.Linear(50, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 784))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.decoder[-1].bias.copy_(mean.clamp(1e-3, 1 - 1e-3).logit())

    def log_weights(self, x: Tensor, particles: int) -> Tensor:
        """Return log weights, shape (particles, batch)."""
        hidden = self.encoder(x)
        loc, log_scale = self.loc(hidden), self.log_scale(hidden)
        noise = torch.randn(particles, *loc.shape)
        z = loc + log_scale.exp() * noise
        prior = -0.5 * (z**2).sum(-1)
        guide = (-0.5 * noise**2 - log_scale).sum(-1)
        target = x.expand(particles, *x.shape)
        logits = self.decoder(z)
        likelihood = -functional.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
        return likelihood + prior - guide


def judge(log_weights: Callable[[Tensor, int], Tensor], images: Tensor) -> tuple[float, float]:
    """Minus log evidence and minus ELBO of the images."""
    evidence, elbo = [], []
    with torch.no_grad():
        for x in images.split(20):
            log_w = torch.cat([log_weights(x, PARTICLES // 4) for _ in range(4)])
            evidence.append(log_w.logsumexp(0) - math.log(PARTICLES))
            elbo.append(log_w.mean(0))
    return -torch.cat(evidence).mean().item(), -torch.cat(elbo).mean().item()


def by_hand(train: Tensor, images: Tensor, particles: int, epochs: int, seed: int) -> Result:
    """Train and judge the hand-written network."""
    torch.manual_seed(seed)
    network = Reference(train.mean(0))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    begun = time.process_time()
    for _ in range(epochs):
        order = torch.randperm(len(train))
        for rows in order.split(BATCH):
            x = torch.bernoulli(train[rows])
            log_w = network.log_weights(x, particles)
            loss = -(log_w.logsumexp(0) - math.log(particles)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    seconds = time.process_time() - begun
    return Result(*judge(network.log_weights, images), seconds)


def by_pvae(objective: str, epochs: int, seed: int, folder: Path) -> Result:
    """Run `pvae train`, and judge the run. Its CPU time counts from the command line to the last checkpoint."""
    settings = "--data mnist --binarise dynamic --validation 0 --latent 50 --batch-size 100 --threads 1 --no-progress"
    command = f"train vae {settings} --objective {objective} --epochs {epochs} --seed {seed} --out {folder}"
    begun = time.process_time()
    try:
        cli.main(command.split())
    except SystemExit as ended:  # the command leaves as a process does
        if ended.code:
            raise
    seconds = time.process_time() - begun
    data = pvae.load_data("mnist", binarise="dynamic", validation=0)
    run = pvae.open_run(folder, checkpoint="last")
    evidence = evaluate.log_evidence(run, data, particles=PARTICLES, limit=JUDGED)
    elbo = evaluate.elbo(run, data, particles=PARTICLES, limit=JUDGED)
    return Result(-evidence.value, -elbo.value, seconds)


def show(objective: str, seed: object, variant: str, result: Result) -> None:
    """Print a row of the table."""
    numbers = f"{result.nll:.2f} | {result.negative_elbo:.2f} | {result.seconds:.1f}"
    print(f"| {objective} | {seed} | {variant} | {numbers} |", flush=True)


def main() -> None:
    """Print a line per objective, seed and variant, then the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--objectives", default="elbo,iwae:particles=5")
    parser.add_argument("--by-hand", type=int, default=99, help="train the reference for so many of the seeds")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = pvae.load_data("mnist", binarise="dynamic", validation=0)
    images = data.test.x[:JUDGED]
    print("| objective | seed | variant | test -log p | test -ELBO | CPU s |\n|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for objective in given.objectives.split(","):
            particles = parse(objective)[1].get("particles", 1)
            found: dict[str, list[Result]] = {"by hand": [], "pvae": []}
            for number, seed in enumerate(map(int, given.seeds.split(","))):
                if number < given.by_hand:
                    found["by hand"].append(by_hand(data.train.x, images, particles, given.epochs, seed))
                place = Path(folder) / f"{objective.replace(':', '-')}-{seed}"
                found["pvae"].append(by_pvae(objective, given.epochs, seed, place))
                for variant, results in found.items():
                    if len(results) > number:
                        show(objective, seed, variant, results[number])
            for variant, results in found.items():
                if results:
                    means = Result(*(statistics.mean(each) for each in zip(*results, strict=True)))
                    show(objective, f"mean of {len(results)}", variant, means)
            pairs = list(zip(found["pvae"], found["by hand"], strict=False))  # the seeds that both have trained
            if pairs:
                ratio = sum(ours.seconds for ours, _ in pairs) / sum(theirs.seconds for _, theirs in pairs)
                print(
                    f"\n{objective}: pvae takes {ratio:.2f} times the CPU time of the hand-written loop\n", flush=True
                )


if __name__ == "__main__":
    main()
