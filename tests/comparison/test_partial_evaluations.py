"""Comparisons of models without a log evidence per datum, or without some of the pictures."""

from __future__ import annotations

from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pvae

pytestmark = pytest.mark.usefixtures("own_store", "without_pictures")

Y = torch.tensor([0.4, -1.1, 0.7, 2.0, -0.3, 1.4], dtype=torch.float64)


class SharedMean(nn.Module):
    """w ~ N(0, 1), y ~ N(w, 1), with the exact posterior of w as the guide, shifted by an offset."""

    def __init__(self, offset: float = 0.0) -> None:
        super().__init__()
        self.loc = nn.Parameter(Y.sum() / (1 + len(Y)) + offset)

    def model(self, x):
        w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w.unsqueeze(-1), 1.0), obs=x)

    def guide(self, x):
        pyro.sample("w", dist.Normal(self.loc, (1 + len(x)) ** -0.5))


class LocalMean(nn.Module):
    """z ~ N(0, 1), y ~ N(z, 1) for each datum, with a guide that has the right scale."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.slope * x, 0.5**0.5))


def compare(models: dict, folder: Path) -> pvae.comparison.Comparison:
    data = pvae.load_data({"x": Y, "x_test": Y}, validation=0)
    options = {"seeds": 1, "epochs": 1, "learning_rate": 1e-12, "precision": "float64", "step": "eager"}
    options |= {"workers": 0, "progress": False, "particles": 30, "batch_size": len(Y)}
    return pvae.compare(models, data, ["elbo"], out=folder, **options)


def test_a_model_with_a_shared_latent_is_compared_by_its_elbo(tmp_path: Path) -> None:
    found = compare({"exact": SharedMean, "shifted": lambda: SharedMean(0.5)}, tmp_path / "c")
    covariance = torch.eye(len(Y)).double() + 1
    evidence = dist.MultivariateNormal(torch.zeros_like(Y), covariance).log_prob(Y) / len(Y)
    exact, shifted = found.table.rows
    assert exact.elbo.value == pytest.approx(float(evidence), abs=1e-7)
    kl = 0.5 * 0.5**2 * (1 + len(Y)) / len(Y)
    assert shifted.elbo.value == pytest.approx(float(evidence) - kl, abs=0.1)
    assert exact.log_evidence is exact.gap is exact.rank is shifted.difference is None
    assert "no log evidence of each datum, because its programs give no weight per datum" in found.table.verdict()
    assert "No log evidence: Weights per datum need every sample site" in found.report.read_text()


def test_rows_with_and_without_a_log_evidence_stand_in_one_table(tmp_path: Path) -> None:
    found = compare({"local": LocalMean, "shared": SharedMean, "wide": LocalMean}, tmp_path / "c")
    local, shared, wide = found.table.rows
    exact = dist.Normal(0.0, 2**0.5).log_prob(Y).mean()
    assert local.log_evidence.value == pytest.approx(float(exact), abs=1e-7)
    assert shared.log_evidence is shared.difference is shared.rank is None
    assert wide.difference.value == 0.0
    assert {local.rank, wide.rank} == {1, 2}


class HalfObserved(LocalMean):
    """Only the first value of each datum is an observed site."""

    def model(self, x):
        return super().model(x[:, 0])

    def guide(self, x):
        return super().guide(x[:, 0])


def test_a_model_of_a_part_of_the_picture_is_compared_without_its_reconstructions(tmp_path: Path) -> None:
    data = pvae.load_data({"x": torch.stack([Y, Y], 1), "x_test": torch.stack([Y, Y], 1)}, validation=0)
    options = {"seeds": 1, "epochs": 1, "workers": 0, "progress": False, "particles": 5, "precision": "float64"}
    found = pvae.compare({"half": HalfObserved}, data, ["elbo"], out=tmp_path / "c", learning_rate=1e-12, **options)
    exact = dist.Normal(0.0, 2**0.5).log_prob(Y).mean()
    assert found.table.rows[0].log_evidence.value == pytest.approx(float(exact), abs=1e-7)
    assert "the model observes 1 of the 2 values of a datum" in found.report.read_text()
