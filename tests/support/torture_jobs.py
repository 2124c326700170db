"""Small trainings and comparisons that the torture tests kill, damage and start twice at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from command_line import PATH_OF_TESTS

import pvae
from pvae.comparison.processes import worker_pool
from pvae.train.checkpoint import read

#: how many times the usual work the tests do: `make torture` sets it
TIMES = int(os.environ.get("PVAE_TORTURE", "1"))
RECIPE = pvae.ModelSpec("vae", {"latent": 2, "hidden": (5,)})
OF_THE_CLOCK = ("seconds", "metrics_bytes", "metrics_sha256", "files")


def processes() -> Any:
    """Return a way to start processes that have imported everything already, and have one thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torture_preload"])
    with patch.dict(os.environ, PYTHONPATH=PATH_OF_TESTS):  # the server does not take over sys.path, and gives no error
        forkserver._forkserver.ensure_running()
    return context


def data(validation: int = 8, test: int = 0) -> pvae.Splits:
    """Return 60 data of 6 bits."""
    x = torch.rand(60, 6, generator=torch.Generator().manual_seed(0)).round()
    return pvae.load_data(x, validation=validation, test=test, binarise="none")


def _run(job: Callable[[], Any], ready: Any, outcome: Any) -> None:
    """Run a job in a session of its own if it is in its own process.

    Args:
        job: the job.
        ready: the end of a pipe to which a message is sent when the job begins; None without pipe.
        outcome: a queue that gets the text of an error of the user's input, or ""; None to raise the error.
    """
    warnings.simplefilter("ignore")
    if ready is not None:
        os.setsid()
        ready.send("begins")
    if outcome is None:
        job()
        return
    try:
        job()
    except pvae.InputError as error:
        outcome.put(str(error))
    else:
        outcome.put("")


def train(out: str, ready: Any = None, outcome: Any = None, epochs: int = 5) -> None:
    """Train for a moment with a checkpoint after every step, or go on."""
    options = {
        "epochs": epochs,
        "batch_size": 16,
        "validation_particles": 3,
        "checkpoint_seconds": 0.0,
        "step": "eager",
    }
    _run(lambda: pvae.fit(RECIPE, data(), out=out, resume=True, progress=False, **options), ready, outcome)


def _compare(out: str, workers: int) -> None:
    options = {"epochs": 2, "batch_size": 20, "particles": 3, "workers": workers, "threads": 1, "step": "eager"}
    options["checkpoint_seconds"] = 0.0
    pvae.compare({"vae": RECIPE}, data(6, 12), ["elbo", "iwae:particles=2"], 1, out=out, progress=False, **options)


def compare(out: str, ready: Any = None, outcome: Any = None) -> None:
    """Compare two objectives for a moment, or go on."""
    _run(lambda: _compare(out, 0), ready, outcome)


def compare_in_new_workers(out: str, ready: Any = None, outcome: Any = None) -> None:
    """Do the same in two worker processes, each of which imports pvae."""
    tempfile.tempdir = temporary_folder(Path(out))
    _run(lambda: _compare(out, 2), ready, outcome)


def compare_in_workers(out: str, ready: Any = None, outcome: Any = None) -> None:
    """Do the same in two worker processes that have imported everything already."""
    worker_pool.multiprocessing = SimpleNamespace(get_context=lambda _: processes())
    # the process is itself a child of the server that starts such processes, and knows its address
    forkserver._forkserver.ensure_running = lambda: None
    compare_in_new_workers(out, ready, outcome)


def temporary_folder(out: Path) -> str:
    """Return the folder of the temporary files of a comparison in worker processes, which is made if it is absent."""
    folder = out.with_name(f"{out.name}-temporary")
    folder.mkdir(exist_ok=True)
    return str(folder)


def relatives(process: int, parent: int) -> list[int]:
    """Return the ids of the living processes of the session of a process, and of other children of its parent."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, of_parent, _, session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # the process has ended
            continue
        if state not in "ZX" and (int(session) == process or int(of_parent) == parent):
            found.append(int(path.parent.name))
    return found


def files_of(folder: Path) -> dict[str, int]:
    """Return the files of a folder with the times at which they were written."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


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


def contents_of_table(out: Path) -> Any:
    """Return the numbers of a comparison, wall-clock times apart."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: timeless(inner) for key, inner in value.items() if "seconds" not in key and "curve" not in key}
        return [timeless(inner) for inner in value] if isinstance(value, list) else value

    content = json.loads((out / "comparison.json").read_text())
    content["rankings"] = [ranking for ranking in content["rankings"] if "seconds" not in ranking["budget"]]
    return timeless(content)


def contents_of_comparison(out: Path) -> Any:
    """Return the numbers of a comparison, and everything that its runs leave, wall-clock times apart."""
    folders = sorted(path.parent for path in (out / "cells").rglob("config.toml"))
    return {**contents_of_table(out), "runs": {str(path.relative_to(out)): contents_of_run(path) for path in folders}}
