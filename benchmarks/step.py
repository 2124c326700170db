"""Seconds per training step: pvae beside hand-written PyTorch and beside `SVI.step` as in Pyro's tutorials.

One thread, float32, batch 128, Adam, the same network everywhere. The variants take turns in one process, in rounds of
steps; each round's CPU time gives a ratio to raw PyTorch in the same round, and the table shows the median ratio with
its quartiles. Above 1 is faster than raw PyTorch.

    python benchmarks/step.py [--rounds 15] [--networks mlp,small,conv] [--objective elbo|iwae] [--device cuda]
"""

from __future__ import annotations

import argparse
import contextlib
import math
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator

import pyro
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from torch import Tensor
from torch.nn import functional

import pvae
from pvae.models import bind, scope
from pvae.objectives import adapt
from pvae.train.computation import Computation
from pvae.train.optimisers import make_optimiser
from pvae.train.parameters import Parameters
from pvae.train.step import Stepper

BATCH = 128
#: name -> (settings of pvae.VAE, steps in a round)
NETWORKS = {
    "mlp": ({"data_shape": (784,), "hidden": (400,), "latent": 20, "activation": "relu"}, 40),
    "small": ({"data_shape": (64,), "hidden": (64,), "latent": 8, "activation": "relu"}, 250),
    "conv": ({"data_shape": (1, 28, 28), "network": "conv", "hidden": (32, 64), "latent": 32}, 6),
}
Step = Callable[[Tensor], object]


def raw_loss(model: pvae.VAE, x: Tensor, particles: int) -> Tensor:
    """The loss of the same modules as a person writes it in PyTorch, without Pyro."""
    heads = model.posterior
    hidden = model.encoder(x)
    loc, log_scale = heads.loc(hidden), heads.log_scale(hidden)
    noise = torch.randn(particles, *loc.shape, device=x.device) if particles > 1 else torch.randn_like(loc)
    z = loc + log_scale.exp() * noise
    logits = model.likelihood.head(model.decoder(z))
    target = x.expand(particles, *x.shape) if particles > 1 else x
    event = tuple(range(z.dim() - 1, logits.dim()))
    likelihood = -functional.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(event)
    if particles == 1:
        kl = 0.5 * (loc**2 + (2 * log_scale).exp() - 1 - 2 * log_scale).sum(-1)
        return (kl - likelihood).mean()
    log_w = likelihood + (-0.5 * z**2 + 0.5 * noise**2 + log_scale).sum(-1)
    return -(log_w.logsumexp(0) - math.log(particles)).mean()


def raw(model: pvae.VAE, particles: int) -> Step:
    """Hand-written PyTorch, eager, with one fused Adam."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step(x: Tensor) -> Tensor:
        optimiser.zero_grad()
        loss = raw_loss(model, x, particles)
        loss.backward()
        optimiser.step()
        return loss

    return step


def tutorial(model: pvae.VAE, particles: int) -> Step:
    """`SVI.step` as Pyro's tutorials write it: modules registered by name, validation as it comes."""

    def program(method: Callable[..., object]) -> Step:
        def run(x: Tensor) -> object:
            pyro.module("vae", model)
            return method.__wrapped__(model, x)  # the method as it was written, without pvae's registration

        return run

    loss = Trace_ELBO() if particles == 1 else RenyiELBO(alpha=0, num_particles=particles, vectorize_particles=True)
    model_program, guide_program = program(type(model).model), program(type(model).guide)
    return SVI(model_program, guide_program, pyro.optim.Adam({"lr": 1e-3}), loss=loss).step


def ours(model: pvae.VAE, particles: int, x: Tensor, graph: bool) -> Step:
    """What `pvae.fit` runs for each batch."""
    objective = adapt(Trace_ELBO() if particles == 1 else pvae.IWAE(particles))
    batch = {"x": x}
    programs = bind(model, batch)
    parameters = Parameters(model, programs, objective, batch)
    optimiser = make_optimiser("adam", {player: parameters.of(player) for player in parameters.players}, 1e-3)
    stepper = Stepper(Computation(programs, objective, parameters), optimiser, graph=graph)
    return lambda x: stepper({"x": x})


@contextlib.contextmanager
def variants(network: str, particles: int, device: str) -> Iterator[tuple[dict[str, Step], Tensor, int]]:
    """Each variant with a fresh copy of the same network, warmed up."""
    settings, steps = NETWORKS[network]
    x = torch.rand(BATCH, math.prod(settings["data_shape"]), device=device).round()

    def fresh() -> pvae.VAE:
        torch.manual_seed(0)
        return pvae.VAE(output_bias=None, **settings).to(device)

    shaped = x.reshape(BATCH, *settings["data_shape"]) if network == "conv" else x
    with contextlib.ExitStack() as stack:
        owners = [fresh() for _ in range(4)]
        for owner in owners[1:]:
            stack.enter_context(scope(owner))
        made = {
            "raw PyTorch": raw(owners[0], particles),
            "SVI.step": tutorial(owners[1], particles),
            "pvae eager": ours(owners[2], particles, shaped, graph=False),
            "pvae graph": ours(owners[3], particles, shaped, graph=True),
        }
        for step in made.values():
            for _ in range(5):
                step(shaped)
        yield made, shaped, steps


def measure(network: str, particles: int, rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds per step of each variant in each round."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {}
    with variants(network, particles, device) as (made, x, steps):
        for _ in range(rounds):
            for name, step in made.items():
                if device != "cpu":
                    torch.cuda.synchronize()
                begun = clock()
                for _ in range(steps):
                    step(x)
                if device != "cpu":
                    torch.cuda.synchronize()
                seconds.setdefault(name, []).append((clock() - begun) / steps)
    return seconds


def rows(seconds: dict[str, list[float]], peer: str) -> Iterator[str]:
    """A line per variant: median milliseconds and the ratio of the peer's time to its own."""
    for name, values in seconds.items():
        ratios = sorted(theirs / mine for theirs, mine in zip(seconds[peer], values, strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4)
        yield f"| {name} | {statistics.median(values) * 1e3:.3f} | {middle:.2f} ({low:.2f} to {high:.2f}) |"


def main() -> None:
    """Print one table per network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--networks", default="mlp,small")
    parser.add_argument("--objective", choices=("elbo", "iwae"), default="elbo")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    particles = 1 if given.objective == "elbo" else 5
    where = torch.cuda.get_device_name() if given.device != "cpu" else f"{platform.machine()}, one thread"
    print(f"torch {torch.__version__}, pyro {pyro.__version__}, {where}; {given.objective}, {particles} particles")
    for network in given.networks.split(","):
        seconds = measure(network, particles, given.rounds, given.device)
        for peer in ("raw PyTorch", "SVI.step"):
            print(f"\n{network}: times faster than {peer} (median and quartiles of {given.rounds} rounds)\n")
            print(f"| variant | ms a step | ratio to {peer} |\n|---|---|---|")
            print("\n".join(rows(seconds, peer)))


if __name__ == "__main__":
    main()
