"""A training or a comparison that is killed at any moment goes on to the same bits, and leaves nothing behind.

`make torture` repeats this with many more kills.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torture_jobs import TIMES, compare, contents_of_comparison, contents_of_run, processes, train

JOBS: dict[str, tuple[Callable[[str], None], Callable[[Path], Any]]] = {
    "train": (train, contents_of_run),
    "compare": (compare, contents_of_comparison),
}


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("seed", range(TIMES))
def test_a_killed_job_goes_on_to_the_same_bits(tmp_path: Path, name: str, seed: int) -> None:
    job, contents = JOBS[name]
    context, draws = processes(), np.random.default_rng(seed)

    def start(out: str) -> Any:
        process = context.Process(target=job, args=(str(tmp_path / out),))
        process.start()
        return process

    begin = time.monotonic()
    whole = start("whole")
    whole.join()
    assert whole.exitcode == 0
    length = time.monotonic() - begin
    kills = 0
    for _ in range(4):
        process = start("killed")
        process.join(draws.uniform(0.0, length))
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        kills += 1
    last = start("killed")
    last.join()
    assert last.exitcode == 0, f"after {kills} kills"
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".tmp", ".lock"))]


def test_of_two_trainings_into_one_folder_one_is_refused(tmp_path: Path) -> None:
    context = processes()
    for turn in range(TIMES):
        out, outcomes = str(tmp_path / str(turn)), context.Queue()
        both = [context.Process(target=train, args=(out, outcomes)) for _ in range(2)]
        for process in both:
            process.start()
        said = sorted(outcomes.get(timeout=100) for _ in both)
        for process in both:
            process.join()
        assert said[0] == "" and ("one writer at a time" in said[1] or "exists already" in said[1]), said
        assert len(contents_of_run(Path(out))["records"]) == 3
