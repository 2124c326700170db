"""MNIST in a short budget: eight objectives, each evaluated by importance sampling, by AIS and from both sides.

One stochastic layer 784-200-200-50, tanh, Glorot, Adam 1e-3, batch 100, dynamic binarisation, no validation split, the
last parameters. All rows have the same test images, drawn at random with seed 0. Each cell keeps its result in a
folder; an interrupted benchmark continues from there.

    PVAE_DATA=... python benchmarks/two_sided.py [--epochs 5] [--seeds 0,1,2] [--images 50] [--temperatures 120]
        [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pvae
from pvae import evaluate
from pvae.cli import cli

OBJECTIVES = (
    "elbo",
    "stl",
    "iwae:particles=5",
    "dreg:particles=5",
    "renyi:alpha=0.5:particles=5",
    "tvo:particles=5",
    "free-bits",
    "beta:beta=0.5",
)
TRAINING = (
    "--data mnist --binarise dynamic --validation 0 --hidden 200,200 --latent 50 --activation tanh --output-bias data "
    "--batch-size 100 --threads 1 --no-progress"
)
PARTICLES, CHAINS = 1000, 4


def train(objective: str, seed: int, epochs: int, folder: Path) -> None:
    """Train one run, unless its folder says that it is complete."""
    done = folder / "trained"
    if done.exists():
        return
    command = f"train vae {TRAINING} --objective {objective} --epochs {epochs} --seed {seed} --out {folder}"
    try:
        cli.main(command.split())
    except SystemExit as ended:  # the command leaves as a process does
        if ended.code:
            raise
    done.touch()


def images(count: int) -> pvae.Batch:
    """Test images, the same for all rows."""
    test = pvae.load_data("mnist", binarise="dynamic", validation=0).test
    rows = torch.randperm(test.size, generator=torch.Generator().manual_seed(0))[:count]
    return test.take(rows)


def assess(folder: Path, batch: pvae.Batch, temperatures: int) -> dict[str, Any]:
    """The estimates of one run, from its file if it is there."""
    file = folder / f"two_sided_{batch.size}_{temperatures}.json"
    if file.exists():
        return json.loads(file.read_text())
    run = pvae.open_run(folder, checkpoint="last")
    begun = time.process_time()
    sampled = evaluate.log_evidence(run, batch, particles=PARTICLES)
    after = time.process_time()
    both = evaluate.sandwich(
        run, batch, temperatures=temperatures, chains=CHAINS, start="guide", limit=None, progress=False
    )
    simulated = both.on_simulated
    record = {
        "is": sampled.pointwise.tolist(),
        "is_bias": None if sampled.bias is None else sampled.bias.value,
        "lower": both.lower.pointwise.tolist(),
        "upper": both.upper.pointwise.tolist(),
        "khat": evaluate.diagnose(run, batch, particles=PARTICLES).to_json()["khat"],
        "lower_noise": both.lower_noise.tolist(),
        "upper_noise": both.upper_noise.tolist(),
        "simulated_gap": simulated.gap.to_json(),
        "simulated_noise": float((simulated.lower_noise.square() + simulated.upper_noise.square()).sum().sqrt())
        / simulated.count,
        "acceptance": both.acceptance,
        "cost": both.cost,
        "cpu_seconds_of_is": after - begun,
        "cpu_seconds_of_sandwich": time.process_time() - after,
    }
    file.write_text(json.dumps(record))
    return record


def mean_over_seeds(records: list[dict[str, Any]], name: str) -> Tensor:
    """The values of the data, averaged over seeds."""
    return torch.tensor([record[name] for record in records], dtype=torch.float64).mean(0)


def difference(values: Tensor, reference: Tensor) -> str:
    """The paired difference of two rows, with its standard error over images."""
    found = evaluate.difference(evaluate.mean_of(values), evaluate.mean_of(reference))
    return f"{found.value:+.2f} ± {found.error:.2f}"


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """The rows of all objectives as a table in Markdown."""
    head = (
        "| objective | IS | bias of IS | AIS, lower | upper (approximate) | gap on simulated images | difference by IS "
        "| by lower | by upper |\n" + "|---" * 9 + "|"
    )
    lines = [head]
    reference = results["elbo"]
    for objective, records in results.items():
        gap = statistics.mean(record["simulated_gap"]["value"] for record in records)
        bias = statistics.mean(record["is_bias"] for record in records)
        cells = [f"{mean_over_seeds(records, 'is').mean():.2f}", f"{bias:.2f}"]
        cells += [f"{mean_over_seeds(records, name).mean():.2f}" for name in ("lower", "upper")]
        cells.append(f"{gap:.2f}")
        for name in ("is", "lower", "upper"):
            same = objective == "elbo"
            values = mean_over_seeds(records, name), mean_over_seeds(reference, name)
            cells.append("first row" if same else difference(*values))
        lines.append(f"| `{objective}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train all cells and evaluate them, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--temperatures", type=int, default=120)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("reports/two_sided"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"training: {TRAINING} --epochs {given.epochs}; {given.temperatures} temperatures, {CHAINS} chains", flush=True
    )
    results: dict[str, list[dict[str, Any]]] = {}
    batch = images(given.images)
    for seed in map(int, given.seeds.split(",")):
        for objective in OBJECTIVES:
            folder = given.out / f"{objective.replace(':', '-')}-{seed}"
            train(objective, seed, given.epochs, folder)
            record = assess(folder, batch, given.temperatures)
            results.setdefault(objective, []).append(record)
            print(f"{objective}, seed {seed}: {record['cpu_seconds_of_sandwich']:.0f} CPU s of sandwich", flush=True)
        print(table(results), flush=True)


if __name__ == "__main__":
    main()
