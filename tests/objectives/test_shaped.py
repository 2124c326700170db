"""Objectives that weigh reconstruction against the KL: exact on models whose answer is known in closed form."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exact
import models
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import stepping
import torch
from forcing import DOUBLE, Forced, exhaustive, sigma_points
from pyro.infer import SVI, Trace_ELBO
from stats import assert_close_in_sigmas, mean_and_error
from torch import Tensor, nn

import pvae
from pvae import InputError
from pvae.objectives import (
    WAE,
    Beta,
    Capacity,
    Constrained,
    FreeBits,
    InfoMMD,
    LogVariance,
    Schedule,
    TotalCorrelation,
    VarianceRegularised,
    adapt,
    make_objective,
    mmd,
)
from pvae.train.checkpoint import read

KNOWN, DISCRETE = exact.LinearGaussian(), exact.Discrete()
OTHER = np.array([[-0.4, 0.9, 0.0], [0.3, -0.2, 0.6], [0.1, 0.7, -1.0], [0.5, 0.0, 0.2]])

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def seeded(run: Callable[[], Any]) -> Any:
    torch.manual_seed(11)
    return run()


def terms_of(objective: Any, model: Any, x: Tensor) -> Any:
    return seeded(lambda: objective.terms(model.model, model.guide, (x,), {}, objective.players[0]))


def assert_is(objective: Any, by_hand: Callable[[pvae.LogWeights], Tensor], model: Any, x: Tensor) -> None:
    """Value and gradient equal those of a formula of the weights on the same draws."""
    found = terms_of(objective, model, x)
    value = seeded(lambda: by_hand(pvae.log_weights(model, {"x": x}, objective.particles)))
    assert -found.loss.item() == pytest.approx(value.sum().item(), rel=1e-11)
    ours = torch.autograd.grad(-found.surrogate, list(model.parameters()), allow_unused=True)
    theirs = torch.autograd.grad(value.sum(), list(model.parameters()), allow_unused=True)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine is None) == (other is None)
        if other is not None:
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-10)


# ---- beta and its schedules


@pytest.mark.parametrize("make", [exact.LinearGaussianModel, exact.TwoLayerModel])
@pytest.mark.parametrize("beta", [0.0, 0.5, 4.0])
def test_beta_is_its_formula_on_the_same_draws(make: Any, beta: float) -> None:
    def by_hand(weights: pvae.LogWeights) -> Tensor:
        prior = sum(weights.log_prior_by_site().values())
        return (weights.log_joint - prior - beta * (weights.log_guide - prior)).mean(0)

    x = torch.randn(5, 3, dtype=DOUBLE)
    assert_is(Beta(beta, 3), by_hand, make(), x)


def test_at_one_it_is_pyros_elbo_and_at_any_beta_it_reports_it() -> None:
    model, x = exact.TwoLayerModel(), torch.randn(5, 3, dtype=DOUBLE)
    theirs = terms_of(adapt(Trace_ELBO()), model, x)
    expected = torch.autograd.grad(theirs.surrogate, list(model.parameters()))
    ours = terms_of(Beta(1.0), model, x)
    assert ours.loss.item() == pytest.approx(theirs.loss.item(), rel=1e-12)
    for mine, other in zip(torch.autograd.grad(ours.surrogate, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)
    for objective in (Beta(7.0), Capacity(), Constrained(2.0, on="kl"), FreeBits()):
        assert -terms_of(objective, model, x).named["elbo"].item() == pytest.approx(theirs.loss.item(), rel=1e-12)


@pytest.mark.parametrize("logits", [exact.C_LOGITS, OTHER], ids=["given", "other"])
def test_tilted_gradients_are_exact_where_the_guide_cannot_be_reparameterised(logits: np.ndarray) -> None:
    known = exact.Discrete(logits)
    log_prior, guide = np.log(exact.C_PRIOR), known.guide[0]
    likelihood, kl = known.log_joint[0] - log_prior, known.log_guide[0] - log_prior
    slope = {  # of a mean under a softmax; what the logarithm of q adds has mean zero
        "likelihood": guide * (likelihood - guide @ likelihood),
        "kl": guide * (kl - guide @ kl),
    }
    for objective, a, b in (
        (Beta(4.0, 1), 1.0, 4.0),
        (Beta(0.5, 3), 1.0, 0.5),
        (Constrained(-1.0, multiplier=2.5, particles=2), 2.5, 1.0),
        (Constrained(0.1, on="kl", multiplier=2.5, particles=2), 1.0, 2.5),
    ):
        value, gradient, _ = exhaustive(objective.eval(), logits=logits)
        constant = {"kl": 0.1 * b, "log_likelihood": a}.get(getattr(objective, "on", ""), 0.0)
        assert value == pytest.approx(guide @ (a * likelihood - b * kl) + constant, abs=1e-10)
        np.testing.assert_allclose(gradient, a * slope["likelihood"] - b * slope["kl"], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("beta", "golden"), [(1.0, 1.578427), (4.0, None)])
def test_a_single_score_is_weighed_by_the_tilted_number_and_carries_no_further_noise(
    beta: float, golden: float | None
) -> None:
    guide, log_prior = DISCRETE.guide[0], np.log(exact.C_PRIOR)
    signal = DISCRETE.log_joint[0] - log_prior - beta * (DISCRETE.log_guide[0] - log_prior)
    scores = (np.eye(3) - guide) * signal[:, None]
    mean = guide @ scores
    exactly = guide @ ((scores - mean) ** 2).sum(1)
    _, gradient, variance = exhaustive(Beta(beta, gradients={"z": "score"}))
    np.testing.assert_allclose(gradient, mean, rtol=0, atol=1e-12)
    assert variance == pytest.approx(exactly, rel=1e-10)
    assert golden is None or variance == pytest.approx(golden, abs=1e-6)


def test_schedules_at_every_step() -> None:
    def values(schedule: Schedule) -> list[float]:
        return [float(schedule.at(torch.tensor(step), torch.zeros((), dtype=DOUBLE))) for step in range(13)]

    assert values(Schedule("constant", end=3.0)) == [3.0] * 13
    assert values(Schedule("linear", 1.0, 3.0, 8)) == pytest.approx([1 + min(step / 4, 2) for step in range(13)])
    cycle = [0.0, 1.0, 2.0, 2.0]  # rises over two of four steps
    assert values(Schedule("cyclical", 0.0, 2.0, 12, 3)) == pytest.approx([*cycle * 3, 2.0])
    cycle = [1.0, 1.75, 2.5, 3.25, 4.0, 4.0]
    assert values(Schedule("cyclical", 1.0, 4.0, 12, 2, 2 / 3)) == pytest.approx([*cycle * 2, 4.0])


def test_a_schedule_moves_with_steps_of_training_alone() -> None:
    model, x = exact.LinearGaussianModel(), torch.randn(4, 3, dtype=DOUBLE)
    objective = Beta(2.0, schedule="linear", warm_up=4)
    found = []
    for _ in range(6):
        objective.loss(model.model, model.guide, x)
        found.append(terms_of(objective, model, x).named["beta"].item() / 4)
    assert found == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0, 2.0])
    assert int(objective.steps) == 6


SPECTRUM = np.array([4.0, 2.0, 1.0])


class Linear(pvae.LatentModel):
    """A linear VAE with fixed noise. Under `exact_draws`, every expectation of a step is exact."""

    def __init__(self, variance: float = 0.25) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.weight = nn.Parameter(torch.randn(3, 3, generator=generator, dtype=DOUBLE))
        self.encoder = nn.Parameter(0.1 * torch.randn(3, 3, generator=generator, dtype=DOUBLE))
        self.log_scale = nn.Parameter(torch.zeros(3, dtype=DOUBLE))
        self.noise = math.sqrt(variance)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).expand([len(x), 3]).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T, self.noise).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = x @ self.encoder.T
            pyro.sample("z", dist.Normal(loc, self.log_scale.exp().expand_as(loc)).to_event(1))


def exact_data(spectrum: np.ndarray = SPECTRUM) -> Tensor:
    """Six data whose second moments are a rotation of the spectrum."""
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    points = np.sqrt(3 * spectrum)[:, None] * rotation.T
    return torch.tensor(np.concatenate([points, -points]))


def exact_draws(x: Tensor) -> Forced:
    """Let the six particles of `Linear` have exact moments: its losses then have no noise."""
    return Forced(noise={"z": sigma_points(3, len(x))})


def settled(model: Linear, objective: Any, x: Tensor) -> Linear:
    """The model at an optimum: each loss is exact, so that a line search can be trusted."""
    optimiser = torch.optim.LBFGS(
        model.parameters(), max_iter=300, tolerance_grad=1e-9, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        surrogate = objective.terms(model.model, model.guide, (x,), {}, "all").surrogate / len(x)
        surrogate.backward()
        return surrogate

    with exact_draws(x):
        optimiser.step(loss)
    return model


def trained(model: Linear, objective: Any, x: Tensor, steps: int, rate: float) -> Linear:
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        with exact_draws(x):
            surrogate = objective.terms(model.model, model.guide, (x,), {}, "all").surrogate
        (surrogate / len(x)).backward()
        optimiser.step()
        schedule.step()
    return model


def column_norms(model: Linear) -> np.ndarray:
    """Squared singular values of the decoder, largest first."""
    return np.linalg.svd(model.weight.detach().numpy(), compute_uv=False) ** 2


def test_draws_of_the_linear_model_have_exact_moments() -> None:
    model, x = Linear(), exact_data()
    with exact_draws(x):
        found = terms_of(Beta(1.0, 6), model, x)
    known = exact.LinearGaussian(model.weight.detach().numpy(), np.zeros(3), 0.25)
    means, variance = (x @ model.encoder.T).detach().numpy(), (2 * model.log_scale).exp().detach().numpy()
    exactly = sum(known.elbo(mean, variance, each) for mean, each in zip(means, x.numpy(), strict=True))
    assert -found.loss.item() == pytest.approx(exactly, rel=1e-10)


@pytest.mark.parametrize(("beta", "variance"), [(1.0, 0.25), (4.0, 0.25), (10.0, 0.25), (2.0, 0.8)])
def test_a_unit_collapses_exactly_where_beta_times_the_noise_exceeds_its_eigenvalue(
    beta: float, variance: float
) -> None:
    norms = column_norms(settled(Linear(variance), Beta(beta, 6), exact_data()))
    optimum = np.maximum(SPECTRUM - beta * variance, 0.0)
    # at equality a unit dies slower than any power, so it is only small
    np.testing.assert_allclose(norms, optimum, atol=0.02 if (beta * variance == SPECTRUM).any() else 2e-3)


# ---- capacity


def kl_of_gaussians(mean: Tensor, variance: Tensor) -> Tensor:
    return 0.5 * (mean**2 + variance - 1 - variance.log())


def test_capacity_is_its_formula_on_both_sides_and_grows() -> None:
    x = torch.tensor(np.array([exact.A_X, [0.0, 1.0, 0.3]]))
    for capacity, at in ((0.0, 0.0), (8.0, 6.0)):
        objective = Capacity(capacity, gamma=20.0, steps=4, particles=2)
        objective.steps.fill_(3)
        model = exact.LinearGaussianModel()

        def by_hand(weights: pvae.LogWeights, model: Any = model, at: float = at) -> Tensor:
            kl = kl_of_gaussians(model.q_loc, (2 * model.q_log_scale).exp()).sum()
            return weights.log_likelihood().mean(0) - 20.0 * (kl - at).abs()

        assert_is(objective, by_hand, model, x)
        assert int(objective.steps) == 4
        assert terms_of(objective, model, x).named["capacity"].item() == pytest.approx(2 * capacity)


def test_training_ends_at_the_capacity() -> None:
    x = exact_data()
    for capacity in (0.7, 2.5):
        model = trained(Linear(), Capacity(capacity, 20.0, 50, 6), x, 250, 0.03)
        kl = kl_of_gaussians(x @ model.encoder.T, (2 * model.log_scale).exp()).sum(-1).mean()
        assert kl.item() == pytest.approx(capacity, abs=0.01)


# ---- constrained


@pytest.mark.parametrize("beta", [6.0, 2.0])
def test_the_multiplier_of_a_reachable_target_is_the_beta_that_reaches_it(beta: float) -> None:
    """The linear beta-VAE's optimum in closed form gives the target; GECO has to find its beta."""
    x, live = exact_data(), np.maximum(SPECTRUM - beta * 0.25, 0.0)
    # at the optimum each unit's posterior is that of the likelihood to the power 1 / beta
    spread = beta * 0.25 / (live + beta * 0.25)
    error = SPECTRUM * (1 - live / (live + beta * 0.25)) ** 2 + live * spread
    likelihood = -0.5 * (error / 0.25 + np.log(2 * np.pi * 0.25)).sum()
    mean_square = SPECTRUM * live / (live + beta * 0.25) ** 2
    kl = 0.5 * (mean_square + spread - 1 - np.log(spread)).sum()
    optimum = settled(Linear(), Beta(beta, 6), x)
    for target, on, multiplier in ((likelihood, "log_likelihood", 1 / beta), (kl, "kl", beta)):
        here = Constrained(float(target), on, rate=0.05, decay=0.0, multiplier=multiplier, particles=6)
        with exact_draws(x):
            surrogate = terms_of(here, optimum, x).surrogate / len(x)
        slopes = torch.autograd.grad(surrogate, list(optimum.parameters()))
        assert max(each.abs().max().item() for each in slopes) < 1e-4
        assert abs(here.violation.item()) < 1e-4
        off = Constrained(float(target), on, rate=0.05, decay=0.0, multiplier=0.8 * multiplier, particles=6)
        trained(copy.deepcopy(optimum), off, x, 200, 0.02)
        assert off.log_multiplier.exp().item() == pytest.approx(multiplier, rel=0.02)


