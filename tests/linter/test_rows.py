"""The density of a datum belongs to the datum, not to its place in the batch; sound programs get no false alarm."""

from __future__ import annotations

import copy
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
import zoo
from models import Plain, data
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal, AutoNormalMessenger
from torch import Tensor, nn

import pvae
from pvae import InputError
from pvae.linter.run_check import run_check
from pvae.programs.row_dependence import RowReport

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

X = torch.arange(12.0) - 6
WIDE = dist.Normal(0.0, 10.0)


def local(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", WIDE)
        pyro.sample("x", dist.Normal(z, 0.1), obs=x)


def amortised(x: Tensor) -> None:
    slope = pyro.param("slope", torch.tensor(0.9))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope * x, 0.1))


def kinds(latent_model: Any, batch: Any, **options: Any) -> set[tuple[str, str, bool]]:
    findings = pvae.check(latent_model, batch, "elbo", **options)
    return {(finding.kind, finding.subject, finding.fatal) for finding in findings}


@pytest.mark.parametrize("name", zoo.MODELS)
def test_no_built_in_system_is_tied_to_positions(name: str) -> None:
    case = zoo.MODELS[name]
    torch.manual_seed(0)
    model = case.make()
    objective = case.objective or getattr(model, "default_objective", "elbo")
    result = run_check(model, case.batch(8), objective, data_size=100)
    assert result.rows == RowReport()
    assert not result.findings.fatal


class Noisy(Plain):
    """Noise and dropout that are on in evaluation mode too."""

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, log_scale = nn.functional.dropout(self.encoder(x), 0.5).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc + 0.1 * torch.randn_like(loc), log_scale.exp()).to_event(1))


@pytest.mark.parametrize("make", [lambda: Plain(dropout=0.5), lambda: Plain(norm=True), Noisy])
def test_random_networks_and_running_averages_give_no_finding(make: Any) -> None:
    model = make()
    before = copy.deepcopy(model.state_dict())
    assert kinds(model, data(), data_size=100) == set()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training


def sequential_model(x: Tensor) -> None:
    noise = pyro.param("noise", torch.tensor(0.1))
    for row in pyro.plate("data", len(x)):
        z = pyro.sample(f"z_{row}", WIDE)
        pyro.sample(f"x_{row}", dist.Normal(z + noise, 1.0), obs=x[row])


def sequential_guide(x: Tensor) -> None:
    slope = pyro.param("slope", torch.tensor(0.9))
    for row in pyro.plate("data", len(x)):
        pyro.sample(f"z_{row}", dist.Normal(slope * x[row], 0.1))


def chain(x: Tensor) -> None:
    z = torch.zeros(())
    for step in pyro.markov(range(len(x))):
        z = pyro.sample(f"z_{step}", dist.Normal(z, 1.0))
        pyro.sample(f"x_{step}", dist.Normal(z, 1.0), obs=x[step])


def with_level(x: Tensor) -> None:
    level = pyro.sample("level", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 100, subsample_size=len(x)):
        z = pyro.sample("z", dist.Normal(level, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide_of_level(x: Tensor) -> None:
    slope = pyro.param("slope", torch.tensor(0.9))
    pyro.sample("level", dist.Normal(slope * x.mean(), 1.0))
    with pyro.plate("data", 100, subsample_size=len(x)):
        pyro.sample("z", dist.Normal(slope * x, 1.0))


def own_rows(x: Tensor) -> None:
    with pyro.plate("data", 100, subsample=torch.arange(len(x))):
        z = pyro.sample("z", WIDE)
        pyro.sample("x", dist.Normal(z, 0.1), obs=x)


def random_unused_rows(x: Tensor) -> None:
    slope = pyro.param("slope", torch.tensor(0.9))
    with pyro.plate("data", 100, subsample_size=len(x)):
        pyro.sample("z", dist.Normal(slope * x, 0.1))


def pictures(x: Tensor) -> None:
    with pyro.plate("pixels", 12, dim=-1), pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", WIDE)
        pyro.sample("x", dist.Normal(z + pyro.param("bias", torch.zeros(12)), 1.0), obs=x)


def guide_of_pictures(x: Tensor) -> None:
    slope = pyro.param("slope", torch.full((12,), 0.5))
    with pyro.plate("pixels", 12, dim=-1), pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.Normal(slope * x, 1.0))


@pytest.mark.parametrize(
    ("model", "guide", "x"),
    [
        (local, amortised, X),
        (local, amortised, X[:1]),
        (sequential_model, sequential_guide, X),
        (chain, AutoNormal(chain), X),
        (with_level, guide_of_level, X),
        (own_rows, random_unused_rows, X),
        (pictures, guide_of_pictures, torch.randn(12, 12)),
    ],
)
def test_sound_programs_give_no_finding(model: Any, guide: Any, x: Tensor) -> None:
    assert kinds(pvae.pair(model, guide), {"x": x}, data_size=100) == set()


class PerDatum(pvae.LatentModel):
    """One mean for each of a fixed number of data."""

    def __init__(self, means: Tensor) -> None:
        super().__init__()
        self.means = nn.Parameter(means)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(self.means)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(self.means)):
            pyro.sample("z", dist.Normal(self.means, 0.5**0.5))


