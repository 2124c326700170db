"""A training or a comparison that is killed at any moment goes on to the same bits, and leaves nothing behind.

`make torture` repeats this with many more kills.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torture_jobs import (
    TIMES,
    compare,
    compare_in_workers,
    contents_of_comparison,
    contents_of_run,
    files_of,
    members_of_session,
    processes,
    train,
)

JOBS: dict[str, tuple[Callable[..., None], Callable[[Path], Any]]] = {
    "train": (train, contents_of_run),
    "compare": (compare, contents_of_comparison),
    "compare in workers": (compare_in_workers, contents_of_comparison),
}
MOST_KILLS = 8 if TIMES > 1 else 3
CASES = [(name, seed) for name in ("train", "compare") for seed in range(TIMES)]
CASES += [("compare in workers", seed) for seed in range(TIMES // 20)]


class Start:
    """A process that runs a job from now on."""

    def __init__(self, job: Callable[..., None], out: Path) -> None:
        ready, child_end = processes().Pipe(duplex=False)
        self.process = processes().Process(target=job, args=(str(out), child_end))
        self.process.start()
        child_end.close()
        assert ready.poll(600), "the process starts"
        ready.recv()  # the job begins now
        self.begin = time.monotonic()

    def end(self) -> float:
        """Wait for the end of the job; return its time in seconds."""
        self.process.join()
        assert self.process.exitcode == 0
        return time.monotonic() - self.begin

    def kill_after(self, seconds: float) -> bool:
        """Kill the process after some seconds; return whether it was alive."""
        self.process.join(seconds)
        alive = self.process.exitcode is None
        self.process.kill()
        self.process.join()
        return alive and self.process.exitcode == -signal.SIGKILL


def _wait_for_orphans(session: int) -> None:
    deadline = time.monotonic() + 120  # a worker that imports pvae sees the end of its parent after that
    while members_of_session(session) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not members_of_session(session), "processes of the killed job go on"


@pytest.mark.parametrize(("name", "seed"), CASES)
def test_a_killed_job_goes_on_to_the_same_bits(
    tmp_path: Path, name: str, seed: int, record_property: Callable[[str, float], None]
) -> None:
    job, contents = JOBS[name]
    draws = np.random.default_rng(seed)
    length = Start(job, tmp_path / "whole").end()
    killed, kills, in_the_middle = tmp_path / "killed", 0, 0
    while kills < MOST_KILLS:
        before = files_of(killed)
        start = Start(job, killed)
        if not start.kill_after(draws.uniform(0.0, 0.5 * length)):
            break
        _wait_for_orphans(start.process.pid)
        kills += 1
        in_the_middle += files_of(killed) != before
    Start(job, killed).end()
    assert contents(killed) == contents(tmp_path / "whole"), f"after {kills} kills"
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".tmp", ".lock"))]
    record_property(f"kills of {name}", kills)
    record_property(f"kills of {name} after it had written files", in_the_middle)


@pytest.mark.parametrize("job", [train, compare])
def test_of_two_jobs_into_one_folder_one_is_refused(
    tmp_path: Path, job: Callable[..., None], record_property: Callable[[str, float], None]
) -> None:
    name = job.__name__
    contents = JOBS[name][1]
    turns = 1 + TIMES // 5
    Start(job, tmp_path / "alone").end()
    refused = 0
    for turn in range(turns):
        out, outcomes = tmp_path / str(turn), processes().Queue()
        both = [processes().Process(target=job, args=(str(out), None, outcomes)) for _ in range(2)]
        for process in both:
            process.start()
        said = sorted(outcomes.get(timeout=100) for _ in both)
        for process in both:
            process.join()
        # a job that starts after the end of the other one finds a finished folder
        assert said[0] == "" and (said[1] == "" or "one writer at a time" in said[1]), said
        assert contents(out) == contents(tmp_path / "alone")
        refused += said[1] != ""
    assert refused
    record_property(f"pairs of {name} at once", turns)
    record_property(f"pairs of {name} at once, one refused", refused)
