"""The estimated bias of the log evidence, against closed forms."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import A_Q1, A_X, LinearGaussian, LinearGaussianModel
from stats import assert_close_in_sigmas

import pvae.evaluate as evaluate
from pvae.evaluate.evidence_bias import bias_sizes, evidence_bias
from pvae.programs.base import pair

pytestmark = [pytest.mark.usefixtures("own_store"), pytest.mark.filterwarnings("ignore:The log evidence is not")]

EXACT = LinearGaussian()
CHI2_Q1 = 2.694866
X = torch.tensor(np.tile(A_X, (6000, 1)))


def bounds_of(particles, curve):
    """The bound at K and at the sizes of the bias, for two data with the same bound."""
    at = [torch.full((2,), curve(size), dtype=torch.float64) for size in (particles, *bias_sizes(particles))]
    return at[0], at[1:]


def test_the_bias_agrees_with_the_closed_form_of_the_linear_gaussian_model() -> None:
    # log p - L_K = chi2 / (2 K) + O(1/K^2); the second term is below 1 % of the first one at K = 10 and 100.
    assert pytest.approx(CHI2_Q1, abs=1e-6) == EXACT.chi2(*A_Q1)
    found = evaluate.importance_bounds(LinearGaussianModel(), X, (100, *bias_sizes(100)))
    bias = evidence_bias(100, found[100].pointwise, [found[size].pointwise for size in bias_sizes(100)])
    assert bias is not None
    assert_close_in_sigmas(bias.value, -CHI2_Q1 / 200, bias.error, effect=CHI2_Q1 / 200, resolution=0.02)
    corrected = evaluate.mean_of(found[100].pointwise - bias.pointwise)
    assert_close_in_sigmas(corrected.value, EXACT.log_evidence(), corrected.error, effect=CHI2_Q1 / 200, resolution=0.2)
    assert 0.0 <= bias.margin < 0.3 * CHI2_Q1 / 200


def test_judge_and_log_evidence_have_the_same_bias() -> None:
    model, x = LinearGaussianModel(), X[:20]
    judged, alone = evaluate.judge(model, x, 300, draws=1), evaluate.log_evidence(model, x, 300)
    assert judged.bias == alone.bias and judged.bias is not None
    torch.testing.assert_close(judged.bias.pointwise, alone.bias.pointwise, rtol=0, atol=0)
    assert list(judged.bounds) == [50, 300]
    assert json.loads(json.dumps(judged.to_json()))["bias"] == alone.bias.to_json()
    assert set(alone.to_json()) == {"value", "error", "count"} and set(alone.bias.to_json()) > {"margin", "value"}


def test_a_guide_that_is_the_posterior_has_no_bias() -> None:
    evidence, bounds = bounds_of(1000, lambda size: -3.0)
    bias = evidence_bias(1000, evidence, bounds)
    assert bias is not None and (bias.value, bias.error, bias.margin) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("particles", [100, 150, 1000])
def test_the_margin_is_zero_if_the_bound_rises_as_one_over_k(particles: int) -> None:
    bias = evidence_bias(particles, *bounds_of(particles, lambda size: -5.0 - 2.0 / size))
    assert bias is not None
    assert bias.value == pytest.approx(-2.0 / particles, rel=1e-10)
    assert bias.margin == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("exponent", [0.2, 0.5, 0.9])
def test_bias_and_margin_together_are_the_bias_of_a_slower_rise(exponent: float) -> None:
    bias = evidence_bias(1000, *bounds_of(1000, lambda size: -5.0 - 2.0 * size**-exponent))
    assert bias is not None and bias.margin > 0
    assert bias.margin - bias.value == pytest.approx(2.0 * 1000**-exponent, rel=1e-10)


def test_a_rise_that_does_not_slow_down_has_a_margin_of_nine_rises() -> None:
    bias = evidence_bias(1000, *bounds_of(1000, lambda size: math.log10(size)))
    assert bias is not None and bias.margin - bias.value == pytest.approx(9.0, rel=1e-10)


def test_few_particles_have_no_bias_or_no_known_rise() -> None:
    assert evaluate.log_evidence(LinearGaussianModel(), X[:4], 9).bias is None
    bias = evaluate.log_evidence(LinearGaussianModel(), X[:200], 50).bias
    assert bias is not None and bias.margin == pytest.approx(-9.0 * bias.value, rel=1e-10)  # the whole rise


def test_a_difference_has_the_paired_bias_and_the_larger_margin() -> None:
    wide = LinearGaussianModel(A_Q1[0], A_Q1[1] * 3.0)
    a, b = (evaluate.log_evidence(model, X[:50], 200) for model in (LinearGaussianModel(), wide))
    assert a.bias is not None and b.bias is not None
    bias = evaluate.difference(a, b).bias
    assert bias is not None and bias.value == pytest.approx(a.bias.value - b.bias.value, abs=1e-12)
    torch.testing.assert_close(bias.pointwise, a.bias.pointwise - b.bias.pointwise, rtol=0, atol=0)
    assert bias.margin == max(a.bias.margin, b.bias.margin)
    assert evaluate.difference(a, evaluate.elbo(wide, X[:50], 200)).bias is None


def test_the_bias_of_a_joint_evidence_has_no_error() -> None:
    def model(x):
        weight = pyro.sample("weight", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(weight, 1.0), obs=x)

    def guide(x):
        pyro.sample("weight", dist.Normal(0.0, 0.7))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = evaluate.log_evidence(pair(model, guide), torch.tensor([0.3, -0.2]), 1000)
    assert found.bias is not None and math.isnan(found.bias.error) and found.bias.pointwise is None


def test_log_evidence_warns_if_khat_is_high_for_more_than_a_tenth_of_the_data() -> None:
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide_with(bad):
        def guide(x):
            scale = torch.where(x > 100.0 - bad, 0.02, 1.0)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x / 2.0, scale))

        return guide

    x = torch.arange(1.0, 101.0)
    for bad, expected in ((10, 0), (11, 1)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            evaluate.log_evidence(pair(model, guide_with(bad)), x, 200)
        assert len(caught) == expected, bad
    assert "11 of 100 data have Pareto k-hat above 0.57" in str(caught[0].message)


@pytest.mark.parametrize("has_density", [False, True])
def test_a_guide_that_draws_a_point_has_no_khat_and_no_effective_sample_size(has_density: bool) -> None:
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            w = pyro.sample("w", dist.Normal(z, 1.0)) if has_density else 0.0
            pyro.sample("x", dist.Normal(z + w, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(x / 2.0))
            if has_density:
                pyro.sample("w", dist.Normal(x / 4.0, 1.0))

    found = evaluate.diagnose(pair(model, guide), torch.tensor([0.3, -0.2]), 100)
    assert bool(found.khat.isnan().all()) and bool(found.ess.isnan().all()) and math.isnan(found.unreliable)
    assert found.notes[0] == "the guide draws z from a point: k-hat and effective sample size are not available"
    assert not any("no finite weight" in note or "k-hat above" in note for note in found.notes)
    record = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert record["khat"]["median"] is record["khat"]["unreliable"] is record["ess"]["median"] is None


def test_the_time_of_an_evaluation_has_a_name_of_its_own() -> None:
    judged = evaluate.judge(LinearGaussianModel(), X[:3], 30)
    with pytest.warns(DeprecationWarning, match="evaluation_seconds"):
        assert judged.seconds == judged.evaluation_seconds > 0
    assert "seconds" not in judged.to_json() and judged.to_json()["evaluation_seconds"] == judged.evaluation_seconds
    assert str(judged.bias).endswith(")") and "(margin " in str(judged.bias)
