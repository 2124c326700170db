"""A search for biases over all objectives: each bias that it finds is declared by the objective.

Two questions are asked of each objective, on a small model of the kind that it needs. Is the mean of value and gradient
over the batches of an epoch that of all data together? And is the mean gradient the derivative of the mean value?
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import zoo
from forcing import Forced
from models import LATENT, data
from objective_models import beside, model_of
from scipy import stats
from torch import Tensor, nn

import pvae
from pvae.data import minibatches
from pvae.objectives import NamedObjective, WeightsObjective, make_objective, objective_names
from pvae.objectives.base import Terms
from pvae.objectives.kl.weighted_kl import StatefulObjective
from pvae.programs.bound import BoundPrograms
from pvae.programs.data_counter import DataCounter

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

#: The number of data, of data in a batch, and of directions in which gradients are compared.
DATA, BATCH, DIRECTIONS = 32, 2, 3

#: The probability that the search finds a bias where there is none, for all of its tests together.
LEVEL = 0.01
TESTS = 2 * len(zoo.OBJECTIVES) * (1 + DIRECTIONS)

#: A part of the search that takes little time: batches are coupled, or draws enter in a way that is not linear.
FAST = (
    "elbo-analytic",
    "info-mmd",
    "total-correlation:data_size=32:particles=4",
    "capacity:capacity=3:gamma=1",
    "free-bits:nats=1.4",
    "stl:particles=3",
)


class Subject:
    """An objective with a model of the kind that it needs, in float64.

    Args:
        objective: the objective.
        model: the latent model.
        batch: all data.
    """

    def __init__(self, objective: Any, model: Any, batch: pvae.Batch) -> None:
        self.objective, self.model, self.batch = objective.double().eval(), model.double(), batch
        self.objective.look_at(batch)
        self.reasons: set[str] = set()
        if isinstance(self.objective, StatefulObjective):
            self.objective.steps.fill_(10**6)  # every schedule has arrived
        self.parameters = [each for each in model.parameters() if each.requires_grad]
        generator = torch.Generator().manual_seed(5)
        self.directions = []
        with torch.no_grad():
            for each in self.parameters:
                each.mul_(2.0)  # so that the posterior is far from the prior
        for _ in range(DIRECTIONS):
            drawn = [torch.randn(each.shape, generator=generator, dtype=each.dtype) for each in self.parameters]
            norm = math.sqrt(sum(float(each.square().sum()) for each in drawn))
            self.directions.append([each / norm for each in drawn])

    def terms(self, batch: pvae.Batch, player: str) -> tuple[Terms, float | Tensor]:
        """The terms of one batch, and the number of data that they are divided by."""
        fields = {name: batch[name] for name in batch if name not in ("x", "index")}
        programs = (self.model.model, self.model.guide)
        with DataCounter(BoundPrograms(*programs, (batch.x,), fields), self.objective.data_plate) as counter:
            terms = self.objective.terms(*programs, (batch.x,), fields, player)
        self.reasons.add(self.objective.biased)
        return terms, counter.count

    def numbers(self, batch: pvae.Batch, player: str) -> Tensor:
        """Loss and gradient along each direction for one batch, per datum."""
        terms, count = self.terms(batch, player)
        group = self.group(player)
        gradients = torch.autograd.grad(terms.surrogate / count, group, allow_unused=True)
        held = {id(each): gradient for each, gradient in zip(group, gradients, strict=True) if gradient is not None}
        numbers = [float(terms.loss / count)]
        for direction in self.directions:
            pairs = zip(self.parameters, direction, strict=True)
            numbers.append(float(sum((held[id(each)] * v).sum() for each, v in pairs if id(each) in held)))
        return torch.tensor(numbers, dtype=torch.float64)

    def group(self, player: str) -> list[nn.Parameter]:
        """The parameters of the model that a player updates."""
        if player == "all":
            return self.parameters
        parts = self.objective.unions.get(player, (player,))
        return [each for part in parts if part in ("theta", "phi") for each in getattr(self.model, part)()]

    def players(self) -> Iterator[str]:
        """The players with parameters of the model."""
        return (player for player in self.objective.players if self.group(player))

    def over_batches(self, repeats: int) -> np.ndarray:
        """Mean over the batches of an epoch minus the numbers of all data, shape (repeats, numbers).

        Each datum has the same draws in its batch and among all data.
        """
        rows = []
        batch = self.batch.replace(index=torch.arange(self.batch.size))
        for epoch in range(repeats):
            draws = _Draws(self.objective.particles, self.batch.size, epoch)
            row = []
            for player in self.players():
                parts = []
                for part in minibatches(batch, BATCH, seed=1, epoch=epoch, labelled=self.objective.labelled):
                    with draws.of(part["index"]):
                        parts.append(self.numbers(part, player))
                with draws.of(batch["index"]):
                    row.append(torch.stack(parts).mean(0) - self.numbers(batch, player))
            rows.append(torch.cat(row))
        return torch.stack(rows).numpy()

    def over_draws(self, repeats: int, step: float) -> np.ndarray:
        """Gradient minus the derivative of the value by differences on the same draws, shape (repeats, numbers)."""
        rows = []
        for seed in range(repeats):
            row = []
            for player in self.players():
                torch.manual_seed(seed)
                gradients = self.numbers(self.batch, player)[1:]
                for direction, gradient in zip(self.directions, gradients, strict=True):
                    values = [self._value(seed, player, direction, k * step) for k in (-2, -1, 1, 2)]
                    row.append(float(gradient) - (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step))
            rows.append(row)
        return np.array(rows)

    def _value(self, seed: int, player: str, direction: list[Tensor], shift: float) -> float:
        """The loss per datum with the player's parameters shifted along a direction."""
        torch.manual_seed(seed)
        group = {id(each) for each in self.group(player)}
        before = [each.detach().clone() for each in self.parameters]
        with torch.no_grad():
            for each, v in zip(self.parameters, direction, strict=True):
                if id(each) in group:
                    each.add_(shift * v)
        try:
            terms, count = self.terms(self.batch, player)
            return float(terms.loss / count)
        finally:
            with torch.no_grad():
                for each, value in zip(self.parameters, before, strict=True):
                    each.copy_(value)


