"""The von Mises-Fisher distribution: normaliser, moments, KL, draws and their gradients against quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import ive
from scipy.stats import kstest
from stats import assert_close_in_sigmas, mean_and_error
from torch.distributions import kl_divergence

from pvae.densities import SpherePrior, UniformSphere, VonMisesFisher, VonMisesFisherPosterior
from pvae.densities.bessel import bessel_ratio, log_normaliser
from pvae.densities.sphere_sampling import angle_rates, draw_angles
from pvae.errors import InputError

pytestmark = pytest.mark.usefixtures("seeded")

DIMENSIONS = [2, 3, 4, 5, 10, 20, 41, 50]
CONCENTRATIONS = [0.0, 1e-3, 0.3, 1.0, 7.0, 40.0, 300.0, 1e4]
NODES, WEIGHTS = np.polynomial.legendre.leggauss(60)


def integral(function, end=math.pi):
    """The integral of a function of the angle from 0 to `end`, over panels that become short towards 0."""
    edges = np.unique(np.append(np.clip(np.append(0, np.geomspace(1e-4, math.pi, 40)), 0, end), end))
    low, length = edges[:-1, None], np.diff(edges)[:, None]
    return float((length / 2 * WEIGHTS * function(low + length * (NODES + 1) / 2)).sum())


class ByQuadrature:
    """The angle between z and the mean direction in plain NumPy."""

    def __init__(self, dimensions, concentration):
        self.dimensions, self.concentration = dimensions, concentration
        self.area_below = 2 * math.pi ** ((dimensions - 1) / 2) / math.gamma((dimensions - 1) / 2)
        self.total = integral(self.unnormalised)
        self.mean_cosine = integral(lambda s: np.cos(s) * self.density(s))

    def unnormalised(self, angle):
        return np.sin(angle) ** (self.dimensions - 2) * np.exp(-2 * self.concentration * np.sin(angle / 2) ** 2)

    def density(self, angle):
        return self.unnormalised(angle) / self.total

    def kl_to_uniform(self):
        free = integral(lambda s: np.sin(s) ** (self.dimensions - 2))
        return self.concentration * (self.mean_cosine - 1) - math.log(self.total / free)

    def rate(self, angle):
        """The derivative of the angle by the concentration at a fixed value of the distribution function."""
        moved = integral(lambda s: (np.cos(s) - self.mean_cosine) * self.density(s), angle)
        return -moved / self.density(angle)


def von_mises_fisher(dimensions, concentration, dtype=torch.float64):
    loc = torch.linspace(-1, 2, dimensions, dtype=torch.float64)
    return VonMisesFisher((loc / loc.norm()).to(dtype), torch.tensor(concentration, dtype=dtype))


@pytest.mark.parametrize("dimensions", DIMENSIONS)
def test_density_moments_and_kl_agree_with_quadrature(dimensions):
    for concentration in CONCENTRATIONS:
        known = ByQuadrature(dimensions, concentration)
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-6)):
            q = von_mises_fisher(dimensions, concentration, dtype)
            uniform = UniformSphere(torch.zeros(dimensions, dtype=dtype))
            at_mode = -math.log(known.total * known.area_below)
            assert q.log_prob(q.loc).dtype == dtype
            assert q.log_prob(q.loc).item() == pytest.approx(at_mode, rel=tolerance, abs=10 * tolerance)
            opposite = at_mode - 2 * concentration
            assert q.log_prob(-q.loc).item() == pytest.approx(opposite, rel=tolerance, abs=10 * tolerance)
            assert q.mean.norm().item() == pytest.approx(known.mean_cosine, rel=tolerance, abs=1e-12)
            kl = kl_divergence(q, uniform).item()
            assert kl == pytest.approx(known.kl_to_uniform(), rel=tolerance, abs=1e-11)
            assert q.entropy().item() == pytest.approx(uniform.entropy().item() - kl, rel=tolerance, abs=10 * tolerance)


@pytest.mark.parametrize("dimensions", [3, 30, 50, 400, 1000])
def test_large_orders_agree_with_scaled_bessel_functions(dimensions):
    order = dimensions / 2 - 1
    k = torch.tensor([5e2, 3e3, 1e5], dtype=torch.float64)
    expected = np.log(ive(order, k.numpy())) + math.lgamma(order + 1) + order * np.log(2 / k.numpy())
    np.testing.assert_allclose(log_normaliser(k, dimensions).numpy(), expected, rtol=1e-11)
    ratio = ive(order + 1, k.numpy()) / ive(order, k.numpy())
    np.testing.assert_allclose(bessel_ratio(k, dimensions).numpy(), ratio, rtol=1e-11)


@pytest.mark.parametrize("dimensions", [2, 3, 10, 50, 1000])
def test_derivatives_of_the_normaliser_are_the_ratio_and_its_equation(dimensions):
    """d log I = ratio - 1 after scaling, and the ratio A solves A' = 1 - A^2 - (dimensions - 1) A / k."""
    k = torch.tensor([1e-2, 0.5, 3.0, 60.0, 2e3], dtype=torch.float64, requires_grad=True)
    ratio = bessel_ratio(k, dimensions)
    (first,) = torch.autograd.grad(log_normaliser(k, dimensions).sum(), k)
    torch.testing.assert_close(first, ratio - 1, rtol=1e-11, atol=1e-13)
    (second,) = torch.autograd.grad(ratio.sum(), k)
    torch.testing.assert_close(second, 1 - ratio**2 - (dimensions - 1) * ratio / k, rtol=1e-7, atol=1e-12)
    at_zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(bessel_ratio(at_zero, dimensions).sum(), at_zero)
    assert slope.item() == pytest.approx(1 / dimensions, rel=1e-12)


