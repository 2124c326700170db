"""Learned priors and mixture posteriors: scipy's densities, the aggregate posterior, gradients of draws by roots."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms import planar
from scipy.optimize import brentq
from scipy.special import logsumexp, ndtr
from scipy.stats import norm
from stats import assert_close_in_sigmas, mean_and_error
from torch import nn

import pvae
from pvae.densities import DiagonalMixture, MixturePosterior, MixturePrior, VampPrior, part
from pvae.errors import InputError

EXACT = {"rtol": 1e-11, "atol": 1e-11}
LOGITS = np.array([0.3, -0.4, 0.1])
LOC = np.array([[-1.0, 0.5], [1.2, -0.3], [0.1, 1.4]])
SCALE = np.array([[0.6, 1.1], [0.4, 0.7], [1.3, 0.5]])

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def by_scipy(z, logits, loc, scale):
    """log sum_k w_k N(z; loc_k, diag(scale_k^2)) for z of shape (..., latent)."""
    log_w = logits - logsumexp(logits)
    return logsumexp(log_w + norm.logpdf(z[..., None, :], loc, scale).sum(-1), axis=-1)


def mixture(dimensions=2, **changed):
    values = {"logits": LOGITS, "loc": LOC[:, :dimensions], "scale": SCALE[:, :dimensions], **changed}
    return DiagonalMixture(**{name: torch.tensor(each, requires_grad=True) for name, each in values.items()})


# ---- mixtures


def test_mixture_prior_agrees_with_scipy():
    prior = MixturePrior(2, components=3).double()
    with torch.no_grad():
        prior.logits.copy_(torch.tensor(LOGITS))
        prior.loc.copy_(torch.tensor(LOC))
        prior.log_scale.copy_(torch.tensor(np.log(SCALE)))
    z = 2 * torch.randn(4, 5, 2, dtype=torch.float64)
    expected = torch.tensor(by_scipy(z.numpy(), LOGITS, LOC, SCALE))
    torch.testing.assert_close(prior(None).log_prob(z), expected, **EXACT)
    torch.testing.assert_close(prior(None).expand((4, 5)).log_prob(z), expected, **EXACT)


def test_mixture_posterior_agrees_with_scipy():
    density = MixturePosterior(4, 2, components=3).double()
    for each in density.parameters():
        nn.init.normal_(each, std=0.5)
    h, z = torch.randn(5, 4, dtype=torch.float64), torch.randn(6, 5, 2, dtype=torch.float64)
    found = density(h).log_prob(z)
    logits = (h @ density.logits.weight.T + density.logits.bias).detach().numpy()
    loc, log_scale = (
        (h @ head.weight.T + head.bias).detach().numpy().reshape(5, 3, 2) for head in (density.loc, density.log_scale)
    )
    for particle, datum in itertools.product(range(6), range(5)):
        expected = by_scipy(z[particle, datum].numpy(), logits[datum], loc[datum], np.exp(log_scale[datum]))
        assert found[particle, datum].item() == pytest.approx(expected, rel=1e-11)


def test_mixture_moments_are_those_of_its_components():
    w = np.exp(LOGITS - logsumexp(LOGITS))[:, None]
    mean = (w * LOC).sum(0)
    np.testing.assert_allclose(mixture().mean.detach().numpy(), mean, rtol=1e-12)
    variance = (w * (SCALE**2 + LOC**2)).sum(0) - mean**2
    np.testing.assert_allclose(mixture().variance.detach().numpy(), variance, rtol=1e-12)


def test_a_fresh_mixture_prior_has_the_moments_of_the_standard_normal_in_expectation():
    prior = MixturePrior(50, components=600).double()
    density = prior(None)
    assert density.logits.tolist() == [0.0] * 600
    second = (density.loc.square() + density.scale.square()).detach().mean(1)
    value, error = mean_and_error(second)
    assert_close_in_sigmas(value, 1.0, error, effect=0.25)
    value, error = mean_and_error(density.loc.flatten())
    assert_close_in_sigmas(value, 0.0, error, effect=0.5)


def at_fixed_u(u, logits, loc, scale):
    """z with F(z) = u, dimension by dimension, by root finding."""
    log_w = logits - logsumexp(logits)
    z = []
    for d, u_d in enumerate(u):
        w = np.exp(log_w - logsumexp(log_w))
        below = lambda t, w=w, d=d, u_d=u_d: (w * ndtr((t - loc[:, d]) / scale[:, d])).sum() - u_d
        z.append(brentq(below, -30, 30, xtol=1e-14))
        log_w = log_w + norm.logpdf(z[-1], loc[:, d], scale[:, d])
    return np.array(z)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_a_draws_gradient_is_that_of_the_root_at_fixed_u(dimensions):
    """By central differences of the solution of F(z) = u in every parameter."""
    density = mixture(dimensions)
    z = density.rsample()
    values = {"logits": LOGITS, "loc": LOC[:, :dimensions], "scale": SCALE[:, :dimensions]}
    log_w, u = LOGITS, []
    for d in range(dimensions):
        w = np.exp(log_w - logsumexp(log_w))
        u.append((w * ndtr((z[d].item() - LOC[:, d]) / SCALE[:, d])).sum())
        log_w = log_w + norm.logpdf(z[d].item(), LOC[:, d], SCALE[:, d])
    np.testing.assert_allclose(at_fixed_u(u, **values), z.detach().numpy(), rtol=1e-9)
    parameters = (density.logits, density.loc, density.scale)
    for d in range(dimensions):
        gradients = torch.autograd.grad(z[d], parameters, retain_graph=True)
        for name, gradient in zip(values, gradients, strict=True):
            for place in np.ndindex(values[name].shape):
                moved = []
                for sign in (1, -1):
                    other = values[name].copy()
                    other[place] += sign * 1e-5
                    moved.append(at_fixed_u(u, **{**values, name: other})[d])
                assert gradient[place].item() == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=2e-6, abs=1e-8)


def test_the_mean_of_pathwise_gradients_is_the_gradient_of_the_mean():
    """E f by Gauss-Hermite quadrature in each component, differentiated."""

    def f(z):
        return torch.sin(z[..., 0]) * z[..., 1] + 0.3 * z[..., 0].square()

    nodes, weights = (torch.tensor(each) for each in np.polynomial.hermite_e.hermegauss(40))
    grid = torch.cartesian_prod(nodes, nodes)
    mass = torch.cartesian_prod(weights, weights).prod(-1) / (2 * math.pi)
    density = mixture()
    leaves = (density.logits, density.loc, density.scale)
    points = density.loc.unsqueeze(1) + density.scale.unsqueeze(1) * grid
    exact = torch.autograd.grad((density.logits.softmax(0) * (f(points) * mass).sum(1)).sum(), leaves)
    n = 40_000
    copies = [each.detach().expand(n, *each.shape).clone().requires_grad_() for each in leaves]
    draws = f(DiagonalMixture(*copies).rsample())
    for each, expected in zip(torch.autograd.grad(draws.sum(), copies), exact, strict=True):
        value, error = mean_and_error(each)
        assert_close_in_sigmas(value, expected, error, effect=expected.abs().max(), resolution=0.05)


def test_draws_of_any_sample_shape_come_from_their_own_batch():
    loc = torch.arange(12.0).reshape(3, 2, 2) * 10
    loc[:, 1] = loc[:, 0]
    q = DiagonalMixture(torch.zeros(3, 2), loc, torch.full((3, 2, 2), 0.01))
    for shape in ((), (2,), (4, 2)):
        z = q.rsample(shape)
        assert z.shape == (*shape, 3, 2)
        assert (z - loc[:, 0]).abs().max() < 0.1


class Shifted(nn.Module):
    """A prior of a user's own that fills a tensor in the shape of a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("loc", torch.full((2,), 0.5))

    def forward(self, context):
        return dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)


