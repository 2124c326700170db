"""Objectives: equal to Pyro's where Pyro is right, right where it is not, and exact on models whose answer is known."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import exact
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    SVI,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from stats import assert_close_in_sigmas, mean_and_error
from torch import Tensor, nn

import pvae
from pvae import IWAE, InputError, LogWeights, Renyi, ScoreFunction, WeightsObjective, pair
from pvae.models import bind, scope
from pvae.objectives import Objective, Terms, adapt, describe, make_objective, objective_names

DOUBLE = torch.float64
KNOWN = exact.LinearGaussian()

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def seeded(run: Callable[[], Any]) -> Any:
    torch.manual_seed(11)
    return run()


def gradients_by(loss: Any, model: nn.Module, x: Tensor) -> tuple[float, list[Tensor]]:
    """Value and gradients as `pyro.infer.SVI` gets them."""
    for parameter in model.parameters():
        parameter.grad = None
    value = seeded(lambda: loss.loss_and_grads(model.model, model.guide, x))
    return float(value), [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]


PYRO = {
    "trace": (exact.TwoLayerModel, lambda: Trace_ELBO()),
    "trace, particles": (
        exact.TwoLayerModel,
        lambda: Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1),
    ),
    "trace, one by one": (exact.TwoLayerModel, lambda: Trace_ELBO(num_particles=3)),
    "mean field": (exact.LinearGaussianModel, lambda: TraceMeanField_ELBO()),
    "graph": (exact.DiscreteModel, lambda: TraceGraph_ELBO(num_particles=2)),
    "score function": (exact.DiscreteModel, lambda: Trace_ELBO()),
    "enumeration": (
        lambda: exact.DiscreteModel(enumerate="parallel"),
        lambda: TraceEnum_ELBO(max_plate_nesting=1),
    ),
    "renyi": (
        exact.TwoLayerModel,
        lambda: RenyiELBO(0.3, num_particles=4, vectorize_particles=True, max_plate_nesting=1),
    ),
    "renyi, one by one": (exact.TwoLayerModel, lambda: RenyiELBO(0.3, num_particles=4)),
}


@pytest.mark.parametrize("name", PYRO)
def test_an_adapted_loss_of_pyro_is_that_loss(name: str) -> None:
    make, loss = PYRO[name]
    model = make()
    x = torch.arange(4) if isinstance(model, exact.DiscreteModel) else torch.randn(5, 3, dtype=DOUBLE)
    value, theirs = gradients_by(loss(), model, x)
    terms = seeded(lambda: adapt(loss()).terms(model.model, model.guide, (x,), {}, "all"))
    ours = torch.autograd.grad(terms.surrogate, list(model.parameters()), allow_unused=True)
    assert terms.loss.item() == pytest.approx(value, rel=1e-12)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(torch.zeros_like(other) if mine is None else mine, other, rtol=1e-12, atol=1e-14)


def test_adapting_leaves_the_loss_and_the_random_state_alone() -> None:
    model, x = exact.TwoLayerModel(), torch.randn(5, 3, dtype=DOUBLE)
    loss = Trace_ELBO(num_particles=4, vectorize_particles=True)
    first, second = (seeded(lambda: adapt(loss).terms(model.model, model.guide, (x,), {}, "all")) for _ in range(2))
    assert first.loss == second.loss
    assert loss.max_plate_nesting == math.inf
    assert torch.Tensor.item is torch._C.TensorBase.item


def test_enumeration_gives_the_exact_elbo() -> None:
    terms = adapt(TraceEnum_ELBO()).terms(
        exact.DiscreteModel(enumerate="parallel").model,
        exact.DiscreteModel(enumerate="parallel").guide,
        (torch.arange(4),),
        {},
        "all",
    )
    assert -terms.loss.item() == pytest.approx(exact.Discrete().elbo().sum(), rel=1e-12)


@pytest.mark.parametrize(
    ("ours", "alpha"),
    [
        (lambda: IWAE(6), 0.0),
        (lambda: Renyi(0.4, 6), 0.4),
        (lambda: Renyi(-0.7, 6), -0.7),
        (lambda: Renyi(2.5, 6), 2.5),
    ],
)
def test_bounds_are_pyros_where_pyro_is_right(ours: Callable[[], Objective], alpha: float) -> None:
    model, x = exact.TwoLayerModel(), torch.randn(5, 3, dtype=DOUBLE)
    theirs = RenyiELBO(alpha, num_particles=6, vectorize_particles=True, max_plate_nesting=1)
    value, gradients = gradients_by(ours(), model, x)
    expected, expected_gradients = gradients_by(theirs, model, x)
    assert value == pytest.approx(expected, rel=1e-12)
    for mine, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def log_w_by_hand(model: exact.LinearGaussianModel, x: Tensor, noise: Tensor) -> Tensor:
    z = model.q_loc + model.q_log_scale.exp() * noise
    joint = dist.Normal(z @ model.weight.T + model.bias, model.log_scale.exp()).log_prob(x).sum(-1)
    joint = joint - 0.5 * (z**2 + math.log(2 * math.pi)).sum(-1)
    return joint + (0.5 * noise**2 + 0.5 * math.log(2 * math.pi) + model.q_log_scale).sum(-1)


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5, 1.0, 3.0, math.inf])
def test_the_gradient_is_that_of_the_formula_on_the_same_draws(alpha: float) -> None:
    model, x = exact.LinearGaussianModel(), torch.tensor(exact.A_X).expand(3, 3)
    noise = seeded(lambda: torch.randn(4, 3, 2, dtype=DOUBLE))
    log_w = log_w_by_hand(model, x, noise)
    if alpha == 1:
        by_hand = log_w.mean(0)
    elif alpha == math.inf:
        by_hand = log_w.max(0).values
    else:
        by_hand = ((1 - alpha) * log_w).exp().mean(0).log() / (1 - alpha)
    expected = torch.autograd.grad(-by_hand.sum(), list(model.parameters()))
    value, found = gradients_by(Renyi(alpha, 4), model, x)
    assert value == pytest.approx(-by_hand.sum().item(), rel=1e-10)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


# ---- the linear-Gaussian model: exact answers


def bounds(
    objective: Any, q: tuple[np.ndarray, np.ndarray], repeats: int, control: bool = False
) -> tuple[float, float]:
    """Mean and standard error of a bound of the linear-Gaussian model at A_X, from independent repeats along the batch.

    With `control`, the mean weight over p(x), less 1, is taken off: its mean is exactly 0, and log(1 + d) - d is quiet.
    """
    model = exact.LinearGaussianModel(*q)
    x = torch.tensor(exact.A_X).expand(repeats, 3)
    with torch.no_grad():
        weights = pvae.log_weights(model, {"x": x}, objective.particles)
        values = objective.surrogate(weights)
        if control:
            values = values - ((weights.log_w - KNOWN.log_evidence()).exp().mean(0) - 1)
        mean, error = mean_and_error(values.numpy())
    return float(mean), float(error)


def test_elbo_of_the_linear_gaussian_model() -> None:
    for q, golden in ((exact.A_PRIOR, -9.1773740579), (exact.A_Q1, -5.0148794163)):
        assert KNOWN.elbo(*q) == pytest.approx(golden, abs=1e-9)
        mean, error = bounds(IWAE(1), q, 100_000)
        assert_close_in_sigmas(mean, golden, error, effect=KNOWN.kl_to_posterior(*q))


def test_best_diagonal_guide_of_the_linear_gaussian_model_is_where_the_gradient_vanishes() -> None:
    best = KNOWN.best_diagonal()
    np.testing.assert_allclose(best[1], [0.111111, 0.157233], atol=1e-6)
    assert KNOWN.elbo(*best) == pytest.approx(-3.6308803939, abs=1e-9)
    model = exact.LinearGaussianModel(*best)
    draws = []
    for _ in range(60):
        model.zero_grad()
        IWAE(1).loss_and_grads(model.model, model.guide, torch.tensor(exact.A_X).expand(4000, 3))
        draws.append(torch.cat([model.q_loc.grad, model.q_log_scale.grad]).numpy() / 4000)
    mean, error = mean_and_error(np.stack(draws))
    assert_close_in_sigmas(mean, np.zeros(4), error, effect=1.0)


IWAE_OF_A = {1: -5.0148794163, 2: -4.2958, 5: -3.8917, 10: -3.7597, 50: -3.6517, 500: -3.6278}


def test_iwae_of_the_linear_gaussian_model_rises_with_particles_to_the_evidence() -> None:
    found = []
    for particles, golden in IWAE_OF_A.items():
        mean, error = bounds(IWAE(particles), exact.A_Q1, 400_000 // particles, control=particles > 1)
        gap = KNOWN.log_evidence() - golden
        # the goldens beyond one particle are Monte Carlo themselves, with a standard error of 0.001
        assert_close_in_sigmas(mean, golden, math.hypot(error, 0.001 if particles > 1 else 0.0))
        assert error < (0.01 if particles <= 10 else 0.15) * gap
        found.append(mean)
    assert found == sorted(found)
    assert found[-1] < KNOWN.log_evidence()


def test_gap_of_iwae_is_half_chi2_over_particles() -> None:
    chi2 = KNOWN.chi2(*exact.A_Q1)
    assert chi2 == pytest.approx(2.694866, abs=1e-6)
    mean, error = bounds(IWAE(400), exact.A_Q1, 3000, control=True)
    gap = KNOWN.log_evidence() - mean
    assert error < 0.05 * chi2 / 800
    assert gap == pytest.approx(chi2 / 800, abs=4.5 * error + 4 * (chi2 / 800) ** 2)


@pytest.mark.parametrize(("alpha", "golden"), [(0.25, -3.856865), (0.5, -4.138514), (0.75, -4.500218)])
def test_renyi_of_the_linear_gaussian_model_nears_its_limit_from_below(alpha: float, golden: float) -> None:
    assert KNOWN.renyi(alpha, *exact.A_Q1) == pytest.approx(golden, abs=1e-6)
    few, few_error = bounds(Renyi(alpha, 5), exact.A_Q1, 20_000)
    many, many_error = bounds(Renyi(alpha, 1000), exact.A_Q1, 300)
    assert few < golden - 4.5 * few_error
    assert_close_in_sigmas(many, golden, many_error, effect=golden - few, resolution=0.15)


def test_renyi_of_the_linear_gaussian_model_falls_with_alpha() -> None:
    noise = torch.randn(8, 50_000, 2, dtype=DOUBLE)
    model, x = exact.LinearGaussianModel(), torch.tensor(exact.A_X).expand(50_000, 3)
    weights = LogWeights(log_w_by_hand(model, x, noise), torch.zeros(()), 1.0, 50_000, {}, (), {}, (), lambda x: x)
    orders = [-math.e, -1.0, 0.0, 0.5, 1.0, 1.5, 4.0]
    values = [Renyi(alpha, 8).surrogate(weights).mean().item() for alpha in orders]
    assert values == sorted(values, reverse=True)
    largest = weights.log_w.amax(0).mean().item()
    assert Renyi(math.inf, 8).surrogate(weights).mean().item() == pytest.approx(largest, rel=1e-12)
    assert Renyi(0.0, 8).surrogate(weights).mean() == IWAE(8).surrogate(weights).mean()


@pytest.mark.parametrize(
    "objective", [IWAE(1), IWAE(7), Renyi(0.5, 3), Renyi(-2.0, 3), Renyi(1.0, 3), Renyi(math.inf, 2)]
)
def test_at_the_posterior_every_bound_is_the_evidence_without_noise(objective: WeightsObjective) -> None:
    mean, cov = (torch.tensor(each) for each in KNOWN.posterior())
    free = exact.LinearGaussianModel()

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(mean, cov))

    weights = pvae.log_weights(
        pair(free.model, guide), {"x": torch.tensor(exact.A_X).expand(4, 3)}, objective.particles
    )
    value = objective.surrogate(weights).detach()
    np.testing.assert_allclose(value, np.full(4, -3.6252584092), atol=1e-9)


# ---- subsampled plates (where RenyiELBO is no bound)

ROWS = torch.linspace(-3, 3, 12, dtype=DOUBLE)


def subsampled() -> Any:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=DOUBLE), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x[rows])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            pyro.sample("z", dist.Normal(0.5 * x[rows], 0.6))

    return pair(model, guide)


EVIDENCE = dist.Normal(torch.zeros((), dtype=DOUBLE), math.sqrt(1.25)).log_prob(ROWS).sum().item()


def mean_bound(loss: Any, latent_model: Any, draws: int) -> tuple[float, float]:
    values = [-loss.loss(latent_model.model, latent_model.guide, ROWS) for _ in range(draws)]
    mean, error = mean_and_error(np.array(values))
    return float(mean), float(error)


def test_under_a_subsampled_plate_iwae_is_a_bound_and_that_of_the_whole() -> None:
    def whole(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=DOUBLE), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def whole_guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 0.6))

    mean, error = mean_bound(IWAE(10), subsampled(), 1000)
    full, full_error = mean_bound(IWAE(10), pair(whole, whole_guide), 200)
    assert_close_in_sigmas(mean, full, math.hypot(error, full_error), effect=EVIDENCE, resolution=0.02)
    assert mean < EVIDENCE


def test_under_a_subsampled_plate_renyi_elbo_is_no_bound() -> None:
    theirs = RenyiELBO(0, num_particles=10, vectorize_particles=True, max_plate_nesting=1)
    mean, error = mean_bound(theirs, subsampled(), 400)
    assert mean > EVIDENCE + 10 * error  # the trap that IWAE avoids; if this fails, Pyro has mended it
    ours, ours_error = mean_bound(Renyi(0.0, 10), subsampled(), 400)
    assert ours < EVIDENCE + 4.5 * ours_error


def test_gradients_under_a_subsample_are_scaled_once() -> None:
    scale = nn.Parameter(torch.tensor(0.6, dtype=DOUBLE))

    def guide(x: Tensor) -> None:
        with pyro.plate("data", 12, subsample=torch.tensor([2, 5, 7])):
            pyro.sample("z", dist.Normal(0.5 * x, scale))

    def model(x: Tensor) -> None:
        with pyro.plate("data", 12, subsample=torch.tensor([2, 5, 7])):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=DOUBLE), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    x = ROWS[[2, 5, 7]]
    terms = seeded(lambda: IWAE(4).terms(model, guide, (x,), {}, "all"))
    weights = seeded(lambda: pvae.log_weights(pair(model, guide), {"x": x}, 4))
    expected = torch.autograd.grad(-4 * weights.log_w.exp().mean(0).log().sum(), scale)
    torch.testing.assert_close(torch.autograd.grad(terms.surrogate, scale), expected)


# ---- as Pyro losses, as modules


@pytest.mark.parametrize("make", [lambda: IWAE(4), lambda: Renyi(0.5, 4)])
def test_in_plain_svi_an_objective_trains_model_and_guide(make: Callable[[], Objective]) -> None:
    model, x = exact.LinearGaussianModel(), torch.randn(20, 3, dtype=DOUBLE)
    before = [each.detach().clone() for each in model.parameters()]
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.02}), loss=make())
    losses = [svi.step(x) for _ in range(150)]
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 10
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert isinstance(svi.evaluate_loss(x), float)


def test_as_a_module_it_gives_the_loss_and_the_same_gradients() -> None:
    model, x = exact.TwoLayerModel(), torch.randn(5, 3, dtype=DOUBLE)
    value, expected = gradients_by(IWAE(3), model, x)
    module = IWAE(3)(model.model, model.guide)
    for parameter in model.parameters():
        parameter.grad = None
    loss = seeded(lambda: module(x))
    loss.backward()
    assert loss.item() == pytest.approx(value, rel=1e-12)
    for parameter, other in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, other, rtol=1e-12, atol=1e-14)


def test_program_gives_pyros_own_module_its_parameters() -> None:
    model = exact.TwoLayerModel()
    module = Trace_ELBO()(pvae.program(model, "model"), pvae.program(model, "guide"))
    assert {id(each) for each in module.parameters()} == {id(each) for each in model.parameters()}


class Spread(WeightsObjective):
    """A user's own objective, with a parameter, a buffer, and a value that is not the surrogate's."""

    def __init__(self, particles: int = 4) -> None:
        super().__init__(particles)
        self.weight = nn.Parameter(torch.tensor(0.5, dtype=DOUBLE))
        self.register_buffer("calls", torch.zeros((), dtype=DOUBLE))

    def surrogate(self, weights: LogWeights) -> Tensor:
        if self.training:
            self.calls += 1
        return weights.log_w.mean(0) - self.weight * weights.log_w.var(0)

    def bound(self, weights: LogWeights) -> Tensor:
        return weights.log_w.mean(0).detach()


def test_an_objectives_own_parameters_train_and_its_state_moves_only_in_training() -> None:
    model, x = exact.LinearGaussianModel(), torch.randn(4, 3, dtype=DOUBLE)
    objective = Spread()
    before = objective.weight.item()
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.02}), loss=objective)
    svi.step(x)
    assert objective.weight.item() != before
    calls = objective.calls.item()
    svi.evaluate_loss(x)
    assert objective.calls.item() == calls
    assert objective.training
    assert {id(objective.weight)} < {id(each) for each in objective(model.model, model.guide).parameters()}


def test_the_reported_value_may_differ_from_the_surrogate() -> None:
    model, x = exact.LinearGaussianModel(), torch.randn(4, 3, dtype=DOUBLE)
    terms = seeded(lambda: Spread().terms(model.model, model.guide, (x,), {}, "all"))
    assert terms.loss.item() == pytest.approx(-terms.named["elbo"].item(), rel=1e-12)
    assert terms.surrogate.item() > terms.loss.item()


class TwoPlayers(Objective):
    """Theta lowers the loss, phi raises it: each player's gradient must reach its own group alone."""

    players = ("theta", "phi")

    def terms(self, model: Any, guide: Any, args: Any, kwargs: Any, player: str) -> Terms:
        weights = pvae.weights.trace_weights(model, guide, args, kwargs, 1)
        sign = 1.0 if player == "theta" else -1.0
        surrogate = -sign * weights.log_w.sum()
        return Terms(surrogate.detach(), surrogate)


