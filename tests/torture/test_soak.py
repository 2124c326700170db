"""Long work in one process keeps its memory and its open files.

`make torture` does more of it: 20,000 steps and more, 300 evaluations, 50 fits and more.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torture_jobs import RECIPE, TIMES, data

import pvae

CASES = [("eager", False), ("graph", True), ("eager", True), ("graph", False)]


def _memory() -> float:
    """Return the resident memory of this process in kB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1000


def _slope(work: Callable[[], Any], turns: int, size: int) -> float:
    """Return the growth of memory in kB for each of `size` parts of a turn, after a first third of the turns."""
    used = []
    for _ in range(turns):
        work()
        gc.collect()
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


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs the memory of the process from /proc")
@pytest.mark.parametrize(("step", "batch_norm"), CASES if TIMES > 1 else CASES[:2])
def test_steps_keep_the_memory_flat(step: str, batch_norm: bool) -> None:
    splits = data(validation=0)
    model: Any = Normalised() if batch_norm else RECIPE.build(splits)
    used: list[float] = []

    def callback(record: Any, _: Any) -> None:
        if record["epoch"] % 5 == 0:
            gc.collect()
            used.append(_memory())

    epochs = 60 * TIMES
    pvae.fit(model, splits, epochs=epochs, batch_size=20, step=step, progress=False, callbacks=[callback])
    later = used[len(used) // 3 :]
    slope = float(np.polyfit(np.arange(len(later)), later, 1)[0]) / (5 * 3)
    print(f"{step}: {slope:.3f} kB for each of {3 * epochs} steps")  # `make torture` shows it
    assert slope < 1 + 500 / (3 * epochs), "kB for each step; the allocator moves 500 kB now and then"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs the memory of the process from /proc")
def test_evaluations_and_fits_keep_memory_and_open_files(tmp_path: Path) -> None:
    splits = data()
    model = RECIPE.build(splits)
    turns = iter(range(10**6))

    def fit() -> None:
        pvae.fit(RECIPE, splits, epochs=1, batch_size=20, out=tmp_path / str(next(turns)), progress=False)

    def evaluate() -> None:
        pvae.evaluate.log_evidence(model, splits, particles=5, split="train")

    evaluate(), fit()
    files = len(os.listdir("/proc/self/fd"))
    for name, work in (("evaluation", evaluate), ("fit", fit)):
        slope = _slope(work, 5 * TIMES, 1)
        print(f"{slope:.1f} kB for each {name}")
        assert slope < 100 + 1000 / TIMES
    assert len(os.listdir("/proc/self/fd")) <= files