class Conjugate(pvae.LatentModel):
    """A linear-Gaussian model with a guide of one matrix, whose density is narrow against the spread of its means."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.5, 0.1], [0.0, 0.4]]))
        self.map = nn.Parameter(torch.tensor([[0.45, 0.1], [0.05, 0.4]]))
        self.log_scale = nn.Parameter(torch.tensor([-0.8, -0.7]))

    def theta(self) -> list[nn.Parameter]:
        return [self.weight]

    def phi(self) -> list[nn.Parameter]:
        return [self.map, self.log_scale]

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T, 0.5).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ self.map.T, self.log_scale.exp()).to_event(1))


def real_data(size: int) -> pvae.Batch:
    """Two correlated features."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.tensor([[1.0, 0.8], [0.0, 0.6]], dtype=torch.float64)
    return pvae.Batch(x=torch.randn(size, 2, generator=generator, dtype=torch.float64) @ mixing)


class _Draws:
    """Draws of z and b for all particles and data; a batch gets those of its data."""

    def __init__(self, particles: int, size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.noise = torch.randn(particles, size, LATENT, generator=generator, dtype=torch.float64)
        self.bits = torch.rand(particles, size, 1, generator=generator, dtype=torch.float64).round()

    def of(self, index: Tensor) -> Forced:
        return Forced({"b": self.bits[:, index]}, {"z": self.noise[:, index]})


def smallest_p(rows: np.ndarray, resolution: float) -> float:
    """The smallest p-value of the columns having mean 0, by Student's t; means below the resolution are 0."""
    mean, error = rows.mean(0), rows.std(0, ddof=1) / math.sqrt(len(rows))
    beyond = np.maximum(np.abs(mean) - resolution, 0.0)
    t = np.divide(beyond, error, out=np.where(beyond > 0, np.inf, 0.0), where=error > 0)
    return float(2 * stats.t.sf(t, len(rows) - 1).min())


def subject(objective: Any, kind: str, size: int = DATA) -> Subject:
    """An objective or its text, with a model of a kind of `zoo.ObjectiveCase`."""
    made = make_objective(objective)() if isinstance(objective, str) else objective
    if kind == "pathwise":
        return Subject(made, Conjugate(), real_data(size))
    return Subject(made, model_of(kind)(), data(size, torch.float64).replace(**beside(kind, size)))


def is_found_over_batches(under_test: Subject, repeats: int) -> bool:
    return smallest_p(under_test.over_batches(repeats), 1e-9) < LEVEL / TESTS


def is_found_over_draws(under_test: Subject, repeats: int, step: float = 1e-3, resolution: float = 1e-7) -> bool:
    return smallest_p(under_test.over_draws(repeats, step), resolution) < LEVEL / TESTS


@pytest.mark.slow
@pytest.mark.parametrize("text", zoo.OBJECTIVES)
def test_every_bias_over_batches_is_declared(text: str) -> None:
    under_test = subject(text, zoo.OBJECTIVES[text].guide)
    found = is_found_over_batches(under_test, 30)
    assert not found or any(under_test.reasons)


@pytest.mark.slow
@pytest.mark.parametrize("text", zoo.OBJECTIVES)
def test_every_bias_over_draws_is_declared(text: str) -> None:
    kind = zoo.OBJECTIVES[text].guide
    is_smooth = kind == "pathwise"
    under_test = subject(text, kind, DATA if is_smooth else 4 * DATA)
    found = is_found_over_draws(under_test, 30, *((1e-3, 1e-7) if is_smooth else (0.1, 1e-3)))
    assert not found or any(under_test.reasons)


@pytest.mark.parametrize("text", FAST)
def test_the_search_finds_declared_biases_alone(text: str) -> None:
    under_test = subject(text, "pathwise")
    found = is_found_over_batches(under_test, 16) or is_found_over_draws(under_test, 16)
    assert found is any(under_test.reasons)


class OfBatch(WeightsObjective):
    """A planted bias: the square of the batch's mean stands for that of all data, and nothing says so."""

    def surrogate(self, weights: Any) -> Tensor:
        bound = weights.log_w.mean(0)
        return bound - 0.1 * bound.mean().square()


class OfDraws(WeightsObjective):
    """A planted bias: the normalised weights are differentiated too."""

    def surrogate(self, weights: Any) -> Tensor:
        return (weights.log_w.softmax(0) * weights.log_w).sum(0)

    def bound(self, weights: Any) -> Tensor:
        return weights.log_w.detach().mean(0)


@pytest.mark.parametrize(("planted", "over_batches"), [(OfBatch(2), True), (OfDraws(3), False)])
def test_the_search_finds_a_planted_bias(planted: WeightsObjective, over_batches: bool) -> None:
    under_test = subject(planted, "pathwise")
    assert is_found_over_batches(under_test, 6) is over_batches
    assert is_found_over_draws(under_test, 16) is not over_batches


def test_the_search_seldom_finds_a_bias_where_there_is_none() -> None:
    """Without a bias one of twenty p-values is below 0.05: of 40 searches at most 8, with probability 0.999."""
    draws = np.random.default_rng(0).standard_t(9, size=(40, 12, 4))
    assert sum(smallest_p(rows, 0.0) < 0.05 / 4 for rows in draws) <= 8


class Student(nn.Module):
    """A Student guide, whose KL of 0.14 nats per unit has no closed form, and a model that does not use z."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.5))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
            pyro.sample("x", dist.Normal(0 * z, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.StudentT(6.0, self.slope * x, 0.74).to_event(1))


@pytest.mark.parametrize(("text", "kind"), [("free-bits", "pathwise"), ("capacity:steps=5", "pathwise")])
def test_a_kink_at_a_mean_with_noise_is_declared_in_use(text: str, kind: str) -> None:
    student, normal, x = Student(), model_of(kind)(), data(8).x
    objective = make_objective(text)()
    for model, batch, said in ((student, torch.full((4, 4), 0.9), "estimated from draws"), (normal, x, "")):
        objective.loss_and_grads(model.model, model.guide, batch)
        assert said in objective.biased and bool(said) == bool(objective.biased)
        assert ("biased" in {each.kind for each in pvae.check(model, {"x": batch}, objective)}) == bool(said)
    objective.look_at({"x": torch.zeros(30, 6)})
    objective.loss_and_grads(normal.model, normal.guide, x)
    assert "8 data, not of all 30" in objective.biased
    assert pvae.Alternate(objective=objective).biased == objective.biased


def test_the_total_correlation_of_all_data_alone_is_not_biased() -> None:
    objective, model, x = pvae.TotalCorrelation(data_size=8), model_of("pathwise")(), data(8).x
    assert objective.biased
    for size in (8, 4, 8):
        objective.loss_and_grads(model.model, model.guide, x[:size])
        assert bool(objective.biased) is (size < 8)


def test_a_relaxation_is_declared_by_every_objective_that_holds_another() -> None:
    options = {"gradients": "b=concrete"}
    for objective in (pvae.PIWAE(2, 2, **options), pvae.Alternate(objective=pvae.IWAE(2, **options))):
        assert "relaxed draws: b=concrete" in objective.biased


def test_a_training_records_the_bias_and_the_lists_name_it() -> None:
    splits = pvae.load_data(data(32).x, binarise="none", validation=0, test=0)
    options = {"epochs": 1, "progress": False, "objective": "free-bits"}
    small = pvae.fit(model_of("pathwise")(), splits, batch_size=8, **options)
    assert "8 data, not of all 32" in small.config["biased"]
    assert "biased" not in pvae.fit(model_of("pathwise")(), splits, batch_size=32, **options).config


def test_the_list_and_the_page_of_objectives_name_every_bias() -> None:
    page = (Path(__file__).parents[2] / "docs" / "choose-an-objective.md").read_text(encoding="utf-8")
    in_use = {"free-bits", "capacity"}
    for name, line in objective_names():
        if NamedObjective(name)().biased or name in in_use:
            (row,) = re.findall(rf"^\| `{name}` .*$", page, re.MULTILINE)
            section = page[: page.index(row)].rpartition("\n## ")[2] + row
            assert re.search(r"(?<!un)biased", line), f"{name}: {line}"
            assert re.search(r"(?<!un)biased", section), name
