"""`gaps` against closed forms: A1 and A2 of the linear-Gaussian model, discrete and constrained latents."""

from __future__ import annotations

import math

import exact
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from planted import Planted, PlantedPoint
from scipy.special import gammaln
from stats import assert_close_in_sigmas
from torch import Tensor

import pvae
from pvae import InputError
from pvae.data import Splits
from pvae.evaluate import Gaps, gaps
from pvae.evaluate.inference_gaps.gap_record import gaps_of

pytestmark = pytest.mark.usefixtures("own_store")
X = torch.tensor(exact.A_X)


def test_the_parts_of_the_gap_are_those_of_the_closed_form() -> None:
    known = exact.LinearGaussian()
    approximation = known.kl_to_posterior(*known.best_diagonal())
    amortisation = known.kl_to_posterior(*exact.A_Q1) - approximation
    assert (approximation, amortisation) == pytest.approx((0.0056219847, 1.3839990224), abs=1e-9)
    found = gaps(exact.LinearGaussianModel(), X.expand(64, 3), 600, steps=120, draws=8, progress=False)
    assert_close_in_sigmas(found.value, 1.3896210071, found.error, effect=approximation + amortisation)
    assert_close_in_sigmas(found.approximation.value, approximation, found.approximation.error)
    assert found.approximation.error < 0.1 * approximation
    assert_close_in_sigmas(found.amortisation.value, amortisation, found.amortisation.error, effect=amortisation)
    assert found.richer is not None  # a full covariance closes all of the approximation gap
    assert_close_in_sigmas(found.richer.value, approximation, found.richer.error)
    assert (found.status, found.family, found.failed) == ("bad", {"z": "Normal"}, ())
    assert found.cost == 64 * (3 * 120 * 8 + 2 * 200 + 3 * 600)


def test_the_sum_of_the_parts_is_the_gap_for_every_datum() -> None:
    found = gaps(Planted(scale=0.5), Planted().draw(5), 50, steps=30, progress=False)
    assert found.approximation.pointwise is not None
    assert found.amortisation.pointwise is not None
    assert found.pointwise is not None
    torch.testing.assert_close(found.approximation.pointwise + found.amortisation.pointwise, found.pointwise)


def test_a_discrete_guide_has_the_exact_posterior_in_its_family() -> None:
    known = exact.Discrete()
    expected = known.log_evidence() - known.elbo()
    for marked in (None, "parallel"):
        model = exact.DiscreteModel(enumerate=marked)
        found = gaps(model, torch.arange(4).repeat(8), 300, steps=60, rate=0.2, progress=False)
        assert_close_in_sigmas(found.amortisation.value, expected.mean(), found.amortisation.error + 0.003)
        assert abs(found.approximation.value) < 0.003
        assert found.richer is None


class GammaPoisson(pvae.LatentModel):
    """rate ~ Gamma(2, 1), x given rate ~ Poisson(rate), with a LogNormal guide, whose best q is not exact."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(x.new_tensor(2.0), 1.0))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.LogNormal(torch.zeros_like(x), 0.5))


def test_constrained_latents_keep_the_log_determinant() -> None:
    x = torch.tensor([0.0, 3.0], dtype=torch.float64).repeat(16)
    found = gaps(GammaPoisson(), x, 400, steps=100, draws=8, richer="flow", progress=False)
    # log p(x) = log Gamma(x + 2) - log Gamma(2) - log x! - (x + 2) log 2
    evidence = np.mean([gammaln(k + 2) - gammaln(k + 1) - (k + 2) * math.log(2) for k in (0.0, 3.0)])
    # The guide's ELBO: E_q[2 log r - 2 r] + ... under LogNormal(0, 1/2), all terms of which have closed forms.
    mean_rate, entropy = math.exp(0.125), 0.5 * math.log(2 * math.pi * math.e * 0.25)
    elbo = np.mean([-2 * mean_rate - gammaln(k + 1) + entropy for k in (0.0, 3.0)])
    assert_close_in_sigmas(found.value, evidence - elbo, found.error, effect=evidence - elbo, resolution=0.15)
    assert 0.0 < found.approximation.value < 0.05
    assert found.richer is not None
    assert found.richer.value < found.approximation.value + 3 * found.richer.error


def test_an_optimiser_that_fails_is_named() -> None:
    found = gaps(Planted(), Planted().draw(32), 100, steps=3, rate=2.0, richer=None, progress=False)
    assert found.failed == ("amortisation",)
    assert found.status == "look"
    assert "The optimiser failed: the amortisation part" in found.reason
    known = torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64)
    assert gaps_of(known, known - 1.0, known + 0.5, None, 0).failed == ("approximation",)
    assert gaps_of(known, known - 1.0, known + 1e-8, None, 0).failed == ()
    # A Gaussian in real coordinates need not be better than a Gamma, but it contains every Normal.
    worse = known - 0.5
    assert gaps_of(known, known - 1.0, known, worse, 0, family={"z": "Gamma"}).failed == ()
    assert gaps_of(known, known - 1.0, known, worse, 0, family={"z": "Normal"}).failed == ("richer",)


def test_train_and_test_are_apart_if_there_are_splits() -> None:
    class Remembering(Planted):
        """Exact for data with a positive first feature, narrow elsewhere."""

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                mean = (x - self.bias) @ self.gain.T
                scale = torch.where(x[:, :1] > 0, 1.0, 0.3).unsqueeze(-1)
                pyro.sample("z", dist.MultivariateNormal(mean, scale_tril=scale * self.factor))

    x = Planted().draw(200)
    train, test = x[x[:, 0] > 0][:16], x[x[:, 0] < 0][:16]
    splits = Splits(train=pvae.Batch(x=train), validation=None, test=pvae.Batch(x=test), name="two", data_shape=(3,))
    found = gaps(Remembering(), splits, 100, steps=60, richer=None, progress=False)
    assert isinstance(found.train, Gaps)
    assert abs(found.train.amortisation.value) < 0.05 < 0.5 < found.amortisation.value
    assert any("training split" in row["quantity"] for row in found.table())
    assert gaps(Remembering(), splits, 20, steps=2, split="test", progress=False).train is None


def test_guides_without_gaps_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="only points"):
        gaps(PlantedPoint(), X.expand(4, 3), progress=False)
    with pytest.raises(InputError, match="full-covariance"):
        gaps(Planted(), X.expand(4, 3), richer="full", progress=False)
    with pytest.raises(InputError, match="rate"):
        gaps(Planted(), X.expand(4, 3), rate=-1.0, progress=False)


def test_the_first_batch_does_not_depend_on_the_others() -> None:
    x = Planted().draw(70)
    few = gaps(Planted(scale=0.8), x[:64], 20, steps=3, richer=None, progress=False)
    more = gaps(Planted(scale=0.8), x, 20, steps=3, richer=None, progress=False)
    assert few.pointwise is not None
    assert more.pointwise is not None
    torch.testing.assert_close(few.pointwise, more.pointwise[:64], rtol=0, atol=0)
