"""Real signals SIGINT during commands: one ends a command in order, two end it within two seconds."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pvae
from pvae.cli import cli
from pvae.commands import interrupts

MODEL = """
import time, pyro, torch, pyro.distributions as dist
from pathlib import Path

class Slow:
    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x):
        shift = pyro.param("shift", torch.zeros(4))
        Path(__file__).with_name("step").write_text("")
        time.sleep(0.3)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(shift, 1.0).to_event(1))
"""
# For each command a function that it calls late, and its words.
COMMANDS = {
    "evaluate": ("pvae.evaluate.judge", "evaluate run --data data.npy"),
    "evaluate by annealing": ("pvae.evaluate.ais", "evaluate run --data data.npy --method ais"),
    "gaps": ("pvae.evaluate.gaps", "evaluate run --data data.npy --checks gaps"),
    "calibrate": ("pvae.evaluate.calibrate", "evaluate run --data data.npy --checks calibrate"),
    "show": ("pvae.train.figures.draw_figure.draw_figure", "show run --out figure.png"),
    "em": ("pvae.em.GaussianMixture.fit", "em --data data.npy --components 2"),
    "compare": (
        "pvae.comparison.cells.train_cell.evaluate_cell",
        "compare vae --data data.npy --objectives elbo --seeds 1 --epochs 1 --workers 0 --out comparison",
    ),
    "train": (
        "pvae.train.validation.Validation.__call__",
        "train vae --data data.npy --epochs 1 --validation 5 --out new",
    ),
}
TRAIN_SLOWLY = "train slow.py:Slow --data data.npy --epochs 99 --out new --step eager"


def _sleep(*_: Any, **__: Any) -> None:
    Path("step").write_text("")
    time.sleep(60)


def _sleep_through_errors(*_: Any, **__: Any) -> None:
    while True:
        try:
            Path("step").write_text("")  # the signal comes after it, and may come at once
            time.sleep(60)
        except BaseException:  # as a careless callback does
            continue


class Command:
    """A command in a forked process, which has imported everything already."""

    def __init__(self, folder: Path, words: str, patch: tuple[str, Callable[..., Any]] | None = None) -> None:
        self.folder = folder
        self.process = multiprocessing.get_context("fork").Process(target=self._run, args=(words, patch))
        self.process.start()
        while not (folder / "step").exists():
            assert self.process.is_alive(), self.errors
            time.sleep(0.01)

    def _run(self, words: str, patch: tuple[str, Callable[..., Any]] | None) -> None:
        os.chdir(self.folder)
        sys.stdout = sys.stderr = Path("errors").open("a", buffering=1)  # noqa: SIM115
        os.dup2(sys.stderr.fileno(), 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if patch is not None:
            pytest.MonkeyPatch().setattr(*patch)
        cli.main(words.split())

    def interrupt(self) -> None:
        os.kill(self.process.pid, signal.SIGINT)

    def terminate(self) -> None:
        os.kill(self.process.pid, signal.SIGTERM)

    def end(self, seconds: float) -> int:
        """Wait for the end, at most some seconds; return the exit code."""
        self.process.join(seconds)
        ended = self.process.exitcode
        self.process.kill()
        self.process.join()
        assert ended is not None, f"not done after {seconds} s"
        return ended

    @property
    def errors(self) -> str:
        return (self.folder / "errors").read_text()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupts")
    np.save(folder / "data.npy", np.random.default_rng(0).integers(2, size=(20, 4)).astype(float))
    (folder / "slow.py").write_text(MODEL)
    splits = pvae.load_data(str(folder / "data.npy"), validation=0, test=5)
    pvae.fit(pvae.ModelSpec("vae", {"hidden": (3,)}), splits, epochs=1, out=folder / "run", progress=False)
    return folder


@pytest.fixture
def folder(run_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run_folder, tmp_path / "folder")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "train"])
def test_one_signal_ends_a_command_with_a_line(folder: Path, name: str) -> None:
    place, words = COMMANDS[name]
    command = Command(folder, words, (place, _sleep))
    command.interrupt()
    assert command.end(10.0) == 130
    assert command.errors.splitlines()[-1].startswith("pvae: error: interrupted")
    assert "Traceback" not in command.errors


@pytest.mark.parametrize("name", COMMANDS)
def test_two_signals_end_a_command_that_catches_every_error(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert interrupts._SECONDS_TO_END < 2.0
    monkeypatch.setattr(interrupts, "_SECONDS_TO_END", 0.3)
    monkeypatch.setattr(interrupts, "_SECONDS_TO_NOTICE", 0.02)
    place, words = COMMANDS[name]
    command = Command(folder, words, (place, _sleep_through_errors))
    command.interrupt()
    time.sleep(0.3)
    begin = time.monotonic()
    command.interrupt()
    assert command.end(10.0) == 130
    assert time.monotonic() - begin < 2.0  # also on a machine with other work
    assert "Press Ctrl-C once more" in command.errors
    assert "interrupted twice" in command.errors and "Traceback" not in command.errors


def test_one_signal_ends_a_training_after_its_step(folder: Path) -> None:
    command = Command(folder, TRAIN_SLOWLY)
    command.interrupt()
    assert command.end(20.0) == 130
    assert "Continue a training with --resume" in command.errors and "Traceback" not in command.errors
    assert (folder / "new" / "last" / "state.json").exists()


def test_a_terminated_training_keeps_its_checkpoint_and_ends_with_143(folder: Path) -> None:
    command = Command(folder, TRAIN_SLOWLY)
    command.terminate()
    assert command.end(20.0) == 143
    assert "Traceback" not in command.errors
    assert (folder / "new" / "last" / "state.json").exists()


def test_the_second_signal_ends_a_callback(folder: Path) -> None:
    """A first signal waits for the end of a callback, as Python code may save something there."""

    def job() -> None:
        os.chdir(folder)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        splits = pvae.load_data("data.npy", validation=0, test=0)
        try:
            pvae.fit(pvae.ModelSpec("vae"), splits, epochs=2, progress=False, callbacks=[_sleep])
        except KeyboardInterrupt:
            os._exit(130)

    process = multiprocessing.get_context("fork").Process(target=job)
    process.start()
    while not (folder / "step").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.2)
    assert process.is_alive()
    begin = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    process.join(10)
    assert process.exitcode == 130 and time.monotonic() - begin < 2.0
