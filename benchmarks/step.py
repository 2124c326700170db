"""Seconds per training step: pvae beside hand-written PyTorch and beside `SVI.step` as in Pyro's tutorials.

One thread, float32, batch 128, Adam, the same network everywhere. The variants take turns in one process, in rounds of
steps; each round's CPU time gives a ratio to raw PyTorch in the same round, and the table shows the median ratio with
its quartiles. Above 1 is faster than raw PyTorch. "raw compiled" is the loss of hand-written PyTorch, compiled by
`torch.compile`, with the fused Adam outside.

All variants run after `pvae.memory.keep_freed_memory`, as `pvae.fit` calls it; `--returns-memory` leaves it out.
The variables OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE are removed first, because they choose slower code of NumPy's BLAS.

    python benchmarks/step.py [--rounds 15] [--networks mlp,small,conv] [--objective elbo|iwae] [--device cuda]
                              [--variants "raw PyTorch,pvae graph,pvae compile"] [--numpyro FOLDER] [--pythae FOLDER]

With --numpyro, NumPyro's `lax.scan` over the steps is measured in a process of its own, in the same rounds, and with
--pythae the training of pythae: by its `BaseTrainer` with its loader and its default Adam, and on one batch without the
loader and with fused Adam. FOLDER is the environment of the library, which is made at first use by venv and pip.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pyro
import torch
from environment import restart_without_slowing_variables
from peer_process import PeerProcess
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from timing import quartiles
from torch import Tensor
from torch.nn import functional

import pvae
from pvae.memory import keep_freed_memory
from pvae.models import bind, scope
from pvae.objectives import adapt
from pvae.products import ProductChoices
from pvae.train.compiled.compiled_steps import CompiledSteps
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


def raw(model: pvae.VAE, particles: int, compiles: bool = False) -> Step:
    """Hand-written PyTorch, eager or with a compiled loss, and one fused Adam."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    loss_of = torch.compile(raw_loss) if compiles else raw_loss

    def step(x: Tensor) -> Tensor:
        optimiser.zero_grad()
        loss = loss_of(model, x, particles)
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


def ours(model: pvae.VAE, particles: int, x: Tensor, step: str, matmul: str = "auto") -> Step:
    """What `pvae.fit` runs for each batch."""
    objective = adapt(Trace_ELBO() if particles == 1 else pvae.IWAE(particles))
    batch = {"x": x}
    programs = bind(model, batch)
    parameters = Parameters(model, programs, objective, batch)
    optimiser = make_optimiser("adam", {player: parameters.of(player) for player in parameters.players}, 1e-3)
    stepper = Stepper(
        Computation(programs, objective, parameters),
        optimiser,
        graph=step != "eager",
        products=ProductChoices(matmul),
        compiled=CompiledSteps(step, optimiser, None),
    )
    for _ in range(3):
        stepper({"x": x})
    if stepper.how != step:
        raise SystemExit(f"the steps run by {stepper.how!r}, and {step!r} was to be measured")
    return lambda x: stepper({"x": x})


#: name -> function of the model, the particles and a batch that returns the step
VARIANTS: dict[str, Callable[[pvae.VAE, int, Tensor], Step]] = {
    "raw PyTorch": lambda model, particles, x: raw(model, particles),
    "raw compiled": lambda model, particles, x: raw(model, particles, compiles=True),
    "SVI.step": lambda model, particles, x: tutorial(model, particles),
    "pvae eager": lambda model, particles, x: ours(model, particles, x, "eager"),
    "pvae graph of aten": lambda model, particles, x: ours(model, particles, x, "graph", "aten"),
    "pvae graph": lambda model, particles, x: ours(model, particles, x, "graph"),
    "pvae compile": lambda model, particles, x: ours(model, particles, x, "compile"),
}


