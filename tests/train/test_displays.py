"""The displays of progress: lines without a terminal, at least one a minute, and a bar that ends at its end."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pvae.comparison.base import Cell
from pvae.comparison.processes.progress_display import ProgressDisplay
from pvae.comparison.processes.worker_pool import Event, EventKind
from pvae.train.progress import BarDisplay, LineDisplay

RECORD = {"epoch": 2, "loss": 3.5, "validation_bound": -2.25, "seconds": 1.0}


def test_a_long_epoch_has_a_line_each_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr("pvae.train.progress.time.monotonic", lambda: now)
    display = LineDisplay()
    display.start(0, 2, 300)
    for step in range(1, 201):
        now += 1.0
        display.show_step(0, step, lambda: 1.5)
    display.show_epoch({**RECORD, "epoch": 1})
    for step in range(1, 62):
        now += 1.0
        display.show_step(1, step, lambda: 0.5)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [
        ["epoch 1/2", "step 60 of 300"],
        ["epoch 1/2", "step 120 of 300"],
        ["epoch 1/2", "step 180 of 300"],
        ["epoch 1/2", "loss 3.5000"],
        ["epoch 2/2", "step 60 of 300"],
    ]


def test_the_bar_ends_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    display = BarDisplay()
    display.start(0, 2, 13)
    display.show_step(1, 13, lambda: 1.0)  # too soon after the start to be drawn
    display.show_epoch(RECORD)
    display.close()
    shown = capsys.readouterr().err
    assert "epoch 2/2" in shown and "26/26" in shown and "loss 3.5 bound -2.25" in shown


def _cells() -> list[Cell]:
    return [Cell("vae", "elbo", seed, Path("unused")) for seed in (0, 1, 2)]


def test_cells_that_run_for_an_interval_have_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("pvae.comparison.processes.progress_display.time.monotonic", lambda: now)
    display = ProgressDisplay(_cells(), 0, [5, 5, 7], shown=False)
    display.show_event(Event(EventKind.STARTED, 0, None))
    display.show_event(Event(EventKind.STARTED, 1, None))
    display.show_event(Event(EventKind.PROGRESS, 1, (3, "validation bound -2.00")))
    now += 50
    display.show_event(Event(EventKind.STARTED, 2, None))
    display.show_event(Event(EventKind.PROGRESS, 2, (6, "")))
    assert display.describe_running(1059.0) == []
    assert display.describe_running(1060.0) == [
        "running: vae, elbo, seed 0: starting (60 s)",
        "running: vae, elbo, seed 1: epoch 3/5, validation bound -2.00 (60 s)",
    ]
    display.show_event(Event(EventKind.DONE, 1, "log evidence -2.0"))
    assert [line[:29] for line in display.describe_running(1200.0)] == [
        "running: vae, elbo, seed 0: s",
        "running: vae, elbo, seed 2: e",
    ]


def test_the_lines_come_while_the_block_runs(capsys: pytest.CaptureFixture[str]) -> None:
    shown = ""
    with ProgressDisplay(_cells(), 0, [5, 5, 7], interval=0.01) as display:
        display.show_event(Event(EventKind.STARTED, 2, None))
        until = time.monotonic() + 10.0
        while "running: vae, elbo, seed 2: starting" not in shown and time.monotonic() < until:
            time.sleep(0.01)
            shown += capsys.readouterr().err
    assert "running: vae, elbo, seed 2: starting" in shown
