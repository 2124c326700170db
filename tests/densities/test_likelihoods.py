"""Likelihoods: masses and densities against independent formulas, their draws, their starts, and what they refuse."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import optimize, special, stats
from stats import assert_close_in_sigmas, mean_and_error
from torch import nn

import pvae
from pvae.densities import (
    Categorical,
    ContinuousBernoulli,
    DiscretisedLogistic,
    Gaussian,
    NegativeBinomial,
    Poisson,
    distributions,
    part,
)
from pvae.densities.base import OutputLayer
from pvae.errors import InputError
from pvae.models import has_bernoulli_likelihood

EXACT = {"rtol": 1e-12, "atol": 1e-12}

pytestmark = pytest.mark.usefixtures("seeded")


def double(values):
    return torch.as_tensor(values, dtype=torch.float64)


def logistic_mixture(levels=17, components=3, batch=(4,)):
    shape = (*batch, components)
    scale = double(np.geomspace(1e-3, 2, math.prod(shape))).reshape(shape)
    return distributions.DiscretisedLogistic(
        0.5 + torch.randn(shape, dtype=torch.float64), scale, torch.randn(shape, dtype=torch.float64), levels=levels
    )


def log_masses(loc, scale, levels):
    """Log masses of one rounded logistic distribution by scipy, from the better-conditioned tail; shape (levels,)."""
    logistic, step = stats.logistic(loc, scale), 1 / (levels - 1)
    found = []
    for k in range(levels):
        low = -np.inf if k == 0 else (k - 0.5) * step
        high = np.inf if k == levels - 1 else (k + 0.5) * step
        # on the side of the location the difference of the far tails keeps its digits
        left = (low + high) / 2 < loc if np.isfinite(low + high) else k == 0
        one, other = (
            (logistic.logcdf(high), logistic.logcdf(low)) if left else (logistic.logsf(low), logistic.logsf(high))
        )
        found.append(one + np.log1p(-np.exp(other - one)))
    return np.array(found)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("components", [1, 3])
def test_masses_of_all_levels_sum_to_one(levels, components):
    masses = logistic_mixture(levels, components).levels_log_prob().exp()
    torch.testing.assert_close(masses.sum(0), torch.ones(4, dtype=torch.float64), rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("loc", "scale"), [(0.4, 0.1), (0.03, 0.02), (-2.0, 0.01), (5.0, 0.02), (0.7, 40.0), (0.5, 3e-3)]
)
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_log_masses_agree_with_scipy_far_into_the_tails(loc, scale, levels):
    density = distributions.DiscretisedLogistic(double([loc]), double([scale]), levels=levels)
    exact = log_masses(loc, scale, levels)
    assert exact.min() < -40 or levels == 2 or scale >= 0.1
    np.testing.assert_allclose(density.levels_log_prob().numpy(), exact, rtol=1e-9)


def test_float32_keeps_its_digits_in_the_tails():
    """Off by 200 steps and by 1e5 scales: the naive difference of two sigmoids is 0 there, its logarithm -inf."""
    loc, scale = torch.tensor([0.9, -3.0, 0.2]), torch.tensor([1e-3, 1e-4, 5.0])
    x = torch.tensor([10.0, 255.0, 128.0]) / 255
    given = distributions.DiscretisedLogistic(loc.unsqueeze(-1), scale.unsqueeze(-1)).log_prob(x)
    exact = [log_masses(float(a), float(b), 256)[k] for a, b, k in zip(loc, scale, (10, 255, 128), strict=True)]
    np.testing.assert_allclose(given.numpy(), exact, rtol=2e-6)


def test_a_mixture_is_the_weighted_sum_of_its_components():
    density = logistic_mixture(17, 3)
    weights = special.softmax(density.logits.numpy(), axis=-1)
    parts = np.array([[np.exp(log_masses(float(density.loc[i, j]), float(density.scale[i, j]), 17)) for j in range(3)]
                      for i in range(4)])  # fmt: skip
    np.testing.assert_allclose(
        density.levels_log_prob().exp().numpy(), np.einsum("ij,ijk->ki", weights, parts), rtol=1e-9
    )


def test_a_mixture_of_equal_components_equals_the_single():
    single = logistic_mixture(17, 1)
    doubled = distributions.DiscretisedLogistic(
        single.loc.expand(4, 2), single.scale.expand(4, 2), torch.randn(4, 2, dtype=torch.float64), levels=17
    )
    torch.testing.assert_close(doubled.levels_log_prob(), single.levels_log_prob(), **EXACT)
    torch.testing.assert_close(doubled.mean, single.mean, **EXACT)


def test_likelihood_of_one_component_is_the_single():
    """The weights of one component do not matter; its numbers are location and scale alone."""
    one = DiscretisedLogistic(5, (6,), 17).double()
    assert one.head.bias.numel() == 2 * 6
    h = torch.randn(3, 5, dtype=torch.float64)
    loc, raw = one.head(h).unbind(1)
    scale = 0.05 / 16 + raw.exp()
    by_hand = distributions.DiscretisedLogistic(
        loc.unsqueeze(-1), scale.unsqueeze(-1), torch.randn(3, 6, 1, dtype=torch.float64), levels=17
    )
    x = one(h).sample()
    assert torch.equal(one(h).log_prob(x), by_hand.log_prob(x).sum(-1))


CASES = {
    "discretised-logistic": lambda n: distributions.DiscretisedLogistic(
        n[..., :2], n[..., 2:4].exp(), n[..., 4:6], levels=17
    ),
    "continuous-bernoulli": lambda n: distributions.ContinuousBernoulli(n[..., 0]),
    "negative-binomial": lambda n: distributions.NegativeBinomial(n[..., 0].exp(), n[..., 1].exp()),
    "categorical": lambda n: distributions.Categorical(logits=n),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [1e-4, 1.0, 4.0])
def test_gradients_agree_with_finite_differences(name, size):
    numbers = (size * torch.randn(5, 6, dtype=torch.float64)).requires_grad_()
    x = CASES[name](numbers.detach()).sample()
    assert torch.autograd.gradcheck(lambda n: CASES[name](n).log_prob(x), (numbers,), eps=1e-6, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_expanded_and_broadcast_distributions_score_alike(name):
    numbers = torch.randn(4, 6, dtype=torch.float64)
    density = CASES[name](numbers)
    x = density.sample((3,))
    assert x.shape == (3, 4) and x.dtype == torch.float64 and density.support.check(x).all()
    larger = density.expand((3, 4))
    assert larger.batch_shape == (3, 4) and larger.sample((2,)).shape == (2, 3, 4)
    looped = torch.stack([density.log_prob(each) for each in x])
    torch.testing.assert_close(larger.log_prob(x), looped, **EXACT)
    torch.testing.assert_close(larger.mean[1], density.mean, **EXACT)
    with pytest.raises(ValueError, match="support"):
        type(density).log_prob(larger.expand((3, 4)), x - 0.3 - 20)


@pytest.mark.parametrize("name", ["discretised-logistic", "negative-binomial", "categorical"])
def test_frequencies_of_draws_agree_with_the_masses(name):
    density = CASES[name](double([0.4, 0.2, -1.5, -2.5, 0.3, 0.8]))
    values = torch.arange(17, dtype=torch.float64) / (16 if name == "discretised-logistic" else 1)
    values = values[:6] if name == "categorical" else values
    exact = density.log_prob(values).exp()
    drawn = density.sample((100_000,)).unsqueeze(-1) == values
    rare = exact * 100_000 > 30
    frequency, error = mean_and_error(drawn.double())
    assert_close_in_sigmas(frequency[rare], exact[rare], error[rare], effect=0.5)


@pytest.mark.parametrize("logits", [-40.0, -1.0, 0.0, 1e-3, 3.0, 40.0])
def test_continuous_bernoulli_draws_have_its_distribution_function(logits):
    draws = distributions.ContinuousBernoulli(double(logits)).sample((100_000,))
    for point in (0.01, 0.3, 0.5, 0.98):
        exact = point if logits == 0 else math.expm1(logits * point) / math.expm1(logits)
        error = math.sqrt(exact * (1 - exact) / 100_000) + 1e-5
        assert_close_in_sigmas((draws <= point).double().mean(), exact, error, effect=0.5)


@pytest.mark.parametrize(
    "logits", [-800.0, -60.0, -17.0, -0.3, -0.0999, 0.0, 1e-6, 0.05, 0.1, 0.1001, 2.0, 17.0, 60.0, 800.0]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_continuous_bernoulli_integrates_to_one_and_has_its_mean(logits, dtype):
    density = distributions.ContinuousBernoulli(torch.tensor(logits, dtype=dtype))
    logit = float(torch.tensor(logits, dtype=dtype))
    size = abs(logit)  # by symmetry: x to 1 - x
    # Gauss-Legendre on pieces of e-foldings, of exp(-size * x)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    edges = np.linspace(0, 1, 1 + max(1, int(size / 4)))
    x = np.concatenate([(a + b) / 2 + (b - a) / 2 * nodes for a, b in itertools.pairwise(edges)])
    w = np.concatenate([(b - a) / 2 * weights for a, b in itertools.pairwise(edges)])
    integral, first = (w * np.exp(-size * x)).sum(), (w * x * np.exp(-size * x)).sum()
    mean = first / integral if logit < 0 else 1 - first / integral
    at_quarter = logit * 0.25 - (np.log(integral) + max(logit, 0.0))
    tolerance = {"rtol": 3e-7, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-11, "atol": 1e-12}
    given = density.log_prob(torch.tensor(0.25, dtype=dtype))
    np.testing.assert_allclose(float(given), at_quarter, **tolerance)
    np.testing.assert_allclose(float(density.mean), mean, **tolerance)
    np.testing.assert_allclose(
        float(density.entropy()),
        np.log(integral) + max(logit, 0.0) - logit * mean,
        atol=1e-4 if dtype == torch.float32 else 1e-10,
    )


@pytest.mark.parametrize("dispersion", [1e-4, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_negative_binomial_agrees_with_scipy(dispersion, dtype):
    rate, x = np.array([1e-3, 0.7, 12.0, 900.0])[:, None], np.array([0.0, 1, 5, 60, 1000])
    given = distributions.NegativeBinomial(torch.tensor(rate, dtype=dtype), torch.tensor(dispersion, dtype=dtype))
    size = 1 / dispersion
    exact = stats.nbinom.logpmf(x, size, size / (size + rate))
    tolerance = 2e-5 if dtype == torch.float32 else 1e-8  # at 1e-4, scipy's own lgammas lose digits
    np.testing.assert_allclose(
        given.log_prob(torch.tensor(x, dtype=dtype)).numpy(), exact, rtol=tolerance, atol=tolerance
    )


def test_negative_binomial_draws_have_its_mean_and_variance():
    density = distributions.NegativeBinomial(double([0.5, 4.0]), double([2.0, 0.3]))
    draws = density.sample((200_000,))
    for values, exact in (
        (draws, density.mean),
        ((draws - density.mean).square(), density.mean + double([2.0, 0.3]) * density.mean**2),
    ):
        mean, error = mean_and_error(values)
        assert_close_in_sigmas(mean, exact, error, effect=exact, resolution=0.02)


def test_categorical_agrees_with_the_softmax_for_every_type_of_number():
    density = Categorical(5, (2, 3), 4).double()
    h = torch.randn(7, 5, dtype=torch.float64)
    x = torch.randint(0, 4, (7, 2, 3))
    layer = density.head.layer
    logits = special.log_softmax((h @ layer.weight.T + layer.bias).detach().numpy().reshape(7, 4, 6), axis=1)
    exact = np.take_along_axis(logits, x.reshape(7, 1, 6).numpy(), 1).sum((1, 2))
    for dtype in (torch.int64, torch.uint8, torch.float32, torch.float64):
        torch.testing.assert_close(density(h).log_prob(x.to(dtype)), double(exact), **EXACT)
    means = (np.exp(logits) * np.arange(4)[:, None]).sum(1).reshape(7, 2, 3)
    torch.testing.assert_close(density(h).mean, double(means), **EXACT)


def test_a_class_that_does_not_exist_is_impossible():
    density = distributions.Categorical(logits=torch.zeros(4), validate_args=False)
    assert density.log_prob(torch.tensor([-1.0, 4.0, 9.0])).tolist() == [-math.inf] * 3


def test_poisson_agrees_with_scipy():
    density = Poisson(5, (6,)).double()
    h, x = torch.randn(7, 5, dtype=torch.float64), torch.randint(0, 9, (7, 6)).double()
    log_rate = h @ density.head.layer.weight.T + density.head.layer.bias
    exact = stats.poisson.logpmf(x.numpy(), log_rate.exp().detach().numpy()).sum(-1)
    torch.testing.assert_close(density(h).log_prob(x), double(exact), **EXACT)


@pytest.mark.parametrize("components", [1, 3])
def test_mean_of_grey_levels_is_the_sum_over_the_grid(components):
    density = logistic_mixture(17, components, (2, 3))
    grid = torch.arange(17, dtype=torch.float64).reshape(-1, 1, 1) / 16
    torch.testing.assert_close(density.mean, (density.levels_log_prob().exp() * grid).sum(0), **EXACT)


# --- several numbers for each entry ---


@pytest.mark.parametrize(("features", "shape"), [(5, (6,)), (5, (2, 3)), ((2, 2, 3), (4, 5)), ((2, 2, 3), (3, 4, 6))])
def test_output_layer_of_several_numbers_is_that_many_layers(features, shape):
    several = OutputLayer(features, shape, numbers=3).double()
    nn.init.normal_(several.bias)
    h = torch.randn(4, 2, *([features] if isinstance(features, int) else features), dtype=torch.float64)
    channels = 0 if isinstance(features, int) else 1  # the dimension of the weight that makes outputs
    for each in range(3):
        one = OutputLayer(features, shape).double()
        size = one.layer.weight.shape[channels]
        one.layer.weight.data = several.layer.weight.detach().narrow(channels, each * size, size)
        one.bias.data = several.bias.detach()[each * size : (each + 1) * size]
        torch.testing.assert_close(several(h)[:, :, each], one(h), **EXACT)
    x = torch.randn(4, *shape)
    assert torch.equal(several.by_bias(x), OutputLayer(features, shape).by_bias(x))


def test_one_number_sets_locations_alone():
    density = DiscretisedLogistic(5, (6,), 17, 3)
    nn.init.constant_(density.head.bias, 9.0)
    density.set_bias(0.25)
    assert density.head.bias.tolist() == [0.25] * 18 + [9.0] * 36
    density.set_bias(torch.arange(54.0))
    assert density.head.bias.tolist() == list(range(54))


# --- scales of the Gaussian ---


def test_gaussian_scale_for_each_entry_agrees_with_its_formula():
    density = Gaussian(5, (2, 3), "per-pixel", smallest=0.2).double()
    nn.init.normal_(density.log_scale)
    h, x = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 2, 3, dtype=torch.float64)
    scale = 0.2 + np.exp(density.log_scale.detach().numpy())
    exact = stats.norm.logpdf(x.numpy(), density.head(h).detach().numpy(), scale).sum((1, 2))
    torch.testing.assert_close(density(h).log_prob(x), double(exact), **EXACT)


@pytest.mark.parametrize(("features", "shape"), [(5, (6,)), ((2, 2, 3), (3, 4, 6))])
def test_gaussian_scale_of_a_network_agrees_with_its_formula_and_keeps_its_bound(features, shape):
    density = Gaussian(features, shape, "network").double()
    h = torch.randn(4, *density.in_features, dtype=torch.float64)
    x = torch.randn(4, *shape, dtype=torch.float64)
    scale = 0.01 + np.exp(density.scale_head(h).detach().numpy())
    exact = stats.norm.logpdf(x.numpy(), density.head(h).detach().numpy(), scale)
    torch.testing.assert_close(density(h).log_prob(x), double(exact.reshape(4, -1).sum(-1)), **EXACT)
    assert np.ptp(scale) > 0.1
    nn.init.constant_(density.scale_head.bias, -1e3)
    best = -math.log(0.01) - 0.5 * math.log(2 * math.pi)
    at_mean = density(h).log_prob(density(h).mean)
    torch.testing.assert_close(at_mean, double([math.prod(shape) * best] * 4), **EXACT)


@pytest.mark.parametrize("scale", ["per-pixel", "network"])
def test_gaussian_scales_start_from_what_the_mean_leaves(scale):
    x = 3 + double([0.5, 2.0, 0.0]) * torch.randn(40, 3, dtype=torch.float64)
    density = Gaussian(5, (3,), scale).double()
    density.initialise_from(x)
    start = density(torch.zeros(1, 5, dtype=torch.float64))
    torch.testing.assert_close(start.mean[0], x.mean(0), **EXACT)
    exact = x.std(0, correction=0)
    exact[2] = 0.02  # an entry that never varies: twice the bound
    torch.testing.assert_close(start.variance[0].sqrt(), exact, **EXACT)


def test_scales_for_each_pixel_start_from_each_pixel_after_feature_maps():
    x = torch.randn(50, 2, 4, 6, dtype=torch.float64) * torch.rand(2, 4, 6, dtype=torch.float64)
    density = Gaussian((2, 2, 3), (2, 4, 6), "per-pixel").double()
    density.initialise_from(x)
    mean = x.mean((0, 2, 3)).reshape(2, 1, 1)
    scale = (0.01 + density.log_scale.exp()).detach()
    torch.testing.assert_close(scale, (x - mean).square().mean(0).sqrt().clamp_min(0.02), **EXACT)


# --- starts ---


def constant(density):
    return density(torch.zeros(1, 5, dtype=torch.float64))


@pytest.mark.parametrize(
    "name", ["poisson", "negative-binomial", "negative-binomial:dispersion=0.5", "continuous-bernoulli"]
)
def test_constant_prediction_maximises_the_likelihood(name):
    """At the start the derivative of the data's mean score by the output bias is 0."""
    density = part("likelihood", name, 5, (3,)).double()
    rates = double([0.2, 0.5, 0.9])
    x = (
        torch.rand(200, 3, dtype=torch.float64) ** (1 / rates)
        if name == "continuous-bernoulli"
        else torch.poisson(5 * rates.expand(200, 3))
    )
    density.initialise_from(x)
    torch.testing.assert_close(constant(density).mean[0], x.mean(0), rtol=1e-9, atol=0)
    constant(density).log_prob(x).mean().backward()
    torch.testing.assert_close(density.head.bias.grad, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("value", "mean"), [(0.0, 1e-3), (1.0, 0.999)])
