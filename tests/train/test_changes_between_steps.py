"""What callbacks, hooks and programs change between steps: parameters, flags, hooks, buffers and Python values."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from models import Plain
from pyro import distributions as dist
from torch import Tensor, nn

import pvae
from pvae.train.devices import isolated

STEPS_OF_AN_EPOCH = 6


class AfterStep(pvae.callbacks.Callback):
    """Calls a function of the number of steps and of the model after each step."""

    def __init__(self, function: Callable[[int, Any], Any]) -> None:
        self.function = function

    def on_start(self, config: Any, model: Any) -> None:
        self.model = model

    def on_step(self, step: int, parameters: Any) -> None:
        self.function(step, self.model)


def _fit(make: Callable[[], Any], step: str, callbacks: Any = (), **options: Any) -> pvae.Run:
    """Train by plain gradient descent in double precision, 6 steps an epoch, of which the last has fewer data."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(23, 6, generator=generator, dtype=torch.float64).round()
    splits = pvae.load_data({"x": x[:-5], "x_validation": x[-5:]}, test=0)
    with isolated(3):
        latent_model = make()
    options = {"epochs": 3, "batch_size": 3, "learning_rate": 0.1, "optimiser": "sgd"} | options
    options = {"progress": False} | options | {"precision": "float64", "seed": 0, "validation_particles": 2}
    return pvae.fit(latent_model, splits, step=step, callbacks=callbacks, **options)


def _numbers(run: pvae.Run) -> list[float]:
    return [record[name] for record in run.history for name in ("loss", "validation_bound")]


def _freeze_in_second_epoch(record: Any, model: Any) -> None:
    model.decoder.requires_grad_(record["epoch"] != 1)


@pytest.mark.parametrize(("step", "optimiser"), [("graph", "sgd"), ("eager", "sgd:momentum=0.9")])
def test_a_frozen_parameter_stays_and_is_then_updated_once_for_each_step(step: str, optimiser: str) -> None:
    states: list[Tensor] = []

    def watch(record: Any, model: Any) -> None:
        states.append(model.decoder[0].weight.detach().clone())

    def switched_off() -> Plain:
        model = Plain()
        for parameter in model.decoder.parameters():
            parameter.register_hook(lambda gradient: gradient * SWITCH["now"])
        return model

    def switch(record: Any, model: Any) -> None:
        SWITCH["now"] = float(record["epoch"] != 1)

    run = _fit(Plain, step, [watch, _freeze_in_second_epoch], optimiser=optimiser)
    assert torch.equal(states[1], states[0]) and not torch.equal(states[2], states[1])
    if optimiser == "sgd":  # a gradient of zero then leaves a parameter as it is, too
        SWITCH["now"] = 1.0
        assert _numbers(run) == _numbers(_fit(switched_off, step, [switch], optimiser=optimiser))


SWITCH = {"now": 1.0}


def _with_forward_hook() -> Plain:
    model = Plain()
    model.encoder[0].register_forward_pre_hook(lambda module, inputs: (inputs[0] * SWITCH["now"],))
    return model


def _with_gradient_hook() -> Plain:
    model = Plain()
    model.decoder[0].weight.register_hook(lambda gradient: gradient * SWITCH["now"])
    return model


def _with_hook_after_the_gradient() -> Plain:
    model = Plain()

    def scale(parameter: Tensor) -> None:
        parameter.grad *= SWITCH["now"]  # type: ignore[misc]

    model.decoder[0].weight.register_post_accumulate_grad_hook(scale)
    return model


@pytest.mark.parametrize("make", [_with_forward_hook, _with_gradient_hook, _with_hook_after_the_gradient])
def test_a_value_that_a_hook_reads_takes_effect(make: Callable[[], Plain]) -> None:
    def change(record: Any, model: Any) -> None:
        SWITCH["now"] = 0.5 if record["epoch"] == 2 else 1.0

    numbers = []
    for step, callbacks in (("graph", [change]), ("eager", [change]), ("eager", [])):
        SWITCH["now"] = 1.0
        numbers.append(_numbers(_fit(make, step, callbacks)))
    assert numbers[0] == numbers[1] and numbers[1] != numbers[2]


def test_the_hook_after_the_gradient_is_called_as_by_backward() -> None:
    SWITCH["now"] = 0.0
    for step in ("eager", "graph"):
        model = _fit(_with_hook_after_the_gradient, step, epochs=1).model
        with isolated(3):
            first = Plain().decoder[0].weight
        assert torch.equal(model.decoder[0].weight, first.double())


class Warmed(Plain):
    beta = 1.0

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x * self.beta).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def _at_step(number: int, change: Callable[[Any], Any]) -> AfterStep:
    return AfterStep(lambda step, model: change(model) if step == number else None)


def _lower_beta(model: Any) -> None:
    model.beta = 0.3


def _freeze(model: Any) -> None:
    model.decoder.requires_grad_(False)


def _add_hook(model: Any) -> None:
    model.encoder[0].register_forward_hook(lambda module, inputs, output: 2 * output)


