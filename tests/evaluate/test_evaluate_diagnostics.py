"""Effective sample size, Pareto k-hat, KL per unit and active units, against closed forms."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import C_LOGITS, C_PRIOR, DiscreteModel, LinearGaussianModel, TwoLayer, TwoLayerModel
from stats import assert_close_in_sigmas
from torch import Tensor, nn

import pvae.evaluate as evaluate
from pvae.errors import InputError
from pvae.evaluate.arviz_versions import arviz, good_khat, is_v1, pareto_khat, tail_length
from pvae.programs.base import LatentModel, pair

CENTRES = np.array([[1.0, 0.0, 0.05], [-0.5, 0.0, 0.05]]).T  # two features to three units; the second is dead
SCALES = np.array([0.3, 1.0, 0.9])


class Encoder(LatentModel):
    """Prior N(0, I); guide N(C x, diag(s^2)), linear in x."""

    def __init__(self, prior: Any = None) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.tensor(CENTRES))
        self.scales = torch.tensor(SCALES)
        self.prior = prior or (lambda zeros: dist.Normal(zeros, 1.0).to_event(1))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x.new_zeros(len(x), 3)))
            pyro.sample("x", dist.Normal(z[..., :2], 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ self.centres.T, self.scales).to_event(1))


def points(count: int = 37) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 2, generator=generator, dtype=torch.float64)


def kl_of(mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return 0.5 * (mean**2 + scale**2 - 1) - np.log(scale)


# ---- KL per unit and active units -----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [10_000, 20])
def test_kl_and_activity_of_a_linear_encoder_are_exact(chunk: int) -> None:
    x = points()
    means = x.numpy() @ CENTRES.T
    units = evaluate.diagnose(Encoder(), x, 5, chunk=chunk, draws=2).latents["z"]
    kl = kl_of(means, SCALES)
    assert units.how == "analytic"
    np.testing.assert_allclose(units.kl_per_unit, kl.mean(0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(units.kl.pointwise, kl.sum(1), rtol=1e-12)
    np.testing.assert_allclose(units.activity, means.var(0, ddof=1), rtol=1e-12, atol=1e-15)
    assert units.active == 1
    assert units.kl_per_unit[1] == 0


def test_the_threshold_decides_which_units_are_active() -> None:
    activity = (points().numpy() @ CENTRES.T).var(0, ddof=1)
    assert 0 < activity[2] < 0.01 < activity[0]
    assert evaluate.diagnose(Encoder(), points(), 25).active_units == 1
    assert evaluate.diagnose(Encoder(), points(), 25, threshold=activity[2] * 0.99).active_units == 2
    assert evaluate.diagnose(Encoder(), points(), 25, threshold=activity[0] * 1.01).active_units == 0


def test_elbo_is_reconstruction_less_the_kl_of_the_units() -> None:
    x = points()
    found = evaluate.judge(Encoder(), x, 4000)
    means = x.numpy() @ CENTRES.T
    squares = (x.numpy() - means[:, :2]) ** 2 + SCALES[:2] ** 2
    reconstruction = -0.5 * (squares + math.log(2 * math.pi)).sum(1)
    exact = torch.tensor(reconstruction) - found.diagnosis.latents["z"].kl.pointwise
    apart = evaluate.mean_of(found.elbo.pointwise - exact)
    assert_close_in_sigmas(apart.value, 0.0, apart.error, effect=kl_of(means, SCALES).sum(1).mean())


def mixture_of_one(zeros: Tensor) -> Any:
    """A standard normal that hides in a mixture: no closed-form KL."""
    parts = dist.Normal(torch.stack([zeros, zeros], -2), 1.0).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(logits=zeros[..., :2]), parts)


def test_a_prior_without_closed_form_gets_a_sampled_kl_and_says_so() -> None:
    x = points().repeat(60, 1)
    found = evaluate.diagnose(Encoder(mixture_of_one), x, 25)
    units = found.latents["z"]
    exact = torch.tensor(kl_of(x.numpy() @ CENTRES.T, SCALES).sum(1))
    apart = evaluate.mean_of(units.kl.pointwise - exact)
    assert units.how == "whole" and units.kl_per_unit.shape == (1,)
    assert_close_in_sigmas(apart.value, 0.0, apart.error, effect=exact.mean())
    assert units.active == 1
    assert "'z' has no closed-form KL" in found.notes[-1]


def test_a_chain_that_the_guide_walks_upwards_has_the_right_kl() -> None:
    """The closed form of a site is wrong where the prior's parent is drawn from that very site."""
    exact = TwoLayer()
    x = exact.x[0]
    found = evaluate.judge(TwoLayerModel(), torch.tensor(np.tile(x, (2000, 1))), 25)
    latents = found.diagnosis.latents
    assert {name: each.how for name, each in latents.items()} == {"z1": "sampled", "z2": "analytic"}
    mean = exact.B @ (exact.C @ x + exact.c) + exact.b
    spread = exact.t1**2 * np.trace(exact.B @ exact.B.T)
    squares = ((x - mean) ** 2).sum() + spread
    likelihood = -0.5 * squares / exact.s2**2 - 1.5 * math.log(2 * math.pi * exact.s2**2)
    total = evaluate.mean_of(latents["z1"].kl.pointwise + latents["z2"].kl.pointwise)
    assert_close_in_sigmas(total.value, likelihood - exact.elbo(x), total.error, effect=total.value)
    mean_of_units = latents["z1"].kl_per_unit.sum() + latents["z2"].kl_per_unit.sum()
    assert float(mean_of_units) == pytest.approx(total.value, rel=1e-12)


