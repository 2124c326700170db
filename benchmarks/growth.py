"""How time and memory grow with data, particles and epochs, with the figures of the documentation.

Each measurement is a process of its own with one thread: a training of 784-100-10 by the ELBO, or the log evidence. The
cost is CPU time, without the imports and the first epoch. Memory is the most that the process held, imports included. A
straight line through 0 means time in proportion; a flat line, constant memory.

    python benchmarks/growth.py [--rounds 1] [--out docs/figures/growth.png]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

import pvae

PIXELS = 784
#: For each figure, the sizes that are measured.
SIZES = {
    "data": (2000, 4000, 8000, 16000),
    "epochs": (2, 4, 8, 16),
    "particles of training": (4, 8, 16, 32),
    "particles of evaluation": (500, 1000, 2000, 4000),
}
LABELS = {
    "data": "training data (2 epochs)",
    "epochs": "epochs (2000 data)",
    "particles of training": "particles of iwae (2000 data)",
    "particles of evaluation": "particles of log_evidence (100 data)",
}


def train(data: int, epochs: int, particles: int) -> float:
    """Return the CPU time of a training after its first epoch, for as many epochs as asked, in seconds."""
    x = (torch.rand(data, PIXELS, generator=torch.Generator().manual_seed(0)) < 0.3).to(torch.float32)
    splits = pvae.load_data(x, binarise="none", validation=0, test=0)
    ends = []
    pvae.fit(
        "vae:latent=10:hidden=100",
        splits,
        objective="elbo" if particles == 1 else f"iwae:particles={particles}",
        epochs=epochs + 1,
        matmul="aten",
        step="graph",
        device="cpu",
        progress=False,
        callbacks=[lambda record, model: ends.append(time.process_time())],
    )
    return ends[-1] - ends[0]


def evaluate(particles: int) -> float:
    """Return the CPU time of the log evidence of 100 data after a first run, in seconds."""
    x = (torch.rand(100, PIXELS, generator=torch.Generator().manual_seed(0)) < 0.3).to(torch.float32)
    batch = pvae.load_data(x, binarise="none", validation=0, test=0).train
    torch.manual_seed(0)
    model = pvae.VAE((PIXELS,), latent=10, hidden=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pvae.evaluate.log_evidence(model, batch, particles=100, matmul="aten")
        begun = time.process_time()
        pvae.evaluate.log_evidence(model, batch, particles=particles, matmul="aten")
        return time.process_time() - begun


def measure(figure: str, size: int) -> dict[str, float]:
    """Return the CPU time in seconds and the most memory in MB of one measurement in this process."""
    torch.set_num_threads(1)
    calls: dict[str, Any] = {
        "data": lambda: train(size, 2, 1),
        "epochs": lambda: train(2000, size, 1),
        "particles of training": lambda: train(2000, 2, size),
        "particles of evaluation": lambda: evaluate(size),
    }
    spent = calls[figure]()
    return {"seconds": spent, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def measured(figure: str, size: int) -> dict[str, float]:
    """Return what `measure` finds in a process of its own."""
    command = [sys.executable, __file__, "--measure", figure, str(size)]
    return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]))


def slope(sizes: tuple[int, ...], values: list[float]) -> float:
    """Return the exponent p of the line value = c size^p through the logarithms; 1 means in proportion."""
    x, y = torch.tensor(sizes).double().log(), torch.tensor(values).double().log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def draw(found: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw time and memory, a column for each figure."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(found), figsize=(3.2 * len(found), 5), constrained_layout=True)
    for column, (name, values) in enumerate(found.items()):
        sizes = SIZES[name]
        for row, (key, label) in enumerate((("seconds", "CPU time (s)"), ("megabytes", "most memory (MB)"))):
            axis = axes[row, column]
            axis.plot(sizes, values[key], "o-")
            axis.set_xlim(left=0)
            axis.set_ylim(0, 1.15 * max(values[key]))
            axis.set_xlabel(LABELS[name])
            axis.set_ylabel(label if column == 0 else "")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure all figures in rounds, print the medians and the exponents, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figure into this file")
    parser.add_argument("--measure", nargs=2, metavar=("FIGURE", "SIZE"), help="one measurement in this process")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure[0], int(arguments.measure[1]))))
        return
    rounds: dict[str, list[list[dict[str, float]]]] = {name: [] for name in SIZES}
    for _ in range(arguments.rounds):
        for name, sizes in SIZES.items():
            rounds[name].append([measured(name, size) for size in sizes])
    found = {}
    for name, sizes in SIZES.items():
        found[name] = {
            key: [statistics.median(each[key] for each in column) for column in zip(*rounds[name], strict=True)]
            for key in ("seconds", "megabytes")
        }
        times = ", ".join(f"{value:.2f}" for value in found[name]["seconds"])
        sizes_of_memory = ", ".join(f"{value:.0f}" for value in found[name]["megabytes"])
        exponent = slope(sizes, found[name]["seconds"])
        print(f"{name} {list(sizes)}: {times} s (exponent {exponent:.2f}); {sizes_of_memory} MB", flush=True)
    if arguments.out:
        draw(found, arguments.out)


if __name__ == "__main__":
    main()
