"""The Wasserstein autoencoder: its discrepancy against double sums and closed forms, with and without noise."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from click.testing import CliRunner
from forcing import DOUBLE
from models import first_of_plate
from scipy import integrate
from stats import assert_close_in_sigmas, mean_and_error
from torch import Tensor, nn

import pvae
from pvae.cli import cli
from pvae.objectives import WAE, InfoMMD, make_objective, mmd
from pvae.objectives.kl import mean_discrepancy
from pvae.train.checkpoint import read

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

PAPER = tuple([squared**0.5 for squared in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)])


def kernel_by_hand(a: Tensor, b: Tensor, kernel: str, scale: tuple[float, ...]) -> Tensor:
    """The sum of kernels of one pair, with the width written out: c = 2 s^2 units."""
    squared = ((a - b) ** 2).sum()
    widths = [2 * s * s * len(a) for s in scale]
    return sum(torch.exp(-squared / c) if kernel == "gaussian" else c / (c + squared) for c in widths)


def mmd_by_hand(ours: Tensor, theirs: Tensor, kernel: str, scale: tuple[float, ...], weights: list[float]) -> Tensor:
    """A double sum over all pairs, without pairs of a draw with itself."""
    size, value = len(ours), torch.zeros((), dtype=DOUBLE)
    pairs = sum(weights[i] * weights[j] for i in range(size) for j in range(size) if i != j)
    for i in range(size):
        for j in range(size):
            if i != j:
                value = value + weights[i] * weights[j] * kernel_by_hand(ours[i], ours[j], kernel, scale) / pairs
                value = value + kernel_by_hand(theirs[i], theirs[j], kernel, scale) / (size * (size - 1))
            value = value - 2 * weights[i] * kernel_by_hand(ours[i], theirs[j], kernel, scale) / (sum(weights) * size)
    return value


@pytest.mark.parametrize("kernel", ["gaussian", "imq"])
@pytest.mark.parametrize("at_a_time", [2**24, 20])
def test_the_discrepancy_is_a_double_sum(kernel: str, at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all pairs at once, and in blocks of two rows and one; with equal weights and others."""
    monkeypatch.setattr(mean_discrepancy, "_NUMBERS_AT_A_TIME", at_a_time)
    ours, theirs = torch.randn(5, 2, dtype=DOUBLE), 1 + torch.randn(5, 2, dtype=DOUBLE)
    for scale in ((0.7,), (0.3, 1.0, 2.5)):
        for weights in ([1.0] * 5, [0.5, 2.0, 1.0, 3.0, 0.1]):
            expected = mmd_by_hand(ours, theirs, kernel, scale, weights)
            given = None if weights[0] == 1 else torch.tensor(weights, dtype=DOUBLE)
            found = mmd(ours, theirs, kernel, scale, given)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def kernel_of_gaussians(mean: np.ndarray, variance: np.ndarray, width: float) -> float:
    """E exp(-d^2 / width) for a difference d of independent units with these means and variances."""
    spread = 1 + 2 * variance / width
    return float(np.exp(-(mean**2 / (width * spread)).sum()) / np.sqrt(spread.prod()))


def imq_of_gaussians(mean: np.ndarray, variance: np.ndarray, width: float) -> float:
    """E c / (c + d^2), since c / (c + d^2) is the integral over t of exp(-t) exp(-t d^2 / c)."""
    value, _ = integrate.quad(
        lambda t: math.exp(-t) * kernel_of_gaussians(mean, variance, width / t), 0, math.inf, epsabs=1e-12
    )
    return value


@pytest.mark.parametrize(("kernel", "expected_kernel"), [("gaussian", kernel_of_gaussians), ("imq", imq_of_gaussians)])
def test_the_mean_discrepancy_of_gaussians_is_its_closed_form(kernel: str, expected_kernel: Any) -> None:
    mean, variance, zero, one = np.array([0.8, -0.3]), np.array([0.4, 1.5]), np.zeros(2), np.ones(2)
    exactly = 0.0
    for scale in PAPER:
        width = 4 * scale**2
        exactly += expected_kernel(zero, 2 * variance, width) + expected_kernel(zero, 2 * one, width)
        exactly -= 2 * expected_kernel(mean, variance + 1, width)
    repeats = 400
    ours = torch.tensor(mean) + torch.tensor(variance).sqrt() * torch.randn(repeats, 12, 2, dtype=DOUBLE)
    found = mmd(ours, torch.randn(repeats, 12, 2, dtype=DOUBLE), kernel, PAPER)
    value, error = mean_and_error(found.numpy())
    # what pairs of a draw with itself would add
    bias = (2 * len(PAPER) - sum(expected_kernel(zero, 2 * v, 4 * s**2) for s in PAPER for v in (variance, one))) / 12
    assert_close_in_sigmas(value, exactly, error, effect=bias, resolution=0.35)


class Encoded(pvae.LatentModel):
    """A linear decoder, and a linear encoder with noise or without; each datum may have a scale."""

    def __init__(self, noise: float | None, plate: int | None = None, scales: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 2, dtype=DOUBLE))
        self.encoder = nn.Parameter(torch.randn(2, 3, dtype=DOUBLE))
        self.noise, self.plate, self.scales = noise, plate, scales

    def model(self, x: Tensor) -> None:
        with first_of_plate(x, self.plate), pyro.poutine.scale(scale=1.0 if self.scales is None else self.scales):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T, 0.5).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        code = x @ self.encoder.T
        with first_of_plate(x, self.plate), pyro.poutine.scale(scale=1.0 if self.scales is None else self.scales):
            density = dist.Delta(code) if self.noise is None else dist.Normal(code, self.noise)
            pyro.sample("z", density.to_event(1))


