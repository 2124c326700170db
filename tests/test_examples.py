"""Models in docs/examples, written as users would: right by brute force, and trained by what their page names."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pyro
import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

import pvae
from pvae.objectives import make_objective

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "docs" / "examples"))

from sigmoid_belief_net import SigmoidBeliefNet


@pytest.fixture(autouse=True)
def own_store() -> Iterator[None]:
    with pyro.get_param_store().scope():
        torch.manual_seed(0)
        yield


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