@contextlib.contextmanager
def variants(
    names: list[str], network: str, particles: int, device: str
) -> Iterator[tuple[dict[str, Step], Tensor, int]]:
    """Each variant with a fresh copy of the same network, warmed up."""
    settings, steps = NETWORKS[network]
    x = torch.rand(BATCH, math.prod(settings["data_shape"]), device=device).round()

    def fresh() -> pvae.VAE:
        torch.manual_seed(0)
        return pvae.VAE(output_bias=None, **settings).to(device)

    shaped = x.reshape(BATCH, *settings["data_shape"]) if network == "conv" else x
    with contextlib.ExitStack() as stack:
        made = {}
        for name in names:
            owner = fresh()
            if name.startswith(("pvae", "SVI")):
                stack.enter_context(scope(owner))
            made[name] = VARIANTS[name](owner, particles, shaped)
        for step in made.values():
            for _ in range(5):
                step(shaped)
        yield made, shaped, steps


def start_peers(given: argparse.Namespace, network: str, particles: int) -> dict[str, PeerProcess]:
    """Start the other libraries that are asked for, each in an environment of its own, with the same network."""
    settings, _ = NETWORKS[network]
    if network == "conv":
        return {}
    sizes = (math.prod(settings["data_shape"]), settings["hidden"][0], settings["latent"], particles)
    arguments = [str(size) for size in sizes]
    here = Path(__file__).parent
    peers = {}
    if given.numpyro is not None:
        peers["NumPyro"] = PeerProcess(here / "numpyro_step.py", ["numpyro", "jax"], given.numpyro, arguments)
    if given.pythae is not None:
        packages = ["pythae", f"torch=={torch.__version__.partition('+')[0]}"]
        memory = [] if given.returns_memory else ["keep-memory"]
        for name, what in {"pythae, its trainer": "trainer", "pythae, one batch": "batch"}.items():
            script = here / "pythae_step.py"
            peers[name] = PeerProcess(script, packages, given.pythae, [*arguments, what, *memory])
    return peers


def measure(
    names: list[str], network: str, particles: int, rounds: int, device: str, peers: dict[str, PeerProcess]
) -> dict[str, list[float]]:
    """Seconds per step of each variant in each round."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {}
    with variants(names, network, particles, device) as (made, x, steps):
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
            for name, peer in peers.items():
                seconds.setdefault(name, []).append(peer.seconds(steps))
    return seconds


def rows(seconds: dict[str, list[float]], peer: str) -> Iterator[str]:
    """A line per variant: median milliseconds and the ratio of the peer's time to its own."""
    for name, values in seconds.items():
        ratios = [theirs / mine for theirs, mine in zip(seconds[peer], values, strict=True)]
        yield f"| {name} | {statistics.median(values) * 1e3:.3f} | {quartiles(ratios)} |"


def main() -> None:
    """Print one table per network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--networks", default="mlp,small")
    parser.add_argument("--objective", choices=("elbo", "iwae"), default="elbo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--numpyro", type=Path, help="the folder of NumPyro's environment")
    parser.add_argument("--pythae", type=Path, help="the folder of pythae's environment")
    parser.add_argument("--returns-memory", action="store_true", help="do not keep freed memory")
    given = parser.parse_args()
    restart_without_slowing_variables()
    torch.set_num_threads(1)
    if not given.returns_memory:
        keep_freed_memory()
    warnings.simplefilter("ignore")
    particles = 1 if given.objective == "elbo" else 5
    processor = ProductChoices().machine["processor"]
    where = torch.cuda.get_device_name() if given.device != "cpu" else f"{processor}, one thread"
    print(f"torch {torch.__version__}, pyro {pyro.__version__}, {where}; {given.objective}, {particles} particles")
    for network in given.networks.split(","):
        names = given.variants.split(",")
        peers = start_peers(given, network, particles)
        for name, peer in peers.items():
            print(f"{name}: {peer.versions()}")
        seconds = measure(names, network, particles, given.rounds, given.device, peers)
        print(f"load averages after {network}: {', '.join(f'{load:.1f}' for load in os.getloadavg())}")
        for divided in [name for name in ("raw PyTorch", "SVI.step") if name in names]:
            print(f"\n{network}: times faster than {divided} (median and quartiles of {given.rounds} rounds)\n")
            print(f"| variant | ms a step | ratio to {divided} |\n|---|---|---|")
            print("\n".join(rows(seconds, divided)))


if __name__ == "__main__":
    main()
