"""Stopping a training at any instant and continuing it gives the bits of one that never stopped."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import pvae
from pvae.errors import InputError
from pvae.train import checkpoint
from pvae.train.checkpoint import read
from pvae.train.progress_state import ProgressState


def splits() -> Any:
    x = torch.rand(90, 6, generator=torch.Generator().manual_seed(0))
    return pvae.load_data(x, validation=8, test=0, binarise="dynamic")


def train(out: Path, spec: Any = None, data: Any = None, **options: Any) -> pvae.Run:
    settings = {"epochs": 4, "batch_size": 16, "validation_particles": 5, "progress": False, "step": "eager"}
    settings |= {"schedule": "exponential:gamma=0.9", "checkpoint_seconds": 0.0, "clip": 1.0, "seed": 3}
    spec = spec or pvae.ModelSpec("vae", {"latent": 2, "hidden": (5,)})
    return pvae.fit(spec, data or splits(), out=out, **{**settings, **options})


def contents(out: Path) -> dict[str, Any]:
    """Everything that a run leaves, wall-clock times apart."""
    last = read(out / "last")
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    of_the_clock = ("seconds", "metrics_bytes", "metrics_sha256", "files")
    state = {name: each for name, each in last.state.items() if name not in of_the_clock}
    return {
        "parameters": last.parameters,
        "training": last.training,
        "best": read(out / "best").parameters,
        "records": [{name: each for name, each in record.items() if name != "seconds"} for record in records],
        "state": state,
    }


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for part in ("parameters", "training", "best"):
        assert ours[part].keys() == theirs[part].keys()
        for name, each in ours[part].items():
            assert torch.equal(each, theirs[part][name]), f"{part} {name}"
    assert ours["records"] == theirs["records"]
    assert ours["state"] == theirs["state"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("whole") / "run"
    train(out)
    return contents(out)


def test_the_comparison_sees_another_seed(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    train(tmp_path / "run", seed=4)
    with pytest.raises(AssertionError):
        assert_same(contents(tmp_path / "run"), uninterrupted)


@pytest.mark.parametrize("steps", [1, 5, 6, 13])
def test_stopping_after_any_step(uninterrupted: dict[str, Any], tmp_path: Path, steps: int) -> None:
    out = tmp_path / "run"
    train(out, max_steps=steps)
    assert read(out / "last").state["step"] == steps
    train(out, resume=True)
    assert_same(contents(out), uninterrupted)


def test_a_graph_continues_an_eager_run(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    train(tmp_path / "run", max_steps=9, step="eager")
    train(tmp_path / "run", resume=True, step="graph")
    whole = contents(tmp_path / "run")
    assert whole["state"].pop("how") == {"asked": "graph", "used": "graph"}
    without = {name: value for name, value in uninterrupted["state"].items() if name != "how"}
    assert_same(whole, {**uninterrupted, "state": without})


def test_an_exception_in_a_callback(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"

    def fail(record: dict[str, Any], model: Any) -> None:
        if record["epoch"] == 2:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        train(out, callbacks=[fail], checkpoint_seconds=100.0)
    assert read(out / "last").state["step"] == 0
    train(out, resume=True)
    assert_same(contents(out), uninterrupted)


def test_a_full_disk(uninterrupted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, put, calls = tmp_path / "run", checkpoint._put, []

    def fills(path: Path, content: bytes) -> None:
        calls.append(path)
        if len(calls) == 40:
            path.write_bytes(content[:7])
            raise OSError(errno.ENOSPC, "No space left on device")
        put(path, content)

    monkeypatch.setattr(checkpoint, "_put", fills)
    with pytest.raises(OSError, match="No space left"):
        train(out)
    monkeypatch.undo()
    assert not list(out.glob("*.tmp"))
    train(out, resume=True)
    assert_same(contents(out), uninterrupted)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.parametrize("step", [3, 12])
def test_a_gentle_signal_ends_the_step_and_writes_a_checkpoint(
    uninterrupted: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    raised: type,
    step: int,
) -> None:
    out, handlers = tmp_path / "run", [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    add_step = ProgressState.add_step

    def interrupted(self: ProgressState, *arguments: Any) -> None:
        add_step(self, *arguments)
        if self.step == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(ProgressState, "add_step", interrupted)
    with pytest.raises(raised) as caught:
        train(out, checkpoint_seconds=1000.0)
    monkeypatch.undo()
    if number == signal.SIGTERM:
        assert caught.value.code == 143
    assert read(out / "last").state["step"] == step
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
    train(out, resume=True)
    assert_same(contents(out), uninterrupted)


def wait_for_step(out: Path, step: int, process: int) -> None:
    """Until a checkpoint of at least `step` steps is there, or the process has ended."""
    for _ in range(6000):
        try:
            if read(out / "last").state["step"] >= step or os.waitpid(process, os.WNOHANG)[0]:
                return
        except (InputError, ChildProcessError):  # it is being renamed
            pass
        time.sleep(0.002)
    raise AssertionError("no checkpoint came")


def killed_and_continued(out: Path, step: int, delay: float) -> None:
    """Train in a process of its own, kill that, and continue here."""
    process = os.fork()
    if process == 0:
        train(out)
        os._exit(0)
    wait_for_step(out, step, process)
    time.sleep(delay)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process, 0)
    train(out, resume=True)


@pytest.mark.parametrize(("step", "delay"), [(0, 0.0), (5, 0.001), (8, 0.004)])
def test_sigkill(uninterrupted: dict[str, Any], tmp_path: Path, step: int, delay: float) -> None:
    killed_and_continued(tmp_path / "run", step, delay)
    assert_same(contents(tmp_path / "run"), uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(20))
def test_sigkill_at_many_instants(uninterrupted: dict[str, Any], tmp_path: Path, attempt: int) -> None:
    killed_and_continued(tmp_path / "run", attempt, 0.0017 * attempt)
    assert_same(contents(tmp_path / "run"), uninterrupted)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(
    uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    (out / "last.tmp").mkdir(parents=True)
    (out / "config.toml").write_text("")
    (out / "metrics.jsonl").write_text('{"epoch": 1}\n')
    train(out, resume=True)
    assert_same(contents(out), uninterrupted)


def test_a_damaged_checkpoint_is_named_and_the_previous_one_continued(
    uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train(out, max_steps=15)
    file = out / "last" / "training.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r"last.training\.safetensors is damaged"):
        train(out, resume=True)
    assert_same(contents(out), uninterrupted)
    for name in ("last", "last.previous"):
        (out / name / "state.json").write_text("{}")
    with pytest.raises(InputError, match=r"Neither checkpoint.*last.state\.json.*last\.previous.state\.json"):
        train(out, resume=True)


def test_more_epochs_are_added_to_a_finished_run(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out, epochs=2)
    before = contents(out)
    again = train(out, epochs=2, resume=True)
    assert again.epoch == 2
    assert_same(contents(out), before)
    train(out, resume=True)
    assert_same(contents(out), uninterrupted)
    with pytest.raises(InputError, match="4 epochs already"):
        train(out, epochs=3, resume=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": 4}, "seed is 4 here and 3 in the checkpoint"),
        ({"batch_size": 8}, "batch_size is 8 here and 16"),
        ({"learning_rate": 0.1}, "learning_rate is 0.1"),
        ({"objective": "iwae:particles=3"}, "objective is 'iwae:particles=3' here and 'elbo'"),
        ({"schedule": None}, "schedule"),
        ({"clip": None}, "options clip, which this training does not have"),
    ],
)
def test_another_option_is_refused_by_name_and_nothing_is_changed(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    out = tmp_path / "run"
    train(out, max_steps=2)
    before = {each: each.read_bytes() for each in out.rglob("*") if each.is_file()}
    with pytest.raises(InputError, match=said):
        train(out, resume=True, **options)
    assert {each: each.read_bytes() for each in out.rglob("*") if each.is_file()} == before


def test_another_model_and_other_data_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out, max_steps=2)
    before = {each: each.read_bytes() for each in out.rglob("*") if each.is_file()}
    wider = pvae.ModelSpec("vae", {"latent": 3, "hidden": (5,)})
    with pytest.raises(InputError, match="model latent is 3 here and 2 in the checkpoint"):
        train(out, wider, resume=True)
    x = torch.rand(90, 6, generator=torch.Generator().manual_seed(1))
    other = pvae.load_data(x, validation=8, test=0, binarise="dynamic")
    with pytest.raises(InputError, match="data checksum is"):
        train(out, data=other, resume=True)
    assert all(each.read_bytes() == content for each, content in before.items())
