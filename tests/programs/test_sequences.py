"""Sequences by a user's own model: a chain in a loop over time, lengths by a mask, against the Kalman filter."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from state_space import LinearStateSpace
from torch import Tensor, nn

import pvae
from pvae.models import find_groups
from pvae.objectives import make_objective

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "examples"))

from deep_markov_model import DeepMarkovModel, running_lights

TIME, FEATURES, LATENT = 4, 2, 2

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def linear_gaussian() -> DeepMarkovModel:
    """The model with its gates shut, its scales constant and its emission a linear map: a linear state space."""
    model = DeepMarkovModel((TIME, FEATURES), latent=LATENT, hidden=5, real=True)
    model.emission = nn.Linear(LATENT, FEATURES)
    transition = model.transition
    with torch.no_grad():
        transition.gate[2].weight.zero_(), transition.gate[2].bias.fill_(-1e4)
        transition.linear.weight.copy_(torch.tensor([[0.8, 0.4], [-0.4, 0.8]]))
        transition.linear.bias.copy_(torch.tensor([0.1, -0.2]))
        transition.scale.weight.zero_(), transition.scale.bias.fill_(0.3)
        model.start.copy_(torch.tensor([0.5, -1.0]))
        model.log_noise.copy_(torch.tensor([-0.7, -0.2]))
    return model.double()


def data() -> pvae.Batch:
    """What stands beyond the end of a sequence is large, so that it shows where anything looks at it."""
    lengths = torch.tensor([4, 2, 3])
    x = torch.randn(3, TIME, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x = torch.where((torch.arange(TIME) < lengths[:, None])[..., None], x, 50.0)
    return pvae.Batch(x=x, lengths=lengths)


def state_space(model: DeepMarkovModel) -> LinearStateSpace:
    def array(tensor: Tensor) -> np.ndarray:
        return tensor.detach().numpy()

    step = model.transition
    return LinearStateSpace(
        array(model.start),
        array(step.linear.weight),
        array(step.linear.bias),
        array(nn.functional.softplus(step.scale.bias)),
        array(model.emission.weight),
        array(model.emission.bias),
        array(model.log_noise.exp()),
    )


def evidence(model: DeepMarkovModel, batch: pvae.Batch) -> np.ndarray:
    kalman = state_space(model)
    lengths = batch.lengths.long().tolist()
    return np.array([kalman.log_evidence(x[:n].numpy()) for x, n in zip(batch.x, lengths, strict=True)])


class ExactGuide(nn.Module):
    """The model with the exact posterior as its guide: what a network that reads backwards would have to learn."""

    def __init__(self, inner: DeepMarkovModel, batch: pvae.Batch) -> None:
        super().__init__()
        self.inner, kalman = inner, state_space(inner)
        self.steps = [kalman.posterior_steps(x[: int(n)].numpy()) for x, n in zip(batch.x, batch.lengths, strict=True)]

    def model(self, x, lengths):
        return self.inner.model(x, lengths)

    def guide(self, x, lengths):
        z = self.inner.start
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(TIME)):
                # beyond its end a sequence has no posterior; masked, anything will do
                known = [steps[min(t, len(steps) - 1)] for steps in self.steps]
                cov, matrix, vector = (torch.as_tensor(np.stack(each)) for each in zip(*known, strict=True))
                loc = (matrix @ z.unsqueeze(-1)).squeeze(-1) + vector
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z{t}", dist.MultivariateNormal(loc, cov))


@pytest.mark.parametrize("particles", [1, 3])
def test_the_exact_guide_has_weights_that_are_the_kalman_evidence(particles: int) -> None:
    model, batch = linear_gaussian(), data()
    weights = pvae.log_weights(ExactGuide(model, batch), batch, particles)
    expected = torch.as_tensor(evidence(model, batch)).expand(particles, -1)
    torch.testing.assert_close(weights.log_w.detach(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["elbo", "elbo:particles=3", "elbo-graph", "iwae:particles=3", "stl:particles=1"])
def test_objectives_reach_the_kalman_evidence_with_the_exact_guide(name: str) -> None:
    model, batch = linear_gaussian(), data()
    exact = ExactGuide(model, batch)
    loss = make_objective(name)().loss(exact.model, exact.guide, batch.x, batch.lengths)
    assert -loss == pytest.approx(evidence(model, batch).sum(), rel=1e-10)


def test_a_network_that_reads_backwards_stays_below_the_kalman_evidence() -> None:
    """The bound of each sequence, with one particle and with fifty: higher, and below, in standard errors."""
    model, batch = linear_gaussian(), data()
    exact = torch.as_tensor(evidence(model, batch))
    log_w = pvae.log_weights(model, batch, 20_000).log_w.detach()
    bound, error = log_w.mean(0), log_w.std(0) / math.sqrt(len(log_w))
    assert (bound + 4.5 * error < exact).all()
    groups = pvae.weights.log_mean_exp(log_w.unflatten(0, (-1, 50)), 1)
    tighter, its_error = groups.mean(0), groups.std(0) / math.sqrt(len(groups))
    assert (tighter - 4.5 * its_error > bound).all() and (tighter < exact + 4.5 * its_error).all()


def test_what_stands_beyond_the_end_of_a_sequence_is_not_seen() -> None:
    model, batch = linear_gaussian(), data()
    going = (torch.arange(TIME) < batch.lengths[:, None])[..., None]
    other = batch.replace(x=torch.where(going, batch.x, -7.0))
    tables = []
    for each in (batch, other):
        torch.manual_seed(1)
        tables.append(pvae.log_weights(model, each, 4).log_w)
    assert torch.equal(*tables)


def test_the_guide_reads_backwards() -> None:
    """What is known of the data at t depends on x from t on, and on nothing before or beyond the end."""
    model, batch = linear_gaussian(), data()
    x = batch.x.clone().requires_grad_()
    for t, future in enumerate(model.read(x, batch.lengths)):
        (seen,) = torch.autograd.grad(future.square().sum(), x, retain_graph=True)
        depends = (seen.abs().sum(2) > 0).tolist()
        assert depends == [[t <= s < int(n) for s in range(TIME)] for n in batch.lengths]


def test_groups_are_found_through_the_chain() -> None:
    groups = find_groups(linear_gaussian(), [data()])
    of = {name: {each.split(".")[0] for each in getattr(groups, name)} for name in ("theta", "phi", "both", "neither")}
    assert of["theta"] == {"start", "transition", "emission", "log_noise"}
    assert of["phi"] == {"guide_start", "backwards", "combiner"} and not of["both"]


def test_the_gradient_at_the_exact_guide_is_that_of_the_kalman_evidence() -> None:
    """Fisher's identity for the drift, in which log p(x, z) is quadratic: its gradient is linear in z, so that the
    mean over the posterior is its value at the posterior's mean. Against central differences.
    """
    model, batch = linear_gaussian(), data()
    exact, z = ExactGuide(model, batch), {}
    for t in range(TIME):
        known = [steps[min(t, len(steps) - 1)] for steps in exact.steps]
        before = [z[f"z{t - 1}"][n].numpy() if t else model.start.detach().numpy() for n in range(batch.size)]
        means = [matrix @ last + vector for (_, matrix, vector), last in zip(known, before, strict=True)]
        z[f"z{t}"] = torch.as_tensor(np.stack(means))
    joint = poutine.trace(poutine.condition(model.model, data=z)).get_trace(batch.x, batch.lengths)
    bias = model.transition.linear.bias
    (found,) = torch.autograd.grad(joint.log_prob_sum(), bias)
    for place in range(LATENT):
        values = []
        for step in (1e-4, -2e-4):
            with torch.no_grad():
                bias[place] += step
            values.append(evidence(model, batch).sum())
        with torch.no_grad():
            bias[place] += 1e-4
        assert float(found[place]) == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-6)


def test_training_the_guide_closes_most_of_the_gap_and_passes_nothing() -> None:
    model, batch = linear_gaussian(), data()
    exact = evidence(model, batch).mean()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("backwards", "combiner", "guide_start")))
    splits = pvae.load_data(dict(batch.items()), validation=0, test=0)
    before = pvae.evaluate.elbo(model, batch, particles=500).value
    options = {"precision": "float64", "schedule": "cosineannealing:T_max=80", "step": "eager", "progress": False}
    pvae.fit(model, splits, epochs=80, batch_size=3, learning_rate=0.05, objective="elbo:particles=10", **options)
    after = pvae.evaluate.elbo(model, batch, particles=2000).value
    assert exact - 0.25 * (exact - before) < after < exact


def test_the_running_lights_are_what_they_say() -> None:
    """One lamp is lit, and the next one is its neighbour on the same side all along; nothing after the end."""
    x, lengths = running_lights(50, time=7, lamps=5, noise=0.0, seed=1)
    going = torch.arange(7) < lengths[:, None]
    assert torch.equal(x.sum(2), going.float()) and (lengths >= 3).all() and (lengths <= 7).all()
    place = x.argmax(2)
    ways = ((place[:, 1:] - place[:, :-1]) % 5)[going[:, 1:]]
    assert set(ways.tolist()) == {1, 4}
    turned = [len(set(((p[1:n] - p[: n - 1]) % 5).tolist())) for p, n in zip(place, lengths.tolist(), strict=True)]
    assert set(turned) == {1}
    assert 0.02 < float((running_lights(500)[0].sum(2) - 1).abs().mean()) < 0.9
