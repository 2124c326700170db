"""Draws of enumerated and summed-out sites for ArviZ, against quadrature, enumeration and conjugate answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from stats import assert_close_in_sigmas
from torch import Tensor

import pvae
import pvae.evaluate as evaluate
from pvae.evaluate import arviz_versions
from pvae.models.gaussian_mixture_vae import GMVAE
from pvae.models.mixture import GMM
from pvae.models.semisupervised import SemiSupervisedVAE

pytestmark = pytest.mark.usefixtures("own_store")

COPIES, DRAWS = 4000, 12
GRID = torch.linspace(-9, 9, 1201, dtype=torch.float64).unsqueeze(-1)
ONE_X = torch.tensor([0.8, -0.4], dtype=torch.float64)


def exported(model: Any, x: Tensor, draws: int = DRAWS, **fields: Tensor) -> dict[str, Any]:
    """Export draws, and return the groups as datasets."""
    data = pvae.Batch(x=x, **fields)
    return arviz_versions.groups_of(evaluate.to_arviz(model, data, draws, limit=None, seed=1))


def assert_mean(groups: dict[str, Any], values: np.ndarray, expected: Any, effect: float) -> None:
    """Compare the mean of values, weighted by the log weights beside them, with an exact expectation.

    Args:
        values: shape (draw, datum) or (draw, datum, event).
        expected: shape () or (event,).
        effect: a difference that has to be seen.
    """
    log_w = groups["sample_stats"]["log_weights"].values[0]
    weights = np.exp(log_w - log_w.max())
    weights = (weights / weights.sum())[..., None]
    values = values.reshape(*log_w.shape, -1).astype(float)
    mean = (weights * values).sum((0, 1))
    error = np.sqrt((weights**2 * (values - mean) ** 2).sum((0, 1)))
    assert_close_in_sigmas(mean, np.atleast_1d(expected), error, effect=effect, resolution=0.1)


def gmvae(inference: str) -> tuple[Any, Callable[[Tensor], Tensor], Callable[[Tensor], Any]]:
    """Return a model, log p(y, z) and p(x given z) on a grid of z: shapes (z, y) and (z, y, event)."""
    model = GMVAE((2,), components=3, inference=inference, latent=1, hidden=(4,), likelihood="gaussian").double()
    with torch.no_grad():
        model.prior.loc.copy_(torch.tensor([[-0.9], [0.0], [1.1]]))
        model.prior.logits.copy_(torch.tensor([0.5, 0.0, -0.5]))
    return model, model.component_logits, lambda z: model.decode(z.expand(-1, 3).unsqueeze(-1))


def semisupervised(**settings: Any) -> tuple[Any, Callable[[Tensor], Tensor], Callable[[Tensor], Any]]:
    """As `gmvae`, for labels that are all hidden."""
    options = {
        "classes": 3,
        "latent": 1,
        "hidden": (4,),
        "likelihood": "gaussian",
        "label_prior": "learned",
        **settings,
    }
    model = SemiSupervisedVAE((2,), **options).double()
    with torch.no_grad():
        model.label_logits.copy_(torch.tensor([0.5, 0.0, -0.5]))

    def log_prior(z: Tensor) -> Tensor:
        return model.label_logits.log_softmax(0) + model.prior_density().log_prob(z).unsqueeze(-1)

    def likelihood(z: Tensor) -> Any:
        labels = torch.arange(3).expand(len(z), 3)
        return model.decode(z.unsqueeze(1).expand(-1, 3, -1), model.code(labels))

    return model, log_prior, likelihood


SYSTEMS = {
    "gmvae exact": lambda: gmvae("exact"),
    "gmvae amortised": lambda: gmvae("amortised"),
    "ssvae": lambda: semisupervised(),
    "ssvae factorised": lambda: semisupervised(factorised=True),
    "ssvae sampled": lambda: semisupervised(infer_labels="sampled"),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_site_with_few_values_and_z_and_x_follow_the_exact_posterior(name: str, seeded: None) -> None:
    model, log_prior, likelihood = SYSTEMS[name]()
    with torch.no_grad():
        for parameter in model.phi():
            parameter.mul_(0.3)  # so that q(z given x) is wide enough for stable weights
        density = likelihood(GRID)
        joint = log_prior(GRID) + density.log_prob(ONE_X)
        table = joint.flatten().softmax(0).reshape(joint.shape).numpy()
        mean_x = (torch.as_tensor(table).unsqueeze(-1) * density.mean).sum((0, 1)).numpy()
    groups = exported(model, ONE_X.expand(COPIES, 2))
    y, z = groups["posterior"]["y"].values[0], groups["posterior"]["z"].values[0]
    assert y.shape == (DRAWS, COPIES) and z.shape == (DRAWS, COPIES, 1)
    for label in range(3):
        assert_mean(groups, y == label, table[:, label].sum(), effect=0.2)
        assert_mean(groups, (y == label) * z[..., 0], table[:, label] @ GRID[:, 0].numpy(), effect=0.4)
    assert_mean(groups, groups["posterior_predictive"]["x"].values[0], mean_x, effect=0.8)


def test_the_label_of_a_datum_is_the_draw_where_it_is_known(seeded: None) -> None:
    model, *_ = semisupervised()
    labels = torch.arange(9) % 3
    groups = exported(model, ONE_X.expand(9, 2), 4, y=labels)
    np.testing.assert_array_equal(groups["posterior"]["y"].values[0], labels.expand(4, 9))


@pytest.mark.parametrize("guide", ["exact", "amortised"])
def test_components_of_a_mixture_have_their_responsibilities(guide: str, seeded: None) -> None:
    model = GMM((2,), components=3, guide=guide).double()
    weights, means = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([[1.0, 0.0], [0.0, -1.0], [-1.0, 1.0]])
    model.set_parameters(weights, means, torch.eye(2).expand(3, 2, 2))
    expected = model.posterior(ONE_X.unsqueeze(0))[0].numpy()
    groups = exported(model, ONE_X.expand(COPIES, 2))
    z = groups["posterior"]["z"].values[0]
    log_w = groups["sample_stats"]["log_weights"].values
    np.testing.assert_allclose(log_w, float(model.log_evidence(ONE_X.unsqueeze(0))), rtol=1e-10)
    for component in range(3):
        assert_mean(groups, z == component, expected[component], effect=0.1)
    predicted = groups["posterior_predictive"]["x"].values[0]
    assert_mean(groups, predicted - means.numpy()[z], np.zeros(2), effect=0.2)
    assert_mean(groups, predicted, expected @ means.numpy(), effect=0.2)
    prior = groups["prior"]["z"].values[0]
    assert_close_in_sigmas((prior == 0).mean(), 0.5, 0.5 / prior.size**0.5, effect=0.1, resolution=0.05)


class Chain(pvae.LatentModel):
    """A hidden Markov chain in the model alone, whose states are summed out; and x of three steps."""

    start, step = torch.tensor([0.6, 0.4]).double(), torch.tensor([[0.8, 0.2], [0.3, 0.7]]).double()
    centres = torch.tensor([-1.0, 1.0]).double()

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            state: Any = None
            for t in pyro.markov(range(3)):
                probabilities = self.start if state is None else self.step[state]
                state = pyro.sample(f"s{t}", dist.Categorical(probabilities), infer={"enumerate": "parallel"})
                pyro.sample(f"x{t}", dist.Normal(self.centres[state], 1.0), obs=x[:, t])

    def guide(self, x: Tensor) -> None:
        """All latent sites are summed out."""


def test_the_path_of_a_chain_is_drawn_jointly() -> None:
    x = torch.tensor([0.3, -0.2, 0.6]).double()
    groups = exported(Chain(), x.expand(COPIES, 3))
    log_joint = torch.zeros(2, 2, 2).double()
    for path in np.ndindex(2, 2, 2):
        log_joint[path] = Chain.start[path[0]].log() + Chain.step[path[0], path[1]].log()
        log_joint[path] += Chain.step[path[1], path[2]].log()
        log_joint[path] += dist.Normal(Chain.centres[list(path)], 1.0).log_prob(x).sum()
    exact = log_joint.flatten().softmax(0).reshape(2, 2, 2).numpy()
    drawn = [groups["posterior"][f"s{t}"].values[0] for t in range(3)]
    for path in np.ndindex(2, 2, 2):
        hits = (drawn[0] == path[0]) & (drawn[1] == path[1]) & (drawn[2] == path[2])
        assert_mean(groups, hits, exact[path], effect=0.05)
    for t in range(3):
        centre = Chain.centres.numpy()[drawn[t]]
        assert_mean(groups, groups["posterior_predictive"][f"x{t}"].values[0] - centre, 0.0, effect=0.2)


class Pixels(pvae.LatentModel):
    """A class of the datum, and in an inner plate a switch of each pixel that depends on it; both are summed out."""

    switch, noise = torch.tensor([0.2, 0.7]).double(), 0.8

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.4, 0.6]).double()), infer={"enumerate": "parallel"})
            with pyro.plate("pixels", 2, dim=-2):
                on = pyro.sample("on", dist.Bernoulli(self.switch[k]), infer={"enumerate": "parallel"})
                pyro.sample("x", dist.Normal(on, self.noise), obs=x.T)

    def guide(self, x: Tensor) -> None:
        """All latent sites are summed out."""


def test_sites_in_an_inner_plate_are_drawn_given_the_site_around_it() -> None:
    x = torch.tensor([0.9, 0.1]).double()
    groups = exported(Pixels(), x.expand(COPIES, 2))
    k, on = groups["posterior"]["k"].values[0], groups["posterior"]["on"].values[0]
    assert k.shape == (DRAWS, COPIES) and on.shape == (DRAWS, COPIES, 2)
    values = torch.tensor([0.0, 1.0]).double()
    table = torch.zeros(2, 2, 2).double()
    for label, first, second in np.ndindex(2, 2, 2):
        switches = values[[first, second]]
        table[label, first, second] = torch.tensor([0.4, 0.6]).double()[label].log()
        table[label, first, second] += dist.Bernoulli(Pixels.switch[label]).log_prob(switches).sum()
        table[label, first, second] += dist.Normal(switches, Pixels.noise).log_prob(x).sum()
    exact = table.flatten().softmax(0).reshape(2, 2, 2).numpy()
    for values_of_sites in np.ndindex(2, 2, 2):
        label, first, second = values_of_sites
        hits = (k == label) & (on[..., 0] == first) & (on[..., 1] == second)
        assert_mean(groups, hits, exact[values_of_sites], effect=0.06)
    assert_mean(groups, groups["posterior_predictive"]["x"].values[0] - on, np.zeros(2), effect=0.2)


class SharedCentres(pvae.LatentModel):
    """A mixture whose centre is a latent site that all data share; the component of each datum is summed out."""

    def model(self, x: Tensor) -> None:
        centre = pyro.sample("centre", dist.Normal(torch.zeros(()).double(), 2.0))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.3).double()), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(centre * (2 * k - 1), 0.5), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.sample("centre", dist.Normal(torch.tensor(1.0).double(), 0.3))


def test_components_are_drawn_given_the_centre_that_all_data_share() -> None:
    x = torch.linspace(-1, 1, 40).double()
    groups = exported(SharedCentres(), x, 150)
    centre, k = groups["posterior"]["centre"].values[0], groups["posterior"]["k"].values[0]
    assert centre.shape == (150,) and k.shape == (150, 40)
    log_odds = np.log(0.3 / 0.7) + 2 * centre[:, None] * x.numpy() / 0.25
    probability = 1 / (1 + np.exp(-log_odds))
    error = np.sqrt((probability * (1 - probability)).sum(0)) / 150
    assert_close_in_sigmas(k.mean(0), probability.mean(0), error, effect=0.5, resolution=0.1)
    log_w = groups["sample_stats"]["log_weights"].values[0]
    draw = torch.as_tensor(centre[7])
    parts = [
        torch.log(torch.tensor(p).double()) + dist.Normal(draw * s, 0.5).log_prob(x) for p, s in ((0.7, -1), (0.3, 1))
    ]
    expected = (
        torch.logaddexp(*parts).sum() + dist.Normal(0.0, 2.0).log_prob(draw) - dist.Normal(1.0, 0.3).log_prob(draw)
    )
    assert log_w[7] == pytest.approx(float(expected), rel=1e-6)
    noise = groups["posterior_predictive"]["x"].values[0] - centre[:, None] * (2 * k - 1)
    assert_close_in_sigmas(noise.std(), 0.5, 0.5 / (2 * noise.size) ** 0.5, effect=0.1, resolution=0.05)
