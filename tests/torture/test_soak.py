"""Long work in one process keeps its memory, its open files and its statistics, whatever the clock of the day shows.

`make torture` does more of it: more than 20,000 steps, 300 evaluations and 50 fits.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torture_jobs import RECIPE, TIMES, contents_of_run, data, train

import pvae

CASES = [("eager", False), ("graph", True), ("eager", True), ("graph", False)]


def _memory() -> float:
    """Return the resident memory of this process in kB, after a collection of what it no longer uses."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1000


@pytest.fixture
def quick_collections() -> None:
    """Keep the garbage collector from looking at the modules that are imported, which takes as long as 50 steps."""
    gc.collect()
    gc.freeze()


def _slope(work: Callable[[], Any], turns: int, size: int) -> float:
    """Return the growth of memory in kB for each of `size` parts of a turn, after a first third of the turns."""
    used = []
    for _ in range(turns):
        work()
        used.append(_memory())
    later = used[turns // 3 :]
    return float(np.polyfit(np.arange(len(later)), later, 1)[0]) / size


class Normalised(pvae.VAE):
    """A VAE whose encoder normalises by batches, so that it has buffers that training changes."""

    def __init__(self) -> None:
        super().__init__((6,), latent=2, hidden=5)
        self.normalisation = torch.nn.BatchNorm1d(6)

    def guide(self, x: torch.Tensor) -> Any:
        return super().guide(self.normalisation(x))


@pytest.mark.usefixtures("quick_collections")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs the memory of the process from /proc")
@pytest.mark.parametrize(("step", "batch_norm"), CASES if TIMES > 1 else CASES[:2])
def test_steps_keep_the_memory_flat(step: str, batch_norm: bool, record_property: Callable[[str, float], None]) -> None:
    splits = data(validation=0)
    model: Any = Normalised() if batch_norm else RECIPE.build(splits)
    used: list[float] = []
    epochs, steps_of_epoch = 27 * TIMES, 8
    # a collection takes as long as several steps, so that there are at most 60 of them
    every = max(2, epochs // 60)

    def callback(record: Any, _: Any) -> None:
        if record["epoch"] % every == 0:
            used.append(_memory())

    run = pvae.fit(model, splits, epochs=epochs, batch_size=8, step=step, progress=False, callbacks=[callback])
    steps = run.history[-1]["step"]
    assert steps == epochs * steps_of_epoch
    later = used[len(used) // 3 :]
    slope = float(np.polyfit(np.arange(len(later)), later, 1)[0]) / (every * steps_of_epoch)
    kind = f"{step} steps{' with BatchNorm' if batch_norm else ''}"
    record_property(f"most kB for each of {steps} {kind}", round(slope, 4))
    assert slope < 1 + 500 / steps, "kB for each step; the allocator moves 500 kB now and then"


@pytest.mark.usefixtures("quick_collections")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs the memory of the process from /proc")
def test_evaluations_and_fits_keep_memory_and_open_files(
    tmp_path: Path, record_property: Callable[[str, float], None]
) -> None:
    splits = data()
    model = RECIPE.build(splits)
    folders = iter(range(10**6))

    def fit() -> None:
        pvae.fit(RECIPE, splits, epochs=1, batch_size=20, out=tmp_path / str(next(folders)), progress=False)

    def evaluate() -> None:
        pvae.evaluate.log_evidence(model, splits, particles=5, split="train")

    evaluate(), fit()
    files = len(os.listdir("/proc/self/fd"))
    for name, work, turns in (("evaluation", evaluate, 30 * TIMES if TIMES > 1 else 12), ("fit", fit, 4 * TIMES)):
        slope = _slope(work, turns, 1)
        record_property(f"most kB for each of {turns} {name}s", round(slope, 2))
        assert slope < 100 + 1000 / TIMES
    record_property("most open files more than at the start", len(os.listdir("/proc/self/fd")) - files)
    assert len(os.listdir("/proc/self/fd")) <= files


def _statistics(model: Any) -> dict[str, list[float]]:
    return {name: buffer.tolist() for name, buffer in model.named_buffers() if "running" in name or "num_b" in name}


@pytest.mark.parametrize("step", ["eager", "graph"])
def test_statistics_of_batch_norm_survive_resuming_and_do_not_change_in_an_evaluation(
    tmp_path: Path, step: str
) -> None:
    splits = data()
    options: dict[str, Any] = {"batch_size": 20, "step": step, "progress": False, "validation_particles": 2}
    whole = pvae.fit(Normalised(), splits, epochs=4, seed=1, out=tmp_path / "whole", **options)
    pvae.fit(Normalised(), splits, epochs=2, seed=1, out=tmp_path / "parts", **options)
    # another start of the parameters, which the checkpoint replaces
    parts = pvae.fit(Normalised(), splits, epochs=4, seed=1, out=tmp_path / "parts", resume=True, **options)
    wanted = _statistics(whole.load("last").model)
    assert _statistics(parts.load("last").model) == wanted
    assert wanted["normalisation.num_batches_tracked"] == 4 * 3
    first = pvae.evaluate.log_evidence(parts, splits, particles=30, split="train")
    again = pvae.evaluate.log_evidence(parts, splits, particles=30, split="train")
    assert torch.equal(first.pointwise, again.pointwise)
    assert _statistics(parts.model) == wanted and parts.model.normalisation.training == whole.model.training
    opened = pvae.open_run(tmp_path / "parts", Normalised(), checkpoint="last")
    assert _statistics(opened.model) == wanted


@pytest.mark.parametrize("jump", [-(10.0**9), 10.0**9])
def test_a_clock_that_jumps_changes_no_number_and_no_duration(
    tmp_path: Path, jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(str(tmp_path / "right"))
    clock, jumps = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: clock() + jump * next(jumps))
    begin = time.monotonic()
    train(str(tmp_path / "jumps"))
    spent = time.monotonic() - begin
    assert contents_of_run(tmp_path / "jumps") == contents_of_run(tmp_path / "right")
    run = pvae.open_run(tmp_path / "jumps", checkpoint="last")
    seconds = [record["seconds"] for record in run.history]
    assert sorted(seconds) == seconds and 0 < seconds[-1] <= run.seconds + 1e-3 and run.seconds < spent
    judgement = pvae.evaluate.judge(run, data(), particles=5, split="train")
    assert 0 < judgement.evaluation_seconds < 60
