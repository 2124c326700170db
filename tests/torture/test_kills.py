"""A training or a comparison that is killed at any moment goes on to the same bits, and leaves nothing behind.

`make torture` repeats this with many more kills.
"""

from __future__ import annotations

import shutil
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
    compare_in_new_workers,
    compare_in_workers,
    contents_of_comparison,
    contents_of_run,
    files_of,
    processes,
    relatives,
    temporary_folder,
    train,
)

JOBS: dict[str, tuple[Callable[..., None], Callable[[Path], Any]]] = {
    "train": (train, contents_of_run),
    "compare": (compare, contents_of_comparison),
    "compare in workers": (compare_in_workers, contents_of_comparison),
    "compare in workers that import": (compare_in_new_workers, contents_of_comparison),
}
# The workers that import pvae do this for most of the time.
MOST_OF_THE_JOB = {"train": 0.5, "compare": 0.5, "compare in workers": 0.8, "compare in workers that import": 1.0}
MOST_KILLS = 8 if TIMES > 1 else 2
CASES = [(name, seed) for name in ("train", "compare", "compare in workers") for seed in range(TIMES)]
CASES += [("compare in workers that import", seed) for seed in range(TIMES // 40)]


class Start:
    """A process that runs a job from now on."""

    def __init__(self, job: Callable[..., None], out: Path) -> None:
        ready, child_end = processes().Pipe(duplex=False)
        self.process = processes().Process(target=job, args=(str(out), child_end))
        self.process.start()
        self.parent = int(Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[1])
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

    def wait_for_orphans(self) -> None:
        """Wait until all processes that the job started have ended."""
        deadline = time.monotonic() + 120  # a worker that imports pvae sees the end of its parent after that
        while relatives(self.process.pid, self.parent) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not relatives(self.process.pid, self.parent), "processes of the killed job go on"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, float]]:
    """Return a function that runs a job once without a kill: the folder of its results, and its time in seconds."""
    known: dict[str, tuple[Path, float]] = {}

    def run(name: str) -> tuple[Path, float]:
        if name not in known:
            folder = tmp_path_factory.mktemp("undisturbed") / "out"
            known[name] = folder, Start(JOBS[name][0], folder).end()
        return known[name]

    return run


def _copies_of_data(killed: Path) -> int:
    return len(list(Path(temporary_folder(killed)).rglob("*.safetensors")))


@pytest.mark.parametrize(("name", "seed"), CASES)
def test_a_killed_job_goes_on_to_the_same_bits(
    tmp_path: Path,
    name: str,
    seed: int,
    undisturbed: Callable[[str], tuple[Path, float]],
    record_property: Callable[[str, float], None],
) -> None:
    job, contents = JOBS[name]
    draws = np.random.default_rng(seed)
    whole, length = undisturbed(name)
    killed, kills, in_the_middle, copies = tmp_path / "killed", 0, 0, 0
    while kills < MOST_KILLS:
        before = files_of(killed)
        start = Start(job, killed)
        if not start.kill_after(draws.uniform(0.0, MOST_OF_THE_JOB[name] * length)):
            assert contents(killed) == contents(whole), f"after {kills} kills"
            shutil.rmtree(killed)
            continue
        start.wait_for_orphans()
        kills += 1
        in_the_middle += files_of(killed) != before
        left = _copies_of_data(killed)
        assert left <= 1, "a start removes the copies that killed ones have left"
        copies += left
    Start(job, killed).end()
    assert contents(killed) == contents(whole), f"after {kills} kills"
    assert _copies_of_data(killed) == 0
    assert not [path for path in killed.rglob("*") if path.name.endswith((".tmp", ".lock"))]
    record_property(f"kills of {name}", kills)
    record_property(f"kills of {name} after it had written files", in_the_middle)
    record_property(f"kills of {name} that left a copy of the data until the next start", copies)


@pytest.mark.parametrize("job", [train, compare])
def test_of_two_jobs_into_one_folder_one_is_refused(
    tmp_path: Path,
    job: Callable[..., None],
    undisturbed: Callable[[str], tuple[Path, float]],
    record_property: Callable[[str, float], None],
) -> None:
    name = job.__name__
    contents = JOBS[name][1]
    turns = 1 + TIMES // 5
    alone, _ = undisturbed(name)
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
        assert contents(out) == contents(alone)
        refused += said[1] != ""
    assert refused
    record_property(f"pairs of {name} at once", turns)
    record_property(f"pairs of {name} at once, one refused", refused)