def test_the_multiplier_moves_as_written() -> None:
    model, x = exact.LinearGaussianModel(), torch.tensor(exact.A_X).expand(3, 3)
    objective = Constrained(-2.0, rate=0.3, decay=0.9, largest=2.0)
    log_multiplier, average = 0.0, None
    for step in range(6):
        found = terms_of(objective, model, x)
        likelihood, kl = (found.named[name].item() / 3 for name in ("log_likelihood", "kl"))
        factor = math.exp(log_multiplier)
        assert found.named["multiplier"].item() / 3 == pytest.approx(factor, rel=1e-12)
        assert found.loss.item() / 3 == pytest.approx(kl + factor * (-2.0 - likelihood), rel=1e-11)
        now = -2.0 - likelihood
        average = now if average is None else 0.9 * average + 0.1 * now
        log_multiplier = min(log_multiplier + 0.3 * max(-1.0, min(1.0, average)), math.log(2.0))
        assert objective.violation.item() == pytest.approx(average, rel=1e-12), step
    assert int(objective.stuck) == 4


def test_a_target_that_cannot_be_met_is_said_once_and_recorded() -> None:
    model, x = exact.LinearGaussianModel(), torch.tensor(exact.A_X).expand(3, 3)
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 1e-4}), loss=Constrained(50.0, rate=1.0, largest=3.0))
    with pytest.warns(UserWarning, match="target 50 on the log-likelihood cannot be met") as caught:
        assert [svi.step(x) for _ in range(110)]
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert terms_of(svi.loss.__self__, model, x).named["stuck"].item() / 3 > 100
    reachable = Constrained(-50.0, rate=1.0, largest=3.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(110):
            reachable.loss_and_grads(model.model, model.guide, x)
    assert int(reachable.stuck) == 0 and reachable.diagnosis() == ""


def test_training_says_that_a_target_cannot_be_met() -> None:
    data = pvae.load_data(torch.rand(64, 6).round(), validation=0, test=0)
    spec = pvae.ModelSpec("vae", {"latent": 2, "hidden": (5,)})
    with pytest.warns(UserWarning, match="target 5 on the log-likelihood cannot be met"):
        run = pvae.fit(spec, data, objective="geco:target=5:rate=1:largest=2", epochs=60, batch_size=32, progress=False)
    assert run.history[-1]["stuck"] > 100 and run.history[-1]["multiplier"] == pytest.approx(2.0)


# ---- free bits


def free_by_hand(nats: float, groups: list[list[int]]) -> Callable[[pvae.LogWeights], Tensor]:
    def value(weights: pvae.LogWeights, model: Any) -> Tensor:
        kl = kl_of_gaussians(model.q_loc, (2 * model.q_log_scale).exp())
        kl = kl.expand(weights.log_w.shape[1], -1).mean(0)
        charged = sum(torch.clamp(kl[group].sum(), min=nats) for group in groups)
        return weights.log_likelihood().mean(0) - charged

    return value


@pytest.mark.parametrize(
    ("by", "groups"), [("unit", [[0], [1], [2], [3]]), ("site", [[0, 1, 2, 3]]), (2, [[0, 1], [2, 3]])], ids=str
)
@pytest.mark.parametrize("nats", [0.0, 0.2, 0.5])
def test_free_bits_charge_the_closed_form_above_the_threshold(by: Any, groups: Any, nats: float) -> None:
    known = exact.LinearGaussian(np.array([[1.0, 0.5, 0.2, 0.0], [0.0, 1.0, -0.3, 0.4], [-1.0, 0.3, 0.0, 1.0]]))
    loc, variance = np.array([0.8, -0.4, 0.0, 0.1]), np.array([0.3, 0.2, 0.9, 0.5])
    model = exact.LinearGaussianModel(loc, variance, known)
    formula = free_by_hand(nats, groups)
    assert_is(FreeBits(nats, by, 3), lambda weights: formula(weights, model), model, torch.randn(4, 3, dtype=DOUBLE))
    kl = 0.5 * (loc**2 + variance - 1 - np.log(variance))
    weights = pvae.log_weights(model, {"x": torch.randn(4, 3, dtype=DOUBLE)}, 3)
    charged = (weights.log_likelihood().mean(0) - FreeBits(nats, by, 3).surrogate(weights)).detach().numpy()
    np.testing.assert_allclose(charged, sum(max(nats, kl[group].sum()) for group in groups), rtol=1e-12)


def test_free_bits_of_a_guide_that_walks_upwards_take_the_sampled_kl() -> None:
    def by_hand(weights: pvae.LogWeights) -> Tensor:
        prior, guide = weights.log_prior_by_site(), weights.log_guide_by_site()
        sites = [(guide[name] - prior[name]).mean() for name in ("z1", "z2")]
        return weights.log_likelihood().mean(0) - sum(each.clamp(min=0.1) for each in sites)

    # z2's prior depends on nothing, so its KL is closed; the formula of draws is compared for z1 alone
    model, x = exact.TwoLayerModel(), torch.randn(4, 3, dtype=DOUBLE)
    weights = pvae.log_weights(model, {"x": x}, 20_000)
    mean, error = mean_and_error(
        (weights.log_guide_by_site()["z2"] - weights.log_prior_by_site()["z2"]).detach().mean(1).numpy()
    )
    both = (weights.log_likelihood().mean(0) - FreeBits(0.1, "site", 20_000).surrogate(weights)).detach().mean().item()
    sampled = weights.log_guide_by_site()["z1"] - weights.log_prior_by_site()["z1"]
    assert_close_in_sigmas(both - sampled.mean().item(), mean, error, effect=1.0, resolution=0.05)


def test_free_bits_of_a_density_that_does_not_factorise_take_it_whole() -> None:
    model = exact.LinearGaussianModel()
    cov = torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=DOUBLE)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(model.q_loc, cov))

    pair = pvae.pair(model.model, guide)
    weights = pvae.log_weights(pair, {"x": torch.randn(4, 3, dtype=DOUBLE)}, 5)
    likelihood = weights.log_likelihood()
    kl = (likelihood - weights.log_w).mean()
    for nats in (0.1, kl.item() + 1.0):
        expected = likelihood.mean(0) - kl.clamp(min=nats)
        torch.testing.assert_close(FreeBits(nats, "unit", 5).surrogate(weights), expected)


