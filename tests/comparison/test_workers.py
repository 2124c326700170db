"""Jobs in worker processes and in this process."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from comparison_jobs import Unbuildable, broken, count_calls, describe_process, hold_shared_data, nap, shared, work

from pvae.comparison.processes.shared_splits import remove_abandoned_data, shared_folder
from pvae.comparison.processes.worker_pool import StartError, run_in_process, run_in_workers


@pytest.mark.paths
def test_a_failing_and_a_dying_job_leave_the_others_alone():
    events = []
    jobs = ["one", "raise", "die", Unbuildable(), "leave", "two"]
    run_in_workers(jobs, work, shared, workers=1, report=events.append)
    ends = {event.job: (event.kind, event.content) for event in events if event.kind in ("done", "failed")}
    assert ends[0] == ("done", "one shared") and ends[5] == ("done", "two shared")
    assert ends[1] == ("failed", "ValueError: a reason")
    assert ends[2] == ("failed", "its process was killed by SIGKILL, possibly because there was not enough memory")
    assert ends[3][0] == "failed" and "ValueError" in ends[3][1]
    assert ends[4] == ("failed", "its process ended with exit code 7")
    assert [event.content for event in events if event.kind == "progress"] == [
        f"at {job}" for job in ("one", "raise", "die", "leave", "two")
    ]


def test_a_worker_keeps_its_imports_and_data_for_all_its_jobs():
    events = []
    run_in_workers(["a", "b", "c"], describe_process, count_calls, workers=1, report=events.append)
    ends = [event.content for event in events if event.kind == "done"]
    process, calls = ends[0]
    assert ends == [(process, 1)] * 3 and process != os.getpid() and calls == 1


def test_the_same_events_come_from_this_process():
    events = []
    run_in_process(["one", "raise"], work, shared, indices=[4, 6], report=events.append)
    found = [(event.kind, event.job, event.content) for event in events]
    assert found == [
        ("started", 4, None), ("progress", 4, "at one"), ("done", 4, "one shared"),
        ("started", 6, None), ("progress", 6, "at raise"), ("failed", 6, "ValueError: a reason"),
    ]  # fmt: skip


def test_a_full_disk_ends_all_jobs():
    for start in (run_in_workers, run_in_process):
        events, where = [], {"workers": 1} if start is run_in_workers else {"indices": [0, 1]}
        with pytest.raises(OSError, match="No space left") as error:
            start(["fill", "two"], work, shared, report=events.append, **where)
        assert error.value.filename == "file" and not [event for event in events if event.kind in ("done", "failed")]


def test_workers_that_do_not_start_blame_no_job():
    events = []
    with pytest.raises(StartError, match="exit code 3") as caught:
        run_in_workers(["one", "two"], work, broken, workers=1, report=events.append)
    assert caught.value.unfinished == [0, 1] and events == []


def test_an_interrupt_stops_the_workers():
    seen = []

    def interrupt(event):
        if event.kind == "progress":
            seen.append(event.content)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_workers(["one"], nap, shared, workers=1, report=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0], 0)


ORPHAN = """
from comparison_jobs import nap, shared
from pvae.comparison.processes.worker_pool import run_in_workers
if __name__ == "__main__":
    show = lambda event: event.kind == "progress" and print(event.content, flush=True)
    run_in_workers(["one"], nap, shared, workers=1, report=show)
"""


@pytest.mark.paths
def test_workers_end_in_the_middle_of_a_job_when_their_parent_is_killed(tmp_path):
    (tmp_path / "orphan.py").write_text(ORPHAN)
    tests = Path(__file__).parents[1] / "support"
    paths = {**os.environ, "PYTHONPATH": f"{tests}{os.pathsep}{tests.parents[1]}"}
    with subprocess.Popen(
        [sys.executable, tmp_path / "orphan.py"], env=paths, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
        errors = parent.communicate(timeout=30)[1]
    assert "Traceback" not in errors
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    status = Path(f"/proc/{worker}/status")
    # Where nothing reaps orphans, the ended process stays as a zombie.
    assert not status.exists() or "zombie" in status.read_text()


def test_the_data_of_a_killed_comparison_are_removed_at_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    context = multiprocessing.get_context("spawn")
    ready = context.Queue()
    process = context.Process(target=hold_shared_data, args=(ready,))
    process.start()
    left = Path(ready.get(timeout=60))
    assert left.parent == tmp_path
    os.utime(left, (0, 0))
    remove_abandoned_data()
    assert left.exists(), "its process runs"
    process.kill()
    process.join()
    os.utime(left)  # as if it was made just now
    new = tmp_path / f"{left.name}-new"
    new.mkdir()
    with shared_folder() as folder:
        assert folder.parent == tmp_path
        remove_abandoned_data()
        assert not left.exists(), "its process has ended"
        assert new.exists(), "its process may lock it in a moment"
        assert folder.exists(), "this process runs"
    new.rmdir()
    assert list(tmp_path.iterdir()) == []
