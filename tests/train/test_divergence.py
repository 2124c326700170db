"""A training that diverges says what went non-finite first, and keeps the last good state."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pvae
from pvae.models import LatentModel, bind, scope
from pvae.train.checkpoint import read
from pvae.train.computation import Computation
from pvae.train.devices import isolated
from pvae.train.divergence import find_non_finite
from pvae.train.optimisers import make_optimiser
from pvae.train.parameters import Parameters
from pvae.train.step import Stepper


def data() -> Any:
    x = torch.rand(64, 4, generator=torch.Generator().manual_seed(0))
    return pvae.load_data(x, validation=0, test=0, binarise="none")


class Fails(LatentModel):
    """Breaks in a chosen place once its clock, a buffer that counts runs of the guide in training, is late."""

    def __init__(self, where: str, late: int = 6) -> None:
        super().__init__()
        with isolated(1):
            self.encoder, self.decoder = nn.Linear(4, 2), nn.Linear(2, 4)
        self.where, self.late = where, late
        self.register_buffer("clock", torch.zeros(()))

    def broken(self, place: str, value: Tensor) -> Tensor:
        late = (self.clock > self.late) if self.where == place else torch.zeros((), dtype=torch.bool)
        return torch.where(late, torch.full_like(value, torch.nan), value)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            loc = self.broken("loc of x", self.decoder(z))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        self.clock.add_(1.0)
        with pyro.plate("data", len(x)):
            scale = self.broken("scale of z", torch.ones(len(x), 2))
            pyro.sample("z", dist.Normal(self.encoder(x), scale).to_event(1))


class Explodes(Fails):
    """A finite loss with a gradient that is not: sqrt(0) times a parameter's distance from itself."""

    def guide(self, x: Tensor) -> None:
        self.clock.add_(1.0)
        with pyro.plate("data", len(x)):
            late = (self.clock > self.late).to(x.dtype)
            root = ((self.encoder.bias - self.encoder.bias.detach()) * late + (1 - late)).sqrt() - (1 - late)
            pyro.sample("z", dist.Normal(self.encoder(x) + root, 1.0).to_event(1))


def fit(model: Any, **options: Any) -> pvae.Run:
    settings = {"epochs": 5, "batch_size": 16, "progress": False, "seed": 2}
    return pvae.fit(model, data(), **{**settings, **options})


CASES: dict[str, tuple[Callable[[], Any], str, str]] = {
    "guide's scale": (lambda: Fails("scale of z"), "z", "scale"),
    "model's loc": (lambda: Fails("loc of x"), "x", "loc"),
    "gradient": (lambda: Explodes("nowhere"), "", "encoder.bias"),
}


@pytest.mark.parametrize("step", ["eager", "graph"])
@pytest.mark.parametrize("case", CASES)
def test_the_first_non_finite_tensor_is_named(case: str, step: str, tmp_path: Path) -> None:
    make, site, tensor = CASES[case]
    with pytest.raises(pvae.DivergenceError, match="is not finite") as caught:
        fit(make(), step=step, out=tmp_path / "run", checkpoint_seconds=0.0)
    assert (caught.value.site, caught.value.tensor) == (site, tensor)
    kept = read(tmp_path / "run" / "last")
    assert kept.state["step"] == caught.value.step - 1
    assert all(each.isfinite().all() for each in kept.parameters.values())
    assert f"from step {kept.state['step']}" in str(caught.value)


@pytest.mark.parametrize("step", ["eager", "graph"])
def test_the_step_is_found_from_a_checkpoint_far_back(step: str, tmp_path: Path) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    with pytest.raises(pvae.DivergenceError) as first:
        fit(Fails("loc of x"), step=step, out=near, checkpoint_seconds=0.0)
    model = Fails("loc of x")
    before = {name: each.clone() for name, each in model.named_parameters()}
    with pytest.raises(pvae.DivergenceError) as second:
        fit(model, step=step, out=far, checkpoint_seconds=1e6)
    assert first.value.step == second.value.step
    assert read(far / "last").state["step"] == 0
    assert all(torch.equal(each, before[name]) for name, each in model.named_parameters()), "put back to the good state"


def test_a_memory_run_diverges_too() -> None:
    model = Fails("scale of z", late=8)
    with pytest.raises(pvae.DivergenceError, match="The model has the last good state"):
        fit(model)
    assert all(each.isfinite().all() for each in model.parameters())


class Steep(LatentModel):
    """Diverges at a learning rate that is too large, and converges at a smaller one."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(4))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.centre, 0.01).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))


def test_rollback_halves_the_learning_rate_until_it_goes_well(tmp_path: Path) -> None:
    out = tmp_path / "run"
    # plain gradient descent on a parabola of curvature 1e4 converges below 2e-4
    options = {"optimiser": "sgd", "learning_rate": 1e-3, "epochs": 120, "batch_size": 64, "out": out}
    with pytest.raises(pvae.DivergenceError):
        fit(Steep(), **{**options, "out": None})
    run = fit(Steep(), **options, on_divergence="rollback")
    events = [each for each in run.history if each.get("event") == "rollback"]
    assert [each["learning_rate"] for each in events] == [5e-4, 2.5e-4, 1.25e-4]
    assert run.history[-1]["learning_rate"] == 1.25e-4
    torch.testing.assert_close(run.model.centre, data().train.x.mean(0), atol=1e-3, rtol=0.0)
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == run.history
    assert [each["epoch"] for each in run.history if "epoch" in each] == list(range(1, 121))


def test_rollback_ends_after_ten_times() -> None:
    with pytest.raises(pvae.DivergenceError):
        fit(Fails("loc of x"), on_divergence="rollback", learning_rate=1e-3)


def test_an_error_of_the_program_itself_is_not_called_divergence() -> None:
    class Wrong(Fails):
        def guide(self, x: Tensor) -> None:
            Fails.guide(self, x)
            if self.clock > 12:
                raise RuntimeError("my own mistake")

    with pytest.raises(RuntimeError, match="my own mistake"):
        fit(Wrong("nowhere"), step="eager")


def test_the_search_for_a_non_finite_tensor_changes_no_state_of_the_objective() -> None:
    model = Fails("nowhere")
    objective = pvae.ScoreFunction("decaying", particles=2, gradients="z=score")
    run = pvae.fit(model, data(), objective=objective, epochs=1, batch_size=5, progress=False, step="eager")
    batch = data().train.take(slice(0, 5))
    programs = bind(run.model, batch)
    with scope(run.model):
        parameters = Parameters(run.model, programs, objective, batch)
        optimiser = make_optimiser("adam", {"all": parameters.of("all")}, 1e-3)
        stepper = Stepper(Computation(programs, objective, parameters), optimiser, graph=False)
        before = objective.steps.clone()
        assert before > 0
        assert find_non_finite(stepper, batch) is None
    assert torch.equal(objective.steps, before)