def test_continuous_bernoulli_of_a_constant_entry_stays_finite(value, mean):
    density = ContinuousBernoulli(5, (2,)).double()
    density.initialise_from(torch.full((9, 2), value, dtype=torch.float64))
    torch.testing.assert_close(constant(density).mean[0], double([mean, mean]), rtol=1e-6, atol=0)


def test_dispersion_starts_from_the_moments():
    x = distributions.NegativeBinomial(double([2.0, 7.0]), double([0.4, 1.5])).sample((4000,))
    mean, variance = x.mean(0), x.var(0, correction=0)
    density = NegativeBinomial(5, (2,), "per-entry").double()
    density.initialise_from(x)
    torch.testing.assert_close(
        constant(density).base_dist.dispersion[0], (variance - mean) / mean**2, rtol=1e-9, atol=0
    )
    density = NegativeBinomial(5, (2,)).double()
    density.initialise_from(x)
    pooled = (variance - mean).sum() / mean.square().sum()
    torch.testing.assert_close(constant(density).base_dist.dispersion[0], pooled.expand(2), rtol=1e-9, atol=0)
    density.initialise_from(torch.full((9, 2), 3.0, dtype=torch.float64))  # no more than Poisson's: next to the bound
    assert constant(density).base_dist.dispersion.max().item() == pytest.approx(2e-4)