def test_each_player_moves_its_own_group() -> None:
    model, x = exact.LinearGaussianModel(), torch.tensor(exact.A_X).expand(2, 3)
    value, found = gradients_by(TwoPlayers(), model, x)
    _, single = gradients_by(IWAE(1), model, x)
    names = [name for name, _ in model.named_parameters()]
    theta = {"weight", "bias", "log_scale"}
    assert value != 0
    for name, mine, plain in zip(names, found, single, strict=True):
        assert torch.sign(mine).flatten()[0] != 0
        if name in theta:
            torch.testing.assert_close(mine, plain)
    module = TwoPlayers()(model.model, model.guide)
    assert module(x).requires_grad


# ---- refusals and names


def test_a_guide_that_cannot_be_reparameterised_is_refused_not_left_without_gradient() -> None:
    model = exact.DiscreteModel()
    for objective in (pvae.DReG(4), pvae.StickingTheLanding()):
        with pytest.raises(InputError, match=r"'z' cannot be.*'vimco'"):
            objective.loss_and_grads(model.model, model.guide, torch.arange(4))


@pytest.mark.parametrize(
    "make",
    [
        lambda: IWAE(0),
        lambda: IWAE(True),
        lambda: IWAE(2.0),
        lambda: Renyi(math.nan, 2),
        lambda: Renyi(-math.inf, 2),
        lambda: Renyi("half", 2),
        lambda: adapt(object()),
        lambda: adapt("elbo"),
        lambda: make_objective("iwea"),
        lambda: make_objective("iwae:particle=3"),
        lambda: make_objective("iwae:particles=0"),
        lambda: make_objective("elbo:particles=many"),
        lambda: make_objective("renyi:alpha"),
    ],
)
def test_bad_settings_are_one_clear_line(make: Callable[[], Any]) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_unknown_names_say_the_nearest() -> None:
    with pytest.raises(InputError, match="'iwae'"):
        make_objective("iwea")
    with pytest.raises(InputError, match="'particles'"):
        make_objective("iwae:particle=3")