@pytest.mark.parametrize("noise", [None, 0.4])
@pytest.mark.parametrize("kind", ["plain", "subsampled", "scaled"])
def test_the_objective_is_its_formula_on_the_same_draws(noise: float | None, kind: str) -> None:
    """Reconstruction minus 7 MMD^2 per datum, times 20 / 5 in a subsampled plate, and times the scale of each datum."""
    x = torch.randn(5, 3, dtype=DOUBLE)
    scales = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.1], dtype=DOUBLE) if kind == "scaled" else None
    model = Encoded(noise, 20 if kind == "subsampled" else None, scales)
    objective = WAE(7.0, "imq", (0.5, 2.0), particles=2)
    torch.manual_seed(3)
    terms = objective.terms(model.model, model.guide, (x,), {}, "all")

    torch.manual_seed(3)
    code = x @ model.encoder.T
    z = code.expand(2, 5, 2)
    if noise is not None:
        z = z + noise * torch.randn(2, 5, 2, dtype=DOUBLE)
    prior = torch.randn(2, 5, 2, dtype=DOUBLE)
    weights = [1.0] * 5 if scales is None else scales.tolist()
    discrepancy = sum(mmd_by_hand(z[k], prior[k], "imq", (0.5, 2.0), weights) for k in range(2)) / 2
    likelihood = dist.Normal(z @ model.weight.T, 0.5).log_prob(x).sum(-1).mean(0)
    factor = torch.tensor(weights, dtype=DOUBLE) * (4 if kind == "subsampled" else 1)
    loss = -(factor * (likelihood - 7 * discrepancy)).sum()
    assert terms.loss.item() == pytest.approx(loss.item(), rel=1e-11)
    assert terms.named["mmd"].item() == pytest.approx((factor.sum() * discrepancy).item(), rel=1e-11)
    assert ("elbo" in terms.named) is (noise is not None)
    parameters = list(model.parameters())
    for mine, other in zip(
        torch.autograd.grad(terms.surrogate, parameters), torch.autograd.grad(loss, parameters), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-10)


def test_defaults_are_those_of_the_paper_and_settings_are_read_again() -> None:
    ours, theirs = torch.randn(4, 3, dtype=DOUBLE), torch.randn(4, 3, dtype=DOUBLE)
    objective = WAE()
    assert objective.discrepancy.scale == PAPER and objective.weight == 10
    by_hand = mmd_by_hand(ours, theirs, "imq", PAPER, [1.0] * 4)
    torch.testing.assert_close(mmd(ours, theirs, "imq", PAPER), by_hand, rtol=1e-12, atol=1e-12)
    for text in ("wae", "wae:kernel=gaussian", "wae:weight=3:scale=0.5,2.0", "info-mmd:kernel=imq:scale=0.5,2.0"):
        made = make_objective(text)()
        again = make_objective(pvae.objectives.describe(made))()
        assert isinstance(again, WAE | InfoMMD) and again.discrepancy == made.discrepancy
        assert again.settings() == made.settings()


def test_a_resumed_training_without_noise_has_the_same_bits(tmp_path: Path) -> None:
    data = pvae.load_data(torch.rand(40, 6, generator=torch.Generator().manual_seed(0)).round(), validation=8, test=0)
    spec = pvae.ModelSpec("autoencoder", {"prior": "standard", "latent": 2, "hidden": (5,)})

    def train(name: str, **options: Any) -> Any:
        settings = {"epochs": 2, "batch_size": 16, "progress": False, "objective": "wae"}
        with pytest.warns(UserWarning, match="reconstruction and MMD are not a bound"):
            run = pvae.fit(spec, data, out=tmp_path / name, **settings, **options)
        return run, read(tmp_path / name / "last").parameters

    run, whole = train("whole", step="graph")
    train("parts", step="eager", max_steps=1)
    _, parts = train("parts", step="eager", resume=True)
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    last = run.history[-1]
    assert run.step == "graph" and last["loss"] == pytest.approx(10 * last["mmd"] - last["log_likelihood"], rel=1e-5)


@pytest.mark.filterwarnings("ignore:The validation bound is the objective")
def test_a_flat_prior_and_an_evidence_are_refused_and_the_command_line_has_a_preset(tmp_path: Path) -> None:
    x = torch.rand(8, 6).round()
    model = pvae.Autoencoder(6, latent=2, hidden=4)
    with pytest.raises(pvae.InputError, match=r"flat prior.*train it with prior='standard'") as caught:
        WAE().terms(model.model, model.guide, (x,), {}, "all")
    assert "\n" not in str(caught.value)
    small = ["--latent", "2", "--hidden", "4", "--max-steps", "2", "--step", "eager", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(cli, ["train", "wae", "--data", "digits", *small, "--json"])
    record = json.loads(done.stdout)
    assert (record["model"], record["objective"]) == ("autoencoder", "wae:weight=10.0:kernel=imq:particles=1")
    assert pvae.open_run(tmp_path / "run").sample(2).shape == (2, 64)  # from the standard prior
    done = CliRunner().invoke(cli, ["evaluate", str(tmp_path / "run")])
    assert done.exit_code == 2 and "'z' is a Delta" in done.stderr.replace("\n", " ")