# ---- variance of the log weights


def variance_regularised(logits: np.ndarray, weight: float) -> np.ndarray:
    known = exact.Discrete(logits)
    variance = (known.guide * (known.log_w - known.elbo()[:, None]) ** 2).sum(1)
    return known.elbo() - weight * variance


def test_variance_regularised_is_exact_in_the_mean() -> None:
    variance = DISCRETE.elbo() - variance_regularised(exact.C_LOGITS, 1.0)
    np.testing.assert_allclose(variance, [0.997814, 0.116644, 0.294282, 0.207443], atol=1e-6)
    for logits, weight, particles in ((exact.C_LOGITS, 1.0, 2), (exact.C_LOGITS, 0.5, 4), (OTHER, 0.3, 3)):
        for x in range(4):
            value, *_ = exhaustive(VarianceRegularised(weight, particles), x, logits)
            assert value == pytest.approx(variance_regularised(logits, weight)[x], abs=1e-10)


def test_the_gradient_of_variance_regularised_has_its_score_function_part() -> None:
    """The variance's own part; then all of it, at other parameters, against finite differences."""
    with_variance, without = (exhaustive(VarianceRegularised(weight, 2))[1] for weight in (1.0, 0.0))
    np.testing.assert_allclose(without - with_variance, [-0.657473, 0.324143, 0.333330], atol=1e-6)
    for x, weight, particles in ((0, 0.3, 3), (2, 1.5, 2)):

        def value(step: np.ndarray, x: int = x, weight: float = weight) -> float:
            moved = OTHER.copy()
            moved[x] += step
            return float(variance_regularised(moved, weight)[x])

        exactly = [(value(step) - value(-step)) / 2e-5 for step in 1e-5 * np.eye(3)]
        _, gradient, _ = exhaustive(VarianceRegularised(weight, particles), x, OTHER)
        np.testing.assert_allclose(gradient, exactly, rtol=0, atol=1e-8)


