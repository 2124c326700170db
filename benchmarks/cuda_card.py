"""What a CUDA card does: an epoch of MNIST, the log evidence, EM, and memory. One call takes at most 8 minutes.

Each part runs in a process of its own with a limit of time, so that a part that fails or hangs leaves the others. (The
script is not named ``cuda.py``, because torch imports a package ``cuda``.)

- ``epoch``: an epoch of 60,000 pictures, 784-400-20, batches of 256, Adam: hand-written eager PyTorch beside pvae with
  ``step="graph"`` and ``step="capture"``, in float32, TF32 and bfloat16; the goals are at most 20 ms, and 10 times the
  speed of hand-written PyTorch.
- ``agreement``: the validation bound after 5 epochs on the card, beside that on the CPU.
- ``evidence``: log p(x) of 10,000 pictures with 5000 particles; the goal is at most 1.5 s.
- ``em``: one step of EM for 1,000,000 data, 64 features, 50 full components, as a share of the card's own product rate
  in float64; the goal is at least 50 %.
- ``memory``: the most memory that a training and an evaluation allocate on the card, for 1 and 4 times the data.

The pictures are random, because times do not depend on them. Where there is no card, the script says so and ends.

    python benchmarks/cuda_card.py [--parts epoch em] [--out card.json] [--small]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import pvae

#: For each part, the most seconds that it may take; 480 in all.
LIMITS = {"epoch": 150, "agreement": 60, "evidence": 90, "em": 90, "memory": 90}
PIXELS, HIDDEN, LATENT, BATCH = 784, 400, 20, 256


def device() -> torch.device:
    """Return the card; the CPU if there is none, as for ``--small``, which tries the script."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pictures(count: int) -> Tensor:
    """Return random binary pictures, shape (count, PIXELS)."""
    return (torch.rand(count, PIXELS, generator=torch.Generator().manual_seed(0)) < 0.3).float()


def synchronise() -> None:
    """Wait for the card."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(compute: Callable[[], object]) -> float:
    """Return the time of one call by the clock, in seconds, with the work that it leaves on the card."""
    synchronise()
    begun = time.perf_counter()
    compute()
    synchronise()
    return time.perf_counter() - begun


class Net(nn.Module):
    """The network of the hand-written loop: 784-400-20 with ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS))

    def forward(self, x: Tensor) -> Tensor:
        """Return minus the ELBO of a batch, in nats per datum."""
        loc, log_scale = self.encoder(x).chunk(2, -1)
        z = loc + log_scale.exp() * torch.randn_like(loc)
        kl = 0.5 * (loc.square() + (2 * log_scale).exp() - 1).sum(-1) - log_scale.sum(-1)
        loss = functional.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum(-1)
        return (loss + kl).mean()


def eager_epochs(x: Tensor, epochs: int) -> list[float]:
    """Return the time of each epoch of the loop that one writes first, with data on the card, in seconds."""
    net = Net().to(device())
    optimiser = torch.optim.Adam(net.parameters())
    x = x.to(device())

    def epoch() -> None:
        for rows in torch.randperm(len(x), device=x.device).split(BATCH):
            optimiser.zero_grad()
            net(x[rows]).backward()
            optimiser.step()

    return [seconds(epoch) for _ in range(epochs)]