def test_a_prior_that_fills_in_the_shape_of_a_buffer_is_traced():
    data = pvae.load_data({"x": binary(6).float()}, validation=0, test=0)
    model = pvae.VAE(6, latent=2, hidden=4, prior=Shifted())
    assert pvae.fit(model, data, epochs=1, batch_size=3, step="graph", progress=False).step == "graph"


# ---- VampPrior

MEANS, VARIANCES = torch.tensor([-2.0, -1.0, 0.0, 1.5]).double(), torch.tensor([0.2, 0.3, 0.25, 0.1]).double()


def by_table(x):
    """q(z given x_n) = N(m_n, v_n) for x_n = n."""
    n = x.flatten().long()
    return dist.Normal(MEANS[n, None], VARIANCES[n, None].sqrt()).to_event(1)


def test_with_the_data_as_pseudo_inputs_the_kl_term_is_the_mutual_information():
    """Mean KL to N(0, 1) 1.3252863 = I_q .9751490 + KL of the aggregate .3501372; I_q is at most log N."""
    x = torch.arange(4.0).double().reshape(4, 1)
    prior = VampPrior(1, 4, data_shape=1, inputs="data").double()
    prior.initialise_from(x)
    p, normal, q = prior(by_table), dist.Normal(torch.zeros(1).double(), 1.0).to_event(1), by_table(x)
    z = torch.linspace(-12, 12, 24_001, dtype=torch.float64).reshape(-1, 1)
    aggregate = norm.pdf(z.numpy(), MEANS.numpy(), VARIANCES.sqrt().numpy()).mean(1)
    np.testing.assert_allclose(p.log_prob(z).exp().numpy(), aggregate, rtol=1e-11)
    log_q = q.log_prob(z.unsqueeze(1))
    to_prior, to_normal = (
        ((log_q.exp() * (log_q - each.log_prob(z).unsqueeze(1))).sum(0) * 1e-3).mean() for each in (p, normal)
    )
    of_aggregate = (p.log_prob(z).exp() * (p.log_prob(z) - normal.log_prob(z))).sum() * 1e-3
    for found, expected in ((to_prior, 0.9751490), (to_normal, 1.3252863), (of_aggregate, 0.3501372)):
        assert found.item() == pytest.approx(expected, abs=1e-7)
    assert to_prior < math.log(4)


