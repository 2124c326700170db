"""Models in docs/examples, written as users would: right by brute force, and trained by what their page names."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from stats import assert_close_in_sigmas
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

import pvae
from pvae.objectives import make_objective

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "examples"))

from quadrants import Baseline, Quadrants
from sigmoid_belief_net import SigmoidBeliefNet

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def log_bernoulli(logits: Tensor, value: Tensor) -> Tensor:
    return -cross_entropy(logits, value, reduction="none").sum(-1)


def brute_force(net: SigmoidBeliefNet, x: Tensor) -> tuple[Tensor, Tensor]:
    """ELBO and log evidence of each x, over all values of both layers."""
    elbo, terms = torch.zeros(len(x), dtype=x.dtype), []
    first, second = (list(itertools.product((0.0, 1.0), repeat=units)) for units in (3, 2))
    for z1, z2 in itertools.product(first, second):
        one, two = (torch.tensor(z, dtype=x.dtype).expand(len(x), -1) for z in (z1, z2))
        log_q = log_bernoulli(net.up[0](2 * x - 1), one) + log_bernoulli(net.up[1](2 * one - 1), two)
        log_p = log_bernoulli(net.top.expand_as(two), two) + log_bernoulli(net.down[1](two), one)
        log_p = log_p + log_bernoulli(net.down[0](one), x)
        elbo, terms = elbo + log_q.exp() * (log_p - log_q), [*terms, log_p]
    return elbo, torch.logsumexp(torch.stack(terms), 0)


def test_the_sigmoid_belief_net_is_what_it_says() -> None:
    net = SigmoidBeliefNet(data_shape=(4,), layers=(3, 2)).double()
    x = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    elbo, evidence = brute_force(net, x)
    enumerated = pvae.IWAE(particles=1, gradients="*=enumerate")
    assert -enumerated.loss(net.model, net.guide, x) == pytest.approx(elbo.sum().item(), rel=1e-12)
    parameters = list(net.parameters())
    expected = torch.autograd.grad(elbo.sum(), parameters)
    terms = enumerated.terms(net.model, net.guide, (x,), {}, "all")
    for mine, other in zip(torch.autograd.grad(-terms.surrogate, parameters), expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)
    found = pvae.log_weights(net, {"x": x}, 20_000).log_w
    estimate = torch.logsumexp(found, 0) - torch.log(torch.tensor(20_000.0, dtype=x.dtype))
    assert ((estimate - evidence).abs() < 0.05).all()


@pytest.mark.parametrize("text", ["reinforce:particles=3", "vimco:particles=3", "rws:particles=3", "elbo-graph"])
def test_the_sigmoid_belief_net_learns_by_what_its_page_names(text: str) -> None:
    net = SigmoidBeliefNet(data_shape=(6,), layers=(4, 3))
    rows = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]])
    data = pvae.load_data(rows.repeat(100, 1), validation=0, test=0, binarise="none")
    run = pvae.fit(net, data, objective=make_objective(text)(), epochs=60, learning_rate=0.03, progress=False)
    # two patterns alike often: log p(x) is at most -log 2
    assert -run.history[-1]["loss"] > -2.2 > -6 * 0.6931


def quadrants_by_quadrature(model: Quadrants, x: Tensor) -> Tensor:
    """log p(missing given the given pixels) with one latent, by Gauss-Hermite quadrature, shape (batch,)."""
    nodes, shares = (torch.as_tensor(each) for each in np.polynomial.hermite_e.hermegauss(80))
    guess = model.baseline(x)
    loc, raw = model.prior(model.first_guess(x, guess)).chunk(2, -1)
    z = loc + torch.nn.functional.softplus(raw) * nodes  # (batch, nodes)
    logits = guess.unsqueeze(1) + model.decoder(z.unsqueeze(-1))
    missing = x.flatten(1)[:, ~model.given].unsqueeze(1).expand_as(logits)
    return torch.logsumexp(log_bernoulli(logits, missing) + (shares / shares.sum()).log(), 1)


def completions() -> Tensor:
    """All pictures of 2 x 2 whose lower left pixel is on."""
    values = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)
    return torch.stack([values[:, 0], values[:, 1], torch.ones(8).double(), values[:, 2]], 1).reshape(8, 2, 2)


def test_the_quadrants_are_a_density_of_what_is_missing() -> None:
    model, x = Quadrants((2, 2), latent=1, hidden=4).double(), completions()
    model.encoder[2].bias.data[1] = 1.5  # a guide wider than the prior, so that weights are bounded
    exact = quadrants_by_quadrature(model, x).detach()
    assert float(exact.logsumexp(0)) == pytest.approx(0.0, abs=1e-10)
    log_w = pvae.log_weights(model, {"x": x}, 20_000).log_w.detach()
    found = (log_w - exact).exp()
    error = found.std(0) / len(found) ** 0.5
    assert_close_in_sigmas(found.mean(0), 1.0, error, effect=1.0)
    model.decoder[2].weight.data.zero_(), model.decoder[2].bias.data.zero_()
    alone = -pvae.objectives.make_objective("elbo")().loss(model.baseline.model, model.baseline.guide, x)
    assert float(quadrants_by_quadrature(model, x).detach().sum()) == pytest.approx(alone, rel=1e-10)


@pytest.mark.parametrize("quadrants", [1, 2, 3])
def test_prior_and_guess_see_the_given_quadrants_alone(quadrants: int) -> None:
    model, x = Quadrants((4, 6), quadrants=quadrants), torch.rand(2, 4, 6, requires_grad=True)
    assert int(model.given.sum()) == quadrants * 6
    prior = model.prior(model.first_guess(x, model.baseline(x)))
    (seen,) = torch.autograd.grad(prior.square().sum(), x)
    assert torch.equal(seen.flatten(1).abs().sum(0) > 0, model.given)
    picture = x.detach().round()
    drawn = model.complete(picture)
    assert torch.equal(drawn.flatten(1)[:, model.given], picture.flatten(1)[:, model.given])


def test_a_latent_variable_knows_that_missing_pixels_go_together() -> None:
    """The three missing pixels are all on or all off, by a fair coin: log 2 nats, and 3 log 2 for each on its own."""
    coin = (torch.arange(200) % 2).double()
    x = torch.stack([coin, coin, torch.ones(200), coin], 1).reshape(-1, 2, 2).numpy()
    data = pvae.load_data({"x": x}, validation=0, test=0, binarise="none")
    options = {"batch_size": 100, "learning_rate": 0.03, "progress": False, "step": "eager"}
    baseline = Baseline((2, 2), hidden=8)
    first = pvae.fit(baseline, data, epochs=40, **options)
    assert first.history[-1]["loss"] == pytest.approx(3 * math.log(2), abs=0.02)
    model = Quadrants((2, 2), latent=2, hidden=8, baseline=baseline)
    before = {name: each.clone() for name, each in baseline.state_dict().items()}
    pvae.fit(model, data, epochs=80, **options)
    evidence = pvae.evaluate.log_evidence(model, data.train, particles=100).value
    assert -math.log(2) - 0.3 < evidence < -math.log(2) + 0.01
    assert all(torch.equal(each, before[name]) for name, each in baseline.state_dict().items())
