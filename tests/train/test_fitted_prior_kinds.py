"""Each kind of fitted prior: its density by hand, its evidence by hand, and the models that it fits."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import models
import pytest
import torch
from pyro import poutine
from stats import assert_close_in_sigmas
from torch import Tensor
from untrained_runs import SMALL, UNTRAINED, log_weights_of, untrained_run

import pvae
from pvae.batch import Batch
from pvae.errors import InputError
from pvae.programs.binding import bind
from pvae.programs.sites import log_density, sample_sites
from pvae.train.fitted_priors.code_site import CodeSite
from pvae.train.fitted_priors.codes import Codes
from pvae.train.fitted_priors.fitted_density import FitSettings
from pvae.train.fitted_priors.network_fits import fit_autoregressive, fit_flow, fit_second_stage

pytestmark = pytest.mark.usefixtures("own_store")

X = torch.rand(60, 6, generator=torch.Generator().manual_seed(2)).round()
DATA = pvae.load_data(X, validation=0, test=0, binarise="none")
untrained = partial(untrained_run, data=DATA)


# ---- Codes


def quantised() -> pvae.Run:
    return untrained(pvae.VQVAE(6, codes=4, latent=2, positions=3, hidden=(5,)))


def test_evidence_of_codes_is_the_sum_of_their_log_probabilities() -> None:
    run = quantised()
    fitted = pvae.fit_prior(run, "autoregressive:width=8:layers=1:heads=2", DATA, epochs=1)
    prior, codes = fitted.model.prior.density, fitted.model.codes(X)
    by_hand = fitted.model.decode(codes).log_prob(X).detach()
    for position in range(3):
        # the codes from this position on are unknown to the network
        known = torch.where(torch.arange(3) < position, codes, 0)
        logits = prior.logits(known)[:, position].detach().log_softmax(-1)
        by_hand = by_hand + logits.gather(-1, codes[:, position : position + 1]).squeeze(-1)
    estimate = pvae.evaluate.log_evidence(fitted, DATA, particles=2, split="train")
    torch.testing.assert_close(torch.as_tensor(estimate.pointwise).float(), by_hand, rtol=0, atol=1e-5)
    assert fitted.sample(5).shape == (5, 6)
    # before: a uniform prior
    before = pvae.evaluate.log_evidence(run, DATA, particles=2, split="train")
    uniform = fitted.model.decode(codes).log_prob(X).detach() - 3 * math.log(4)
    torch.testing.assert_close(torch.as_tensor(before.pointwise).float(), uniform, rtol=0, atol=1e-5)


def test_an_autoregressive_prior_learns_how_codes_depend_on_those_before() -> None:
    torch.manual_seed(0)
    values = torch.randint(0, 4, (400, 3))
    values[:, 2] = (values[:, 0] + 1) % 4
    codes = Codes(CodeSite("k", (3,), codes=4), values, 1)
    fitted = fit_autoregressive(codes, FitSettings(epochs=30, learning_rate=0.01), width=16, layers=1, heads=2)
    # the entropy of two free codes; without the dependence it is 3 log 4
    assert fitted.facts["held_out"] == pytest.approx(-2 * math.log(4), abs=0.2)
    drawn = fitted.density(None).sample((1000,))
    assert float((drawn[:, 2] == (drawn[:, 0] + 1) % 4).float().mean()) > 0.95


# ---- Mixtures of posteriors


@pytest.mark.parametrize("posterior", ["diagonal", "full"])
def test_the_aggregate_is_the_mean_of_the_densities_of_all_data(posterior: str) -> None:
    run = untrained(pvae.VAE(**SMALL, posterior=posterior))
    fitted = pvae.fit_prior(run, "aggregate", DATA)
    assert fitted.config["prior"]["settings"]["components"] == 60
    z = torch.randn(7, 2)
    expected = run.model.encode(X).log_prob(z.unsqueeze(1)).logsumexp(1) - math.log(60)
    torch.testing.assert_close(fitted.model.prior_density().log_prob(z), expected)
    # one layer of a hierarchy, and a part of the data
    few = pvae.fit_prior(
        untrained(pvae.LadderVAE(6, latent=(3, 2), hidden=(5,), between=4)), "aggregate:components=9", DATA
    )
    assert few.model.prior_density().event_shape == (2,)
    assert few.config["prior"]["settings"]["components"] == 9


def test_the_vamp_prior_is_a_mixture_of_the_encoder_at_its_inputs_and_is_fitted() -> None:
    data = pvae.load_data(X.repeat(10, 1), validation=0, test=0, binarise="none")
    torch.manual_seed(0)
    run = pvae.fit(pvae.VAE(**SMALL), data, **UNTRAINED)
    with torch.no_grad():  # a narrow q, so that it matters where the pseudo-inputs are
        run.model.posterior.log_scale.bias.fill_(-2)
    encoder = {name: value.clone() for name, value in run.model.encoder.state_dict().items()}
    start, fitted = (pvae.fit_prior(run, "vamp:components=4", data, epochs=n, learning_rate=0.05) for n in (1, 25))
    z, inputs = torch.randn(5, 2), fitted.model.prior.density.pseudo_inputs
    expected = run.model.encode(inputs).log_prob(z.unsqueeze(1)).logsumexp(1) - math.log(4)
    torch.testing.assert_close(fitted.model.prior_density().log_prob(z), expected)
    assert fitted.config["prior"]["fitted"]["held_out"] > start.config["prior"]["fitted"]["held_out"] + 0.5
    assert all(torch.equal(value, encoder[name]) for name, value in fitted.model.encoder.state_dict().items())


# ---- Networks


def correlated(size: int) -> tuple[Codes, torch.distributions.MultivariateNormal]:
    truth = torch.distributions.MultivariateNormal(torch.tensor([3.0, -1.0]), torch.tensor([[4.0, 1.8], [1.8, 1.0]]))
    torch.manual_seed(1)
    return Codes(CodeSite("z", (2,)), truth.sample((size,)), 1), truth


def test_a_flow_reaches_the_density_of_gaussian_codes() -> None:
    codes, truth = correlated(2000)
    fitted = fit_flow(codes, FitSettings(epochs=20, learning_rate=0.03), transforms=1, hidden=8)
    z = truth.sample((2000,))
    differences = (truth.log_prob(z) - fitted.density(None).log_prob(z)).detach()
    # KL(truth to flow): without the correlation it is -0.5 log(1 - 0.81) = 0.83
    assert -0.01 < float(differences.mean()) < 0.02
    _, left_out = codes.split(0.1, 0)
    at_left_out = fitted.density(None).log_prob(left_out)
    assert fitted.facts["held_out"] == pytest.approx(float(at_left_out.mean().detach()), abs=1e-4)


def test_a_second_stage_draws_codes_like_those_of_the_fit() -> None:
    codes, truth = correlated(1500)
    stage: Any = fit_second_stage(codes, FitSettings(epochs=40, learning_rate=0.02), latent=2, hidden=8).density
    with torch.no_grad():
        z = stage.code_density(stage.latent_density().sample((4000,))).sample()
    assert_close_in_sigmas(z.mean(0), truth.mean, z.std(0) / 4000**0.5 + 0.05, effect=10, resolution=0.1)
    torch.testing.assert_close(torch.cov(z.T), truth.covariance_matrix, rtol=0.15, atol=0)


MODELS = {
    "built-in": lambda: pvae.VAE(**SMALL),
    "ladder": lambda: pvae.LadderVAE(6, latent=(3, 2), hidden=(5,), between=4),
    "layers of numbers": models.TwoNumbers,
}


@pytest.mark.parametrize("name", MODELS)
def test_a_second_stage_is_a_further_layer(name: str) -> None:
    run = untrained(MODELS[name]())
    fitted = pvae.fit_prior(run, "vae:latent=3:hidden=4", DATA, epochs=1)
    site, stage = fitted.config["prior"]["site"], fitted.model.prior.density
    old, new = log_weights_of(run, X), log_weights_of(fitted, X)
    u = new.values[f"{site}_above"]
    assert u.shape == (3, 60, 3)
    # the guide of the inner model draws the same values of its sites: other draws follow in the generator
    z = new.values[site]
    vector = z if z.dim() == 3 else z.unsqueeze(-1)
    above = stage.latent_density().log_prob(u) + stage.code_density(u).log_prob(vector)
    inner = with_values(run, new)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(vector).sum(-1)
    with torch.no_grad():
        torch.testing.assert_close(new.log_joint, inner[0] - prior + above, rtol=0, atol=1e-4)
        torch.testing.assert_close(new.log_guide, inner[1] + stage.infer(vector).log_prob(u), rtol=0, atol=1e-4)
    assert fitted.sample(4).shape == (4, 6) and old.particles == new.particles


def with_values(run: pvae.Run, weights: pvae.LogWeights) -> tuple[Tensor, Tensor]:
    """Log p(x, z) and log q(z given x) of the model of a run at the values of weights, (particles, batch) each."""
    bound = bind(run.model, Batch(x=X)).bound_to(Batch(x=X))
    rows = []
    for particle in range(weights.particles):
        values = {name: value[particle] for name, value in weights.values.items()}
        with torch.no_grad(), pvae.models.scope(run.model):
            model = bound.trace_model(values=values)
            guide = poutine.trace(poutine.condition(bound.guide, data=values)).get_trace(*bound.args)
        rows.append([sum(log_density(site) for site in sample_sites(trace)) for trace in (model, guide)])
    return torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])


OPENED = {
    "aggregate:components=9": lambda: pvae.VAE(**SMALL, posterior="full"),
    "autoregressive:width=8:layers=1": lambda: pvae.VQVAE(6, codes=4, latent=2, positions=3, hidden=(5,)),
    "flow:hidden=4": lambda: pvae.VAE(**SMALL),
    "vae:hidden=4,3": lambda: pvae.Autoencoder(**SMALL),
    "vamp:components=3": lambda: pvae.VAE((2, 3), latent=2, hidden=(2, 3), network="conv"),
}


@pytest.mark.parametrize("kind", OPENED)
def test_an_opened_run_has_the_fitted_prior(kind: str, tmp_path: Path) -> None:
    fitted = pvae.fit_prior(untrained(OPENED[kind]()), kind, DATA, epochs=1, out=tmp_path / "run")
    opened = pvae.open_run(tmp_path / "run")
    assert torch.equal(opened.sample(6), fitted.sample(6))
    state = opened.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in fitted.model.state_dict().items())


# ---- Deterministic codes


def test_an_autoencoder_gets_samples() -> None:
    run = untrained(pvae.Autoencoder(**SMALL))
    with pytest.raises(InputError, match="A flat prior cannot be sampled"):
        run.sample(3)
    fitted = pvae.fit_prior(run, "full-gaussian", DATA)
    codes = run.encode(DATA, split="train")
    prior = fitted.model.prior_density()
    torch.testing.assert_close(prior.mean, codes.mean(0), rtol=0, atol=1e-5)
    torch.testing.assert_close(prior.covariance_matrix, torch.cov(codes.T, correction=0), rtol=1e-3, atol=1e-5)
    assert fitted.sample(3).shape == (3, 6)
    with pytest.raises(InputError, match="a point without a density"):
        pvae.evaluate.log_evidence(fitted, DATA, particles=3, split="train")


# ---- What is refused

REFUSED = {
    "points": (lambda: pvae.Autoencoder(**SMALL), "aggregate", "returns points, which have no density"),
    "real numbers": (lambda: pvae.VAE(**SMALL), "autoregressive", "is for discrete codes; the values of z are real"),
    "codes": (lambda: pvae.VQVAE(6, codes=4, latent=2, positions=3, hidden=(4,)), "flow", "Use 'autoregressive'"),
    "a flow as q": (
        lambda: pvae.VAE(**SMALL, posterior="flow:transforms=1:hidden=4"),
        "aggregate",
        "needs a Gaussian q",
    ),
    "another encoder": (models.Plain, "vamp", "needs the encoder of a pvae.VAE; this model is a Plain"),
    "too many": (lambda: pvae.VAE(**SMALL), "aggregate:components=61", "whole number from 1 to 60"),
    "one dimension": (
        lambda: pvae.VAE(6, latent=1, hidden=(5,)),
        "flow:kind=coupling",
        "needs to be at least 2; got latent=1",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case: str) -> None:
    make, kind, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as caught:
        pvae.fit_prior(untrained(make()), kind, DATA, epochs=1)
    assert "\n" not in str(caught.value)
