"""The ladder VAE: one layer is the VAE, a linear chain has its exact posterior, and precisions weigh by hand."""

from __future__ import annotations

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from exact import TwoLayer, TwoLayerModel
from stats import assert_close_in_sigmas
from torch.nn.functional import softplus

import pvae
from pvae.errors import InputError
from pvae.models.ladder import multiply_gaussians
from pvae.objectives import make_objective

EXACT = {"rtol": 1e-10, "atol": 1e-10}

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def put(layer, weight, bias):
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(weight))
        layer.bias.copy_(torch.as_tensor(bias))


def put_scale(layer, scale):
    """The bias that gives a scale: softplus(bias) + 0.001."""
    put(layer, np.zeros(tuple(layer.weight.shape)), np.log(np.expm1(np.asarray(scale) - 1e-3)))


def chain(exact, inference):
    """A linear ladder with the generative parameters of a two-layer chain."""
    settings = {"latent": (2, 2), "hidden": 0, "between": 0, "output_bias": None}
    model = pvae.LadderVAE((3,), inference=inference, likelihood=f"gaussian:scale={exact.s2}", **settings).double()
    put(model.downward[0].density.loc, exact.A, exact.a)
    put_scale(model.downward[0].density.scale, [exact.s1] * 2)
    put(model.likelihood.head.layer, exact.B, exact.b)
    return model


def bottom_up():
    exact = TwoLayer()
    model = chain(exact, "bottom-up")
    put(model.posterior.loc, exact.C, exact.c)
    put(model.posterior.log_scale, np.zeros((2, 3)), np.log([exact.t1] * 2))
    put(model.upward[0].density.loc, exact.D, exact.d)
    put_scale(model.upward[0].density.scale, [exact.t2] * 2)
    return model


def test_bottom_up_agrees_with_the_chain_written_out():
    x = torch.as_tensor(TwoLayer().x)
    found = []
    for model in (bottom_up(), TwoLayerModel()):
        torch.manual_seed(1)
        found.append(pvae.log_weights(model, {"x": x}, 5).log_w.detach())
    torch.testing.assert_close(*found, **EXACT)


def test_bottom_up_has_the_chains_elbo():
    exact = TwoLayer()
    with torch.no_grad():
        weights = pvae.log_weights(bottom_up(), {"x": torch.as_tensor(exact.x)}, 40_000).log_w
    expected = [exact.elbo(x) for x in exact.x]
    gap = np.array([exact.log_evidence(x) for x in exact.x]) - expected
    assert_close_in_sigmas(weights.mean(0), expected, weights.std(0) / 200, effect=gap, resolution=0.03)


def tractable():
    """A chain whose posteriors are diagonal: A is, and the columns of B are orthogonal."""
    exact = TwoLayer()
    exact.A, exact.a = np.diag([0.8, -1.3]), np.array([0.2, -0.1])
    exact.B = np.array([[1.0, 0.5], [1.0, -0.5], [0.5, 0.0]])
    return exact


def exact_messages(exact):
    """Of z_1: B'(x - b) / c with variance s2^2 / c. Of z_2: its posterior. Each as weight, bias and variance."""
    c = np.diag(exact.B.T @ exact.B)
    weight = exact.B.T / c[:, None]
    variance = exact.s2**2 / c
    seen = variance + exact.s1**2  # of the message about A z_2 + a
    a = np.diag(exact.A)
    top = 1 / (1 + a**2 / seen)
    gain = (top * a / seen)[:, None] * weight
    return (weight, -weight @ exact.b, variance), (gain, -gain @ exact.b - top * a / seen * exact.a, top)


def exact_ladder(exact):
    model = chain(exact, "ladder")
    lower, upper = exact_messages(exact)
    put(model.posterior.loc, *lower[:2])
    put(model.posterior.log_scale, np.zeros((2, 3)), 0.5 * np.log(lower[2]))
    put(model.upward[0].density.loc, *upper[:2])
    put_scale(model.upward[0].density.scale, np.sqrt(upper[2]))
    return model


@pytest.mark.parametrize("particles", [1, 4])
def test_a_ladder_with_exact_messages_is_the_exact_posterior(particles):
    """The product of the model's own p(z_1 given z_2) and the likelihood of z_1 is p(z_1 given z_2, x)."""
    exact = tractable()
    log_w = pvae.log_weights(exact_ladder(exact), {"x": torch.as_tensor(exact.x)}, particles).log_w.detach()
    expected = [exact.log_evidence(x) for x in exact.x]
    np.testing.assert_allclose(log_w, np.tile(expected, (particles, 1)), rtol=1e-10)


