"""A plate over another axis of the data than the first is named, and the advice gives right numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pvae
from pvae import InputError

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

TIMES, SERIES, FEATURES = 4, 12, 2
X = torch.randn(TIMES, SERIES, FEATURES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
FOUND = r"12 rows, which is axis 1 of data of shape \(\d, 12, 2\)"


def log_evidence() -> float:
    """The mean log evidence of a series: all of its numbers are z + e, with z and e of variance 1."""
    length = TIMES * FEATURES
    covariance = torch.eye(length, dtype=torch.float64) + 1
    density = dist.MultivariateNormal(torch.zeros(length, dtype=torch.float64), covariance)
    return density.log_prob(X.transpose(0, 1).flatten(1)).mean().item()


class Series(pvae.LatentModel):
    """One z for each series; `x` has the shape (time, series, features), and the guide is the exact posterior."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def model(self, x: Tensor) -> None:
        with pyro.plate("series", x.shape[1]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            for time, row in enumerate(x):
                pyro.sample(f"x_{time}", dist.Normal(z[..., None], 1.0).expand([*z.shape, 2]).to_event(1), obs=row)

    def guide(self, x: Tensor) -> None:
        entries = x.shape[0] * x.shape[2]
        with pyro.plate("series", x.shape[1]):
            pyro.sample("z", dist.Normal(x.sum((0, 2)) / (entries + 1) + self.shift, (entries + 1) ** -0.5))


class SeriesFirst(Series):
    """The same for data of shape (series, time, features), as the message advises."""

    def model(self, x: Tensor) -> None:
        super().model(x.transpose(0, 1))

    def guide(self, x: Tensor) -> None:
        super().guide(x.transpose(0, 1))


def train(model: Any, x: Tensor, **options: Any) -> Any:
    validation = options.pop("validation", 0)
    data = pvae.load_data({"x": x}, validation=validation, test=0)
    options = {"epochs": 1, "learning_rate": 1e-9, "precision": "float64", "progress": False} | options
    return pvae.fit(model, data, **options)


def test_a_batch_of_some_times_is_refused_and_one_of_all_times_is_named() -> None:
    in_parts = pvae.check(Series(), {"x": X}, data_size=10)
    assert [(finding.kind, finding.subject) for finding in in_parts.fatal] == [("data on another axis", "series")]
    whole = pvae.check(Series(), {"x": X}, data_size=TIMES)
    assert [(finding.kind, finding.fatal) for finding in whole] == [("data on another axis", False)]


@pytest.mark.parametrize("options", [{"batch_size": 2}, {"validation": 0.25}])
def test_a_training_that_would_divide_the_times_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=FOUND):
        train(Series(), X, **options)


@pytest.mark.parametrize("evaluate", [pvae.evaluate.elbo, pvae.evaluate.log_evidence])
def test_an_evaluation_names_the_axis(evaluate: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=FOUND):
        evaluate(Series(), pvae.Batch(x=X), particles=5)


def test_the_advice_gives_the_exact_evidence() -> None:
    assert train(Series(), X).history[-1]["loss"] == pytest.approx(-log_evidence(), abs=1e-5)  # all times in one batch
    model = SeriesFirst()
    run = train(model, X.transpose(0, 1), batch_size=SERIES)
    assert run.history[-1]["loss"] == pytest.approx(-log_evidence(), abs=1e-5)
    value = pvae.evaluate.elbo(run, pvae.Batch(x=X.transpose(0, 1)), particles=5).value
    assert value == pytest.approx(log_evidence(), abs=1e-5)
    assert pvae.check(model, {"x": X.transpose(0, 1)[:5]}, data_size=SERIES) == []


def selected_model(x: Tensor) -> None:
    chosen = x[x[:, 0] > 0]
    with pyro.plate("chosen", len(chosen)):
        pyro.sample(
            "x", dist.Normal(pyro.param("mean", torch.zeros(())), 1.0).expand([len(chosen), 2]).to_event(1), obs=chosen
        )


def test_a_plate_of_selected_data_is_no_other_axis() -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 1.0], [3.0, 1.0]])
    assert "another axis" not in str(pvae.check(pvae.pair(selected_model, lambda x: None), {"x": x}, data_size=100))


def flat_model(x: Tensor) -> None:
    weight = pyro.sample("w", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(weight, 1.0).expand([len(x)]).to_event(1), obs=x)


def flat_guide(x: Tensor) -> None:
    pyro.sample("w", dist.Normal(pyro.param("m", torch.tensor(0.0)), 0.1))


def test_a_shared_latent_without_a_plate_is_named() -> None:
    x = torch.randn(6)
    found = [finding for finding in pvae.check(pvae.pair(flat_model, flat_guide), {"x": x}) if not finding.fatal]
    assert [(finding.kind, finding.subject) for finding in found] == [("shared latent", "w")]
    assert "the data are not in a plate" in found[0].message


def test_a_batch_with_as_many_data_as_features_before_gives_no_alarm_later() -> None:
    """The layout is kept for batches of all sizes, and a size that is by chance that of another axis is no fault."""
    torch.manual_seed(0)
    model, x = pvae.VAE((6,), latent=2, hidden=4), (torch.rand(12, 6) < 0.4).float()
    pvae.evaluate.elbo(model, pvae.Batch(x=x[:6]), particles=2)
    pvae.evaluate.elbo(model, pvae.Batch(x=x), particles=2)
    assert not pvae.check(model, {"x": x}).fatal


def test_as_many_times_as_series_are_exact_as_a_whole_and_refused_in_parts() -> None:
    x = torch.randn(6, 6, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    density = dist.MultivariateNormal(torch.zeros(6, dtype=torch.float64), torch.eye(6, dtype=torch.float64) + 1)
    exact = density.log_prob(x[..., 0].T)

    class Square(Series):
        def model(self, x: Tensor) -> None:
            with pyro.plate("series", x.shape[1]):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                for time, row in enumerate(x[..., 0]):
                    pyro.sample(f"x_{time}", dist.Normal(z, 1.0), obs=row)

    for chunk in (10_000, 10):
        estimate = pvae.evaluate.log_evidence(Square(), pvae.Batch(x=x), 30, chunk=chunk)
        assert estimate.value == pytest.approx(exact.mean().item(), abs=1e-9)
    (finding,) = pvae.check(Square(), {"x": x}, data_size=18).fatal
    assert (finding.kind, finding.subject) == ("one row per position", "z")
    with pytest.raises(InputError, match=r"6 rows, which is axis 1 of data of shape \(2, 6, 1\)"):
        train(Square(), x, batch_size=2)
