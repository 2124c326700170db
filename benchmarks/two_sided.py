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
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pvae
from pvae import evaluate
from pvae.cli import cli
from pvae.comparison.table.bracket_difference import Bracket, BracketDifference
from pvae.comparison.table.conclusions import conclude
from pvae.comparison.table.row_difference import estimate_difference
from pvae.evaluate.holm import adjust_by_holm

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


def stacked(records: list[dict[str, Any]], name: str) -> Tensor:
    """The values of all seeds and data, shape (seeds, data)."""
    return torch.tensor([record[name] for record in records], dtype=torch.float64)


def bracket(records: list[dict[str, Any]]) -> Bracket:
    """The lower and upper estimates of a row."""
    return Bracket.of(stacked(records, "lower"), stacked(records, "upper"))


def interval(value: float, error: float) -> str:
    """A difference with its standard error."""
    return f"{value:+.2f} ± {error:.2f}"


def differences(results: dict[str, list[dict[str, Any]]]) -> dict[str, tuple[str, str, str]]:
    """For each row but the first: the difference by IS, that of the brackets, and what the brackets show.

    The conclusions are those of `pvae compare`: Student's t over data and seeds, adjusted by Holm for all rows.
    """
    reference, rows = results["elbo"], {name: rows for name, rows in results.items() if name != "elbo"}
    shown, p_values, middles = {}, [], []
    for name, records in rows.items():
        first = reference[: len(records)]
        sampled = estimate_difference(stacked(records, "is") - stacked(first, "is"))
        both = BracketDifference(bracket(records), bracket(first))
        ends = [interval(float(end.value), float(end.error)) for end in (both.lower, both.upper)]
        shown[name] = interval(float(sampled.value), float(sampled.error)), " to ".join(ends), both
        p_values.append(both.p_value)
        middles.append(float(estimate_difference(both.middle()).p_value))
    adjusted, of_middles = (adjust_by_holm(torch.tensor(values)).tolist() for values in (p_values, middles))
    return {
        name: (by_sampling, ends, conclude(float(both.lower.value), p_value, None, middle))
        for (name, (by_sampling, ends, both)), p_value, middle in zip(shown.items(), adjusted, of_middles, strict=True)
    }


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """The rows of all objectives as a table in Markdown."""
    head = (
        "| objective | seeds | IS | AIS, lower | upper (approximate) | gap on simulated images | difference by IS "
        "| difference by brackets | conclusion |\n" + "|---" * 9 + "|"
    )
    lines = [head]
    compared = differences(results)
    for objective, records in results.items():
        cells = [str(len(records))] + [
            f"{float(stacked(records, name).mean()):.2f}" for name in ("is", "lower", "upper")
        ]
        gap = statistics.mean(record["simulated_gap"]["value"] for record in records)
        noise = math.sqrt(sum(record["simulated_noise"] ** 2 for record in records)) / len(records)
        cells += [f"{gap:.2f} ± {noise:.2f}", *compared.get(objective, ("first row",) * 3)]
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