def test_a_deeper_unit_that_ignores_x_is_not_active_for_the_noise_of_its_draws() -> None:
    model = TwoLayerModel()
    with torch.no_grad():
        model.C.zero_()
        model.D.copy_(4 * torch.eye(2))  # z2's mean moves much with z1, and z1 does not know x
    x = torch.tensor(np.random.default_rng(0).normal(size=(2000, 3)))
    found = evaluate.diagnose(model, x, 25, draws=4)
    noise = (4 * TwoLayer().t1) ** 2 / 4
    assert noise > 0.5
    assert (found.latents["z2"].activity < 0.1 * noise).all()
    assert found.latents["z1"].active == 0


def test_a_discrete_site_has_a_kl_and_no_active_units() -> None:
    x = torch.arange(4)
    found = evaluate.diagnose(DiscreteModel(), {"y": x}, 30, fields={"x": "y"})
    guide = np.exp(C_LOGITS) / np.exp(C_LOGITS).sum(1, keepdims=True)
    kl = (guide * (np.log(guide) - np.log(C_PRIOR))).sum(1)
    np.testing.assert_allclose(found.latents["z"].kl.pointwise, kl, rtol=1e-12)
    assert found.latents["z"].active is None and found.active_units is None
    assert "site 'z' is discrete" in found.notes[-1]


def test_a_point_mass_has_no_kl() -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(x @ torch.tensor(CENTRES.T), event_dim=1))

    found = evaluate.diagnose(pair(Encoder().model, guide), points(), 30)
    units = found.latents["z"]
    assert (units.how, units.kl, units.kl_per_unit, units.active) == ("point", None, None, 1)
    assert "point mass" in found.notes[-1]
    with pytest.raises(InputError, match="is a Delta, a point without a density"):
        evaluate.log_evidence(pair(Encoder().model, guide), points(), 30)


