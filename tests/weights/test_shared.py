"""The ELBO of models whose data share latent sites and whose other sites are summed out, against quadrature."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from stats import assert_close_in_sigmas, mean_and_error
from torch import Tensor

import pvae
from pvae.programs.bound import BoundPrograms
from pvae.weights.shared import shared_weights

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

SHARES = torch.tensor([0.3, 0.7], dtype=torch.float64)
PRIOR = dist.Normal(torch.tensor([-1.0, 1.0], dtype=torch.float64), 1.0)
GUIDE = dist.Normal(torch.tensor([-0.5, 0.9], dtype=torch.float64), torch.tensor([0.4, 0.3], dtype=torch.float64))
X = torch.tensor([0.3, -1.2, 2.0, 0.7, 1.1], dtype=torch.float64)
SUMMED = {"enumerate": "parallel"}


def mixture(x: Tensor) -> None:
    """The components' means are shared, and a table of them is indexed by the enumerated component."""
    with pyro.plate("components", 2):
        means = pyro.sample("means", PRIOR)
    with pyro.plate("data", len(x)):
        component = pyro.sample("component", dist.Categorical(SHARES), infer=SUMMED)
        pyro.sample("x", dist.Normal(means[component], 0.8), obs=x)


def means_alone(x: Tensor) -> None:
    with pyro.plate("components", 2):
        pyro.sample("means", GUIDE)


def exact_elbo(scale: float = 0.8) -> Tensor:
    """The part of each datum: E_q[log p(x given means)] by Gauss-Hermite quadrature, minus KL / N."""
    nodes, shares = (torch.as_tensor(values) for values in np.polynomial.hermite_e.hermegauss(30))
    shares = (shares / shares.sum())[:, None, None] * (shares / shares.sum())[None, :, None]
    first, second = (GUIDE.loc[k] + GUIDE.scale[k] * nodes for k in (0, 1))
    terms = [
        SHARES[0].log() + dist.Normal(first[:, None, None], scale).log_prob(X),
        SHARES[1].log() + dist.Normal(second[None, :, None], scale).log_prob(X),
    ]
    log_p = torch.logsumexp(torch.stack(torch.broadcast_tensors(*terms)), 0)
    return (shares * log_p).sum((0, 1)) - torch.distributions.kl_divergence(GUIDE, PRIOR).sum() / len(X)


def assert_is_elbo(weights: object, exact: Tensor) -> None:
    parts = weights.local + weights.shared[:, None] / len(X)
    mean, error = mean_and_error(parts)
    # A component that is drawn instead of summed out costs half a nat and more.
    assert_close_in_sigmas(mean, exact, error, effect=0.5, resolution=0.1)


def test_a_summed_out_component_of_shared_means() -> None:
    weights = shared_weights(BoundPrograms(mixture, means_alone, (X,)), 300, "data")
    assert_is_elbo(weights, exact_elbo())


def test_the_evaluation_is_the_mean_of_these_weights() -> None:
    bound = pvae.evaluate.elbo(pvae.pair(mixture, means_alone), {"x": X}, particles=50)
    with pvae.train.devices.isolated(0):
        weights = shared_weights(BoundPrograms(mixture, means_alone, (X,)), 50, "data")
    expected = weights.local.mean(0) + weights.shared.mean() / len(X)
    torch.testing.assert_close(bound.pointwise, expected, rtol=1e-10, atol=0.0)


def with_local_noise(x: Tensor) -> None:
    """As `mixture`, with a part of the noise as a latent site of each datum."""
    with pyro.plate("components", 2):
        means = pyro.sample("means", PRIOR)
    with pyro.plate("data", len(x)):
        component = pyro.sample("component", dist.Categorical(SHARES), infer=SUMMED)
        noise = pyro.sample("noise", dist.Normal(x.new_zeros(()), 0.01))
        pyro.sample("x", dist.Normal(means[component] + noise, 0.8), obs=x)


def means_and_noise(x: Tensor) -> None:
    means_alone(x)
    with pyro.plate("data", len(x)):
        pyro.sample("noise", dist.Normal(torch.zeros_like(x), 0.01))


def test_a_latent_site_of_each_datum_beside_the_summed_out_one() -> None:
    weights = shared_weights(BoundPrograms(with_local_noise, means_and_noise, (X,)), 300, "data")
    assert_is_elbo(weights, exact_elbo((0.8**2 + 0.01**2) ** 0.5))


def test_a_summed_out_site_that_nothing_depends_on_costs_nothing() -> None:
    """w ~ N(0, 1), x ~ N(w, 1) with the exact posterior of w: each draw gives log p of all x."""

    def model(x):
        w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("unused", dist.Categorical(x.new_ones(10)), infer=SUMMED)
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def guide(x):
        pyro.sample("w", dist.Normal(x.sum() / (len(x) + 1), (len(x) + 1) ** -0.5))

    joint = dist.MultivariateNormal(torch.zeros_like(X), torch.eye(len(X)).double() + 1)
    bound = pvae.evaluate.elbo(pvae.pair(model, guide), {"x": X}, particles=2)
    assert bound.value == pytest.approx(float(joint.log_prob(X)) / len(X), abs=1e-10)


def test_a_marked_site_that_all_data_share_is_refused_by_name() -> None:
    def model(x):
        which = pyro.sample("which", dist.Categorical(SHARES), infer=SUMMED)
        w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w + which, 1.0), obs=x)

    def guide(x):
        pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))

    with pytest.raises(pvae.InputError, match="'which' is marked for enumeration, but all data share it"):
        shared_weights(BoundPrograms(model, guide, (X,)), 3, "data")
