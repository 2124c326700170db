"""A training that is shorter than a schedule is announced with both numbers, before its first step."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import run
from models import Plain, data
from torch.optim import lr_scheduler

import pvae

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def splits() -> pvae.Splits:
    return pvae.load_data(data(40).x, binarise="none", validation=0, test=0)


def warned(objective: Any = "elbo", **options: Any) -> list[str]:
    """The warnings of a training of 4 steps per epoch, by default of 3 epochs."""
    settings = {"epochs": 3, "batch_size": 10, "step": "eager", "progress": False, **options}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pvae.fit(Plain(), splits(), objective=objective, **settings)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (
            "beta:beta=2:schedule=linear:warm_up=13",
            "The warm-up of Beta takes 13 steps, and this training has 12 steps: the last step has 1.692 instead of 2. "
            "Lower the setting warm_up, or train for more epochs.",
        ),
        ("beta:beta=2:schedule=cyclical:warm_up=400", "Beta takes 400 steps, and this training has 12 steps"),
        ("capacity", "Capacity takes 100000 steps, and this training has 12 steps: the last step has 0.00275 instead"),
        ("alternate:theta_steps=5:objective=beta/schedule=linear/warm_up=13", "Beta takes 13 steps"),
    ],
)
def test_a_warm_up_longer_than_the_training_is_announced(objective: str, words: str) -> None:
    (message,) = warned(objective)
    assert words in message


class OwnObjective(pvae.objectives.WeightsObjective):
    """An objective of a user, with a schedule under a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = pvae.objectives.Schedule("linear", 5.0, 1.0, 90)

    def surrogate(self, weights: Any) -> torch.Tensor:
        return weights.log_w.mean(0)


def test_the_schedule_of_a_users_objective_is_found() -> None:
    (message,) = warned(OwnObjective())
    assert "OwnObjective takes 90 steps, and this training has 12 steps" in message


@pytest.mark.parametrize("objective", ["beta", "beta:schedule=linear:warm_up=12", "capacity:steps=5", "elbo"])
def test_a_schedule_that_arrives_is_not_announced(objective: str) -> None:
    assert warned(objective) == []


def test_the_limit_of_steps_and_earlier_trainings_count() -> None:
    objective = pvae.Beta(schedule="linear", warm_up=20)
    assert "this training has 5 steps" in warned(objective, max_steps=5)[0]
    (message,) = warned(objective)  # steps 5 to 16
    assert "this training has 12 steps, after 5 steps of an earlier one: the last step has 3.2 instead of 4" in message
    assert warned(objective) == []


def test_a_resumed_training_counts_all_its_steps(tmp_path: Path) -> None:
    text = "beta:schedule=linear:warm_up=20"
    assert "20 steps, and this training has 12 steps" in warned(text, out=tmp_path / "run")[0]
    assert (
        "this training has 16 steps: the last step has 3 "
        in warned(text, epochs=4, out=tmp_path / "run", resume=True)[0]
    )
    assert warned(text, epochs=5, out=tmp_path / "run", resume=True) == []


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("cosineannealing:T_max=4", "CosineAnnealingLR of the learning rate has one step per epoch and T_max=4, and"),
        ("linear:total_iters=9", "total_iters=9, and this training has 3 epochs"),
        ("polynomial:total_iters=4", "total_iters=4"),
        ("step:step_size=3", "step_size=3"),
        ("multistep:milestones=1,3", "milestones=3"),
        ("onecycle:max_lr=0.1:total_steps=12", "total_steps=12"),
        (lambda optimiser: lr_scheduler.CosineAnnealingLR(optimiser, 30), "T_max=30"),
        (
            lambda optimiser: lr_scheduler.SequentialLR(
                optimiser,
                [lr_scheduler.ConstantLR(optimiser, total_iters=1), lr_scheduler.ExponentialLR(optimiser, 0.9)],
                milestones=[7],
            ),
            "SequentialLR of the learning rate has one step per epoch and milestones=7",
        ),
    ],
)
def test_a_schedule_of_the_learning_rate_is_announced(schedule: Any, words: str) -> None:
    (message,) = warned(schedule=schedule)
    assert words in message


@pytest.mark.parametrize(
    "schedule",
    ["cosineannealing:T_max=3", "step:step_size=2", "multistep:milestones=1,2", "exponential:gamma=0.9", None],
)
def test_a_schedule_of_the_learning_rate_that_arrives_is_not_announced(schedule: str | None) -> None:
    assert warned(schedule=schedule) == []


def test_the_command_line_prints_the_warning(tmp_path: Path) -> None:
    np.save(tmp_path / "bits.npy", data(40).x.numpy())
    arguments = ("--data", str(tmp_path / "bits.npy"), "--epochs", "1", "--objective", "capacity")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = run("train", "vae", *arguments, "--out", str(tmp_path / "run"))
    assert "The warm-up of Capacity takes 100000 steps, and this training has 1 steps" in " ".join(result.err.split())
