"""A last batch that the programs refuse is reported before training; the look at it changes nothing."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from models import FEATURES, Plain
from torch import Tensor

import pvae
from pvae.train import prepare
from pvae.train.devices import isolated


class Normalised(Plain):
    """Batch normalisation and dropout in the encoder, and a count of the runs of the guide."""

    def __init__(self) -> None:
        super().__init__(dropout=0.3, norm=True)
        self.calls = 0

    def guide(self, x: Tensor) -> None:
        self.calls += 1
        super().guide(x)


def _data(size: int) -> pvae.data.Splits:
    x = torch.rand(size, FEATURES, generator=torch.Generator().manual_seed(1)).round()
    return pvae.load_data({"x": x}, validation=0, test=0)


def _fit(latent_model: Any, size: int, batch_size: int, **options: Any) -> pvae.Run:
    options = {"epochs": 1, "step": "eager", "progress": False} | options
    return pvae.fit(latent_model, _data(size), batch_size=batch_size, **options)


@pytest.mark.parametrize("step", ["eager", "auto"])
def test_a_last_batch_of_one_is_reported_before_an_update(step: str) -> None:
    with isolated(0):
        latent_model = Plain(norm=True)
    before = {name: tensor.clone() for name, tensor in latent_model.state_dict().items()}
    with pytest.raises(
        pvae.InputError, match=r"last batch of each epoch has 1 datum \(21 data in batches of 5\)"
    ) as caught:
        _fit(latent_model, 21, 5, step=step)
    message = str(caught.value)
    assert "more than 1 value per channel" in message and re.search(r"models\.py:\d+", message)
    assert all(torch.equal(before[name], tensor) for name, tensor in latent_model.state_dict().items())
    advised = re.search(r"Use batch_size=(\d+), or leave 1 datum out", message)
    assert advised is not None
    assert _fit(latent_model, 21, int(advised[1])).epoch == 1
    assert _fit(latent_model, 20, 5).epoch == 1
    assert _fit(latent_model, 21, 5, max_steps=4).epoch == 0, "the last batch is not taken"


class OfFixedSizes(Plain):
    """Its guide takes batches of 8 and of 4 data only."""

    def guide(self, x: Tensor) -> None:
        if len(x) not in (4, 8):
            raise ValueError(f"the guide takes 4 or 8 data; it got {len(x)}")
        super().guide(x)


def test_the_advice_names_no_batch_size_that_fails_too() -> None:
    with pytest.raises(pvae.InputError, match=r"has 3 data .* it got 3\. To go on, leave 3 data out") as caught:
        _fit(OfFixedSizes(), 19, 8)
    assert "batch_size=" not in str(caught.value)
    assert _fit(OfFixedSizes(), 16, 8).epoch == 1


def test_the_look_at_the_last_batch_changes_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    for look in (prepare.require_last_batch, lambda *_: None):
        monkeypatch.setattr(prepare, "require_last_batch", look)
        with isolated(0):
            latent_model = Normalised()
        _fit(latent_model, 22, 5)
        states.append((latent_model.state_dict(), latent_model.calls))
    (first, calls), (second, other_calls) = states
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert calls == other_calls
