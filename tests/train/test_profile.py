"""The cost of training in calls: Python frames of pvae in an eager step, and runs of the programs before training."""

from __future__ import annotations

import os
import sys
from collections import Counter
from types import FrameType
from typing import Any

import pytest
import torch
from pyro.poutine.messenger import Messenger

import pvae
from pvae.train.step import Stepper

ROOT = os.path.join(os.path.dirname(pvae.__file__), "")
MOST_FRAMES = 200
# Pairs of runs before the first update: at most 8 of checks, one of the first step, and one of its graph.
# The checks are: the likelihood (0.5), shapes and densities that repeat (1.5), the rows of the batch (2), and, of
# several particles, whether they can share a run (3); then the gradients (1).
MOST_RUNS = {"eager": 9, "graph": 10}


def splits() -> Any:
    x = torch.rand(200, 6, generator=torch.Generator().manual_seed(0)).round()
    return pvae.load_data(x, validation=20, test=0)


def train(model: Any, **options: Any) -> pvae.Run:
    settings = {"epochs": 1, "max_steps": 8, "batch_size": 16, "validation_particles": 5, "progress": False}
    return pvae.fit(model, splits(), **{**settings, **options})


def frames_of_step(number: int, monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """Train by IWAE, and count the Python frames of pvae in one step by file and function."""
    frames: Counter[tuple[str, str]] = Counter()
    steps = []
    take_step = Stepper.__call__

    def count(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(ROOT):
            frames[code.co_filename.removeprefix(ROOT), code.co_qualname] += 1

    def counted_step(self: Stepper, batch: Any) -> Any:
        steps.append(1)
        if len(steps) != number:
            return take_step(self, batch)
        profiler = sys.getprofile()
        sys.setprofile(count)
        try:
            return take_step(self, batch)
        finally:
            sys.setprofile(profiler)

    monkeypatch.setattr(Stepper, "__call__", counted_step)
    train(pvae.VAE((6,), latent=2, hidden=5), objective=pvae.IWAE(particles=8), step="eager")
    assert len(steps) > number
    return frames


def test_an_eager_step_has_few_frames_and_finds_the_layout_once(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = frames_of_step(6, monkeypatch)
    assert 50 < frames.total() < MOST_FRAMES, frames.most_common()
    assert frames["programs/bound.py", "_cache_key"] == 1
    assert frames["models/vae.py", "VAE.model"] == frames["models/vae.py", "VAE.guide"] == 1


class CountRuns(Messenger):
    """Counts the runs of both programs by their statements for z, because a count in the model would end the graph."""

    runs = 0

    def _pyro_sample(self, msg: Any) -> None:
        self.runs += msg["name"] == "z"


@pytest.mark.parametrize("step", ["eager", "graph"])
@pytest.mark.parametrize("objective", ["elbo", "iwae:particles=8", "vimco:particles=8"])
def test_the_programs_run_few_times_before_the_first_update(objective: str, step: str) -> None:
    model = pvae.VAE((6,), latent=2, hidden=5)
    runs_at_updates = []

    class Recording(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            runs_at_updates.append(counter.runs)
            return super().step(closure)

    with CountRuns() as counter:
        run = train(model, objective=objective, optimiser=Recording, step=step, max_steps=2)
    assert run.step == step and len(runs_at_updates) == 2
    pairs = runs_at_updates[0] / 2
    assert 2 <= pairs <= MOST_RUNS[step]