POSTERIORS = [
    "diagonal",
    "full",
    "householder:reflections=2",
    "mixture:components=2",
    "flow:kind=iaf:identity=false:hidden=4",
    "flow:kind=maf:identity=false:hidden=4",
    "flow:kind=spline:identity=false:hidden=4:transforms=1:bins=3",
    "flow:kind=planar:identity=false",
]


def vae(x, prior, posterior):
    model = pvae.VAE(x.shape[1], latent=2, hidden=4, prior=prior, posterior=posterior).double()
    model.initialise_from({"x": x})
    return model


def binary(count):
    return torch.rand(count, 6, dtype=torch.float64).round()


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_a_vae_with_its_data_as_pseudo_inputs_has_the_aggregate_posterior_as_prior(posterior):
    x = binary(5)
    model = vae(x, "vamp:components=5:inputs=data", posterior)
    z = torch.randn(3, 7, 2, dtype=torch.float64)
    each = torch.stack([model.encode(row.expand(1, -1)).log_prob(z) for row in x])
    torch.testing.assert_close(model.prior_density().log_prob(z), each.logsumexp(0) - math.log(5), rtol=1e-9, atol=1e-9)
    weights = pvae.log_weights(model, {"x": x}, 20)
    information = weights.log_guide - weights.log_prior_by_site()["z"]
    assert (information <= math.log(5) + 1e-9).all()  # in every draw: the aggregate is at least q / N


PRIORS = [
    "standard",
    "mixture:components=3",
    "vamp:components=3",
    "vamp:components=3:inputs=data",
    "flow:kind=maf:identity=false:hidden=4:transforms=1",
    "flow:kind=spline:identity=false:hidden=4:transforms=1:bins=3",
]


@pytest.mark.parametrize(("prior", "posterior"), list(itertools.product(PRIORS, POSTERIORS)))
def test_any_prior_with_any_posterior_is_weighed_and_differentiated(prior, posterior):
    """The weights are those of the three densities, and every parameter has a gradient."""
    x = binary(5)
    model = vae(x, prior, posterior)
    weights = pvae.log_weights(model, {"x": x}, 3)
    z = weights.values["z"].detach()
    by_hand = model.decode(z).log_prob(x) + model.prior_density().log_prob(z) - model.encode(x).log_prob(z)
    torch.testing.assert_close(weights.log_w, by_hand, rtol=1e-9, atol=1e-9)
    gradients = torch.autograd.grad(weights.log_w.sum(), list(model.parameters()), allow_unused=True)
    without = [name for (name, _), each in zip(model.named_parameters(), gradients, strict=True) if each is None]
    assert without == []
    assert all(each.isfinite().all() for each in gradients)


def test_pseudo_inputs_belong_to_theta_and_the_encoder_to_phi_though_the_prior_reaches_both():
    x = binary(5)
    model = vae(x, "vamp:components=3", "diagonal")
    theta, phi = ({id(each) for each in group} for group in (model.theta(), model.phi()))
    assert id(model.prior.values) in theta
    assert {id(each) for each in model.encoder.parameters()} <= phi and not theta & phi
    log_prior = model.prior_density().log_prob(torch.zeros(2).double())
    reached = torch.autograd.grad(log_prior, [model.prior.values, *model.encoder.parameters()])
    assert all(each.abs().max() > 0 for each in reached)


