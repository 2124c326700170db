"""Small trainings and comparisons that the torture tests kill, damage and start twice at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import warnings
from pathlib import Path
from typing import Any

import torch

import pvae
from pvae.train.checkpoint import read

#: how many times the usual work the tests do: `make torture` sets it
TIMES = int(os.environ.get("PVAE_TORTURE", "1"))
RECIPE = pvae.ModelSpec("vae", {"latent": 2, "hidden": (5,)})
OF_THE_CLOCK = ("seconds", "metrics_bytes", "metrics_sha256", "files")


def processes() -> Any:
    """Return a way to start processes that have imported pvae already, and have one thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torture_jobs"])
    return context


def data(validation: int = 8, test: int = 0) -> pvae.Splits:
    """Return 60 data of 6 bits."""
    x = torch.rand(60, 6, generator=torch.Generator().manual_seed(0)).round()
    return pvae.load_data(x, validation=validation, test=test, binarise="none")


def train(out: str, outcome: Any = None) -> None:
    """Train for a moment with a checkpoint after every step, or go on; send the name of the error, or ""."""
    options = {"epochs": 3, "batch_size": 16, "validation_particles": 3, "checkpoint_seconds": 0.0, "step": "eager"}
    try:
        pvae.fit(RECIPE, data(), out=out, resume=outcome is None, progress=False, **options)
    except pvae.InputError as error:
        name = str(error)
    else:
        name = ""
    if outcome is not None:
        outcome.put(name)
    elif name:
        raise RuntimeError(name)


def compare(out: str) -> None:
    """Compare two objectives for a moment, or go on."""
    options = {"epochs": 1, "batch_size": 20, "particles": 3, "workers": 0, "threads": 1, "step": "eager"}
    warnings.simplefilter("ignore")
    pvae.compare({"vae": RECIPE}, data(6, 12), ["elbo", "iwae:particles=2"], 1, out=out, progress=False, **options)


def contents_of_run(out: Path) -> dict[str, Any]:
    """Return everything that a run leaves, wall-clock times apart, as values that can be compared."""
    last, best = read(out / "last"), read(out / "best")
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {
        "tensors": {
            f"{part} {name}": tensor.tolist()
            for part, tensors in (("last", last.parameters), ("training", last.training), ("best", best.parameters))
            for name, tensor in tensors.items()
        },
        "state": {name: value for name, value in last.state.items() if name not in OF_THE_CLOCK},
        "records": [{name: value for name, value in record.items() if name != "seconds"} for record in records],
        "files": sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if "previous" not in str(path)),
    }


def contents_of_comparison(out: Path) -> Any:
    """Return the numbers of a comparison, wall-clock times apart."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: timeless(inner) for key, inner in value.items() if "seconds" not in key and "curve" not in key}
        return [timeless(inner) for inner in value] if isinstance(value, list) else value

    return timeless(json.loads((out / "comparison.json").read_text()))
