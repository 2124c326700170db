"""Latents that all data share, beside local ones: the N/B scale, exact posteriors of weights, and what is refused."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import normal_log_prob
from forcing import Forced
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal

import pvae
from pvae.objectives import adapt, make_objective
from pvae.programs.binding import bind
from pvae.train.computation import Computation
from pvae.train.parameters import Parameters

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "examples"))

from bayesian_decoder import BayesianDecoder

N = 5

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


class Held(nn.Module):
    """A latent model whose guide draws with given noise; z's by the data of the batch."""

    def __init__(self, inner, noise: dict[str, Tensor]) -> None:
        super().__init__()
        self.inner, self.noise = inner, noise

    def model(self, x, index):
        return self.inner.model(x)

    def guide(self, x, index):
        noise = {name: each if name != "z" else each[index] for name, each in self.noise.items()}
        with Forced(noise=noise):
            return self.inner.guide(x)


def decoder() -> BayesianDecoder:
    return BayesianDecoder((4,), data_size=N, latent=2, hidden=3, start=0.5).double()


def data() -> pvae.Batch:
    x = torch.rand(N, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).round()
    return pvae.Batch(x=x, index=torch.arange(N))


def elbo_by_hand(model: BayesianDecoder, x: Tensor, noise: dict[str, Tensor]) -> Tensor:
    """The ELBO of all data at given noise, without Pyro."""
    total, weights = x.new_zeros(()), []
    for layer, (loc, log_scale) in enumerate(zip(model.loc, model.log_scale, strict=True)):
        w = loc + log_scale.exp() * noise[f"w{layer}"]
        prior = Normal(torch.zeros_like(w), w.shape[0] ** -0.5)
        total = total + (prior.log_prob(w) - Normal(loc, log_scale.exp()).log_prob(w)).sum()
        weights.append(w)
    loc, raw = model.encoder(x).chunk(2, -1)
    q = Normal(loc, nn.functional.softplus(raw))
    z = q.loc + q.scale * noise["z"]
    hidden = torch.tanh(z @ weights[0][:-1] + weights[0][-1])
    logits = hidden @ weights[1][:-1] + weights[1][-1]
    return total + Bernoulli(logits=logits).log_prob(x).sum() + (Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)).sum()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_mean_over_all_batches_is_the_full_elbo_and_its_gradient(size: int) -> None:
    """What the trainer computes for each of the C(N, B) batches, in its own unit: the full ELBO over N."""
    model, batch = decoder(), data()
    noise = {"z": torch.randn(N, 2).double(), "w0": torch.randn(3, 3).double(), "w1": torch.randn(4, 4).double()}
    held = Held(model, noise)
    programs = bind(held, batch)
    computation = Computation(programs, adapt(Trace_ELBO), Parameters(held, programs, adapt(Trace_ELBO), batch))
    found = []
    for rows in itertools.combinations(range(N), size):
        arguments = programs.arguments(batch.take(list(rows)))
        assert computation.terms(arguments, "all")[1] == N
        found.append(computation(arguments, "all")[1])
    exact = elbo_by_hand(model, batch.x, noise) / N
    gradients = torch.autograd.grad(exact, computation.parameters.of("all"))
    for each, expected in zip(zip(*found, strict=True), (exact.detach(), *gradients), strict=True):
        torch.testing.assert_close(-torch.stack(each).mean(0), expected, rtol=1e-10, atol=1e-12)
    assert max(float((each[0] - found[0][0]).abs()) for each in found) > 0.1