def test_learned_pseudo_inputs_start_at_evenly_spaced_data_and_stay_in_their_range():
    x = 3 + 2 * torch.rand(10, 2, 3, dtype=torch.float64)
    prior = VampPrior(2, 4, data_shape=(2, 3)).double()
    prior.initialise_from(x)
    width = x.max() - x.min()
    apart = (prior.pseudo_inputs - x[[0, 2, 5, 7]]).abs().max()
    assert apart <= 0.0101 * width
    with torch.no_grad():
        prior.values.mul_(1000)
    assert prior.pseudo_inputs.min() >= x.min() and prior.pseudo_inputs.max() <= x.max()


@pytest.mark.parametrize("inputs", ["unbounded", "data"])
def test_other_pseudo_inputs_start_at_the_data_themselves(inputs):
    x = torch.randn(10, 3, dtype=torch.float64)
    prior = VampPrior(2, 5, data_shape=3, inputs=inputs).double()
    prior.initialise_from(x)
    torch.testing.assert_close(prior.pseudo_inputs.detach(), x[::2], rtol=0, atol=0)
    assert len(list(prior.parameters())) == (1 if inputs == "unbounded" else 0)


def test_constant_data_leave_pseudo_inputs_finite():
    prior = VampPrior(2, 3, data_shape=4)
    prior.initialise_from(torch.full((5, 4), 0.7))
    torch.testing.assert_close(prior.pseudo_inputs.detach(), torch.full((3, 4), 0.7))


@pytest.mark.parametrize("inputs", ["learned", "data"])
def test_a_loaded_vamp_prior_scores_alike_and_training_moves_what_is_learned(inputs):
    x = binary(6)
    model = vae(x, f"vamp:components=3:inputs={inputs}", "diagonal")
    before, z = model.prior.pseudo_inputs.detach().clone(), torch.randn(4, 2).double()
    data = pvae.load_data({"x": x}, validation=0, test=0)
    run = pvae.fit(model, data, epochs=1, batch_size=3, step="eager", precision="float64", progress=False)
    assert torch.equal(run.model.prior.pseudo_inputs, before) is (inputs == "data")
    other = pvae.VAE(6, latent=2, hidden=4, prior=f"vamp:components=3:inputs={inputs}").double()
    other.load_state_dict(run.model.state_dict())
    torch.testing.assert_close(other.prior_density().log_prob(z), run.model.prior_density().log_prob(z), rtol=0, atol=0)


def only_its_own(x):
    base = dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1)
    return dist.TransformedDistribution(base, [planar(2)])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: MixturePrior(3, 0), "components needs a whole number of at least 1; got 0"),
        (lambda: MixturePrior(0), "latent needs a whole number of at least 1; got 0"),
        (lambda: MixturePosterior(4, 3, 0), "components needs a whole number of at least 1; got 0"),
        (lambda: VampPrior(3, 0, data_shape=4), "components needs a whole number of at least 1; got 0"),
        (lambda: VampPrior(3, 2.5, data_shape=4), "components needs a whole number of at least 1; got 2.5"),
        (lambda: VampPrior(3, 5, data_shape=4, inputs="lerned"), "did you mean 'learned'"),
        (lambda: VampPrior(3, 5, data_shape=4).initialise_from(torch.rand(4, 4)), "5 pseudo-inputs.*got 4"),
        (lambda: VampPrior(3, 5, data_shape=4, inputs="data")(by_table), "initialise_from"),
        (lambda: VampPrior(2, 5, data_shape=4)(only_its_own).log_prob(torch.zeros(2)), "score only its own"),
        (lambda: part("prior", "vamp:component=5", 3, data_shape=(4,)), "did you mean 'components'"),
        (lambda: part("prior", "mixtur", 3), "did you mean 'mixture'"),
    ],
)
def test_bad_arguments_are_named(wrong, said):
    with pytest.raises(InputError, match=said) as caught:
        wrong()
    assert "\n" not in str(caught.value)


def test_fit_says_when_there_are_fewer_data_than_pseudo_inputs():
    data = pvae.load_data({"x": binary(5)}, validation=0, test=0)
    with pytest.raises(InputError, match=r"100 pseudo-inputs.*got 5\. Choose components=5") as caught:
        pvae.fit(pvae.VAE(6, latent=2, hidden=4, prior="vamp"), data, epochs=1, batch_size=3, progress=False)
    assert "\n" not in str(caught.value)
