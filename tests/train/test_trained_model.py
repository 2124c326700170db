"""The methods of a run that use its model, against closed forms in the units and with the names of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from stats import assert_close_in_sigmas
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pvae
from pvae.errors import InputError
from pvae.models import GMVAE, VAE, ConditionalVAE, SemiSupervisedVAE

pytestmark = pytest.mark.usefixtures("own_store")
RNG = np.random.default_rng(0)
Z = RNG.normal(size=200)
TABLE = pd.DataFrame(
    {
        "height": 170 + 10 * Z + RNG.normal(size=200),
        "weight": 70 - 8 * Z + RNG.normal(size=200),
        "kind": np.where(Z > 0, "cat", "dog"),
    },
    index=[f"row {number}" for number in range(200)],
)
QUICK: dict[str, Any] = {"epochs": 1, "step": "eager", "progress": False}
SMALL: dict[str, Any] = {"latent": 1, "hidden": (4,), "likelihood": "gaussian"}


class Line(pvae.LatentModel):
    """z is standard normal, x is z times a vector with noise; entries of x may be missing."""

    noise = 0.6

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([0.9, -0.7]))
        self.width = nn.Parameter(torch.tensor(0.0))

    def model(self, x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=x.dtype), 1.0))
            density = dist.Normal(z.unsqueeze(-1) * self.slope, self.noise).mask(mask).to_event(1)
            pyro.sample("x", density, obs=x)

    def guide(self, x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=x.dtype), self.width.exp()))


def line_run() -> tuple[pvae.Run, np.ndarray, np.ndarray, pd.DataFrame]:
    """Return a run on data with missing values, the mean and covariance of its x in the units of the data, the data."""
    table = TABLE[["height", "weight"]].copy()
    table.iloc[3, 0] = table.iloc[5, 1] = np.nan
    data = pvae.load_data(table, missing="mask", standardise=True, binarise="none")
    run = pvae.fit(Line(), data, **QUICK)
    slope, scale = run.model.slope.detach().numpy(), np.array(data.schema.scaling.scale)
    covariance = (np.outer(slope, slope) + Line.noise**2 * np.eye(2)) * np.outer(scale, scale)
    return run, np.array(data.schema.scaling.shift), covariance, table


def test_samples_have_the_moments_of_the_model_in_the_units_of_the_data() -> None:
    run, mean, covariance, _ = line_run()
    drawn = run.sample(20_000)
    assert list(drawn.columns) == ["height", "weight"]
    deviations = drawn.to_numpy() - mean
    products = np.einsum("ni,nj->nij", deviations, deviations)
    spread = np.sqrt(np.diag(covariance))
    assert_close_in_sigmas(deviations.mean(0), np.zeros(2), spread / 20_000**0.5, effect=spread)
    error = products.std(0) / 20_000**0.5
    assert_close_in_sigmas(products.mean(0), covariance, error, effect=np.outer(spread, spread), resolution=0.02)
    means = run.sample(20_000, mean=True).to_numpy() - mean
    noiseless = np.diag(covariance) * (1 - Line.noise**2 / (run.model.slope.detach().numpy() ** 2 + Line.noise**2))
    assert_close_in_sigmas(means.var(0), noiseless, noiseless * 0.01, effect=noiseless, resolution=0.02)
    assert run.sample(3, seed=1).equals(run.sample(3, seed=1)) and not run.sample(3, seed=1).equals(run.sample(3))


def test_missing_cells_get_their_conditional_mean_and_observed_cells_stay_to_the_last_bit() -> None:
    run, mean, covariance, table = line_run()
    imputed = run.impute(table[["weight", "height"]], particles=40_000)
    assert list(imputed.columns) == ["height", "weight"] and list(imputed.index) == list(table.index)
    known = table.notna()
    np.testing.assert_allclose(imputed.to_numpy()[known], table.to_numpy()[known], rtol=1e-14)
    gain = covariance[0, 1] / covariance[1, 1]
    expected = mean[0] + gain * (table.iloc[3, 1] - mean[1])
    assert imputed.iloc[3, 0] == pytest.approx(expected, abs=0.25) and abs(expected - mean[0]) > 1
    row = table.iloc[[3]]
    drawn = np.array([completed.iloc[0, 0] for completed in run.impute(row, n=2000, particles=40_000)])
    deviation = np.sqrt(covariance[0, 0] - gain * covariance[0, 1])
    assert_close_in_sigmas(drawn.mean(), expected, deviation / 2000**0.5, effect=deviation, resolution=0.03)
    assert_close_in_sigmas(drawn.std(), deviation, deviation / 4000**0.5, effect=deviation, resolution=0.03)


def test_codes_and_reconstructions_are_those_of_the_model_at_the_scaled_columns_by_name(tmp_path: Path) -> None:
    table = TABLE[["height", "weight"]]
    data = pvae.load_data(table, standardise=True, binarise="none")
    fitted = pvae.fit(VAE((2,), **SMALL), data, out=tmp_path / "run", **QUICK)
    run = pvae.open_run(tmp_path / "run")
    shift, scale = np.array(data.schema.scaling.shift), np.array(data.schema.scaling.scale)
    x = torch.tensor((table.to_numpy() - shift) / scale).float()
    expected = run.model.encode(x).mean.detach()
    codes = run.encode(table[["weight", "height"]], chunk=7)
    assert list(codes.columns) == ["z"] and list(codes.index) == list(table.index)
    np.testing.assert_allclose(codes.to_numpy(), expected, atol=1e-6)
    table.to_csv(tmp_path / "table.csv")
    np.testing.assert_allclose(run.encode(tmp_path / "table.csv"), expected, atol=1e-6)
    assert len(run.encode(data)) == data.test.size and fitted.encode(data, split="train").shape == (162, 1)
    with torch.no_grad():
        at_mean = run.model.reconstruct(x[:1]).numpy() * scale + shift
        spread = run.model.decode(run.model.encode(x[:1]).sample((4000,))).mean.std(0).numpy() * scale
    many = run.reconstruct(table.iloc[:1], draws=400).to_numpy()
    np.testing.assert_allclose(many, at_mean, atol=float(spread.max()) * 0.3)
    with pytest.raises(InputError, match="'height' is missing"):
        run.encode(table[["weight"]])
    with pytest.raises(InputError, match="latent sites z; got site='q'"):
        run.encode(table, site="q")
    assert isinstance(pvae.fit(VAE((2,), **SMALL), x, **QUICK).encode(x), Tensor)


def test_the_code_of_a_dependent_site_is_that_at_the_code_of_the_other_one(seeded: None) -> None:
    x = torch.randn(30, 2)
    run = pvae.fit(GMVAE((2,), components=3, inference="amortised", **SMALL), x, **QUICK)
    codes = run.encode(x)
    y = run.model.assign(x).logits.argmax(-1)
    assert torch.equal(codes[:, 0].long(), y)
    torch.testing.assert_close(codes[:, 1:], run.model.encode(x, run.model.indicator(y)).mean.detach())
    assert torch.equal(codes, run.encode(x, seed=5))
    assert torch.equal(run.encode(x, site="z"), codes[:, 1:])


def test_labels_are_predicted_by_their_original_names() -> None:
    data = pvae.load_data(TABLE, label="kind", standardise=True, binarise="none")
    run = pvae.fit(SemiSupervisedVAE((2,), 2, **SMALL), data, **QUICK)
    unlabelled = TABLE.drop(columns="kind")
    labels, table = run.predict(unlabelled), run.predict(unlabelled, probabilities=True)
    assert labels.name == "kind" and list(table.columns) == ["cat", "dog"] and list(labels.index) == list(TABLE.index)
    assert (labels == table.idxmax(axis=1)).all() and np.allclose(table.sum(axis=1), 1)
    x = data.schema.scaling.scaled(torch.tensor(unlabelled.to_numpy())).float()
    np.testing.assert_allclose(table, run.model.classify(x).probs.detach(), atol=1e-5)
    names = np.array(["cat", "dog"])
    assert list(labels) == list(names[run.model.classify(x).logits.argmax(-1)])
    x = data.train.x.float()
    for source in (
        TABLE.assign(kind="bird"),
        TABLE.assign(kind=None),
        TABLE.assign(kind=np.where(Z > 0, 7, -1)),
        pvae.load_data(TABLE.assign(kind="bird"), label="kind", binarise="none", validation=0.1, test=0.1),
        pvae.Batch(x=x, y=torch.full((len(x),), 9)),
        DataLoader(TensorDataset(torch.tensor(unlabelled.to_numpy()), torch.full((200,), 9)), batch_size=7),
        DataLoader(list(zip(unlabelled.to_numpy(), 200 * [-3], strict=True)), batch_size=7),  # type: ignore[arg-type]
    ):
        whole = not isinstance(source, pvae.Batch | pvae.Splits)
        expected = labels if whole else pd.Series(names[run.model.classify(x).logits.argmax(-1)])
        split = {"split": "train"} if isinstance(source, pvae.Splits) else {}
        assert list(run.predict(source, **split)) == list(expected)
    assert len(run.sample(3)) == 3  # labels are hidden, and drawn from their prior


def test_imputed_values_that_few_draws_decide_are_called_unreliable() -> None:
    run, mean, covariance, _ = line_run()
    far = pd.DataFrame({"height": [mean[0], mean[0] + 6 * covariance[0, 0] ** 0.5], "weight": [np.nan, np.nan]})
    with pytest.warns(UserWarning, match=r"missing values of 1 of 2 data, the first at 1: .* Raise particles"):
        run.impute(far, particles=1000)


class TwoClusters(pvae.LatentModel):
    """Two clusters far apart, whose component only the model has."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.tensor([-5.0, 5.0]))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.9)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(self.centres[k.long()], 0.5).to_event(0), obs=x[:, 0])

    def guide(self, x: Tensor) -> None:
        """The component is summed out."""


