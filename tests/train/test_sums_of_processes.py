"""Sums over processes: exact in shared memory for processes of any speed, and by an all-reduce where none is shared."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pvae.errors import LostProcessError
from pvae.train.distributed import meeting, sums
from pvae.train.distributed.meeting import Meeting
from pvae.train.distributed.sums import AllReduce, SharedMemory, make_sums

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes share memory on Linux alone")
COUNT = 3
CPU = torch.device("cpu")


class ThreadsAsProcesses:
    """Threads of this process, with the methods of `TrainingGroup` that sums need."""

    device = CPU
    count = COUNT

    def __init__(self, rank: int, barrier: threading.Barrier, board: list[Any]) -> None:
        self.rank, self._barrier, self._board = rank, barrier, board

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def _all(self, value: Any) -> list[Any]:
        self._board[self.rank] = value
        self._barrier.wait(20)
        values = list(self._board)
        self._barrier.wait(20)
        return values

    def add_to_sum(self, values: Tensor) -> None:
        values.copy_(torch.stack(self._all(values.clone())).sum(0))

    def sum(self, values: Tensor) -> Tensor:
        return torch.stack(self._all(values)).sum(0)

    def from_first(self, make: Callable[[], Any]) -> Any:
        return self._all(make() if self.is_first else None)[0]


def run(work: Callable[[Any], Any]) -> list[Any]:
    """Return the results of a function of the group, in each thread."""
    barrier, board = threading.Barrier(COUNT), [None] * COUNT
    groups = [ThreadsAsProcesses(rank, barrier, board) for rank in range(COUNT)]
    with ThreadPoolExecutor(COUNT) as pool:
        return list(pool.map(work, groups))


def left_files(folder: Path) -> list[Path]:
    return list(folder.glob("pvae-*"))


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own in place of the memory of the system."""
    monkeypatch.setattr(sums, "_MEMORY", tmp_path)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")  # the threads of Python run one after the other
    return tmp_path


@pytest.mark.parametrize("kind", [SharedMemory, AllReduce])
def test_sums_are_exact_for_processes_of_any_speed(kind: type, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind is AllReduce:
        monkeypatch.setattr(sums, "_MOST_PROCESSES", COUNT - 1)

    def work(group: Any) -> list[tuple[Tensor, list[float]]]:
        space = make_sums(group, 5, 2, torch.float64, CPU)
        assert type(space) is kind
        results = []
        for step in range(6):
            space.own.copy_(torch.arange(5) + 100 * step + 1000 * group.rank)
            flags = space.exchange([1.0, float(group.rank)])
            if step % COUNT == group.rank:
                time.sleep(0.02)  # the others write the values of the next step
            space.finish(4.0)
            results.append((space.total.clone(), flags))
        return results

    for results in run(work):
        for step, (total, flags) in enumerate(results):
            assert torch.equal(total, (COUNT * (torch.arange(5.0) + 100 * step) + 3000.0).double() / 4)
            assert flags == [3.0, 3.0]
    assert not left_files(memory)


def test_a_process_that_has_ended_or_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "_TIMEOUT", 0.05)
    numbers = torch.zeros(2, 2, 2, dtype=torch.float64)
    with subprocess.Popen(["sleep", "60"]) as other:
        with pytest.raises(LostProcessError, match="no answer for 0 seconds"):
            Meeting(numbers, 0, [os.getpid(), other.pid]).add([1.0])
        other.kill()
        monkeypatch.setattr(meeting, "_TIMEOUT", 20.0)
        with pytest.raises(LostProcessError, match="process 1 has ended"):  # no one has waited for it, so it is listed
            Meeting(numbers, 0, [os.getpid(), other.pid]).add([1.0])
    with pytest.raises(LostProcessError, match="process 1 has ended"):
        Meeting(numbers, 0, [os.getpid(), other.pid]).add([1.0])
    numbers[0, 1] = torch.tensor([1.0, 5.0])  # it came before it ended
    assert Meeting(numbers, 0, [os.getpid(), other.pid]).add([1.0]) == [6.0]


def no_memory(path: Path) -> None:
    raise OSError("no such folder")


@pytest.mark.parametrize(
    "reason", ["no folder", "too large", "no space", "not seen by one", "another file", "container"]
)
def test_all_processes_use_an_all_reduce_if_one_cannot_share(
    reason: str, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = sums._open_file
    if reason == "no folder":
        monkeypatch.setattr(sums, "_MEMORY", memory / "none")
    elif reason == "too large":
        monkeypatch.setattr(sums, "_MOST_BYTES", 8)
    elif reason == "no space":
        monkeypatch.setattr(sums.os, "posix_fallocate", lambda handle, start, size: no_memory(memory))

    def open_in_thread(path: str, count: int, dtype: torch.dtype) -> Tensor | None:
        is_other = threading.current_thread() is threads[-1]
        if reason == "not seen by one" and is_other:
            return None
        return (
            torch.zeros(count, dtype=dtype) if reason == "another file" and is_other else open_file(path, count, dtype)
        )

    def namespace() -> str:
        return "other" if reason == "container" and threading.current_thread() is threads[-1] else "own"

    threads: list[threading.Thread] = []
    monkeypatch.setattr(sums, "_open_file", open_in_thread)
    monkeypatch.setattr(sums, "_pid_namespace", namespace)

    def work(group: Any) -> type:
        if group.rank == 1:
            threads.append(threading.current_thread())
        group.sum(torch.zeros(1))
        return type(make_sums(group, 5, 2, torch.float32, CPU))

    assert run(work) == [AllReduce] * COUNT
    assert not left_files(memory)