@pytest.mark.parametrize("change", [_lower_beta, _freeze, _add_hook])
def test_what_a_callback_changes_within_an_epoch_takes_effect_at_the_next_step(change: Callable[[Any], Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph, eager = (_fit(Warmed, step, [_at_step(4, change)], epochs=1) for step in ("graph", "eager"))
    assert graph.step == "graph" and _numbers(graph) == _numbers(eager)
    assert _numbers(eager) != _numbers(_fit(Warmed, "eager", epochs=1))


def test_a_value_that_a_callback_changes_after_each_step_leads_to_eager_steps() -> None:
    def anneal(step: int, model: Any) -> None:
        model.beta = 0.1 * step

    with pytest.warns(UserWarning, match=r"Warmed\.beta changes after many steps"):
        graph = _fit(Warmed, "graph", [AfterStep(anneal)])
    assert graph.step == "eager" and _numbers(graph) == _numbers(_fit(Warmed, "eager", [AfterStep(anneal)]))


def test_a_value_that_a_hook_of_the_optimiser_changes_takes_effect() -> None:
    def with_hook(model: list[Any]) -> Callable[[Any], torch.optim.Optimizer]:
        def change(optimiser: Any, args: Any, kwargs: Any) -> None:
            count[0] += 1
            model[0].beta = 0.3 if count[0] > 3 else 1.0

        def make(parameters: Any) -> torch.optim.Optimizer:
            optimiser = torch.optim.SGD(parameters, lr=0.1)
            optimiser.register_step_post_hook(change)
            return optimiser

        count = [0]
        return make

    numbers = []
    for step in ("graph", "eager"):
        model: list[Any] = [None]

        def make(model: list[Any] = model) -> Warmed:
            model[0] = Warmed()
            return model[0]

        numbers.append(_numbers(_fit(make, step, optimiser=with_hook(model), epochs=1)))
    assert numbers[0] == numbers[1]


class Replacing(Plain):
    """Puts another tensor in the place of its buffer, in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(6))

    def guide(self, x: Tensor) -> None:
        if self.training:
            self.average = 0.5 * self.average + x.mean(0).detach()
        super().guide(x - self.average)


class InPlace(Replacing):
    def guide(self, x: Tensor) -> None:
        if self.training:
            self.average.mul_(0.5).add_(x.mean(0).detach())
        Plain.guide(self, x - self.average)


def test_a_buffer_that_each_run_replaces_has_the_numbers_of_one_that_changes_in_place() -> None:
    expected = _fit(InPlace, "graph", epochs=2)
    with pytest.warns(UserWarning, match="in the place of the buffer 'average'"):
        graph = _fit(Replacing, "graph", epochs=2)
    eager = _fit(Replacing, "eager", epochs=2)
    assert _numbers(graph) == _numbers(eager) == pytest.approx(_numbers(expected), rel=1e-12)
    model, x = Replacing(), torch.rand(4, 6).round()
    pvae.check(model, {"x": x})
    assert torch.equal(model.average, torch.zeros(6))


@pytest.fixture
def warnings_as_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_complex_parameters_stay_complex_and_resume(warnings_as_errors: None, tmp_path: Path) -> None:
    class Made(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = nn.Sequential(self.decoder, _Filter())

    run = _fit(Made, "graph", optimiser="adam")
    kernel = run.model.decoder[1].kernel
    assert kernel.dtype == torch.complex128 and kernel.imag[1:3].abs().min() > 0.2
    assert _numbers(run) == _numbers(_fit(Made, "eager", optimiser="adam"))
    _fit(Made, "graph", optimiser="adam", epochs=1, out=tmp_path / "run")
    resumed = _fit(Made, "graph", optimiser="adam", out=tmp_path / "run", resume=True)
    assert _numbers(resumed) == _numbers(run) and torch.equal(resumed.model.decoder[1].kernel, kernel)


class _Filter(nn.Module):
    """Multiplies the spectrum of its input by complex numbers, with imaginary parts of 0.5 at first."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.complex(torch.ones(4), torch.full((4,), 0.5)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x) * self.kernel, n=6)


def test_a_score_that_is_no_bound_has_the_same_draws_at_each_validation() -> None:
    class Tempered(Plain):
        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                with pyro.poutine.scale(scale=0.5):
                    z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

        def guide(self, x: Tensor) -> None:
            with pyro.poutine.scale(scale=0.5):
                super().guide(x)

    with pytest.warns(UserWarning, match="there are no weights"):
        run = _fit(Tempered, "eager", learning_rate=1e-300)
    assert len({record["validation_bound"] for record in run.history}) == 1


def test_a_training_resumes_at_the_epoch_at_which_a_callback_replaced_a_module(tmp_path: Path) -> None:
    def replace(record: Any, model: Any) -> None:
        if record["epoch"] == 1:
            model.decoder[0] = nn.Linear(2, 5, dtype=torch.float64)

    _fit(Plain, "eager", [replace], epochs=1, out=tmp_path / "run")
    run = _fit(Plain, "eager", epochs=2, out=tmp_path / "run", resume=True)
    assert len(run.history) == 2


def test_a_resumed_training_says_which_flags_a_callback_had_changed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def freeze(record: Any, model: Any) -> None:
        model.decoder.requires_grad_(False)
        model.encoder[2].eval()

    _fit(Plain, "eager", [freeze], epochs=1, out=tmp_path / "run")
    capsys.readouterr()
    _fit(Plain, "eager", epochs=2, out=tmp_path / "run", resume=True, progress=None)
    notes = capsys.readouterr().err
    assert "other parameters that need no gradient" in notes and "decoder.0.weight" in notes
    assert "other modules in evaluation mode than this one has now: encoder.2." in notes
    _fit(Plain, "eager", epochs=3, out=tmp_path / "run", resume=True, progress=None)
    assert "was interrupted" not in capsys.readouterr().err
