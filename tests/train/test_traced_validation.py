"""Validation by a graph: the numbers of Pyro, a resumed training, and programs that change during the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from models import FEATURES, LATENT, Plain
from stepping import recorded_weight_runs
from torch import Tensor

import pvae
from pvae.products.libraries import is_offered
from pvae.train import validation
from pvae.train.traced_weights.weight_runs import WeightRuns

pytestmark = pytest.mark.usefixtures("own_store")

X = torch.rand(46, FEATURES, generator=torch.Generator().manual_seed(0)).round()
#: parts of 8, 8 and 6 data, of which the last has a graph of its own; and two parts of 8 data
DATA, EVEN = (pvae.load_data(X, validation=size, test=0) for size in (22, 16))
PARTICLES = 40
OPTIONS = {"batch_size": 12, "validation_particles": PARTICLES, "progress": False, "step": "graph", "matmul": "aten"}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[WeightRuns]:
    """The graphs of the validations of the test, which are made for any amount of work."""
    all_runs = recorded_weight_runs(monkeypatch, "pvae.train.validation")
    monkeypatch.setattr(validation, "_LEAST_WORK", 0.0)
    monkeypatch.setattr(validation, "_DRAWS_AT_A_TIME", {"cpu": 8 * PARTICLES})
    monkeypatch.setenv("PVAE_CACHE", str(tmp_path / "cache"))
    return all_runs


def bounds(make: Any, data: pvae.Splits, monkeypatch: pytest.MonkeyPatch | None = None, **options: Any) -> list[float]:
    """The validation bounds of a training; by Pyro if the graphs are switched off."""
    torch.manual_seed(0)
    if monkeypatch is None:
        return [record["validation_bound"] for record in pvae.fit(make(), data, **{**OPTIONS, **options}).history]
    with monkeypatch.context() as patch:
        patch.setattr(validation, "_LEAST_WORK", float("inf"))
        return bounds(make, data, **options)


def test_the_numbers_are_those_of_pyro_in_every_bit(made: list[WeightRuns], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = bounds(Plain, DATA, monkeypatch, epochs=3)
    assert not made and len(set(expected)) == 3
    assert bounds(Plain, DATA, epochs=3) == expected
    (runs,) = made
    assert len(runs._plans) == 2 and all(plan.graph is not None for plan in runs._plans.values())
    assert runs.runs_of_graphs == 2 + 3 * 3  # of the two that make graphs, and of each validation


def test_a_resumed_training_has_the_same_numbers_with_the_fastest_products(
    made: list[WeightRuns], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = next((name for name in ("onednn", "numpy") if is_offered(name, torch.float32)), "aten")
    monkeypatch.setattr("pvae.products.product_choices.fastest_library", lambda kind: library)
    spec = pvae.ModelSpec("vae", {"latent": 2, "hidden": (5,)})
    options = {**OPTIONS, "matmul": "auto"}
    whole = pvae.fit(spec, EVEN, epochs=2, **options)
    pvae.fit(spec, EVEN, epochs=1, out=tmp_path / "run", **options)
    resumed = pvae.fit(spec, EVEN, epochs=2, out=tmp_path / "run", resume=True, **options)
    assert [runs.runs_of_graphs for runs in made] == [1 + 2 * 2, 1 + 2, 1 + 2]
    names = ("validation_bound", "validation_error", "loss")
    for one, other in zip(whole.history, resumed.history, strict=True):
        assert [one[name] for name in names] == [other[name] for name in names]


class Annealed(Plain):
    """The scale of q is multiplied by a Python number, which a callback changes."""

    factor = 1.0

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).split(LATENT, -1)
            pyro.sample("z", dist.Normal(loc, self.factor * log_scale.exp()).to_event(1))


def test_a_value_that_a_callback_changes_is_seen(made: list[WeightRuns], monkeypatch: pytest.MonkeyPatch) -> None:
    def anneal(record: Any, model: Any) -> None:
        model.factor += 1.0

    options = {"epochs": 2, "callbacks": [anneal]}
    expected = bounds(Annealed, EVEN, monkeypatch, **options)
    assert bounds(Annealed, EVEN, **options) == expected
    assert [runs.runs_of_graphs for runs in made] == [1 + 2] * 2  # the graph is made again for each value


def test_eager_steps_and_little_work_are_validated_by_pyro(
    made: list[WeightRuns], monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds(Plain, EVEN, epochs=1, step="eager")
    monkeypatch.setattr(validation, "_LEAST_WORK", 1e9)
    bounds(Plain, EVEN, epochs=1, max_steps=1)
    assert made == []
