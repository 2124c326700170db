"""Trainings that end after a number of decoder evaluations or seconds, and their continuation."""

from __future__ import annotations

import itertools
import time

import pytest
import torch

import pvae
from pvae.errors import InputError
from pvae.train import progress_state

X = (torch.rand(64, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
DATA = pvae.load_data(X, validation=14, test=0, binarise="none")  # 50 training data


def fit(out=None, **options):
    model = pvae.models.ModelSpec("vae", {"latent": 1, "hidden": 3})
    settings = {"batch_size": 20, "validation_particles": 5, "progress": False, "step": "eager", "epochs": 100}
    return pvae.fit(model, DATA, out=out, **{**settings, **options})


@pytest.mark.parametrize(
    ("particles", "most", "expected"), [(1, 100, 100), (1, 109, 100), (1, 99, 90), (4, 500, 480), (4, 80, 80)]
)
def test_steps_do_not_exceed_the_decoder_evaluations(particles: int, most: int, expected: int) -> None:
    run = fit(objective=f"iwae:particles={particles}", max_evaluations=most)
    assert run.history[-1]["evaluations"] == expected


def test_a_budget_that_ends_with_an_epoch_is_the_record_of_that_epoch() -> None:
    run = fit(objective="elbo", max_evaluations=100)
    assert [record["epoch"] for record in run.history] == [1, 2]
    assert [record["evaluations"] for record in run.history] == [50, 100]


def test_parameters_at_a_budget_within_an_epoch_are_validated_and_kept_if_they_are_best() -> None:
    run = fit(objective="elbo", max_evaluations=95, learning_rate=0.05)
    *epochs, last = run.history
    assert [record["epoch"] for record in epochs] == [1] and last["event"] == "max_evaluations"
    assert last["step"] == 5 and last["evaluations"] == 90 and last["validation_bound"] > epochs[0]["validation_bound"]
    best = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    assert run.checkpoint == "best"
    for name, tensor in run.load("last").model.state_dict().items():
        assert torch.equal(tensor, best[name]), name


def test_a_resumed_run_counts_from_where_it_was(tmp_path) -> None:
    whole = fit(tmp_path / "whole", objective="iwae:particles=2", max_evaluations=400)
    fit(tmp_path / "parts", objective="iwae:particles=2", max_steps=4)
    parts = fit(tmp_path / "parts", objective="iwae:particles=2", max_evaluations=400, resume=True)
    assert parts.history[-1]["evaluations"] == whole.history[-1]["evaluations"] == 400
    assert len(parts.history) == len(whole.history)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, parts.model.state_dict()[name]), name
    again = fit(tmp_path / "parts", objective="iwae:particles=2", max_evaluations=400, resume=True)
    assert again.history == parts.history  # nothing is left to do
    longer = fit(tmp_path / "parts", objective="iwae:particles=2", max_evaluations=500, resume=True)
    assert longer.history[-1]["evaluations"] == 500


class Clock:
    """A clock that goes on by one second at each reading."""

    def __init__(self) -> None:
        self.readings = itertools.count()

    def monotonic(self) -> float:
        return float(next(self.readings))


def test_training_ends_after_its_seconds_and_goes_on_with_more(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(progress_state, "time", Clock())
    first = fit(tmp_path / "run", objective="elbo", max_seconds=5)
    assert first.history[-1]["event"] == "max_seconds" or first.history[-1]["seconds"] >= 5
    assert 5 <= first.history[-1]["seconds"] <= 12  # several readings in one step
    more = fit(tmp_path / "run", objective="elbo", max_seconds=20, resume=True)
    assert 20 <= more.history[-1]["seconds"] <= 27 and more.history[-1]["step"] > first.history[-1]["step"]


def test_training_time_leaves_validation_and_callbacks_out(monkeypatch) -> None:
    original = pvae.train.validation.Validation.__call__

    def slow(self):
        time.sleep(0.3)
        return original(self)

    monkeypatch.setattr(pvae.train.validation.Validation, "__call__", slow)
    run = fit(objective="elbo", epochs=2, callbacks=[lambda *_: time.sleep(0.3)])
    assert run.seconds == pytest.approx(run.history[-1]["seconds"], abs=0.3)
    assert run.history[-1]["seconds"] - run.history[0]["seconds"] < 0.3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_evaluations": 39, "objective": "iwae:particles=2"}, "at least the 40 decoder evaluations of one step"),
        ({"max_evaluations": 0}, "max_evaluations needs a whole number"),
        ({"max_evaluations": 1.5}, "max_evaluations needs a whole number"),
        ({"max_seconds": 0}, "max_seconds needs a"),
        ({"max_seconds": "60s"}, "max_seconds needs a"),
    ],
)
def test_limits_that_cannot_be_used_are_refused(tmp_path, options, words) -> None:
    with pytest.raises(InputError, match=words):
        fit(tmp_path / "run", **{"objective": "elbo", **options})
    assert not (tmp_path / "run").exists()
