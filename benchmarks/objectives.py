"""Objectives of several particles in a graph or compiled, beside the same computation hand-written in PyTorch.

784-400-20 with ReLU, batch 128, float32, Adam (fused), one thread. In each round every variant takes the same number of
steps in turn; the cost is CPU time, the ratio is pvae's to raw PyTorch's in that round. VIMCO has 20 coins in place of
20 Normals. The goals for IWAE of 5 particles are at most 0.59 (graph) and 0.53 (compile) where the products of torch
are slow. The script removes the variables that slow NumPy's BLAS.

    python benchmarks/objectives.py [--rounds 9] [--seconds 1.0] [--step graph|compile] [--cases iwae-5]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from environment import restart_without_slowing_variables
from timing import cpu_seconds, quartiles
from torch import Tensor, nn
from torch.nn import functional

import pvae
from pvae.batch import Batch
from pvae.models import bind, scope
from pvae.products import ProductChoices
from pvae.train.compiled.compiled_steps import CompiledSteps
from pvae.train.computation import Computation
from pvae.train.optimisers import make_optimiser
from pvae.train.parameters import Parameters
from pvae.train.step import Stepper

PIXELS, HIDDEN, LATENT, BATCH = 784, 400, 20, 128


class Net(pvae.LatentModel):
    """The VAE of the benchmark; with `coins` its latent units are Bernoulli."""

    def __init__(self, coins: bool = False) -> None:
        super().__init__()
        self.coins = coins
        self.encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU())
        self.head = nn.Linear(HIDDEN, LATENT if coins else 2 * LATENT)
        self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS))

    def latent(self, x: Tensor) -> Any:
        if self.coins:
            return dist.Bernoulli(logits=self.head(self.encoder(x))).to_event(1)
        loc, log_scale = self.head(self.encoder(x)).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            zeros = x.new_zeros(len(x), LATENT)
            prior = dist.Bernoulli(logits=zeros) if self.coins else dist.Normal(zeros, 1.0)
            z = pyro.sample("z", prior.to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.latent(x))


def likelihood(net: Net, z: Tensor, x: Tensor) -> Tensor:
    """log p(x given z), shape (particles, batch)."""
    logits = net.decoder(z)
    return -functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)


def raw_iwae(net: Net, x: Tensor, particles: int) -> Tensor:
    """Minus the importance-weighted bound, a mean over data."""
    loc, log_scale = net.head(net.encoder(x)).chunk(2, -1)
    noise = torch.randn(particles, *loc.shape)
    z = loc + log_scale.exp() * noise
    log_w = likelihood(net, z, x) - 0.5 * z.square().sum(-1) + (0.5 * noise.square() + log_scale).sum(-1)
    return -(torch.logsumexp(log_w, 0) - math.log(particles)).mean()


def raw_dreg(net: Net, x: Tensor, particles: int) -> Tensor:
    """The surrogate of the doubly reparameterised gradient, as its authors write it: with a hook on z."""
    loc, log_scale = net.head(net.encoder(x)).chunk(2, -1)
    scale = log_scale.exp()
    z = loc + scale * torch.randn(particles, *loc.shape)
    fixed, fixed_scale = loc.detach(), scale.detach()
    log_q = (-0.5 * ((z - fixed) / fixed_scale).square() - fixed_scale.log()).sum(-1)
    log_w = likelihood(net, z, x) - 0.5 * z.square().sum(-1) - log_q
    share = torch.softmax(log_w.detach(), 0)
    z.register_hook(lambda gradient: gradient * share.unsqueeze(-1))
    return -(share * log_w).sum(0).mean()


def raw_vimco(net: Net, x: Tensor, particles: int) -> Tensor:
    """The surrogate of VIMCO, geometric."""
    logits = net.head(net.encoder(x))
    with torch.no_grad():
        z = torch.bernoulli(torch.sigmoid(logits).expand(particles, *logits.shape))
    log_q = -functional.binary_cross_entropy_with_logits(logits.expand_as(z), z, reduction="none").sum(-1)
    log_w = likelihood(net, z, x) - LATENT * math.log(2.0) - log_q
    bound = torch.logsumexp(log_w, 0)
    with torch.no_grad():
        others = (log_w.sum(0) - log_w) / (particles - 1)
        swapped = torch.where(torch.eye(particles, dtype=torch.bool).unsqueeze(-1), others, log_w.unsqueeze(1))
        signal = bound - torch.logsumexp(swapped, 1)
    return -(bound + (signal * log_q).sum(0) - (signal * log_q).sum(0).detach()).mean()


CASES: dict[str, tuple[Callable[[int], pvae.Objective], Callable[..., Tensor], int, bool]] = {
    **{f"iwae-{k}": (pvae.IWAE, raw_iwae, k, False) for k in (1, 5, 8, 64)},
    **{f"dreg-{k}": (pvae.DReG, raw_dreg, k, False) for k in (1, 8, 64)},
    "vimco-8": (pvae.VIMCO, raw_vimco, 8, True),
}


def raw_step(net: Net, loss: Callable[..., Tensor], particles: int) -> Callable[[Tensor], None]:
    """A step as a person writes it."""
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)

    def step(x: Tensor) -> None:
        optimiser.zero_grad()
        loss(net, x, particles).backward()
        optimiser.step()

    return step


def pvae_step(net: Net, objective: pvae.Objective, x: Tensor, how: str) -> Callable[[Tensor], Any]:
    """A step as `pvae.fit` takes it, traced to a graph or compiled."""
    batch = Batch(x=x)
    programs = bind(net, batch)
    objective.terms(programs.model, programs.guide, (x,), {}, "all")
    parameters = Parameters(net, programs, objective, batch)
    optimiser = make_optimiser("adam", {"all": parameters.of("all")}, 1e-3)
    stepper = Stepper(
        Computation(programs, objective, parameters),
        optimiser,
        graph=True,
        products=ProductChoices(),
        compiled=CompiledSteps(how, optimiser, None),
    )
    for _ in range(3):
        stepper(batch)
    if stepper.how != how:
        raise SystemExit(f"the steps run by {stepper.how!r}, and {how!r} was to be measured; {stepper.fallback}")
    return lambda data: stepper(Batch(x=data))


def measure(name: str, rounds: int, seconds: float, how: str) -> list[float]:
    """The ratio of pvae to raw PyTorch in each round."""
    make, loss, particles, coins = CASES[name]
    x = torch.rand(BATCH, PIXELS).round()
    nets = Net(coins), Net(coins)
    with scope(nets[0]):
        ours = partial(pvae_step(nets[0], make(particles), x, how), x)
        theirs = partial(raw_step(nets[1], loss, particles), x)
        steps = max(2, int(seconds / cpu_seconds(theirs, 3)))
        cpu_seconds(ours, steps), cpu_seconds(theirs, steps)
        ratios = []
        for number in range(rounds):
            order = (ours, theirs) if number % 2 else (theirs, ours)
            seconds_of = {step: cpu_seconds(step, steps) for step in order}
            ratios.append(seconds_of[ours] / seconds_of[theirs])
    return ratios


def main() -> None:
    """Print a row for each case: the median ratio, its quartiles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="of raw PyTorch, a round")
    parser.add_argument("--step", default="graph", choices=("graph", "compile"))
    parser.add_argument("--cases", default=",".join(CASES))
    options = parser.parse_args()
    restart_without_slowing_variables()
    unknown = [name for name in options.cases.split(",") if name not in CASES]
    if unknown:
        parser.error(f"unknown case {unknown[0]!r}; known: {', '.join(CASES)}")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| objective | CPU time to raw PyTorch |\n|---|---|")
    for name in options.cases.split(","):
        ratios = measure(name, options.rounds, options.seconds, options.step)
        print(f"| {name} | {quartiles(ratios)} |", flush=True)


if __name__ == "__main__":
    main()