def test_a_training_of_batches_takes_the_steps_of_the_scaled_elbo() -> None:
    """Data all alike, so that any batch is: two steps of SGD by `fit` are two written by hand."""
    model = decoder()
    x = torch.tensor([[1.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    noise = {"z": torch.full((6, 2), 0.3).double(), "w0": torch.ones(3, 3).double(), "w1": -torch.ones(4, 4).double()}
    held = Held(model, noise)
    model.data_size = 6
    splits = pvae.load_data({"x": x.expand(6, -1).numpy()}, validation=0, test=0, binarise="none")
    expected = {name: each.detach().clone() for name, each in model.named_parameters()}
    for _ in range(2):
        twin = decoder()
        twin.load_state_dict(expected)
        gradients = torch.autograd.grad(elbo_by_hand(twin, x.expand(6, -1), noise) / 6, list(twin.parameters()))
        expected = {
            name: (each + 0.1 * gradient).detach()
            for (name, each), gradient in zip(twin.named_parameters(), gradients, strict=True)
        }
    with_index = splits.map_parts(lambda _, batch: batch.replace(index=torch.arange(batch.size)))
    options = {"optimiser": "sgd", "learning_rate": 0.1, "precision": "float64", "progress": False}
    pvae.fit(held, with_index, objective=Trace_ELBO, epochs=1, batch_size=3, **options)
    for name, each in model.named_parameters():
        torch.testing.assert_close(each.detach(), expected[name], rtol=1e-10, atol=1e-12)


# ---- a linear-Gaussian decoder, solved in closed form

DESIGN = np.array([[1.0, 1.0], [1.0, -1.0], [2.0, 1.0], [-1.0, 2.0], [0.5, 0.0], [0.0, 0.5], [1.5, 1.5], [1.5, -1.5]])
NOISE = 0.5
TARGET = np.array([0.9, -1.1, 1.4, -2.5, 0.2, -0.9, 0.1, 2.2])


class Regression(pvae.LatentModel):
    """w ~ N(0, I) for all data, z_n ~ N(0, 1), x_n ~ N(c_n w + z_n, NOISE): a decoder whose every density is known.

    The guide is exact at the posterior of w where `follows`, so that q(z_n) knows w; the columns of c are orthogonal.
    """

    def __init__(self, data_size: int | None = None, follows: bool = True) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.data_size, self.follows = data_size, follows

    def plate(self, x: Tensor):
        if self.data_size is None:
            return pyro.plate("data", len(x))
        return pyro.plate("data", self.data_size, subsample=torch.arange(len(x)))

    def model(self, x, c):
        w = pyro.sample("w", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            return pyro.sample("x", dist.Normal((c * w).sum(-1) + z, NOISE), obs=x)

    def guide(self, x, c):
        w = pyro.sample("w", dist.Normal(self.loc, self.log_scale.exp()).to_event(1))
        with self.plate(x):
            rest = x - (c * (w if self.follows else self.loc)).sum(-1)
            pyro.sample("z", dist.Normal(rest / (1 + NOISE**2), NOISE / math.sqrt(1 + NOISE**2)))


def regression_data(dtype=torch.float64) -> pvae.Batch:
    return pvae.Batch(x=torch.as_tensor(TARGET, dtype=dtype), c=torch.as_tensor(DESIGN, dtype=dtype))


def posterior_of_weights() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of p(w given all data), z integrated out."""
    covariance = np.linalg.inv(np.eye(2) + DESIGN.T @ DESIGN / (1 + NOISE**2))
    return covariance @ DESIGN.T @ TARGET / (1 + NOISE**2), covariance


def evidence() -> float:
    """log p of all data together, nats."""
    return normal_log_prob(TARGET, np.zeros(8), DESIGN @ DESIGN.T + (1 + NOISE**2) * np.eye(8))


def at_posterior(model: Regression) -> Regression:
    mean, covariance = posterior_of_weights()
    assert abs(covariance[0, 1]) < 1e-15
    with torch.no_grad():
        model.loc.copy_(torch.as_tensor(mean))
        model.log_scale.copy_(torch.as_tensor(0.5 * np.log(np.diag(covariance))))
    return model


@pytest.mark.parametrize("particles", [1, 3])
def test_an_exact_guide_gives_the_joint_evidence_at_every_draw(particles: int) -> None:
    model, batch = at_posterior(Regression()), regression_data()
    for objective in (Trace_ELBO, TraceMeanField_ELBO):
        loss = objective(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1)
        found = adapt(loss).loss(model.model, model.guide, batch.x, batch.c)
        if objective is Trace_ELBO:
            assert found == pytest.approx(-evidence(), rel=1e-12)


@pytest.mark.parametrize("data_size", [None, 8, 80])
def test_the_evaluated_elbo_is_that_of_all_data_over_n(data_size: int | None) -> None:
    """In one pass, and in passes over some data and some particles; N is the plate's, or that of the data here."""
    model, batch = at_posterior(Regression(data_size)), regression_data()
    found = pvae.evaluate.elbo(model, batch, particles=3)
    assert found.count == 8
    if data_size != 80:
        assert found.value == pytest.approx(evidence() / 8, rel=1e-12)
    w = model.loc + 0.7 * model.log_scale.exp()
    shared = Normal(0.0, 1.0).log_prob(w) - Normal(model.loc, model.log_scale.exp()).log_prob(w)
    mean, scale = (batch.x - batch.c @ w) / (1 + NOISE**2), NOISE / math.sqrt(1 + NOISE**2)
    z = mean - 0.3 * scale
    local = Normal(batch.c @ w + z, NOISE).log_prob(batch.x)
    local = local + Normal(0.0, 1.0).log_prob(z) - Normal(mean, scale).log_prob(z)
    expected = (local + shared.sum() / (data_size or 8)).detach()
    with Forced(noise={"w": torch.tensor(0.7), "z": torch.tensor(-0.3)}):
        for chunk in (100, 6, 3):
            found = pvae.evaluate.elbo(model, batch, particles=5, chunk=chunk)
            torch.testing.assert_close(found.pointwise, expected, rtol=1e-7, atol=1e-7)


def test_a_guide_that_falls_short_does_so_by_its_divergence() -> None:
    """q(z) that does not follow w: the ELBO by the closed form of the divergence.

    The ELBO is quadratic in the ten draws of noise, so that the mean over these twenty points is exact.
    """
    model, batch = at_posterior(Regression(8, follows=False)), regression_data()
    covariance = posterior_of_weights()[1]
    gain, variance = 1 / (1 + NOISE**2), NOISE**2 / (1 + NOISE**2)
    # KL of q(z given x) to p(z given x, w), whose mean moves with w, in the mean of q(w) = p(w given x)
    shift = np.einsum("ni,ij,nj->n", DESIGN, covariance, DESIGN) * gain**2
    expected = evidence() - 0.5 * (shift / variance).sum()
    points = math.sqrt(10) * torch.cat([torch.eye(10), -torch.eye(10)]).double()
    objective = adapt(Trace_ELBO(num_particles=20, vectorize_particles=True))
    objective.loss(model.model, model.guide, batch.x, batch.c)  # how particles run is settled at free draws
    pvae.evaluate.elbo(model, batch, particles=20)
    with Forced(noise={"w": points[:, None, :2], "z": points[:, 2:]}):
        loss = objective.loss(model.model, model.guide, batch.x, batch.c)
        found = pvae.evaluate.elbo(model, batch, particles=20)
    assert -loss == pytest.approx(expected, rel=1e-10)
    assert found.value == pytest.approx(expected / 8, rel=1e-10)
    assert evidence() - expected > 3


def test_training_on_batches_finds_the_posterior_of_the_weights() -> None:
    """With the scale N / B; without it the standard deviations would be those of half the data, 1.4 times as wide."""
    model = Regression(data_size=8)
    splits = pvae.load_data(dict(regression_data().items()), validation=0, test=0, binarise="none")
    options = {"schedule": "cosineannealing:T_max=120", "precision": "float64", "progress": False}
    pvae.fit(model, splits, objective=TraceMeanField_ELBO, epochs=120, batch_size=4, learning_rate=0.06, **options)
    mean, covariance = posterior_of_weights()
    np.testing.assert_allclose(model.loc.detach(), mean, atol=0.08)
    np.testing.assert_allclose(model.log_scale.exp().detach(), np.sqrt(np.diag(covariance)), rtol=0.15)


# ---- what is refused, and what is told


@pytest.mark.parametrize(
    "name", ["iwae", "dreg:particles=3", "renyi:alpha=0.5", "vimco:particles=3", "rws", "tvo", "free-bits"]
)
def test_objectives_that_need_weights_per_datum_refuse_by_name(name: str) -> None:
    model = decoder()
    findings = pvae.check(model, data(), name)
    with pytest.raises(pvae.InputError, match="site 'w0' is outside the data plate 'data'") as caught:
        findings.require()
    assert "train and evaluate by 'elbo'" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(pvae.InputError, match="'w0'"):
        make_objective(name)().loss(model.model, model.guide, data().x)


@pytest.mark.parametrize("ask", [pvae.evaluate.judge, pvae.evaluate.diagnose])
def test_evaluations_that_need_weights_per_datum_refuse_by_name(ask) -> None:
    with pytest.raises(pvae.InputError, match="site 'w0' is outside") as caught:
        ask(decoder(), data(), particles=3)
    assert "evaluate by 'elbo'" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("chunk", [100, 20, 3])
def test_the_log_evidence_is_that_of_all_data_over_n(chunk: int) -> None:
    """At a guide that is too wide by a factor of 1.5, whose weights differ: by the same draws, written out."""
    model, batch = at_posterior(Regression(8)), regression_data()
    exact = pvae.evaluate.log_evidence(model, batch, particles=30, chunk=chunk)
    assert (exact.value, exact.count) == (pytest.approx(evidence() / 8, rel=1e-12), 8)
    model.log_scale.data += math.log(1.5)
    bounds = pvae.evaluate.importance_bounds(model, batch, (1, 2000), chunk=chunk * 100)
    elbo = pvae.evaluate.elbo(model, batch, 2000, chunk=chunk * 100)
    assert bounds[1].value == pytest.approx(elbo.value, abs=0.02)
    assert bounds[1].value < bounds[2000].value
    assert bounds[2000].value == pytest.approx(evidence() / 8, abs=0.02)


def test_the_log_evidence_of_a_part_of_the_data_is_refused() -> None:
    with pytest.raises(pvae.InputError, match="All data share site 'w', so a weight needs all 80 data"):
        pvae.evaluate.log_evidence(Regression(80), regression_data(), particles=3)


def test_a_shared_latent_under_a_plate_of_the_batch_is_told() -> None:
    told = pvae.check(Regression(), regression_data(), "elbo")
    assert [(each.kind, each.subject, each.fatal) for each in told] == [("shared latent", "w", False)]
    assert not pvae.check(Regression(20), regression_data(), "elbo")


def test_a_plate_of_pixels_is_not_taken_for_that_of_the_data() -> None:
    """Entered first, so outermost, it holds the observed site as the data's plate does; z is in the latter alone."""

    def model(x):
        data, pixels = pyro.plate("data", len(x), dim=-2), pyro.plate("pixels", 4, dim=-1)
        with data:
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        with pixels, data:
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x.sum(1, keepdim=True) / 5, 0.2**0.5))

    x = torch.randn(6, 4, dtype=torch.float64)
    exact = [normal_log_prob(each, np.zeros(4), np.ones((4, 4)) + np.eye(4)) for each in x.numpy()]
    found = pvae.evaluate.elbo(pvae.pair(model, guide), x, particles=2)
    np.testing.assert_allclose(found.pointwise, exact, rtol=1e-10)
    kinds = [each.kind for each in pvae.check(pvae.pair(model, guide), pvae.Batch(x=x), "elbo")]
    assert "shared latent" not in kinds


def test_particles_of_the_example_share_one_run() -> None:
    """A draw of the weights for each particle: one run for all is the same as one for each."""
    model, batch = decoder(), data()
    noise = {
        "z": torch.randn(3, N, 2).double(),
        "w0": torch.randn(3, 1, 3, 3).double(),
        "w1": torch.randn(3, 1, 4, 4).double(),
    }
    objective = adapt(Trace_ELBO(num_particles=3, vectorize_particles=True))
    objective.loss(model.model, model.guide, batch.x)  # how particles run is settled at free draws, without a warning
    with Forced(noise=noise):
        together = objective.loss(model.model, model.guide, batch.x)
    single = [
        elbo_by_hand(model, batch.x, {"z": noise["z"][each], "w0": noise["w0"][each, 0], "w1": noise["w1"][each, 0]})
        for each in range(3)
    ]
    assert together == pytest.approx(-float(torch.stack(single).mean().detach()), rel=1e-12)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("point", "'w' is a Delta"),
        ("auxiliary", "'a' is in one program only"),
        ("prior", "'k' is neither observed nor in the guide"),
    ],
)
def test_what_bounds_nothing_is_no_elbo(family: str, message: str) -> None:
    """A point leaves log q out, an auxiliary site its entropy in, and a site of the model alone its log p."""
    x = torch.randn(4, 1, dtype=torch.float64)

    def model(x):
        w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            if family == "prior":
                pyro.sample("k", dist.Categorical(x.new_ones(10)))
            pyro.sample("x", dist.Normal(w, 1.0).expand([len(x), 1]).to_event(1), obs=x)

    def guide(x):
        if family == "auxiliary":
            pyro.sample("a", dist.Normal(x.new_zeros(()), 100.0), infer={"is_auxiliary": True})
        mean = x.sum() / (len(x) + 1)
        pyro.sample("w", dist.Delta(mean) if family == "point" else dist.Normal(mean, (len(x) + 1) ** -0.5))

    with pytest.raises(pvae.InputError, match=message):
        pvae.evaluate.elbo(pvae.pair(model, guide), x, particles=1)