def test_log_variance_has_the_elbos_gradient_and_the_leave_one_out_variance() -> None:
    for particles, golden in ((2, 0.6556), (3, 0.2706), (4, 0.1613)):
        value, gradient, variance = exhaustive(LogVariance(particles))
        np.testing.assert_allclose(gradient, DISCRETE.elbo_gradient()[0], rtol=0, atol=1e-12)
        assert value == pytest.approx(-1.359795, abs=1e-6)
        assert variance == pytest.approx(golden, abs=5e-5)
    for x in range(4):
        _, gradient, _ = exhaustive(LogVariance(3), x, OTHER)
        np.testing.assert_allclose(gradient, exact.Discrete(OTHER).elbo_gradient()[x], rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [exact.LinearGaussianModel, exact.TwoLayerModel])
def test_log_variance_is_leave_one_out_where_draws_could_be_reparameterised(make: Any) -> None:
    model, x = make(), torch.randn(5, 3, dtype=DOUBLE)
    terms = terms_of(LogVariance(4), model, x)
    weights = seeded(lambda: pvae.log_weights(model, {"x": x}, 4))
    log_w = weights.log_w.detach()
    signal = log_w - (log_w.sum(0) - log_w) / 3
    by_phi = torch.autograd.grad(
        (signal * weights.log_guide_at_fixed_z()).mean(0).sum(), model.phi(), retain_graph=True
    )
    by_theta = torch.autograd.grad(weights.log_joint.mean(0).sum(), model.theta())
    for group, expected in ((model.phi(), by_phi), (model.theta(), by_theta)):
        for mine, other in zip(torch.autograd.grad(-terms.surrogate, group, retain_graph=True), expected, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-10)