def test_kl_by_layer_is_that_of_the_exact_posterior():
    """KL of z_2 in closed form; of z_1 averaged over z_2, whose spread over draws says how close it has to be."""
    exact = tractable()
    found = pvae.evaluate.diagnose(exact_ladder(exact), torch.as_tensor(exact.x), particles=2, draws=60).latents
    (weight, bias, message), (gain, offset, top) = exact_messages(exact)
    a, share = np.diag(exact.A), exact.s1**2 / (exact.s1**2 + message)
    random = np.random.default_rng(0)
    expected, spread = np.zeros((2, 2)), np.zeros((2, 2))
    for row, x in enumerate(exact.x):
        mean = gain @ x + offset
        expected[1, row] = 0.5 * (top + mean**2 - 1 - np.log(top)).sum()
        z = mean + np.sqrt(top) * random.normal(size=(100_000, 2))
        moved = share * (weight @ x + bias - a * z - exact.a)
        variance = message * share
        each = 0.5 * ((variance + moved**2) / exact.s1**2 - 1 - np.log(variance / exact.s1**2)).sum(1)
        expected[0, row], spread[0, row] = each.mean(), each.std()
    assert {name: each.how for name, each in found.items()} == {"z1": "analytic", "z2": "analytic"}
    assert found["z2"].kl.value == pytest.approx(expected[1].mean(), rel=1e-10)
    error = np.sqrt((spread[0] ** 2).sum() / 60) / 2
    assert_close_in_sigmas(found["z1"].kl.value, expected[0].mean(), error, effect=expected[0].mean(), resolution=0.1)


def test_precisions_weigh_the_means():
    loc, scale = torch.randn(2, 3, 4, dtype=torch.float64), torch.rand(2, 3, 4, dtype=torch.float64) + 0.2
    first, second = (dist.Normal(each, other).to_event(1) for each, other in zip(loc, scale, strict=True))
    product = multiply_gaussians(first, second)
    v, w = scale[0] ** 2, scale[1] ** 2
    torch.testing.assert_close(product.mean, (loc[0] * w + loc[1] * v) / (v + w), **EXACT)
    torch.testing.assert_close(product.variance, v * w / (v + w), **EXACT)
    z = torch.randn(50, 3, 4, dtype=torch.float64)
    constant = first.log_prob(z) + second.log_prob(z) - product.log_prob(z)
    torch.testing.assert_close(constant, constant[:1].expand(50, 3), **EXACT)


@pytest.mark.parametrize("inference", ["ladder", "bottom-up"])
def test_one_layer_is_the_vae_bit_for_bit(inference):
    x, found = torch.rand(6, 12).round(), []
    one = {"layers": 1, "inference": inference}
    for make, site, own in ((pvae.LadderVAE, "z1", one), (pvae.VAE, "z", {})):
        torch.manual_seed(2)
        model = make((12,), latent=3, hidden=(7, 5), prior="mixture:components=3", **own)
        weights = pvae.log_weights(model, {"x": x}, 4)
        gradients = torch.autograd.grad(weights.log_w.sum(), list(model.parameters()))
        found.append((weights.log_w, weights.values[site], *gradients, *model.state_dict().values()))
    assert len(found[0]) == len(found[1])
    assert all(map(torch.equal, *found))


def by_hand(model, x, values):
    """log p - log q of three layers with skips, at given values, from matrices and vectors alone."""
    z1, z2, z3 = values

    def net(layer, h):
        for each in layer.network:
            h = each(h)
        density = layer.density
        return density.loc(h), softplus(density.scale(h)) + 1e-3

    def log_normal(z, loc, scale):
        return (-0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * np.log(2 * np.pi)).sum(-1)

    def weighed(message, own):
        v, w = message[1] ** 2, own[1] ** 2
        return (message[0] * w + own[0] * v) / (v + w), (v * w / (v + w)).sqrt()

    p1, p2 = net(model.downward[0], torch.cat([z3, z2], -1)), net(model.downward[1], z3)
    h = model.encoder(x)
    m1 = model.posterior.loc(h), model.posterior.log_scale(h).exp()
    m2 = net(model.upward[0], h)
    m3 = net(model.upward[1], model.upward[0].network(h))
    first = model.decoder.network[0](z1) + model.decoder.layer(torch.cat([z3, z2], -1))
    logits = model.likelihood.head.layer(first.tanh())
    log_p = log_normal(z3, 0.0, torch.ones_like(z3)) + log_normal(z2, *p2) + log_normal(z1, *p1)
    log_p = log_p - torch.nn.functional.binary_cross_entropy_with_logits(
        logits, x.expand(logits.shape), reduction="none"
    ).sum(-1)
    return log_p - log_normal(z3, *m3) - log_normal(z2, *weighed(m2, p2)) - log_normal(z1, *weighed(m1, p1))


