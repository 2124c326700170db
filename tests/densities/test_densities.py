"""Densities: scores by hand, sampling that agrees with scoring, and the contract that all of them keep."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from pyro.distributions import Normal
from stats import assert_close_in_sigmas, mean_and_error
from torch import nn
from zoo import DENSITIES

from pvae.densities import Bernoulli, DiagonalGaussian, Gaussian, StandardNormal, part
from pvae.densities.base import OutputLayer
from pvae.errors import InputError

EXACT = {"rtol": 1e-12, "atol": 1e-12}

pytestmark = pytest.mark.usefixtures("seeded")


def make(name):
    """A density in float64 with every parameter drawn, and a maker of contexts with leading dimensions."""
    case = DENSITIES[name]
    density = case.make().double()
    for parameter in density.parameters():
        nn.init.normal_(parameter, std=0.5)

    def context(*leading):
        return None if case.context is None else torch.randn(*leading, *case.context, dtype=torch.float64)

    return case, density, context


@pytest.mark.parametrize("name", DENSITIES)
def test_event_is_the_densitys_own_and_batch_is_the_contexts(name):
    case, density, context = make(name)
    distribution = density(context(4, 2))
    assert distribution.event_dim == len(case.event)
    assert distribution.event_shape == case.event
    assert distribution.batch_shape == (() if case.context is None else (4, 2))
    assert distribution.sample((7,)).dtype == torch.float64


@pytest.mark.parametrize("name", [name for name, case in DENSITIES.items() if case.context])
def test_particle_dimension_equals_a_loop(name):
    _, density, context = make(name)
    h = context(3, 4)
    x = density(h).sample()
    looped = torch.stack([density(row).log_prob(one) for row, one in zip(h, x, strict=True)])
    torch.testing.assert_close(density(h).log_prob(x), looped, **EXACT)


def entropy(distribution):
    """The entropy in nats; of counts, where it has no closed form, as a sum."""
    try:
        return distribution.entropy()
    except NotImplementedError:
        score = distribution.base_dist.log_prob(torch.arange(1000, dtype=torch.float64).reshape(-1, 1, 1))
        return -(score.exp() * score).sum((0, -1))


@pytest.mark.parametrize("name", [name for name, case in DENSITIES.items() if not case.closed])
def test_draws_are_those_of_the_density_by_bridge_sampling(name):
    """E_q r / (q + r) = E_r q / (q + r) for normalised q and r, and both are bounded."""
    case, density, context = make(name)
    q = density(context() if case.context else None)
    z = q.sample((60_000,))
    r = Normal(z.mean(0), z.std(0)).to_event(1)
    other = r.sample((60_000,))
    ours, error = mean_and_error((r.log_prob(z) - q.log_prob(z)).sigmoid())
    theirs, further = mean_and_error((q.log_prob(other) - r.log_prob(other)).sigmoid())
    assert_close_in_sigmas(ours - theirs, 0.0, math.hypot(error, further), effect=ours, resolution=0.02)


@pytest.mark.parametrize("name", [name for name, case in DENSITIES.items() if case.closed and not case.uniform])
def test_sampling_agrees_with_scoring(name):
    """The average score of draws is the negative entropy."""
    case, density, context = make(name)
    distribution = density(context(1) if case.context else None)
    draws = distribution.sample((200_000,))
    score, error = mean_and_error(distribution.log_prob(draws))
    assert_close_in_sigmas(score, -entropy(distribution), error, effect=math.log(2) * math.prod(case.event))


@pytest.mark.parametrize("name", DENSITIES)
def test_copies_and_states_score_the_same(name):
    case, density, context = make(name)
    h = context(4)
    x = density(h).sample() if case.context else density(h).sample((4,))
    fresh = case.make().double()
    fresh.load_state_dict(density.state_dict())
    for other in (copy.deepcopy(density), pickle.loads(pickle.dumps(density)), fresh):
        assert torch.equal(other(h).log_prob(x), density(h).log_prob(x))


def test_standard_normal_agrees_with_its_formula():
    z = torch.randn(5, 3, dtype=torch.float64)
    by_hand = (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).sum(-1)
    torch.testing.assert_close(StandardNormal(3).double()(None).log_prob(z), by_hand, **EXACT)


def test_standard_normal_follows_its_module_and_leaves_no_state():
    prior = StandardNormal(3).double()
    assert prior().sample().dtype == torch.float64
    assert prior.to("meta").loc.is_meta
    assert prior.state_dict() == {}


def test_diagonal_gaussian_agrees_with_its_formula():
    _, density, context = make("diagonal-gaussian")
    h, z = context(4), torch.randn(4, 3, dtype=torch.float64)
    loc = h @ density.loc.weight.T + density.loc.bias
    log_scale = h @ density.log_scale.weight.T + density.log_scale.bias
    by_hand = -0.5 * ((z - loc) / log_scale.exp()).square() - log_scale - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(density(h).log_prob(z), by_hand.sum(-1), **EXACT)


@pytest.mark.parametrize("name", ["bernoulli", "bernoulli-pictures"])
def test_bernoulli_agrees_with_its_formula(name):
    case, density, context = make(name)
    h, x = context(4), torch.rand(4, *case.event).round().double()
    layer = density.head.layer
    p = 1 / (1 + torch.exp(-(h @ layer.weight.T + layer.bias)))
    flat = x.flatten(1)
    by_hand = (flat * p.log() + (1 - flat) * (1 - p).log()).sum(-1)
    torch.testing.assert_close(density(h).log_prob(x), by_hand, **EXACT)


@pytest.mark.parametrize("scale", [0.1, "learned"])
def test_gaussian_agrees_with_its_formula(scale):
    density = Gaussian(5, (6,), scale).double()
    if scale == "learned":
        nn.init.constant_(density.log_scale, -0.7)
    h, x = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    loc = h @ density.head.layer.weight.T + density.head.layer.bias
    sd = math.exp(-0.7) if scale == "learned" else 0.1
    by_hand = -0.5 * ((x - loc) / sd).square() - math.log(sd) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(density(h).log_prob(x), by_hand.sum(-1), **EXACT)
    assert len(list(density.parameters())) == (3 if scale == "learned" else 2)


@pytest.mark.parametrize("shape", [(8, 8), (5, 7), (3, 4, 5), (1, 9, 2)])
def test_output_layer_spreads_one_map_entry_over_its_neighbours(shape):
    """A transposed convolution is the convolution's adjoint, <layer h, x> = <h, conv x>; any size fits."""
    channels, height, width = (1, *shape)[-3:]
    maps = (2, (height + 1) // 2, (width + 1) // 2)
    layer = OutputLayer(maps, shape).double()
    h, x = torch.randn(3, *maps, dtype=torch.float64), torch.randn(3, *shape, dtype=torch.float64)
    conv = nn.functional.conv2d(x.reshape(3, channels, height, width), layer.layer.weight, stride=2, padding=1)
    torch.testing.assert_close((layer(h) * x).sum(), (h * conv).sum(), **EXACT)


@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_bernoulli_bias_is_the_logit_of_the_clamped_mean(shape):
    x = torch.rand(50, 6, dtype=torch.float64)
    x[:, 0], x[:, 1] = 0, 1
    density = Bernoulli(5, shape).double()
    density.initialise_from(x.reshape(50, *shape))
    mean = x.mean(0).clamp(1e-3, 1 - 1e-3)
    torch.testing.assert_close(density.head.bias.detach(), (mean / (1 - mean)).log(), **EXACT)
    constant = density(torch.zeros(1, 5, dtype=torch.float64)).mean
    torch.testing.assert_close(constant.flatten(), mean, **EXACT)


def test_bias_of_feature_maps_is_that_of_each_channel():
    x = torch.rand(50, 3, 4, 5, dtype=torch.float64) * torch.tensor([0.2, 0.5, 1.0]).reshape(3, 1, 1)
    density = Bernoulli((2, 2, 3), (3, 4, 5)).double()
    density.initialise_from(x)
    torch.testing.assert_close(density.head.bias.detach(), x.mean((0, 2, 3)).logit(), **EXACT)


def test_gaussian_starts_from_mean_and_residual_scale():
    x = 3 + 0.5 * torch.randn(40, 6, dtype=torch.float64)
    density = Gaussian(5, (2, 3)).double()
    density.initialise_from(x.reshape(40, 2, 3))
    torch.testing.assert_close(density.head.bias.detach(), x.mean(0), **EXACT)
    residual = (x - x.mean(0)).square().mean().sqrt()
    torch.testing.assert_close(density.log_scale.detach().exp(), residual, **EXACT)


def test_initialising_keeps_the_parameters_identity():
    density = Gaussian(5, (6,))
    before = [id(parameter) for parameter in density.parameters()]
    density.initialise_from(torch.randn(4, 6))
    density.set_bias(0.5)
    assert [id(parameter) for parameter in density.parameters()] == before
    assert density.head.bias.requires_grad
    assert density.head.bias.tolist() == [0.5] * 6


def test_part_takes_names_with_settings_and_modules():
    assert part("likelihood", "gaussian:scale=0.2", 5, (6,)).scale == 0.2
    assert isinstance(part("posterior", "diagonal", 5, 3, activation="tanh"), DiagonalGaussian)
    own = nn.Identity()
    assert part("prior", own, 3) is own
    torch.manual_seed(3)
    default = part("likelihood", "bernoulli:initialisation=default", 5, (6,), initialisation="glorot")
    assert default.head.bias.abs().min() > 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: StandardNormal(0), "latent needs a whole number of at least 1; got 0"),
        (lambda: DiagonalGaussian(5, 0), "latent needs a whole number of at least 1; got 0"),
        (lambda: Bernoulli(5, ()), r"data_shape of positive sizes; got \(\)"),
        (lambda: Bernoulli(5, (0, 3)), "positive sizes"),
        (lambda: Bernoulli((2, 4, 4), (4, 4)), "half their height"),
        (lambda: Bernoulli(5, (6,), initialisation="x"), "Unknown initialisation"),
        (lambda: Bernoulli(5, (6,)).set_bias(torch.zeros(5)), "6 entries; got 5"),
        (lambda: Gaussian(5, (6,), 0.0), "scale needs a positive number; got 0.0"),
        (lambda: Gaussian(5, (6,), -1), "scale needs a positive number; got -1"),
        (lambda: Gaussian(5, (6,), float("nan")), "scale needs a positive number; got nan"),
        (lambda: Gaussian(5, (6,), "lerned"), "did you mean 'learned'"),
        (lambda: part("likelihood", "bernouli", 5, (6,)), "did you mean 'bernoulli'"),
        (lambda: part("likelihood", "gaussian:scal=1", 5, (6,)), "did you mean 'scale'"),
        (lambda: part("likelihood", "gaussian:data_shape=1", 5, (6,)), "Unknown setting"),
        (lambda: part("prior", 3, 5), "got int"),
    ],
)
def test_bad_arguments_are_named(wrong, said):
    with pytest.raises(InputError, match=said) as caught:
        wrong()
    assert "\n" not in str(caught.value)
