"""A gradient of the annealing path: the traced graph of pvae, compared with loops over traces of Pyro.

All compute log p(z) + b log p(x given z) and its gradient at the same z for all chains and data, in float32 on one
thread. One loop traces the model for each chain and datum, as a sampler for one datum does; the other traces it for
each chain with all data. Each ratio is that of CPU times, interleaved in one process.

    python benchmarks/annealing.py [--rounds 7]
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from timing import cpu_seconds, quartiles
from torch import Tensor

import pvae
from pvae.evaluate.annealing.path_density import PathDensity
from pvae.models import VAE
from pvae.programs.binding import bind
from pvae.weights.path_terms import PathPrograms

CHAINS, B = 16, 0.3
NETWORKS = {"64-64-8": (64, (64,), 8, 20), "784-200-200-50": (784, (200, 200), 50, 20)}


def gradient_by_trace(model: Any, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The path and its gradient for one chain, by a trace of Pyro."""
    z = z.detach().requires_grad_()
    trace = poutine.trace(poutine.condition(model.model, data={"z": z})).get_trace(x)
    trace.compute_log_prob()
    likelihood = trace.nodes["x"]["log_prob"]
    target = trace.nodes["z"]["log_prob"] + B * likelihood
    return target.detach(), torch.autograd.grad(target.sum(), z)[0]


def by_datum(model: Any, x: Tensor, z: Tensor) -> Tensor:
    """Loop over chains and data."""
    rows = [[gradient_by_trace(model, x[n : n + 1], chain[n : n + 1])[1] for n in range(len(x))] for chain in z]
    return torch.stack([torch.cat(row) for row in rows])


def by_chain(model: Any, x: Tensor, z: Tensor) -> Tensor:
    """Loop over chains."""
    return torch.stack([gradient_by_trace(model, x, chain)[1] for chain in z])


def row(name: str, rounds: int) -> str:
    """Measure one network, and return its row of the table."""
    features, hidden, latent, data = NETWORKS[name]
    torch.manual_seed(0)
    model = VAE(features, hidden=hidden, latent=latent).eval()
    x = torch.bernoulli(torch.full((data, features), 0.4))
    z = torch.randn(CHAINS, data, latent)
    batch = pvae.Batch(x=x)
    with torch.no_grad():
        path = PathPrograms.of(bind(model, batch).bound_to(batch), None, vectorised=True)
        density = PathDensity(path, "prior")
        density(z, B)
    ours, theirs = partial(density, z, B), [partial(loop, model, x, z) for loop in (by_datum, by_chain)]
    ratios: list[list[float]] = [[], []]
    for _ in range(rounds):
        own = cpu_seconds(ours, 50)
        for loop, found in zip(theirs, ratios, strict=True):
            found.append(cpu_seconds(loop) / own)
    off = float((ours().gradient - by_datum(model, x, z)).abs().max())
    by_datum_and_chain = " | ".join(quartiles(found, ".3g") for found in ratios)
    return f"| {name} | {CHAINS} x {data} | {by_datum_and_chain} | {off:.1g} |"


def main() -> None:
    """Print a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pyro.enable_validation(False)
    print("| network | chains x data | loop over chains and data | loop over chains | gradients differ by |")
    print("|---|---|---|---|---|")
    for name in NETWORKS:
        print(row(name, given.rounds), flush=True)


if __name__ == "__main__":
    main()
