"""Log weights by a graph: the draws, the values and the errors of Pyro; programs without a graph run by Pyro."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from stepping import recorded_weight_runs
from torch import Tensor
from zoo import MODELS

import pvae.evaluate as evaluate
from pvae.errors import InputError
from pvae.products import ProductChoices
from pvae.products.libraries import is_offered
from pvae.programs.base import pair
from pvae.train.graph.trace import StepGraph, trace
from pvae.train.traced_weights import weight_runs
from pvae.train.traced_weights.weight_runs import WeightRuns

#: Four runs of 4 data, each of two blocks of 512 particles.
PARTICLES, DATA, CHUNK = 1024, 16, 4096


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[WeightRuns]:
    """The `WeightRuns` of the test; each makes a graph for its second run."""
    all_runs = recorded_weight_runs(monkeypatch, "pvae.evaluate.running_statistics")
    monkeypatch.setattr(weight_runs, "_LEAST_WORK", 0.0)
    monkeypatch.setattr("pvae.evaluate.evaluation_context.FIRST_DATA", 4)  # a first look sees the later data otherwise
    library = next((name for name in ("onednn", "numpy") if is_offered(name, torch.float32)), "aten")
    monkeypatch.setattr("pvae.products.product_choices.fastest_library", lambda kind: library)
    monkeypatch.setattr("pvae.evaluate.running_statistics.default_products", ProductChoices)
    monkeypatch.setenv("PVAE_CACHE", str(tmp_path))
    return all_runs


def by_pyro(monkeypatch: pytest.MonkeyPatch, compute: Callable[[], Any]) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(weight_runs, "_LEAST_WORK", math.inf)
        return compute()


def make(name: str) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = MODELS[name].make()
    return model, MODELS[name].batch(DATA)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["vae", "vae-conv", "ladder-vae", "ssvae-sampled"])
def test_graphs_have_the_draws_of_pyro_and_with_torch_alone_its_bits(
    name: str, made: list[WeightRuns], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = make(name)

    def pointwise(matmul: str) -> Tensor:
        found = evaluate.log_evidence(model, data, PARTICLES, chunk=CHUNK, matmul=matmul).pointwise
        assert found is not None
        return found

    expected = by_pyro(monkeypatch, lambda: pointwise("aten"))
    assert made[-1].runs_of_graphs == 0
    assert torch.equal(pointwise("aten"), expected)
    assert made[-1].runs_of_graphs == 3
    torch.testing.assert_close(pointwise("auto"), expected, rtol=2e-6, atol=2e-5)
    assert made[-1].runs_of_graphs == 3


def test_many_particles_run_in_blocks(made: list[WeightRuns]) -> None:
    model, data = make("ladder-vae")
    evaluate.elbo(model, data, PARTICLES, chunk=CHUNK)
    (plan,) = made[-1]._plans.values()
    assert plan.graph is not None
    assert (plan.graph.block, len(plan.graph.draws)) == (512, 2)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("matmul", ["auto", "aten"])
def test_all_evaluations_of_the_weights_keep_their_values(
    matmul: str, made: list[WeightRuns], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = make("gmvae")  # one site is summed out, so the terms of the ELBO are not the weights

    def numbers() -> list[Tensor]:
        options = {"chunk": CHUNK, "matmul": matmul}
        judged = evaluate.judge(model, data, PARTICLES, **options)
        diagnosed = evaluate.diagnose(model, data, PARTICLES, **options)
        return [judged.elbo.pointwise, judged.log_evidence.pointwise, diagnosed.ess / PARTICLES, diagnosed.khat]

    tolerance = {"rtol": 0, "atol": 0} if matmul == "aten" else {"rtol": 1e-5, "atol": 1e-4}
    torch.testing.assert_close(numbers(), by_pyro(monkeypatch, numbers), **tolerance)
    assert [runs.runs_of_graphs for runs in made] == [3, 3, 0, 0]


#: Binary data of which no two runs are equal.
DATA_OF_RUNS = torch.eye(DATA)[:, ::5][:, :3].clone()
DATA_OF_RUNS[1::4, 2] = 1.0


def program(likelihood: Callable[[Tensor, Tensor], Any]) -> Any:
    """A model with z ~ N(0, I) of 3 units and a likelihood of x given z and x."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 3), 1.0).to_event(1))
            pyro.sample("x", likelihood(z, x).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.1 * x, 1.0).to_event(1))

    return pair(model, guide)


def test_an_invalid_value_in_a_late_run_raises_the_error_of_pyro(made: list[WeightRuns]) -> None:
    x = DATA_OF_RUNS.clone()
    x[-1, 1] = 2.0
    with pytest.raises(ValueError, match="within the support"):
        evaluate.elbo(program(lambda z, x: dist.Bernoulli(logits=z)), x, PARTICLES, chunk=CHUNK)
    assert made[-1].runs_of_graphs == 2


