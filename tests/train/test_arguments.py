"""Arguments of a wrong type or range are refused in one line that says what is needed, and divergence is divergence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import Plain, data

import pvae
from pvae import DivergenceError, InputError

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

X = data(20).x


def splits(**options: Any) -> Any:
    return pvae.load_data({"x": X}, validation=0, test=0, **options)


def fit(model: Any = None, **options: Any) -> Any:
    return pvae.fit(Plain() if model is None else model, splits(), epochs=1, progress=False, **options)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: fit(3), "fit needs a latent model with .model and .guide; got int"),
        (lambda: pvae.check(3, {"x": X}), "check needs a latent model"),
        (lambda: pvae.log_weights(Plain(), 3, 2), "Data need to be an array, a tensor, .*; got int"),
        (lambda: fit(callbacks=3), r"callbacks needs a list of functions of \(record, model\); got 3"),
        (lambda: fit(callbacks=[3]), r"callbacks needs a list of functions of \(record, model\); got \[3\]"),
        (lambda: fit(fields=3), "fields needs names such as .*; got 3"),
        (lambda: fit(out=3), "out needs the path of a folder"),
        (lambda: fit(checkpoint_seconds=-1), "checkpoint_seconds needs a number of at least 0; got -1"),
        (lambda: fit(checkpoint_seconds=None), "checkpoint_seconds needs a number of at least 0; got None"),
        (lambda: splits(seed=-1), "seed needs a whole number of at least 0; got -1"),
        (lambda: splits(seed=1.5), "seed needs a whole number of at least 0; got 1.5"),
        (lambda: pvae.evaluate.elbo(Plain(), X, seed=-1), "seed needs a whole number of at least 0; got -1"),
        (lambda: pvae.IWAE(2, gradients=3), "gradients needs a mapping from site to strategy.*got 3"),
        (lambda: pvae.IWAE(2, foo=1), "Unknown option of IWAE 'foo'. Known: auxiliary, data_plate, gradients"),
        (lambda: pvae.FreeBits(0.5, gradient="z=score"), "did you mean 'gradients'"),
        (lambda: pvae.DReG(2, data_plate=3), "data_plate needs the name of a plate"),
    ],
)
def test_unusable_arguments_are_named(use: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        use()


@pytest.mark.parametrize("on_divergence", ["stop", "rollback"])
@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_parameters_that_overflow_in_validation_are_a_divergence(objective: str, on_divergence: str) -> None:
    learning_rate = 1e30  # one step in the epoch: its loss is finite, and the validation uses the parameters first
    with_validation = pvae.load_data({"x": X}, validation=0.25, test=0)
    options: dict[str, Any] = {"epochs": 1, "learning_rate": learning_rate, "on_divergence": on_divergence}
    with pytest.raises(DivergenceError, match="scale of guide site 'z'") as caught:
        pvae.fit(Plain(), with_validation, objective=objective, progress=False, **options)
    assert (caught.value.site, caught.value.tensor) == ("z", "scale")


def test_an_error_of_the_programs_in_validation_stays_that_error() -> None:
    class FailsInEvaluation(Plain):
        def model(self, x: torch.Tensor) -> None:
            if not self.training and len(x) == 5:
                raise ValueError("no such batch")
            super().model(x)

    with_validation = pvae.load_data({"x": X}, validation=0.25, test=0)
    with pytest.raises(ValueError, match="no such batch"):
        pvae.fit(FailsInEvaluation(), with_validation, epochs=1, progress=False)