def test_three_layers_with_skips_agree_with_their_formulas():
    model = pvae.LadderVAE((6,), latent=(4, 3, 2), hidden=(5,), between=(3,), skip=True).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    x = torch.rand(3, 6).round().double()
    weights = pvae.log_weights(model, {"x": x}, 2)
    expected = by_hand(model, x, [weights.values[name] for name in ("z1", "z2", "z3")])
    torch.testing.assert_close(weights.log_w, expected, **EXACT)
    parameters = list(model.parameters())
    gradients = (torch.autograd.grad(each.sum(), parameters, retain_graph=True) for each in (weights.log_w, expected))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, **EXACT)


@pytest.mark.parametrize("skip", [True, False])
def test_x_sees_the_upper_layers_only_with_skips(skip):
    model = pvae.LadderVAE((6,), latent=(4, 3, 2), hidden=(5,), between=(3,), skip=skip)
    z = [torch.randn(2, size) for size in (2, 3, 4)]
    moved = [z[0] + 1, *z[1:]]
    assert torch.equal(model.decode_from(z).mean, model.decode_from(moved).mean) is not skip
    assert torch.equal(model.descend(z[:2]).mean, model.descend(moved[:2]).mean) is not skip


def test_the_way_down_belongs_to_the_model_and_its_guide_trains_it():
    model, x = pvae.LadderVAE((6,), latent=(3, 2), hidden=(5,), between=(3,)), torch.rand(4, 6).round()
    shared = {id(each) for each in model.downward.parameters()}
    assert shared <= {id(each) for each in model.theta()}
    assert not shared & {id(each) for each in model.phi()}
    log_q = pvae.log_weights(model, {"x": x}, 1).log_guide.sum()
    assert all(each is not None for each in torch.autograd.grad(log_q, list(model.downward.parameters())))


def test_warm_up_weighs_the_kl_of_all_layers():
    """Before its first step a linear warm-up is the likelihood alone; at its end, the ELBO."""
    model, x = (
        pvae.LadderVAE((6,), latent=(3, 2), hidden=(5,), between=(3,)).double(),
        torch.rand(4, 6).round().double(),
    )
    found = {}
    for objective in ("beta:beta=1:schedule=linear:warm_up=10", "beta:beta=1"):
        torch.manual_seed(3)
        found[objective] = make_objective(objective)().terms(model.model, model.guide, (x,), {}, "all")
    cold, warm = found.values()
    torch.testing.assert_close(cold.loss, -cold.named["log_likelihood"])
    torch.testing.assert_close(warm.loss, cold.loss + cold.named["kl"])
    torch.manual_seed(3)
    weights = pvae.log_weights(model, {"x": x}, 1)
    torch.testing.assert_close(warm.loss, -weights.log_w.sum().detach())


@pytest.mark.parametrize("inference", ["ladder", "bottom-up"])
def test_samples_and_reconstructions(inference):
    model = pvae.LadderVAE((2, 3), latent=(3, 2, 2), hidden=(5,), between=(3,), inference=inference, skip=True)
    assert model.sample(5).shape == model.sample(5, mean=True).shape == (5, 2, 3)
    assert model.reconstruct(torch.rand(4, 6)).shape == (4, 2, 3)
    assert [each.shape for each in model.codes(torch.rand(4, 6))] == [(4, 3), (4, 2), (4, 2)]


def test_sizes_of_layers():
    assert pvae.LadderVAE((6,), hidden=(4,)).sizes == (16, 8)
    assert pvae.LadderVAE((6,), hidden=(4,), latent=9, layers=5).sizes == (9, 4, 2, 1, 1)
    assert pvae.LadderVAE((6,), hidden=(4,), latent=(3,)).sizes == (3,)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layers": 0}, "layers needs .* got 0"),
        ({"latent": (4, 0)}, "latent needs whole numbers of at least 1; got .*size of each layer"),
        ({"latent": "4"}, "latent needs whole numbers of at least 1; got .*size of each layer"),
        ({"latent": (4, 3), "layers": 3}, "latent has the sizes of 2 layers, and layers=3"),
        ({"inference": "bottomup"}, "did you mean 'bottom-up'"),
        ({"between": (4, -1)}, "between needs"),
        ({"skip": "yes"}, "skip needs true or false"),
        ({"prior": "vamp"}, "made of q"),
        ({"posterior": "full"}, "needs posterior='diagonal'"),
        ({"network": "cnov"}, "did you mean 'conv'"),
    ],
)
def test_bad_arguments_are_named(settings, said):
    with pytest.raises(InputError, match=said) as caught:
        pvae.LadderVAE((6,), **settings)
    assert "\n" not in str(caught.value)
