"""The free memory of machine and container, the measured need of a block, and the error before it is tried."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pvae import memory
from pvae.errors import InputError
from pvae.memory import PeakMemory, free_bytes, require_memory

KILO = 1024


def files(folder: Path, **content: str) -> tuple[str, str]:
    for name, text in content.items():
        (folder / name).write_text(text)
    return str(folder / "limit"), str(folder / "usage")


def test_the_free_bytes_is_that_of_the_machine_without_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUPS", ())
    monkeypatch.setattr(memory, "_fields", lambda path: {"MemAvailable": 5})
    assert free_bytes() == 5 * KILO


def test_the_limit_of_a_container_counts_if_it_is_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_available", lambda: 1e15)
    content = {"limit": "1000000\n", "usage": "700000\n", "memory.stat": "anon 5\ninactive_file 20000\n"}
    monkeypatch.setattr(memory, "_CGROUPS", ((*files(tmp_path, **content), "inactive_file"),))
    assert free_bytes() == 320_000
    files(tmp_path, limit="max\n")
    assert free_bytes() == 1e15


def test_a_machine_that_does_not_tell_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUPS", ())
    monkeypatch.setattr(memory, "_available", lambda: None)
    assert free_bytes() is None and free_bytes("meta") is None
    require_memory(1e30, "cpu", "This", "Lower it.")


def test_the_peak_is_what_is_held_at_the_same_time() -> None:
    kept, outside = torch.zeros(1000), torch.zeros(10_000)
    with PeakMemory() as peak:
        doubled = kept.double()  # 8000 bytes, which stay
        for _ in range(5):
            doubled.exp()  # 8000 bytes, which are freed at once
        view = doubled.view(10, 100)
        view.add_(1.0)
        outside.view(100, 100).mul_(1.0)
    assert peak.bytes == 16_000


def test_a_task_that_does_not_fit_is_refused_with_the_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2_000_000_000)
    require_memory(1.9e9, "cpu", "An evaluation", "Lower chunk.")
    with pytest.raises(
        InputError, match=r"An evaluation needs about 26.5 GB .* on cpu, and 2 GB are free\. Lower chunk"
    ):
        require_memory(26.5e9, "cpu", "An evaluation", "Lower chunk.")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc learns from a freed block")
def test_freed_memory_is_used_again_without_new_pages() -> None:
    code = (
        "import resource, sys, torch\n"
        "from pvae.memory import keep_freed_memory\n"
        "if sys.argv[1] == 'keep': keep_freed_memory()\n"
        "def pages(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def use(): [torch.ones(500_000) for _ in range(8)]\n"
        "use(), use()\n"
        "before = pages()\n"
        "use(), use()\n"
        "print(pages() - before)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}

    def count(mode: str) -> int:
        command = [sys.executable, "-c", code, mode]
        return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

    # 16 blocks of 2 MB have 7813 pages of 4 KiB
    assert count("keep") < 800
