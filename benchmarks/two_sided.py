"""MNIST in a short budget: eight objectives, each evaluated by importance sampling, by AIS and from both sides.

One stochastic layer 784-200-200-50, tanh, Glorot, Adam 1e-3, batch 100, dynamic binarisation, no validation split, the
last parameters. All rows have the same test images, drawn at random with seed 0. Each cell keeps its result in a
folder; an interrupted benchmark continues from there.

    PVAE_DATA=... python benchmarks/two_sided.py [--epochs 5] [--seeds 0,1,2] [--images 100] [--temperatures 200]
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
    if (folder / "config.toml").exists():  # an interrupted training
        command += " --resume"
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
        "is_bias": sampled.bias.pointwise.tolist(),
        "is_margin": sampled.bias.margin,
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


def mean_of(records: list[dict[str, Any]], name: str) -> float:
    """The mean over all seeds and data."""
    return float(stacked(records, name).mean())


def sampled_differences(results: dict[str, list[dict[str, Any]]]) -> dict[str, tuple[str, str]]:
    """For each row but the first: the difference by importance sampling without the biases, and the conclusion."""
    corrected = {name: stacked(records, "is") - stacked(records, "is_bias") for name, records in results.items()}
    margins = {name: mean_of(records, "is_margin") for name, records in results.items()}
    found = {name: estimate_difference(values - corrected["elbo"]) for name, values in corrected.items()}
    del found["elbo"]
    adjusted = adjust_by_holm(torch.tensor([float(difference.p_value) for difference in found.values()])).tolist()
    return {
        name: (
            interval(float(difference.value), float(difference.error)),
            conclude(float(difference.value), p_value, max(margins["elbo"], margins[name])),
        )
        for (name, difference), p_value in zip(found.items(), adjusted, strict=True)
    }


def bracket_differences(results: dict[str, list[dict[str, Any]]]) -> dict[str, tuple[str, str, str]]:
    """For each row but the first: the difference by brackets, its adjusted p-value, and the conclusion."""
    first = bracket(results["elbo"])
    found = {name: BracketDifference(bracket(records), first) for name, records in results.items() if name != "elbo"}
    p_values = [difference.p_value for difference in found.values()]
    middles = [float(estimate_difference(difference.middle()).p_value) for difference in found.values()]
    adjusted, of_middles = (adjust_by_holm(torch.tensor(values)).tolist() for values in (p_values, middles))
    return {
        name: (
            " to ".join(interval(float(end.value), float(end.error)) for end in (both.lower, both.upper)),
            f"{p_value:.3f}",
            conclude(float(both.lower.value), p_value, None, middle),
        )
        for (name, both), p_value, middle in zip(found.items(), adjusted, of_middles, strict=True)
    }


def shortfall_differences(results: dict[str, list[dict[str, Any]]]) -> dict[str, tuple[str, str]]:
    """For each row but the first: by how much more importance sampling is below AIS than in the first row; p-value."""
    shortfalls = {name: stacked(records, "lower") - stacked(records, "is") for name, records in results.items()}
    found = {name: estimate_difference(values - shortfalls["elbo"]) for name, values in shortfalls.items()}
    del found["elbo"]
    adjusted = adjust_by_holm(torch.tensor([float(difference.p_value) for difference in found.values()])).tolist()
    return {
        name: (interval(float(difference.value), float(difference.error)), f"{p_value:.3f}")
        for (name, difference), p_value in zip(found.items(), adjusted, strict=True)
    }


def estimates_table(results: dict[str, list[dict[str, Any]]]) -> str:
    """The estimates of all objectives as a table in Markdown; the gap on test images is upper minus lower."""
    lines = [
        "| objective | IS | bias of IS (margin) | AIS, lower | upper (approximate) | gap on simulated images "
        "| k-hat above its limit |\n" + "|---" * 7 + "|"
    ]
    for objective, records in results.items():
        gap = statistics.mean(record["simulated_gap"]["value"] for record in records)
        noise = math.sqrt(sum(record["simulated_noise"] ** 2 for record in records)) / len(records)
        unreliable = statistics.mean(record["khat"]["unreliable"] for record in records)
        cells = [
            f"{mean_of(records, 'is'):.2f}",
            f"{mean_of(records, 'is_bias'):.2f} ({mean_of(records, 'is_margin'):.2f})",
            f"{mean_of(records, 'lower'):.2f}",
            f"{mean_of(records, 'upper'):.2f}",
            f"{gap:.2f} ± {noise:.2f}",
            f"{unreliable:.0%}",
        ]
        lines.append(f"| `{objective}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def differences_table(results: dict[str, list[dict[str, Any]]]) -> str:
    """The differences to the first objective as a table in Markdown.

    The conclusions are those of `pvae compare`: Student's t over data and seeds, adjusted by Holm for all rows.
    """
    lines = [
        "| objective | difference by IS, without bias | by IS | difference by brackets | p-value | by brackets "
        "| AIS minus IS, compared | p-value |\n" + "|---" * 8 + "|"
    ]
    columns = (sampled_differences(results), bracket_differences(results), shortfall_differences(results))
    for objective in columns[0]:
        cells = [cell for column in columns for cell in column[objective]]
        lines.append(f"| `{objective}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train all cells and evaluate them, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--temperatures", type=int, default=200)
    parser.add_argument("--images", type=int, default=100)
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
        print(f"\nup to seed {seed}:\n\n{estimates_table(results)}\n\n{differences_table(results)}\n", flush=True)


if __name__ == "__main__":
    main()