def test_an_invalid_parameter_at_one_draw_raises_the_error_of_pyro(made: list[WeightRuns]) -> None:
    x = DATA_OF_RUNS.clone()
    x[-1] = 1.0  # torch clamps a probability above 1 without a word

    def likelihood(z: Tensor, x: Tensor) -> Any:
        return dist.Bernoulli(probs=0.5 + torch.where((x.sum(-1, keepdim=True) > 2.5) & (z > 3.0), 1.0, 0.0))

    with pytest.raises(ValueError, match="Expected parameter probs"):
        evaluate.elbo(program(likelihood), x, PARTICLES, chunk=CHUNK)
    assert made[-1].runs_of_graphs == 2


def test_a_loc_that_is_nan_raises_the_error_of_pyro(made: list[WeightRuns]) -> None:
    x = DATA_OF_RUNS.clone()
    x[-1] = -1.0
    with pytest.raises(ValueError, match="Expected parameter loc"):
        evaluate.elbo(program(lambda z, x: dist.Normal(z + x.sqrt(), 1.0)), x, PARTICLES, chunk=CHUNK)
    assert made[-1].runs_of_graphs == 2


COUNTS = {"runs": 0}
NOISE = np.random.default_rng(0)


def branch(z: Tensor, x: Tensor) -> Any:
    return dist.Normal(z if x.sum() > 20 else 2 * z, 1.0)


def numpy_read(z: Tensor, x: Tensor) -> Any:
    return dist.Normal(z + float(np.mean(x.numpy())), 1.0)


def selected(z: Tensor, x: Tensor) -> Any:
    return dist.Normal(z * x[x > 0.5].shape[0], 1.0)


def counted(z: Tensor, x: Tensor) -> Any:
    COUNTS["runs"] += 1
    return dist.Normal(z + COUNTS["runs"], 1.0)


def counted_without_use(z: Tensor, x: Tensor) -> Any:
    COUNTS["runs"] += 1
    return dist.Normal(z, 1.0)


def numpy_noise(z: Tensor, x: Tensor) -> Any:
    return dist.Normal(z + float(NOISE.normal()), 1.0)


def one_by_one(z: Tensor, x: Tensor) -> Any:
    return dist.Normal(z if z.dim() == 2 else z.mean(0), 1.0)


@pytest.mark.filterwarnings("ignore:Particles are drawn one by one")
@pytest.mark.parametrize(
    "likelihood", [branch, numpy_read, selected, counted, counted_without_use, numpy_noise, one_by_one]
)
def test_programs_that_cannot_be_traced_run_by_pyro(
    likelihood: Callable[[Tensor, Tensor], Any], made: list[WeightRuns], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.rand(DATA, 3, generator=torch.Generator().manual_seed(0))
    particles = 8 if likelihood is one_by_one else PARTICLES

    def numbers() -> Any:
        COUNTS["runs"] = 0
        NOISE.bit_generator.state = np.random.default_rng(0).bit_generator.state
        return evaluate.elbo(program(likelihood), x, particles, chunk=4 * particles).pointwise

    assert torch.equal(numbers(), by_pyro(monkeypatch, numbers))
    assert made[0].runs_of_graphs == 0


def test_a_graph_that_has_frozen_the_data_is_refused(made: list[WeightRuns], monkeypatch: pytest.MonkeyPatch) -> None:
    def frozen(function: Any, arguments: Any) -> StepGraph:
        values = [argument.clone() for argument in arguments]
        return trace(lambda *_: function(*values), arguments)

    model, data = make("vae")
    expected = by_pyro(monkeypatch, lambda: evaluate.elbo(model, data, PARTICLES, chunk=CHUNK))
    monkeypatch.setattr(weight_runs, "trace", frozen)
    found = evaluate.elbo(model, data, PARTICLES, chunk=CHUNK)
    assert torch.equal(found.pointwise, expected.pointwise)  # type: ignore[arg-type]
    assert made[-1].runs_of_graphs == 0


def test_a_graph_that_is_wrong_on_the_run_after_its_trace_is_refused(
    made: list[WeightRuns], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = make("vae")
    expected = by_pyro(monkeypatch, lambda: evaluate.elbo(model, data, PARTICLES, chunk=CHUNK, matmul="aten"))
    monkeypatch.setattr(WeightRuns, "_agrees_with_record", lambda *_: True)

    def shifted(function: Any, arguments: Any) -> StepGraph:
        first = arguments[0].clone()
        return trace(lambda x: tuple(each + (x - first).abs().sum() for each in function(x)), arguments)

    monkeypatch.setattr(weight_runs, "trace", shifted)
    found = evaluate.elbo(model, data, PARTICLES, chunk=CHUNK, matmul="aten")
    assert torch.equal(found.pointwise, expected.pointwise)  # type: ignore[arg-type]
    assert made[-1].runs_of_graphs == 1


@pytest.mark.parametrize("matmul", ["fast", "", None, 3, "ATEN"])
def test_another_way_to_multiply_is_refused(matmul: Any) -> None:
    model, data = make("vae")
    with pytest.raises(InputError, match="matmul"):
        evaluate.elbo(model, data, 2, matmul=matmul)