def test_the_gradient_of_the_variance_under_a_fixed_law_is_that_of_the_kl() -> None:
    """Half the gradient of Var_r[log w] at r = q is the gradient of KL(q to the posterior)."""
    log_joint, guide = torch.tensor(DISCRETE.log_joint), torch.tensor(DISCRETE.guide)
    logits = torch.tensor(exact.C_LOGITS, requires_grad=True)
    log_w = log_joint - logits.log_softmax(1)
    variance = (guide * log_w**2).sum(1) - (guide * log_w).sum(1) ** 2
    (found,) = torch.autograd.grad(0.5 * variance.sum(), logits)
    np.testing.assert_allclose(found, -DISCRETE.elbo_gradient(), atol=1e-12)


@pytest.mark.parametrize("make", [exact.LinearGaussianModel, exact.TwoLayerModel])
def test_variance_regularised_is_its_formula_where_draws_are_reparameterised(make: Any) -> None:
    def by_hand(weights: pvae.LogWeights) -> Tensor:
        log_w = weights.log_w
        apart = log_w - log_w.mean(0)
        return log_w.mean(0) - 0.7 * (apart**2).sum(0) / (len(log_w) - 1)

    assert_is(VarianceRegularised(0.7, 4), by_hand, make(), torch.randn(5, 3, dtype=DOUBLE))


def test_at_the_posterior_nothing_is_charged_for_variance() -> None:
    mean, cov = (torch.tensor(each) for each in KNOWN.posterior())

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(mean, cov))

    latent_model = pvae.pair(exact.LinearGaussianModel().model, guide)
    for objective in (VarianceRegularised(3.0, 4), LogVariance(4)):
        loss = objective.loss(latent_model.model, latent_model.guide, torch.tensor(exact.A_X).expand(2, 3))
        assert -loss / 2 == pytest.approx(-3.6252584092, abs=1e-9)


# ---- InfoVAE


def kernel_of_gaussians(m1: float, v1: float, m2: float, v2: float) -> float:
    """E exp(-(a - b)^2 / 2) of two independent Gaussians: the kernel of width 1 in one dimension."""
    v = 1 + v1 + v2
    return math.exp(-((m1 - m2) ** 2) / (2 * v)) / math.sqrt(v)


def test_mmd_is_unbiased_over_every_outcome() -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.6, 0.3])
    values = np.array([-1.0, 0.4, 2.0])
    for kernel, k in (
        ("gaussian", lambda d: np.exp(-(d**2) / 2)),
        ("imq", lambda d: 2 / (2 + d**2)),
    ):
        gram = k(values[:, None] - values)
        exactly = (p - q) @ gram @ (p - q)
        mean = 0.0
        for draws in itertools.product(range(3), repeat=4):
            share = p[list(draws[:2])].prod() * q[list(draws[2:])].prod()
            ours, theirs = (torch.tensor(values[list(part)])[:, None] for part in (draws[:2], draws[2:]))
            mean += share * mmd(ours, theirs, kernel).item()
        assert mean == pytest.approx(exactly, abs=1e-12)


