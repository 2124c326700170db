"""One training by a `Stepper`, in a graph or eagerly: what it computes, and the state that it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from models import data
from torch import Tensor

from pvae.batch import Batch
from pvae.models import bind, scope
from pvae.objectives import adapt
from pvae.train.computation import Computation
from pvae.train.devices import isolated
from pvae.train.optimisers import make_optimiser
from pvae.train.parameters import Parameters
from pvae.train.step import Stepper
from pvae.train.traced_weights.weight_runs import WeightRuns


@contextmanager
def stepper(
    latent_model: Any, objective: Any, *, graph: bool, batch: Batch, **settings: Any
) -> Iterator[tuple[Stepper, Parameters]]:
    """A stepper in the model's scope, after the pass that creates what is created lazily."""
    own = adapt(objective)
    with isolated(0), scope(latent_model):
        programs = bind(latent_model, batch)
        for player in own.players:
            own.terms(programs.model, programs.guide, programs.arguments(batch), {}, player)
        parameters = Parameters(latent_model, programs, own, batch)
        optimiser = make_optimiser("adam", parameters.groups(), 1e-2)
        yield Stepper(Computation(programs, own, parameters), optimiser, graph=graph, **settings), parameters


def after(make: Callable[[], Any], objective: Callable[[], Any], *, graph: bool, steps: int = 4, **settings: Any):
    """Losses and final parameters and buffers of some steps from one seed; and whether the graph was used.

    The steps take two batches in turn: 8 data, and `last` others.
    """
    dtype = settings.pop("dtype", torch.float32)
    with isolated(3):
        latent_model = make().to(dtype)
    beside = settings.pop("beside", lambda size: {})
    last = settings.pop("last", 5)
    rows = data(8 + last, dtype).x.split([8, last])
    batches = [Batch(x=x).replace(**beside(len(x))) for x in rows]
    with stepper(latent_model, objective(), graph=graph, batch=batches[0], **settings) as (step, parameters):
        with isolated(4):
            numbers = [torch.stack(step(batches[i % 2])) for i in range(steps)] or [torch.zeros(1)]
            drawn = torch.rand(3)
        tensors = {name: each.detach().clone() for name, each in parameters.named.items()}
        tensors |= {name: each.clone() for name, each in latent_model.named_buffers()}
        return torch.stack(numbers), tensors, drawn, step


def parameters_of(run: Any) -> dict[str, Tensor]:
    """Copies of the parameters of a run, by name."""
    return {name: tensor.detach().clone() for name, tensor in run.model.named_parameters()}


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Compare tensors by name, bit for bit."""
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def recorded_weight_runs(monkeypatch: pytest.MonkeyPatch, module: str) -> list[WeightRuns]:
    """The list of the `WeightRuns` that a module makes from now on."""
    made: list[WeightRuns] = []

    class Recorded(WeightRuns):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(f"{module}.WeightRuns", Recorded)
    return made
