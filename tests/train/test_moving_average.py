"""The moving average of the parameters: by hand after each step, in evaluations, through a break of the training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pvae
from pvae.callbacks import EMA, Callback
from pvae.errors import InputError
from pvae.train.checkpoint import read

X = np.random.default_rng(0).normal(size=(40, 3))


class Steps(Callback):
    """Keeps a copy of the parameters after each step."""

    def __init__(self) -> None:
        self.values: list[dict[str, Tensor]] = []
        self.numbers: list[int] = []

    def on_step(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        self.numbers.append(step)
        self.values.append({name: parameter.detach().clone() for name, parameter in parameters.items()})


def train(*callbacks: Any, **options: Any) -> Any:
    data = pvae.load_data({"x": X}, validation=10, test=0)
    torch.manual_seed(0)
    model = pvae.VAE((3,), latent=1, hidden=2, likelihood="gaussian")
    settings = {"epochs": 2, "batch_size": 10, "step": "eager", "progress": False, "precision": "float64", **options}
    return pvae.fit(model, data, callbacks=list(callbacks), **settings)


@pytest.mark.parametrize("step", ["eager", "graph"])
def test_the_average_is_that_of_the_formula(step: str) -> None:
    ema, steps = EMA(decay=0.75), Steps()
    train(ema, steps, step=step)
    assert steps.numbers == [1, 2, 3, 4, 5, 6]
    expected = steps.values[0]
    for values in steps.values[1:]:
        expected = {name: 0.75 * expected[name] + 0.25 * values[name] for name in expected}
    assert ema.averages.keys() == expected.keys()
    for name, average in ema.averages.items():
        torch.testing.assert_close(average, expected[name], rtol=1e-12, atol=1e-12)
        assert not torch.equal(average, steps.values[-1][name])


def test_the_callback_does_not_change_the_training() -> None:
    assert [record["loss"] for record in train().history] == [record["loss"] for record in train(EMA()).history]


def test_an_evaluation_uses_the_average_and_leaves_the_model_as_it_was() -> None:
    ema = EMA(decay=0.5)
    run = train(ema)
    before = {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}
    with ema.applied():
        averaged = pvae.evaluate.elbo(run.model, X, particles=20)
    assert all(torch.equal(before[name], parameter) for name, parameter in run.model.named_parameters())
    plain = pvae.evaluate.elbo(run.model, X, particles=20)
    ema.copy_to_model()
    by_hand = pvae.evaluate.elbo(run.model, X, particles=20)
    assert averaged.value == by_hand.value != plain.value
    own = dict(run.model.named_parameters())
    assert sorted(map(torch.Tensor.tolist, ema.averages.values()), key=str) == sorted(
        (parameter.tolist() for parameter in own.values()), key=str
    )


def test_a_resumed_training_continues_the_average(tmp_path: Path) -> None:
    whole, broken, resumed = EMA(0.9), EMA(0.9), EMA(0.9)
    train(whole, epochs=3)
    train(broken, epochs=1, out=tmp_path / "run")
    saved = {name: tensor.clone() for name, tensor in broken.averages.items()}
    train(resumed, epochs=3, out=tmp_path / "run", resume=True)
    assert all(torch.equal(resumed.averages[name], average) for name, average in whole.averages.items())
    assert not all(torch.equal(resumed.averages[name], average) for name, average in saved.items())
    names = [name for name in read(tmp_path / "run" / "last").training if name.startswith("callback/0/EMA/")]
    assert len(names) == len(whole.averages)


def test_a_second_training_starts_a_new_average(tmp_path: Path) -> None:
    used, new = EMA(0.9), EMA(0.9)
    train(used, out=tmp_path / "run")
    train(used, out=tmp_path / "run", epochs=3, resume=True)
    train(used, seed=5)
    train(new, seed=5)
    assert all(torch.equal(used.averages[name], average) for name, average in new.averages.items())


def test_a_return_to_a_good_state_restores_the_average() -> None:
    class Spoils(Callback):
        """Makes a parameter not finite, once."""

        def on_step(self, step: int, parameters: Mapping[str, Tensor]) -> None:
            if step == 5 and not self.__dict__.get("done"):
                self.done = True
                next(iter(parameters.values())).data.fill_(float("nan"))

    ema = EMA(0.5)
    run = train(Spoils(), ema, epochs=3, on_divergence="rollback", checkpoint_seconds=0.0)
    assert any("event" in record for record in run.history)
    assert all(bool(average.isfinite().all()) for average in ema.averages.values())


@pytest.mark.parametrize("decay", [1.0, -0.1, "0.9", None, float("nan")])
def test_a_decay_outside_its_range_is_refused(decay: Any) -> None:
    with pytest.raises(InputError, match="decay needs"):
        EMA(decay)


def test_there_is_no_average_before_a_training() -> None:
    with pytest.raises(InputError, match="no average yet"), EMA().applied():
        pass
