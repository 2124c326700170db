"""The log evidence by importance sampling, beside the same computation hand-written in PyTorch.

784-400-20 with ReLU, float32, 1000 particles, 10 data at a time, one thread. In each round every variant evaluates the
same data in turn; the cost is CPU time, the ratio is that of PyTorch to that of pvae in the round. pvae also computes
Pareto k-hat, the effective sample sizes and the bias. The goal is at least 1.7 with the fastest products.

    python benchmarks/evaluate.py [--data 200 1000] [--rounds 7]
"""

from __future__ import annotations

import argparse
import math
import warnings

import torch
from environment import restart_without_slowing_variables
from objectives import PIXELS, Net, likelihood
from timing import cpu_seconds, quartiles
from torch import Tensor

import pvae
from pvae.products.machine_identity import machine_identity

PARTICLES, DATA_AT_ONCE = 1000, 10


@torch.no_grad()
def by_hand(net: Net, x: Tensor) -> float:
    """Return the mean log evidence, in nats per datum."""
    parts = []
    for part in x.split(DATA_AT_ONCE):
        loc, log_scale = net.head(net.encoder(part)).chunk(2, -1)
        noise = torch.randn(PARTICLES, *loc.shape)
        z = loc + log_scale.exp() * noise
        log_w = likelihood(net, z, part) - 0.5 * z.square().sum(-1) + (0.5 * noise.square() + log_scale).sum(-1)
        parts.append(torch.logsumexp(log_w, 0) - math.log(PARTICLES))
    return float(torch.cat(parts).mean())


def ratios(count: int, rounds: int) -> dict[str, list[float]]:
    """Return the ratios of each variant by its name, one for each round."""
    torch.manual_seed(0)
    net = Net()
    x = (torch.rand(count, PIXELS) < 0.3).float()
    variants = {matmul: lambda matmul=matmul: evidence(net, x, matmul) for matmul in ("auto", "aten")}
    for compute in variants.values():  # the products are timed, and the modules of the tracer are imported
        compute()
    found: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        hand = cpu_seconds(lambda: by_hand(net, x))
        for name, compute in variants.items():
            found[name].append(hand / cpu_seconds(compute))
    return found


def evidence(net: Net, x: Tensor, matmul: str) -> float:
    """Return the log evidence by pvae, in nats per datum."""
    return pvae.evaluate.log_evidence(net, x, PARTICLES, chunk=PARTICLES * DATA_AT_ONCE, matmul=matmul).value


def main() -> None:
    """Print a table of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # an untrained guide has unreliable weights
    print(machine_identity())
    print("| data | products | PyTorch / pvae |\n|---|---|---|")
    for count in options.data:
        for name, values in ratios(count, options.rounds).items():
            print(f"| {count} | {name} | {quartiles(values)} |", flush=True)


if __name__ == "__main__":
    restart_without_slowing_variables()
    main()
