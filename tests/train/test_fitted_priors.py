"""Priors fitted to codes: closed forms of a linear model, and log weights that differ by the prior alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import models
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import tutorial_vae
from sklearn.mixture import GaussianMixture
from torch import Tensor
from untrained_runs import SMALL, log_weights_of, untrained_run

import pvae
from pvae.data.toy import LinearGaussian, fit_ppca
from pvae.train.fitted_priors.code_site import CodeSite
from pvae.train.fitted_priors.codes import Codes
from pvae.train.fitted_priors.fitted_density import FitSettings
from pvae.train.fitted_priors.mixture_fit import fit_mixture

pytestmark = pytest.mark.usefixtures("own_store")

X = torch.rand(60, 6, generator=torch.Generator().manual_seed(2)).round()
DATA = pvae.load_data(X, validation=0, test=0, binarise="none")
untrained = partial(untrained_run, data=DATA)


# ---- A linear model in coordinates in which its prior is not standard normal

TRUTH = LinearGaussian(
    torch.tensor([[1.0, 0.5], [0.0, 1.0], [-1.0, 0.3], [0.4, 0.8]]).double(), torch.ones(4).double(), 0.3
)
LINEAR = TRUTH.sample(1500, seed=1)
CHANGE = torch.tensor([[2.0, 0.3], [0.5, 0.4]]).double()  # z = CHANGE^-1 u, where u has the standard normal prior


@pytest.fixture(scope="module")
def linear() -> tuple[pvae.Run, pvae.data.Splits, LinearGaussian]:
    """A linear VAE with the likelihood of the best linear model and its exact posterior, in other coordinates.

    With p(z) = N(0, CHANGE^-1 CHANGE^-T) the model has the greatest likelihood of these data; its prior is N(0, I).
    """
    best = fit_ppca(LINEAR.x, 2)
    data = pvae.load_data(LINEAR.x, validation=0, test=0, binarise="none")
    likelihood = f"gaussian:scale={best.variance**0.5}"
    model = pvae.VAE(4, latent=2, hidden=0, likelihood=likelihood, posterior="full", output_bias=None)
    run = untrained(model, data=data, precision="float64")
    inverse = torch.linalg.inv(CHANGE)
    gain = inverse @ torch.linalg.solve(best.weight.T @ best.weight + best.variance * torch.eye(2), best.weight.T)
    factor = torch.linalg.cholesky(inverse @ best.posterior(best.mean[None])[1] @ inverse.T)
    values = {
        "likelihood.head.layer.weight": best.weight @ CHANGE,
        "likelihood.head.layer.bias": best.mean,
        "posterior.loc.weight": gain,
        "posterior.loc.bias": -gain @ best.mean,
        "posterior.log_scale.weight": torch.zeros(2, 4),
        "posterior.log_scale.bias": factor.diagonal().log(),
        "posterior.below.weight": torch.zeros(1, 4),
        "posterior.below.bias": factor[1, :1] / factor[1, 1],
    }
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)
    return run, data, best


def evidence(run: pvae.Run, best: LinearGaussian) -> Tensor:
    """Log p(x) of all data in closed form, with the Gaussian that the run has as its prior."""
    prior = run.model.prior_density()
    weight = best.weight @ CHANGE
    covariance = weight @ prior.covariance_matrix @ weight.T + best.variance * torch.eye(4)
    marginal = torch.distributions.MultivariateNormal(best.mean + weight @ prior.mean, covariance)
    return marginal.log_prob(LINEAR.x).detach()


def test_a_full_gaussian_reaches_the_greatest_likelihood(linear: Any) -> None:
    run, data, best = linear
    fitted = pvae.fit_prior(run, "full-gaussian", data)
    greatest, reached = best.log_evidence(LINEAR.x), evidence(fitted, best)
    error = float(greatest.std() / len(greatest) ** 0.5)
    assert abs(float((reached - greatest).mean())) < 0.2 * error
    # before, each datum has another density by far; means in place of draws lack the variance of q
    before = pvae.evaluate.log_evidence(run, data, particles=5, split="train")
    assert before.value < float(greatest.mean()) - 5 * error
    narrow = pvae.fit_prior(run, "full-gaussian", data, means=True)
    assert float((evidence(narrow, best) - greatest).mean()) < -0.2 * error
    # by importance sampling: the posterior is nearly exact, and so is the estimate
    estimate = pvae.evaluate.log_evidence(fitted, data, particles=20, split="train")
    assert estimate.value == pytest.approx(float(reached.mean()), abs=1e-3)


def test_the_full_gaussian_has_the_moments_of_the_codes_and_equals_one_component(linear: Any) -> None:
    run, data, _ = linear
    full, one = (pvae.fit_prior(run, kind, data, seed=3) for kind in ("full-gaussian", "mixture:components=1"))
    for first, second in zip(full.model.prior.parameters(), one.model.prior.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
    means = run.encode(data, split="train")
    prior, expected = full.model.prior_density(), run.model.encode(LINEAR.x)
    covariance = torch.cov(means.T, correction=0) + expected.covariance_matrix[0]
    # draws differ from q by noise: relative error 1/sqrt(1500)
    torch.testing.assert_close(prior.mean, means.mean(0), rtol=0, atol=0.15)
    torch.testing.assert_close(prior.covariance_matrix, covariance.detach(), rtol=0.12, atol=0.05)


# ---- The mixture


def test_the_criterion_finds_the_number_of_clusters_and_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    centres = np.array([[0, 0], [9, 0], [0, 9], [9, 9], [20, 20]])
    values = np.concatenate([centre + generator.normal(size=(100, 2)) for centre in centres])
    codes = Codes(CodeSite("z", (2,)), torch.tensor(values), draws=1)
    fitted = fit_mixture(codes, FitSettings())
    assert fitted.settings == {"components": 5}
    peer = GaussianMixture(5, random_state=0).fit(values)
    assert fitted.facts["bic"]["5"] == pytest.approx(peer.bic(values), abs=0.01)
    density = fitted.density(None)
    torch.testing.assert_close(
        density.log_prob(codes.values).detach(), torch.tensor(peer.score_samples(values)), rtol=0, atol=1e-3
    )
    # five copies of each code are no further data
    copies = Codes(codes.site, codes.values.repeat(5, 1), draws=5)
    assert fit_mixture(copies, FitSettings()).facts["bic"]["1"] == pytest.approx(fitted.facts["bic"]["1"], abs=0.01)


# ---- Any model: log p(x, z) changes by the prior alone, q does not change


def by_store(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        logits = z @ pyro.param("weight", torch.eye(2, 6)) + pyro.param("bias", torch.zeros(6))
        pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


def guide_by_store(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, :2], pyro.param("width", torch.tensor(0.3))).to_event(1))


MODELS = {
    "built-in": lambda: pvae.VAE(**SMALL),
    "vamp": lambda: pvae.VAE(**SMALL, prior="vamp:components=5"),
    "flow posterior": lambda: pvae.VAE(**SMALL, posterior="flow:transforms=1:hidden=4"),
    "ladder": lambda: pvae.LadderVAE(6, latent=(3, 2), hidden=(5,), between=4),
    "bottom-up": lambda: pvae.LadderVAE(6, latent=(3, 2), hidden=(5,), between=4, inference="bottom-up"),
    "plain": models.Plain,
    "tutorial": lambda: tutorial_vae.VAE(z_dim=2, hidden_dim=5, pixels=6),
    "layers": models.TwoNumbers,
    "store": lambda: pvae.pair(by_store, guide_by_store),
}


@pytest.mark.parametrize("name", MODELS)
def test_log_weights_change_by_the_prior_alone(name: str) -> None:
    torch.manual_seed(0)
    run = untrained(MODELS[name]())
    if name == "store":  # a value that the programs do not start from
        with pvae.models.scope(run.model), torch.no_grad():
            pyro.param("bias").fill_(0.4)
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    fitted = pvae.fit_prior(run, "mixture:components=2", DATA)
    site = fitted.config["prior"]["site"]
    assert site == {"ladder": "z2", "bottom-up": "z2", "layers": "u", "tutorial": "latent"}.get(name, "z")
    old, new = log_weights_of(run, X), log_weights_of(fitted, X)
    torch.testing.assert_close(new.log_guide, old.log_guide, rtol=0, atol=0)
    z = old.values[site]
    assert torch.equal(z, new.values[site])
    former = old_prior(run, name, z)
    change = fitted.model.prior(None).log_prob(z).detach() - former
    torch.testing.assert_close(new.log_joint - old.log_joint, change, rtol=0, atol=2e-5)
    assert float(change.abs().mean()) > 0.01
    # the model of the run before is as it was
    assert all(torch.equal(value, before[key]) for key, value in run.model.state_dict().items())


def old_prior(run: pvae.Run, name: str, z: Tensor) -> Tensor:
    if name == "vamp":
        return run.model.prior_density().log_prob(z).detach()
    density = torch.distributions.Normal(0.0, 1.0).log_prob(z)
    return density if name == "layers" else density.sum(-1)


def test_samples_come_from_the_prior_of_the_codes() -> None:
    torch.manual_seed(0)
    data = pvae.load_data(3 + 0.1 * torch.randn(200, 6), validation=0, test=0, binarise="none")
    run = untrained(models.TwoNumbers(), data=data)
    fitted = pvae.fit_prior(run, "full-gaussian", data)
    # the guide's u is 0.7 z, its z is near 3, and the model's z is 0.7 u
    assert float(run.sample(2000).mean()) == pytest.approx(0, abs=0.1)
    assert float(fitted.sample(2000).mean()) == pytest.approx(0.7 * 0.7 * 3, abs=0.1)