@pytest.mark.parametrize("data_dim", [-1, -2])
def test_a_plate_beside_the_plate_over_data_gives_a_unit_for_each_member(data_dim: int) -> None:
    def place(x: Tensor) -> Tensor:
        return x if data_dim == -2 else x.T

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=data_dim), pyro.plate("objects", 3, dim=-3 - data_dim):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=place(x))

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=data_dim), pyro.plate("objects", 3, dim=-3 - data_dim):
            mean = torch.stack([place(x), 2 * place(x)], -1)
            pyro.sample("z", dist.Normal(mean, 0.5).to_event(1))

    x = torch.randn(11, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = evaluate.diagnose(pair(model, guide), x, 30, data_plate="data")
    mean = np.stack([x.numpy(), 2 * x.numpy()], -1).reshape(11, 6)
    units = found.latents["z"]
    np.testing.assert_allclose(units.kl_per_unit, kl_of(mean, np.full(6, 0.5)).mean(0), rtol=1e-7)
    np.testing.assert_allclose(units.activity, mean.var(0, ddof=1), rtol=1e-12)


def test_masked_data_have_no_kl() -> None:
    mask = torch.tensor([True, False, True, True])

    class Masked(Encoder):
        def model(self, x: Tensor) -> None:
            with pyro.poutine.mask(mask=mask):
                Encoder.model(self, x)

        def guide(self, x: Tensor) -> None:
            with pyro.poutine.mask(mask=mask):
                Encoder.guide(self, x)

    units = evaluate.diagnose(Masked(), points(4), 30).latents["z"]
    assert units.how == "sampled"
    assert units.kl.pointwise[1] == 0 and (units.kl.pointwise[[0, 2, 3]] != 0).all()


def test_a_single_datum_has_no_active_units() -> None:
    found = evaluate.diagnose(Encoder(), points(1), 30)
    assert found.active_units is None and "more than one datum" in found.notes[-1]
    assert json.dumps(found.to_json(), allow_nan=False)


# ---- Pareto k-hat and effective sample size --------------------------------------------------------------------------


def tails(log_w: np.ndarray) -> np.ndarray:
    kept = tail_length(log_w.shape[1]) + 1
    return -np.sort(-log_w, axis=1)[:, :kept]


@pytest.mark.parametrize("draws", [25, 100, 225, 400, 900, 10_000])
def test_khat_from_the_tail_equals_arviz_on_all_weights(draws: int) -> None:
    log_w = 2 * np.random.default_rng(draws).standard_t(5, size=(6, draws)) - 800
    if is_v1():
        from arviz_stats.base import array_stats

        expected = array_stats.psislw(-log_w, r_eff=1.0, axis=-1)[1]
    else:
        expected = arviz().psislw(log_w)[1]
    np.testing.assert_allclose(pareto_khat(tails(log_w), draws), expected, rtol=1e-10)


@pytest.mark.parametrize("shape", [0.3, 0.7, 1.2])
def test_khat_finds_the_shape_of_a_pareto_tail(shape: float) -> None:
    draws = 10_000
    log_w = shape * np.random.default_rng(0).exponential(size=(60, draws))
    found = evaluate.mean_of(torch.tensor(pareto_khat(tails(log_w), draws)))
    kept = tail_length(draws)
    shrunk = (kept * shape + 10 * 0.5) / (kept + 10)  # the fit's own prior
    assert_close_in_sigmas(found.value, shrunk, found.error, effect=shape, resolution=0.06)


def test_khat_of_degenerate_weights() -> None:
    rng = np.random.default_rng(0)
    constant = -3.6 + 1e-13 * rng.normal(size=100)
    atom = np.where(np.arange(100) < 60, 0.0, rng.normal(size=100) - 5)
    broken = np.where(np.arange(100) < 95, -np.inf, 0.0)
    found = pareto_khat(tails(np.stack([constant, atom, broken])), 100)
    assert found[:2].tolist() == [0.0, 0.0] and np.isnan(found[2])
    assert np.isnan(pareto_khat(tails(rng.normal(size=(2, 20))), 20)).all()
    assert good_khat(100) == 0.5 and good_khat(10_000) == 0.7 and good_khat(1) == 0.0


def test_a_guide_too_narrow_is_told_by_khat_and_a_wide_one_is_not() -> None:
    x = torch.tensor(np.tile([1.0, -0.5, 0.2], (20, 1)))
    narrow = evaluate.diagnose(LinearGaussianModel(variance=np.full(2, 0.005)), x, 1000)
    wide = evaluate.diagnose(LinearGaussianModel(variance=np.full(2, 0.5)), x, 1000)
    assert narrow.khat.median() > 0.7 > 0.4 > wide.khat.median()
    assert narrow.unreliable > 0.5 and wide.unreliable < 0.1
    assert "k-hat above 0.67" in narrow.notes[0]
    assert narrow.ess.median() < wide.ess.median()
    summary = wide.to_json()
    assert summary["ess"]["q05"] <= summary["ess"]["median"] <= summary["ess"]["q95"] <= 1000


def test_a_guide_that_misses_the_model_is_said() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(x, x + 1.0))

    with pyro.validation_enabled(False):
        found = evaluate.judge(pair(model, guide), torch.tensor([0.0, 5.0]), 30)
    assert found.log_evidence.pointwise[1] == -math.inf
    assert "1 of 2 data have no finite weight" in found.notes[0]
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["log_evidence"]["value"] is None


def test_a_judgement_is_json() -> None:
    found = json.loads(json.dumps(evaluate.judge(Encoder(), points(), 60).to_json(), allow_nan=False))
    assert found["log_evidence"]["count"] == found["data"] == 37
    assert found["active_units"] == 1 and found["particles"] == 60 and set(found["bounds"]) == {"50", "60"}
    assert len(found["latents"]["z"]["kl_per_unit"]) == 3