def test_a_summed_out_component_is_inferred_for_a_reconstruction() -> None:
    x = torch.tensor([[-5.0], [5.0]]).repeat(20, 1)
    run = pvae.fit(TwoClusters(), x, objective="elbo-enum", **QUICK)
    np.testing.assert_allclose(run.reconstruct(x), x, atol=0.2)


def test_what_a_model_cannot_do_is_refused_with_the_reason() -> None:
    x = torch.rand(40, 4).round()
    run = pvae.fit(VAE((4,), latent=1, hidden=(4,)), x, **QUICK)
    with pytest.raises(InputError, match="do not take a mask"):
        run.impute(x)
    with pytest.raises(InputError, match=r"q\(y given x\)"):
        run.predict(x)
    conditional = pvae.fit(ConditionalVAE((4,), classes=2, latent=1, hidden=(4,)), (x, torch.arange(40) % 2), **QUICK)
    with pytest.raises(InputError, match="conditional on y"):
        conditional.sample(3)
    assert conditional.sample(3, given={"y": [0, 1, 1]}).shape == (3, 4)
    for name in ("x", "mask", "other"):
        with pytest.raises(InputError, match=rf"conditions of the model \(y\); got '{name}'"):
            conditional.sample(3, given={"y": [0, 1, 1], name: torch.zeros(3, 4)})
    part = pvae.fit(
        ConditionalVAE((2, 2), condition="quadrants", observed=1, latent=1, hidden=(4,)), x.reshape(40, 2, 2), **QUICK
    )
    with pytest.raises(InputError, match="given a part of x"):
        part.sample(3)
    game = pvae.fit(VAE((4,), latent=1, hidden=(4,)), x, objective="gan", **QUICK)
    with pytest.raises(InputError, match="leaves the guide untrained"):
        game.encode(x)
    assert game.sample(2).shape == (2, 4)