class Codes(pvae.LatentModel):
    """One latent unit, whose guide has a mean and a variance for each of three kinds of data."""

    means, variances = (-1.0, 0.5, 1.5), (0.2, 0.4, 0.1)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1, dtype=DOUBLE), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.squeeze(-1), 1.0), obs=x.to(DOUBLE))

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, variance = (torch.tensor(each, dtype=DOUBLE)[x, None] for each in (self.means, self.variances))
            pyro.sample("z", dist.Normal(loc, variance.sqrt()).to_event(1))


def test_info_mmd_compares_the_aggregate_of_random_batches_with_the_prior() -> None:
    laws = list(zip(Codes.means, Codes.variances, strict=True))
    within = np.mean([kernel_of_gaussians(*a, *b) for a in laws for b in laws])
    across = np.mean([kernel_of_gaussians(*a, 0.0, 1.0) for a in laws])
    exactly = within + kernel_of_gaussians(0, 1, 0, 1) - 2 * across
    for particles in (1, 5):
        found = []
        for _ in range(200):
            weights = pvae.log_weights(Codes(), {"x": torch.randint(3, (24,))}, particles)
            charged = weights.log_likelihood().mean(0) - InfoMMD(0.0, 2.0, particles=particles).surrogate(weights)
            found.append(charged.mean().item() / 2.0)
        mean, error = mean_and_error(np.array(found))
        # what a mean over all pairs, the datum with itself included, would add
        bias = (1 - within) / 24
        assert_close_in_sigmas(mean, exactly, error, effect=bias, resolution=0.35)


def test_info_mmd_is_its_formula_with_each_particle_a_batch_of_its_own() -> None:
    model, x, size = exact.LinearGaussianModel(), torch.randn(5, 3, dtype=DOUBLE), (3, 5, 2)
    terms = terms_of(InfoMMD(0.4, 30.0, particles=3), model, x)

    def by_hand() -> Tensor:
        weights = pvae.log_weights(model, {"x": x}, 3)
        z, prior = weights.values["z"], torch.normal(torch.zeros(size, dtype=DOUBLE), torch.ones(size, dtype=DOUBLE))

        def mean(a: Tensor, b: Tensor, same: bool) -> Tensor:
            pairs = [(i, j) for i in range(5) for j in range(5) if not same or i != j]
            return torch.stack([torch.exp(-((a[i] - b[j]) ** 2).sum() / 4) for i, j in pairs]).mean()

        parts = [
            mean(z[k], z[k], True) + mean(prior[k], prior[k], True) - 2 * mean(z[k], prior[k], False) for k in range(3)
        ]
        likelihood = weights.log_likelihood()
        kl = likelihood - weights.log_w
        return (likelihood - 0.4 * kl).mean(0).sum() - 5 * 30.0 * torch.stack(parts).mean()

    expected = seeded(by_hand)
    assert -terms.loss.item() == pytest.approx(expected.item(), rel=1e-11)
    ours = torch.autograd.grad(-terms.surrogate, list(model.parameters()))
    for mine, other in zip(ours, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-10)


# ---- beta-TCVAE


def pairs_by_hand(model: exact.TwoLayerModel | Any, z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """log q_u(z_i | x_j), shape (i, j, unit)."""
    rows = [[dist.Normal(loc[j], scale[j]).log_prob(z[i]) for j in range(len(loc))] for i in range(len(z))]
    return torch.stack([torch.stack(row) for row in rows])


class Encoded(pvae.LatentModel):
    """A linear VAE of two units whose guide depends on x."""

    def __init__(self, plate: int | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(3, 2, generator=generator, dtype=DOUBLE))
        self.encoder = nn.Parameter(torch.randn(4, 3, generator=generator, dtype=DOUBLE))
        self.plate = plate

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = (x @ self.encoder.T).chunk(2, -1)
        return loc, (0.3 * log_scale).exp()

    def model(self, x: Tensor) -> None:
        with models.first_of_plate(x, self.plate):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T, 0.5).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with models.first_of_plate(x, self.plate):
            pyro.sample("z", dist.Normal(*self.posterior(x)).to_event(1))


def shares_by_hand(batch: int, size: int, estimator: str) -> np.ndarray:
    """Chen et al., section 3.1 and appendix C.2: the weight of q(z_i | x_j) for datum i, row by row."""
    if estimator == "weighted":
        return np.full((batch, batch), 1 / (size * batch))
    m = batch - 1
    shares = np.full((batch, batch), 1 / m)
    for i in range(batch):
        shares[i, i] = 1 / size
        shares[i, (i + 1) % batch] = (size - m) / (size * m)
    return shares


@pytest.mark.parametrize("estimator", ["weighted", "stratified"])
@pytest.mark.parametrize("from_plate", [False, True], ids=["argument", "plate"])
def test_total_correlation_is_its_formula_on_the_same_draws(estimator: str, from_plate: bool) -> None:
    x, size = torch.randn(4, 3, dtype=DOUBLE), 10
    model = Encoded(size if from_plate else None)
    objective = TotalCorrelation(
        3.0, 0.5, 2.0, data_size=None if from_plate else size, estimator=estimator, particles=2
    )

    def by_hand(weights: pvae.LogWeights) -> Tensor:
        loc, scale = model.posterior(x)
        shares = torch.tensor(shares_by_hand(4, size, estimator)).log()
        found = []
        for k in range(2):
            pairs = pairs_by_hand(model, weights.values["z"][k], loc, scale)
            joint = torch.logsumexp(pairs.sum(-1) + shares, 1)
            product = torch.logsumexp(pairs + shares[:, :, None], 1).sum(-1)
            prior = weights.log_prior_by_site()["z"][k]
            information, correlation = weights.log_guide[k] - joint, joint - product
            charged = 0.5 * information + 3.0 * correlation + 2.0 * (product - prior)
            found.append(weights.log_likelihood()[k] - charged)
        return torch.stack(found).mean(0) * (size / 4 if from_plate else 1)

    assert_is(objective, by_hand, model, x)