def pvae_epochs(x: Tensor, epochs: int, **options: Any) -> tuple[list[float], list[str]]:
    """Return the time of each epoch of `pvae.fit` without validation, in seconds, and its warnings."""
    splits = pvae.load_data(x, binarise="none", validation=0, test=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = pvae.fit(
            f"vae:latent={LATENT}:hidden={HIDDEN}:activation=relu",
            splits,
            objective="elbo",
            epochs=epochs,
            batch_size=BATCH,
            device=str(device()),
            progress=False,
            **options,
        )
    ends = [record["seconds"] for record in run.history if "epoch" in record]
    return [after - before for before, after in itertools.pairwise(ends)], [str(w.message) for w in caught]


def epoch(small: bool) -> dict[str, Any]:
    """Measure an epoch by hand-written PyTorch and by pvae."""
    x, epochs = pictures(1024 if small else 60_000), 3 if small else 8
    by_hand = statistics.median(eager_epochs(x, epochs)[1:])
    found: dict[str, Any] = {"hand-written, eager": by_hand}
    steps = ("graph",) if small else ("graph", "capture")
    precisions = ("float32", "bfloat16") if small else ("float32", "tf32", "bfloat16")
    for step in steps:
        for precision in precisions:
            times, warned = pvae_epochs(x, epochs, step=step, precision=precision)
            name = f"pvae, {step}, {precision}"
            found[name] = statistics.median(times)
            found[f"{name}, ratio"] = by_hand / found[name]
            if warned:
                found[f"{name}, warnings"] = warned
    return found


def agreement(small: bool) -> dict[str, Any]:
    """Train on the card and on the CPU, and return the validation bounds with their errors."""
    x = pictures(400 if small else 4000)
    splits = pvae.load_data(x, binarise="none", validation=0.25, test=0, seed=0)
    found = {}
    for name, step in ((device().type, "graph"), *([] if small else [(device().type, "capture")]), ("cpu", "graph")):
        run = pvae.fit(
            "vae:latent=8:hidden=64",
            splits,
            objective="iwae:particles=5",
            epochs=5,
            device=name,
            step=step,
            progress=False,
        )
        last = run.history[-1]
        found[f"{name}, {step}"] = [last["validation_bound"], last["validation_error"]]
    return found


def evidence(small: bool) -> dict[str, Any]:
    """Measure the log evidence of many data with many particles."""
    count, particles = (50, 100) if small else (10_000, 5000)
    splits = pvae.load_data(pictures(count), binarise="none", validation=0, test=0)
    model = pvae.VAE((PIXELS,), latent=LATENT, hidden=HIDDEN).to(device())

    def compute() -> object:
        return pvae.evaluate.log_evidence(model, splits.train, particles=particles)

    return {"seconds": [seconds(compute) for _ in range(2)], "data": count, "particles": particles}


def em(small: bool) -> dict[str, Any]:
    """Measure a step of EM beside the card's own rate of products in float64."""
    rows, features, components = (2000, 8, 3) if small else (1_000_000, 64, 50)
    x = torch.randn(rows, features, device=device(), dtype=torch.float64)
    steps = 3
    options = {"max_iter": steps, "tol": 0.0, "init_params": "random_from_data", "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = lambda count: pvae.GaussianMixture(components, **{**options, "max_iter": count}).fit(x)  # noqa: E731
        fit(1)
        once, more = seconds(lambda: fit(1)), seconds(lambda: fit(1 + steps))
    per_step = (more - once) / steps
    # Two products for each component: whitened deviations, and second moments, of 2 D^2 operations for each datum.
    operations = 4.0 * rows * components * features**2
    a = torch.randn(4096 if not small else 256, 4096 if not small else 256, device=device(), dtype=torch.float64)
    product = min(seconds(lambda: a @ a) for _ in range(5))
    rate = 2.0 * len(a) ** 3 / product
    return {
        "seconds of a step": per_step,
        "operations per second": operations / per_step,
        "share": operations / per_step / rate,
    }


def memory(small: bool) -> dict[str, Any]:
    """Return the most memory on the card, in bytes, of a training and an evaluation, for more and more data."""
    found = {}
    for factor in (1, 4):
        x = pictures((200 if small else 15_000) * factor)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        pvae_epochs(x, 2)
        most = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        found[f"{len(x)} data"] = {"training": most, "data": x.numel() * x.element_size()}
    return found


PARTS = {part.__name__: part for part in (epoch, agreement, evidence, em, memory)}


def run_part(name: str, small: bool) -> Any:
    """Run a part in a process of its own; return what it found, or why it found nothing."""
    command = [sys.executable, __file__, "--part", name, *(["--small"] if small else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMITS[name])
    except subprocess.TimeoutExpired:
        return {"failed": f"it took more than {LIMITS[name]} s"}
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run the parts and print what each found, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--part", choices=PARTS, help="run one part in this process")
    parser.add_argument("--out", type=Path, help="write the results into this file too")
    parser.add_argument("--small", action="store_true", help="try the script on few data, also without a card")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.small:
        print("no card: this machine has no CUDA device, so that nothing is measured")
        return
    if arguments.part:
        print(json.dumps(PARTS[arguments.part](arguments.small)))
        return
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no card"
    found: dict[str, Any] = {"card": card, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    for name in arguments.parts:
        found[name] = run_part(name, arguments.small)
        print(f"{name}: {json.dumps(found[name])}", flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