@pytest.mark.parametrize("name", [name for name, _ in objective_names()])
def test_every_name_makes_an_objective_that_describes_itself(name: str) -> None:
    factory = pickle.loads(pickle.dumps(make_objective(name)))
    first, second = factory(), factory()
    assert first is not second
    assert describe(first).split(":")[0] == name
    if "particles" in first.settings():
        assert describe(make_objective(f"{name}:particles=3")()).endswith("particles=3")
    assert describe(make_objective(describe(first))()) == describe(first)


@pytest.mark.parametrize("objective", [IWAE(2), ScoreFunction("network", 2, gradients="z=score")])
def test_an_objective_that_was_used_can_be_copied_and_pickled(objective: Any) -> None:
    model, x = exact.LinearGaussianModel(), torch.tensor(exact.A_X)[None]
    objective.loss_and_grads(model.model, model.guide, x)
    for again in (copy.deepcopy(objective), pickle.loads(pickle.dumps(objective))):
        assert describe(again) == describe(objective)
        assert again.loss_and_grads(model.model, model.guide, x) != 0


def test_an_objective_can_be_copied_and_pickled() -> None:
    for objective in (IWAE(3), Renyi(0.2, 5), adapt(Trace_ELBO())):
        for again in (copy.deepcopy(objective), pickle.loads(pickle.dumps(objective))):
            assert describe(again) == describe(objective)


def test_objectives_work_on_what_fields_bind() -> None:
    model = exact.LinearGaussianModel()
    batch = {"x": torch.randn(3, 3, dtype=DOUBLE), "y": torch.arange(3)}
    programs = bind(model, batch)
    with scope(model):
        direct = seeded(lambda: IWAE(2).loss(model.model, model.guide, batch["x"]))
        bound = seeded(lambda: IWAE(2).loss(programs.model, programs.guide, *programs.arguments(batch)))
    assert direct == bound