def test_categorical_starts_from_the_shares():
    x = torch.tensor([[0, 1], [0, 3], [2, 3], [0, 3]])
    density = Categorical(5, (2,), 4).double()
    density.initialise_from(x)
    shares = double([[0.75, 1e-3, 0.25, 1e-3], [1e-3, 0.25, 1e-3, 0.75]])
    torch.testing.assert_close(constant(density).base_dist.probs[0], shares / shares.sum(-1, keepdim=True), **EXACT)
    with pytest.raises(InputError, match=r"categorical:classes=5"):
        density.initialise_from(torch.tensor([[0, 4]]))


@pytest.mark.parametrize("components", [1, 4])
def test_grey_levels_start_from_mean_and_variance(components):
    x = (0.5 + 0.15 * torch.randn(500, 2, dtype=torch.float64)).clamp(0, 1).mul(255).round() / 255
    density = DiscretisedLogistic(5, (2,), components=components).double()
    density.initialise_from(x)
    start = constant(density).base_dist
    torch.testing.assert_close(start.loc.mean(-1)[0], x.mean(0), **EXACT)
    variance = start.loc.var(-1, correction=0) + (start.scale * math.pi).square().mean(-1) / 3
    torch.testing.assert_close(variance[0], x.var(0, correction=0), rtol=1e-9, atol=0)
    assert start.logits.abs().max() == 0
    torch.testing.assert_close(start.mean[0], x.mean(0), rtol=0, atol=2e-3)


