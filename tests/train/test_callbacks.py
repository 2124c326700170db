"""Callbacks are called at the start, after each epoch, at the end and on an error; trackers hold the history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pvae
from pvae.callbacks import Callback, MLflow, TensorBoard, WandB


class Recorder(Callback):
    """Keeps the names of its calls; may end or fail the training."""

    def __init__(self, *, last: int = 99, fails: bool = False) -> None:
        self.calls: list[str] = []
        self.last, self.fails = last, fails
        self.run: Any = None

    def on_start(self, config: Any, model: Any) -> None:
        self.calls.append(f"start {config['objective']}")

    def on_epoch(self, record: Any, model: Any) -> bool:
        self.calls.append(f"epoch {record['epoch']}")
        if self.fails:
            raise ZeroDivisionError("in the callback")
        return record["epoch"] == self.last

    def on_end(self, run: Any) -> None:
        self.calls.append("end")
        self.run = run

    def on_error(self, error: BaseException) -> None:
        self.calls.append(f"error {type(error).__name__}")


def train(*callbacks: Any, **options: Any) -> Any:
    x = np.random.default_rng(0).normal(size=(40, 3))
    data = pvae.load_data({"x": x}, validation=0.2, test=0)
    torch.manual_seed(0)
    model = pvae.VAE((3,), latent=1, hidden=2, likelihood="gaussian")
    settings = {"epochs": 3, "step": "eager", "progress": False, **options}
    return pvae.fit(model, data, callbacks=list(callbacks), **settings)


def test_callbacks_are_called_in_order_and_get_the_run() -> None:
    whole, stopped, seen = Recorder(), Recorder(last=2), []
    run = train(whole, stopped, lambda record, model: seen.append(record["loss"]))
    assert whole.calls == stopped.calls == ["start elbo", "epoch 1", "epoch 2", "end"]
    assert whole.run is run and seen == [record["loss"] for record in run.history]


def test_a_training_with_a_callback_has_the_same_numbers() -> None:
    plain, watched = train(), train(Recorder())
    assert [record["loss"] for record in plain.history] == [record["loss"] for record in watched.history]


def test_an_error_is_passed_to_all_callbacks_and_raised() -> None:
    other, broken = Recorder(), Recorder(fails=True)
    with pytest.raises(ZeroDivisionError):
        train(other, broken)
    assert other.calls == broken.calls == ["start elbo", "epoch 1", "error ZeroDivisionError"]


def test_a_class_in_place_of_a_callback_is_refused() -> None:
    with pytest.raises(pvae.InputError, match=r"Write Recorder\(\)"):
        train(Recorder)
    with pytest.raises(pvae.InputError, match="needs a list"):
        train(3)


def test_tensorboard_holds_the_history_once_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="pip install 'pvae[tensorboard]' brings tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(TensorBoard(tmp_path / "events"), epochs=2, out=tmp_path / "run")
    run = train(TensorBoard(tmp_path / "events"), epochs=4, out=tmp_path / "run", resume=True)
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    for name in ("loss", "validation_bound", "learning_rate"):
        logged = {event.step: event.value for event in events.Scalars(name)}
        assert logged == {record["epoch"]: pytest.approx(record[name], rel=1e-6) for record in run.history}


def test_mlflow_holds_options_and_history(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="pip install 'pvae[mlflow]' brings mlflow")
    uri = f"sqlite:///{tmp_path / 'runs.db'}"
    run = train(MLflow("study", "first", uri))
    with pytest.raises(ZeroDivisionError):
        train(MLflow("study", "second", uri), Recorder(fails=True))
    client = mlflow.MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("study").experiment_id])
    by_name = {found.info.run_name: found for found in runs}
    assert {name: found.info.status for name, found in by_name.items()} == {"first": "FINISHED", "second": "FAILED"}
    logged = client.get_metric_history(by_name["first"].info.run_id, "loss")
    assert [metric.value for metric in logged] == [record["loss"] for record in run.history]
    assert by_name["first"].data.params["training/epochs"] == "3"


def test_wandb_logs_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="pip install 'pvae[wandb]' brings wandb")
    tracker, logged = WandB("study", folder=tmp_path), []
    run = train(tracker, lambda record, model: logged.append(tracker._run.summary["loss"]))
    assert logged == [record["loss"] for record in run.history]
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(pvae.InputError, match=r"pip install 'pvae\[wandb\]'"):
        WandB()