@pytest.mark.parametrize("estimator", ["weighted", "stratified"])
def test_with_all_weights_at_one_the_parts_add_up_to_the_elbo(estimator: str) -> None:
    model, x = Encoded(), torch.randn(5, 3, dtype=DOUBLE)
    objective = TotalCorrelation(1.0, 1.0, 1.0, 50, estimator, 2)

    def by_hand(weights: pvae.LogWeights) -> Tensor:
        return weights.log_w.mean(0)

    assert_is(objective, by_hand, model, x)


def parts_on_categorical(data: list[int], size: int, estimator: str) -> tuple[np.ndarray, np.ndarray]:
    """Mutual information, and the KL of the aggregate, at each z: shape (3, data), through the objective's weights."""
    parts = []
    for z in range(3):
        with Forced({"z": torch.full((1, len(data)), z)}):
            weights = pvae.log_weights(exact.DiscreteModel(), {"x": torch.tensor(data)}, 1)
        given = {"data_size": size, "estimator": estimator}
        base = TotalCorrelation(0.0, 0.0, 0.0, **given).surrogate(weights)
        information = base - TotalCorrelation(0.0, 1.0, 0.0, **given).surrogate(weights)
        rest = base - TotalCorrelation(0.0, 0.0, 1.0, **given).surrogate(weights)
        parts.append([information.detach().numpy(), rest.detach().numpy()])
    return np.array(parts)[:, 0], np.array(parts)[:, 1]


def test_elbo_surgery_of_the_categorical_model() -> None:
    """The mean KL is mutual information plus the KL of the aggregate, exactly, with all data in one batch."""
    data = [0] * 4 + [1] * 3 + [2] * 2 + [3]
    guide = DISCRETE.guide[data].T
    information, rest = parts_on_categorical(data, 10, "weighted")
    # the minibatch-weighted estimate of q(z) is the aggregate over N, a constant factor
    assert (guide * information).sum(0).mean() - math.log(10) == pytest.approx(0.051063, abs=1e-6)
    assert (guide * rest).sum(0).mean() + math.log(10) == pytest.approx(0.037990, abs=1e-6)
    other = [0, 1, 2, 3]
    guide = DISCRETE.guide[other].T
    aggregate = guide.mean(1)
    exactly = (guide * (np.log(guide) - np.log(aggregate)[:, None])).sum(0).mean()
    information, rest = parts_on_categorical(other, 4, "weighted")
    assert (guide * information).sum(0).mean() - math.log(4) == pytest.approx(exactly, abs=1e-12)
    assert (guide * rest).sum(0).mean() + math.log(4) == pytest.approx(
        (aggregate * (np.log(aggregate) - np.log(exact.C_PRIOR))).sum(), abs=1e-12
    )


@pytest.mark.parametrize(("data", "batch"), [([0, 1, 2, 3, 0], 3), ([3, 1, 1, 2], 2), ([0, 2, 3, 1], 4)])
def test_the_stratified_estimate_of_the_aggregate_is_unbiased_over_all_batches(data: list[int], batch: int) -> None:
    size = len(data)
    log_guide = DISCRETE.log_guide[data]
    aggregate = np.exp(log_guide).mean(0)
    found = []
    for others in itertools.permutations(range(1, size), batch - 1):
        rows = [0, *others]
        information, _ = parts_on_categorical([data[row] for row in rows], size, "stratified")
        found.append(np.exp(log_guide[0] - information[:, 0]))  # q(z) as it was estimated, for the first datum
    np.testing.assert_allclose(np.mean(found, axis=0), aggregate, rtol=1e-12)


# ---- all of them, in training

EVERY = {
    "beta": lambda: Beta(4.0, 2),
    "beta linear": lambda: Beta(4.0, schedule="linear", warm_up=3),
    "beta cyclical": lambda: Beta(4.0, schedule="cyclical", warm_up=4, cycles=2),
    "capacity": lambda: Capacity(5.0, 10.0, 4),
    "geco": lambda: Constrained(-2.0, rate=0.3),
    "geco kl": lambda: Constrained(0.1, on="kl", particles=2),
    "free-bits": lambda: FreeBits(0.1),
    "variance": lambda: VarianceRegularised(0.5, 3),
    "log-variance": lambda: LogVariance(3),
    "info-mmd": lambda: InfoMMD(0.1, 10.0, particles=2),
    "wae": lambda: WAE(50.0, particles=2),
    "total-correlation": lambda: TotalCorrelation(data_size=40, particles=2),
    "stratified": lambda: TotalCorrelation(data_size=40, estimator="stratified"),
}


@pytest.mark.parametrize("name", EVERY)
def test_a_graph_equals_the_eager_step_in_every_bit(name: str) -> None:
    dtype = torch.float64 if len(name) % 2 else torch.float32
    made: list[Any] = []

    def make() -> Any:
        made.append(EVERY[name]())
        return made[-1].to(dtype)

    graph, eager = (
        stepping.after(models.Plain, make, graph=graph, dtype=dtype, steps=4, last=8) for graph in (True, False)
    )
    assert graph[3].graph and graph[3].fallback is None
    assert torch.equal(graph[0], eager[0]) and torch.equal(graph[2], eager[2])
    assert all(torch.equal(graph[1][key], eager[1][key]) for key in eager[1])
    ours, theirs = (dict(each.named_buffers()) for each in made)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(each, theirs[key]) for key, each in ours.items())