def test_the_start_of_grey_levels_is_near_the_maximum_of_the_likelihood():
    x = distributions.DiscretisedLogistic(double([0.45]), double([0.06])).sample((2000,)).unsqueeze(-1)
    density = DiscretisedLogistic(5, (1,)).double()
    density.initialise_from(x)

    def loss(numbers):
        loc, raw = double(numbers).reshape(2, 1)
        return -float(distributions.DiscretisedLogistic(loc, raw.exp()).log_prob(x).mean())

    best = -optimize.minimize(loss, [0.5, -2.0], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9}).fun
    assert 0 <= best - constant(density).log_prob(x).mean().item() < 0.002


# --- data that do not fit ---


GREY = torch.tensor([[0.0, 5 / 16, 1.0]])
COUNTS, REAL, FRACTIONS = torch.tensor([[0.0, 3.0, 200.0]]), torch.tensor([[-1.0, 0.5, 7.0]]), torch.rand(1, 30)[:, :3]


@pytest.mark.parametrize(
    ("likelihood", "x", "said"),
    [
        ("bernoulli", GREY, "discretised-logistic:levels=17, continuous-bernoulli"),
        ("bernoulli", COUNTS, "poisson or negative-binomial"),
        ("bernoulli", REAL, "gaussian"),
        ("discretised-logistic", GREY, "discretised-logistic:levels=17"),
        ("discretised-logistic:levels=17", COUNTS, "Divide the data .* poisson"),
        ("discretised-logistic:levels=17", FRACTIONS, "continuous-bernoulli or gaussian"),
        ("continuous-bernoulli", COUNTS, r"needs x in \[0, 1\]; .* poisson"),
        ("poisson", GREY, "discretised-logistic:levels=17"),
        ("negative-binomial", REAL, r"needs x in \{0, 1, 2, ...\}; .* gaussian"),
        ("categorical:classes=4", COUNTS, r"needs x in \{0, ..., 3\}; .* categorical:classes=201"),
        ("categorical:classes=4", GREY, "discretised-logistic:levels=17"),
    ],
)
def test_data_outside_the_support_are_refused_with_what_fits(likelihood, x, said):
    """By the check of the first batch, and, but for Bernoulli, whose data may be drawn later, by the start."""
    model = pvae.VAE((3,), latent=2, hidden=4, likelihood=likelihood)
    (finding,) = [each for each in pvae.check(model, {"x": x}) if each.kind == "outside the support"]
    assert finding.fatal
    with pytest.raises(InputError, match=said) as caught:
        model.likelihood.check(x)
    assert "\n" not in str(caught.value) and str(caught.value) in str(finding)
    if likelihood != "bernoulli":
        with pytest.raises(InputError, match=said):
            model.likelihood.initialise_from(x)


