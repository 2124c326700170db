"""Supports are compared by their values: neither a boundary of probability 0 nor a wrapper makes them differ."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from torch import Tensor
from torch.distributions.transforms import ExpTransform, SigmoidTransform, StackTransform, identity_transform

import pvae
from pvae.linter.supports import describe_support, have_same_support

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

NORMAL, TWO = dist.Normal(0.0, 1.0), dist.Normal(torch.zeros(2), 1.0)


def joined(*transforms: Any) -> Any:
    return dist.TransformedDistribution(TWO, [StackTransform(list(transforms), -1)])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (dist.HalfNormal(1.0), dist.LogNormal(0.0, 1.0)),
        (dist.Uniform(0.0, 1.0), dist.TransformedDistribution(NORMAL, [SigmoidTransform()])),
        (dist.Bernoulli(0.5), dist.Categorical(torch.ones(2))),
        (dist.Binomial(1, 0.5), dist.Bernoulli(0.5)),
        (dist.Poisson(1.0), dist.Geometric(0.5)),
        (TWO.to_event(1), dist.MultivariateNormal(torch.zeros(2), torch.eye(2))),
        (TWO.mask(torch.tensor([True, False])).to_event(1), TWO.to_event(1)),
        (dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), TWO), NORMAL),
        (dist.Uniform(torch.tensor([0.0, 1.0]), 2.0), dist.Uniform(torch.tensor([0.0, 1.0]), torch.full((2,), 2.0))),
        (dist.LogNormal(0.0, 1.0), dist.Delta(torch.tensor(1.0))),
        (joined(ExpTransform(), identity_transform), joined(ExpTransform(), identity_transform)),
        (joined(identity_transform, identity_transform), TWO),
    ],
)
def test_supports_with_the_same_values_are_the_same(one: Any, other: Any) -> None:
    assert have_same_support({"fn": one}, {"fn": other})
    assert have_same_support({"fn": other}, {"fn": one})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (NORMAL, dist.LogNormal(0.0, 1.0)),
        (dist.Uniform(0.0, 1.0), dist.Uniform(0.0, 2.0)),
        (dist.Uniform(torch.zeros(2), 1.0), dist.Uniform(torch.zeros(3), 1.0)),
        (dist.Bernoulli(0.5), dist.Uniform(0.0, 1.0)),
        (dist.Bernoulli(0.5), dist.Categorical(torch.ones(3))),
        (dist.Poisson(1.0), dist.Binomial(5, 0.5)),
        (dist.OneHotCategorical(torch.ones(3)), dist.Dirichlet(torch.ones(3))),
        (joined(ExpTransform(), identity_transform), joined(identity_transform, ExpTransform())),
    ],
)
def test_supports_with_other_values_differ(one: Any, other: Any) -> None:
    assert not have_same_support({"fn": one}, {"fn": other})
    assert not have_same_support({"fn": other}, {"fn": one})


def test_a_support_is_described_without_its_wrappers() -> None:
    assert describe_support(TWO.to_event(1).support) == "Real()"


def positive(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.HalfNormal(1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize("autoguide", [AutoDelta, AutoNormal, AutoDiagonalNormal])
def test_an_autoguide_of_a_positive_latent_gets_no_note_on_supports(autoguide: Any) -> None:
    findings = pvae.check(pvae.pair(positive, autoguide(positive)), {"x": torch.randn(20)}, "elbo")
    assert "support mismatch" not in {finding.kind for finding in findings}