def biased_by_position(x: Tensor) -> None:
    bias = pyro.param("bias", lambda: torch.zeros(len(x)))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", WIDE)
        pyro.sample("x", dist.Normal(z + bias, 0.1), obs=x)


@pytest.mark.parametrize(
    ("make", "subject"),
    [
        (lambda: pvae.pair(local, AutoNormal(local)), "z"),
        (lambda: pvae.pair(local, AutoDelta(local)), "z"),
        (lambda: pvae.pair(local, AutoDiagonalNormal(local)), "z"),
        (lambda: pvae.pair(local, AutoNormalMessenger(local)), "z"),
        (lambda: PerDatum(torch.zeros(12)), "z"),
        (lambda: pvae.pair(biased_by_position, amortised), "x"),
    ],
)
def test_parameters_of_positions_are_fatal_unless_a_batch_holds_all_data(make: Any, subject: str) -> None:
    kind = "one row per position"
    assert (kind, subject, True) in kinds(make(), {"x": X}, data_size=13)
    assert (kind, subject, False) in kinds(make(), {"x": X})
    assert kind not in {found[0] for found in kinds(make(), {"x": X}, data_size=12)}


def test_the_parameters_are_as_before() -> None:
    model = PerDatum(torch.zeros(12))
    state = torch.get_rng_state()
    run_check(model, {"x": X}, "elbo")
    assert torch.equal(model.means, torch.zeros(12))
    assert torch.equal(torch.get_rng_state(), state)


def test_densities_that_mix_the_data_get_a_note() -> None:
    def standardised(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", WIDE)
            pyro.sample("x", dist.Normal(z, x.std()), obs=x)

    assert kinds(pvae.pair(standardised, amortised), {"x": X}) == {("data mixed", "x", False)}


def with_index(x: Tensor, index: Tensor) -> None:
    level = pyro.sample("level", dist.Normal(0.0, 30.0))
    with pyro.plate("data", 12, subsample=index):
        z = pyro.sample("z", dist.Normal(level, 30.0))
        pyro.sample("x", dist.Normal(z, 0.1), obs=x)


def plates_of_index(x: Tensor, index: Tensor) -> Any:
    return pyro.plate("data", 12, subsample=index)


def test_an_autoguide_that_draws_its_own_rows_is_refused_and_one_with_the_models_rows_is_not() -> None:
    rows = torch.tensor([7, 2, 9, 4])
    batch = {"x": X[rows], "index": rows}
    own = pvae.pair(with_index, AutoNormal(with_index))
    assert ("rows in one program", "z", True) in kinds(own, batch)
    splits = pvae.load_data({"x": X, "index": torch.arange(12)}, validation=0, test=0)
    with pytest.raises(InputError, match="subsample"):
        pvae.fit(own, splits, epochs=1, batch_size=4, progress=False)
    same = pvae.pair(with_index, AutoNormal(with_index, create_plates=plates_of_index))
    assert kinds(same, batch) == set()


def fit(model: Any, batch_size: int, validation: float = 0.0, epochs: int = 300) -> Any:
    splits = pvae.load_data({"x": X}, validation=validation, test=0)
    options: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "learning_rate": 0.05}
    return pvae.fit(model, splits, progress=False, schedule="exponential:gamma=0.99", **options), splits


def test_training_by_all_data_at_once_keeps_their_order() -> None:
    model = PerDatum(torch.zeros(12))
    fit(model, batch_size=20)
    assert torch.allclose(model.means, X / 2, atol=0.2)  # the exact posterior is Normal(x / 2, 1 / 2)


def test_training_in_parts_is_refused() -> None:
    with pytest.raises(InputError, match=r"one row per position \(z\).*4 of 12 data"):
        fit(pvae.pair(local, AutoNormal(local)), batch_size=4)


def test_parameters_of_training_data_leave_out_the_validation_bound() -> None:
    run, splits = fit(pvae.pair(local, AutoNormal(local)), batch_size=12, validation=0.25, epochs=2)
    assert splits.validation is not None
    assert "validation_bound" not in run.history[-1]