def test_a_value_far_into_the_data_is_refused_before_training():
    x = torch.zeros(500, 3)
    x[400, 1] = 7
    model = pvae.VAE((3,), latent=2, hidden=4, likelihood="categorical:classes=4")
    with pytest.raises(InputError, match=r"from 0 to 7, 1 of 1500 outside, the first at \[400, 1\]"):
        pvae.fit(model, pvae.load_data({"x": x}, validation=0, test=0), epochs=1, progress=False)


@pytest.mark.parametrize("name", sorted(set(pvae.densities.LIKELIHOODS) - {"bernoulli"}))
def test_only_a_bernoulli_likelihood_gets_its_data_binarised(name):
    settings = {"categorical": ":classes=4", "discretised-logistic": ":levels=17"}.get(name, "")
    model = pvae.VAE((3,), latent=2, hidden=4, likelihood=name + settings)
    assert not has_bernoulli_likelihood(model, {"x": GREY})
    assert has_bernoulli_likelihood(pvae.VAE((3,), latent=2, hidden=4), {"x": GREY})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("discretised-logistic:levels=1", "levels needs a whole number of at least 2; got 1"),
        ("discretised-logistic:levels=2.5", "levels needs a whole number of at least 2; got 2.5"),
        ("discretised-logistic:components=0", "components needs a whole number of at least 1"),
        ("discretised-logistic:level=3", "did you mean 'levels'"),
        ("categorical", "needs classes. Write categorical:classes="),
        ("categorical:classes=1", "classes needs a whole number of at least 2; got 1"),
        ("poisson:numbers=2", "Unknown setting"),
        ("negative-binomial:dispersion=0", "dispersion needs a positive number; got 0"),
        ("negative-binomial:dispersion=lerned", "did you mean 'learned'"),
        ("gaussian:scale=per-pixl", "did you mean 'per-pixel'"),
        ("gaussian:scale=network:smallest=0", "smallest.* got 0"),
        ("gaussian:scale=0.1:smallest=0.1", "Leave smallest=0.1 out"),
        ("gaussian:smallest=0.1", "scale=learned has no lower bound"),
    ],
)
def test_bad_settings_are_named(text, said):
    with pytest.raises(InputError, match=said) as caught:
        part("likelihood", text, 5, (6,))
    assert "\n" not in str(caught.value)