@pytest.mark.parametrize("name", EVERY)
def test_a_scale_stands_outside(name: str) -> None:
    torch.manual_seed(2)
    plain, scaled = models.Plain().double(), models.Subsampled().double()
    scaled.load_state_dict(plain.state_dict())
    x = models.data(8, DOUBLE).x
    found = []
    for model in (plain, scaled):
        objective = EVERY[name]()
        for _ in range(2):  # the second step shows whether the state has moved alike
            terms = terms_of(objective, model, x)
        gradients = torch.autograd.grad(terms.surrogate, list(model.parameters()))
        found.append([terms.loss, *terms.named.values(), *gradients])
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(5 * mine, other, rtol=1e-9, atol=1e-10)


def test_resuming_gives_the_bits_of_a_run_that_never_stopped(tmp_path: Path) -> None:
    x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0)).round()
    data = pvae.load_data(x, validation=8, test=0)
    for name in ("beta cyclical", "capacity", "geco"):

        def train(out: Path, name: str = name, **options: Any) -> Any:
            spec = pvae.ModelSpec("vae", {"latent": 2, "hidden": (5,)})
            settings = {"epochs": 2, "batch_size": 16, "progress": False, "validation_particles": 3}
            pvae.fit(spec, data, objective=EVERY[name], out=out, **settings, **options)
            return read(out / "last")

        whole = train(tmp_path / f"{name} whole", step="graph")
        train(tmp_path / f"{name} parts", step="eager", max_steps=1)
        parts = train(tmp_path / f"{name} parts", resume=True, step="eager")
        for held in ("parameters", "training"):
            ours, theirs = getattr(whole, held), getattr(parts, held)
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(each, theirs[key]) for key, each in ours.items()), name
        assert int(parts.training["objective/steps"]) == 4


def test_histories_show_the_elbo_and_the_coefficient() -> None:
    data = pvae.load_data(torch.rand(32, 6).round(), validation=0, test=0)
    spec = pvae.ModelSpec("vae", {"latent": 2, "hidden": (5,)})
    objective = make_objective("beta:beta=4:schedule=linear:warm-up=4:start=2")
    run = pvae.fit(spec, data, objective=objective, epochs=2, batch_size=16, progress=False)
    assert [record["beta"] for record in run.history] == pytest.approx([2.25, 3.25])
    for record in run.history:
        assert record["elbo"] == pytest.approx(record["log_likelihood"] - record["kl"], rel=1e-5)
        assert -record["loss"] < record["elbo"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Beta(-1.0),
        lambda: Beta(1.0, schedule="stepwise"),
        lambda: Beta(1.0, schedule="linear", warm_up=0),
        lambda: Beta(1.0, schedule="cyclical", rise=1.5),
        lambda: Capacity(-1.0),
        lambda: Capacity(gamma="much"),
        lambda: Constrained(-1.0, on="kl"),
        lambda: Constrained(math.nan),
        lambda: Constrained(1.0, on="elbo"),
        lambda: Constrained(1.0, multiplier=1e9),
        lambda: FreeBits(-0.1),
        lambda: FreeBits(by="row"),
        lambda: VarianceRegularised(particles=1),
        lambda: VarianceRegularised(-0.1),
        lambda: LogVariance(1),
        lambda: InfoMMD(kernel="linear"),
        lambda: InfoMMD(mmd=-1.0),
        lambda: InfoMMD(scale=(1.0, 0.0)),
        lambda: WAE(-1.0),
        lambda: WAE(kernel="laplace"),
        lambda: WAE(scale=()),
        lambda: WAE(scale="wide"),
        lambda: used(WAE(), size=1),
        lambda: used(WAE(), exact.TwoLayerModel()),
        lambda: TotalCorrelation(estimator="exact"),
        lambda: used(Constrained()),
        lambda: used(FreeBits(by=3)),
        lambda: used(InfoMMD(), size=1),
        lambda: used(TotalCorrelation()),
        lambda: used(TotalCorrelation(data_size=3)),
        lambda: used(TotalCorrelation(data_size=9), exact.TwoLayerModel()),
        lambda: used(InfoMMD(), exact.TwoLayerModel()),
    ],
)
def test_bad_settings_are_one_clear_line(make: Callable[[], Any]) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: terms_of(FreeBits(), exact.DiscreteModel(), torch.arange(4)),
        lambda: terms_of(Capacity(), exact.DiscreteModel(), torch.arange(4)),
        lambda: terms_of(InfoMMD(), exact.DiscreteModel(), torch.arange(4)),
        lambda: terms_of(WAE(), exact.DiscreteModel(), torch.arange(4)),
        lambda: terms_of(TotalCorrelation(data_size=4), exact.DiscreteModel(), torch.arange(4)),
        lambda: LogVariance(gradients={"z": "score"}),
    ],
)
def test_what_would_have_a_wrong_gradient_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(InputError, match=r"'z'|Leave out gradients") as caught:
        make()
    assert "\n" not in str(caught.value)


def used(objective: Any, model: Any = None, size: int = 5) -> None:
    model = model or exact.LinearGaussianModel()
    objective.terms(model.model, model.guide, (torch.randn(size, 3, dtype=DOUBLE),), {}, "all")