@pytest.mark.parametrize("dimensions", [2, 3, 7, 50])
@pytest.mark.parametrize("concentration", [0.0, 4.0, 500.0])
def test_draws_have_the_distribution_of_the_angle_and_the_moments(dimensions, concentration):
    known = ByQuadrature(dimensions, concentration)
    angles = draw_angles(torch.full((1000,), concentration, dtype=torch.float64), dimensions).numpy()
    values = [integral(known.density, angle) for angle in angles]
    assert kstest(values, "uniform").pvalue > 1e-3
    q = von_mises_fisher(dimensions, concentration)
    z = q.sample((20_000,))
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(20_000, dtype=torch.float64), rtol=0, atol=1e-14)
    for coordinate in (0, dimensions - 1):
        mean, error = mean_and_error(z[:, coordinate])
        assert_close_in_sigmas(mean, q.mean[coordinate], error, effect=0.2, resolution=0.03)
        square, error = mean_and_error((z[:, coordinate] - q.mean[coordinate]).square())
        assert_close_in_sigmas(square, q.variance[coordinate], error, effect=q.variance[coordinate], resolution=0.03)


@pytest.mark.parametrize("dimensions", [2, 3, 7, 50])
@pytest.mark.parametrize("concentration", [0.0, 0.5, 20.0, 2000.0])
def test_derivatives_of_draws_agree_with_quadrature(dimensions, concentration):
    known = ByQuadrature(dimensions, concentration)
    k = torch.full((20,), concentration, dtype=torch.float64)
    angles = draw_angles(k, dimensions)
    expected = [known.rate(angle) for angle in angles.tolist()]
    # An integral up to the angle loses digits in the upper tail; the mean size of the rates is the scale.
    size = np.abs(expected).mean()
    np.testing.assert_allclose(angle_rates(angles, k, dimensions).numpy(), expected, rtol=1e-7, atol=1e-7 * size)


def test_derivatives_in_three_dimensions_are_those_of_the_inverse_distribution_function():
    k = torch.linspace(0.1, 300, 400, dtype=torch.float64, requires_grad=True)
    angles = draw_angles(k, 3)
    below = torch.expm1(-k * (1 + angles.cos())) / torch.expm1(-2 * k)  # P(cosine < w), times exp(k (1 - w))
    quantile = (below * torch.exp(-k * (1 - angles.cos()))).detach()
    cosine = 1 + torch.log(quantile + (1 - quantile) * torch.exp(-2 * k)) / k
    (by_k,) = torch.autograd.grad(cosine.sum(), k)
    rates = angle_rates(angles, k.detach(), 3)
    torch.testing.assert_close(-angles.sin() * rates, by_k, rtol=1e-7, atol=1e-10)


def second_moment(loc, concentration, a):
    """E (a'z)^2, differentiable by both parameters."""
    across = bessel_ratio(concentration, len(a)) / concentration
    along = 1 - (len(a) - 1) * across
    return across * a.square().sum() + (along - across) * (a @ loc).square()


@pytest.mark.parametrize("dimensions", [2, 3, 10])
def test_gradients_of_draws_have_the_gradient_of_the_mean(dimensions):
    raw = torch.linspace(0.5, -1, dimensions, dtype=torch.float64).requires_grad_()
    k = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    a = torch.linspace(-1, 0.8, dimensions, dtype=torch.float64)
    loc = raw / raw.norm()
    exact = torch.autograd.grad(second_moment(loc, k, a) + bessel_ratio(k, dimensions) * (a @ loc), (raw, k))
    raws = raw.detach().expand(40_000, -1).clone().requires_grad_()
    ks = k.detach().expand(40_000).clone().requires_grad_()
    z = VonMisesFisher(raws / raws.norm(dim=-1, keepdim=True), ks).rsample()
    sampled = torch.autograd.grad(((z @ a).square() + z @ a).sum(), (raws, ks))
    for gradients, expected in zip((sampled[0].T, sampled[1][None]), (exact[0], exact[1][None]), strict=True):
        for column, known in zip(gradients, expected, strict=True):
            mean, error = mean_and_error(column)
            assert_close_in_sigmas(mean, known, error, effect=0.1, resolution=0.03)


def test_the_kl_of_two_is_the_mean_difference_of_the_log_densities():
    q, p = von_mises_fisher(6, 9.0), VonMisesFisher(torch.eye(6, dtype=torch.float64)[5], torch.tensor(2.5).double())
    z = q.sample((20_000,))
    mean, error = mean_and_error(q.log_prob(z) - p.log_prob(z))
    assert_close_in_sigmas(mean, kl_divergence(q, p), error, effect=1.0)
    torch.testing.assert_close(kl_divergence(q, q), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-12)


def test_float32_keeps_its_digits_at_a_large_concentration():
    narrow, wide = (von_mises_fisher(5, 1e6, dtype) for dtype in (torch.float32, torch.float64))
    z = narrow.rsample((1000,))
    score = narrow.log_prob(z).double().mean()
    assert abs(score + wide.entropy()) < 4 * math.sqrt(2 / 1000)  # the variance of log q is (5 - 1) / 2


def test_values_off_the_sphere_have_no_density():
    z = torch.tensor([[0.0, 1.0], [0.0, 0.9]])
    for density in (UniformSphere(torch.zeros(2)), VonMisesFisher(z[0], torch.tensor(2.0))):
        density._validate_args = False
        assert density.log_prob(z).isfinite().tolist() == [True, False]
    with pytest.raises(ValueError, match="to satisfy the constraint"):
        VonMisesFisher(torch.tensor([0.0, 0.9]), torch.tensor(2.0), validate_args=True)


def test_an_unknown_concentration_ends_the_sampler():
    assert draw_angles(torch.tensor([float("nan"), 1.0], dtype=torch.float64), 3).isnan().tolist() == [True, False]


def test_second_derivatives_of_draws_are_refused():
    loc, k = torch.eye(3)[0], torch.tensor(2.0, requires_grad=True)
    z = VonMisesFisher(loc, k).rsample()
    with pytest.raises(InputError, match="only first derivatives"):
        torch.autograd.grad(z.sum() + k**2, k, create_graph=True)


@pytest.mark.parametrize("least", [0.0, 1.0, 2.5])
def test_the_concentration_is_the_least_plus_a_softplus(least):
    posterior = VonMisesFisherPosterior(4, 3, least=least).double()
    h = torch.randn(5, 4, dtype=torch.float64)
    raw = h @ posterior.raw_concentration.weight[0] + posterior.raw_concentration.bias
    torch.testing.assert_close(posterior(h).concentration, least + (1 + raw.exp()).log(), rtol=1e-12, atol=1e-12)


def test_a_mean_direction_of_zeros_is_the_first_axis():
    posterior = VonMisesFisherPosterior(4, 3)
    torch.nn.init.zeros_(posterior.loc.bias)
    q = posterior(torch.zeros(2, 4))
    assert q.loc.tolist() == [[1.0, 0.0, 0.0]] * 2
    q.log_prob(torch.eye(3)[:2]).sum().backward()
    assert posterior.loc.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: SpherePrior(1), "latent needs a whole number of at least 2; got 1"),
        (lambda: VonMisesFisherPosterior(5, 1), "latent needs a whole number of at least 2; got 1"),
        (lambda: VonMisesFisherPosterior(5, 3, least=-1), "least needs a number of at least 0; got -1"),
        (lambda: UniformSphere(torch.zeros(4, 1)), r"at least 2 dimensions; got zeros of shape \(4, 1\)"),
        (lambda: VonMisesFisher(torch.tensor(1.0), torch.tensor(1.0)), r"at least 2 dimensions; got loc of shape \(\)"),
        (
            lambda: kl_divergence(von_mises_fisher(3, 1.0), UniformSphere(torch.zeros(4))),
            "the same sphere; got 3 and 4 dimensions",
        ),
    ],
)
def test_bad_arguments_are_named(wrong, said):
    with pytest.raises(InputError, match=said) as caught:
        wrong()
    assert "\n" not in str(caught.value)
