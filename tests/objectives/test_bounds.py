"""Bounds between the ELBO and the evidence: exact by enumeration, equal to their formula on the same draws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import exact
import models
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import stepping
import torch
from forcing import DOUBLE, Forced, exhaustive
from stats import assert_close_in_sigmas, mean_and_error
from torch import Tensor

import pvae
from pvae import IWAE, InputError, Renyi, pair
from pvae.objectives import CIWAE, MIWAE, PIWAE, Beta, LogVariance, Objective, Thermodynamic, log_uniform

KNOWN, DISCRETE = exact.LinearGaussian(), exact.Discrete()
EVEN = np.log(np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1], [0.4, 0.4, 0.2]]))
OTHER = np.array([[-0.4, 0.9, 0.0], [0.3, -0.2, 0.6], [0.1, 0.7, -1.0], [0.5, 0.0, 0.2]])

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def seeded(run: Callable[[], Any]) -> Any:
    torch.manual_seed(11)
    return run()


def even_weights(repeats: int) -> tuple[pvae.LogWeights, np.ndarray]:
    """Weights of the categorical model at q = EVEN, and the model; the particles' values have exactly q's shares."""
    counts = (np.exp(EVEN) * 10 * repeats).round().astype(int)
    values = torch.tensor(np.stack([np.repeat([0, 1, 2], row) for row in counts], 1))
    model = exact.DiscreteModel(EVEN)
    with Forced({"z": values}):
        return pvae.log_weights(model, {"x": torch.arange(4)}, 10 * repeats), model


# ---- MIWAE, CIWAE, PIWAE


def test_miwae_has_the_mean_of_one_of_its_bounds() -> None:
    for logits in (exact.C_LOGITS, OTHER):
        iwae = exact.Discrete(logits).iwae(2)
        for batches in (1, 2, 3):
            value, *_ = exhaustive(MIWAE(2, batches), logits=logits)
            assert value == pytest.approx(iwae, abs=1e-10)
    assert exhaustive(MIWAE(2, 2))[0] == pytest.approx(-1.145814, abs=1e-6)
    assert exhaustive(MIWAE(3, 2))[0] == pytest.approx(-1.046178, abs=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("logits", [exact.C_LOGITS, OTHER], ids=["given", "other"])
def test_ciwae_is_the_combination_of_two_exact_bounds(beta: float, logits: np.ndarray) -> None:
    known = exact.Discrete(logits)
    for x in range(4):
        value, *_ = exhaustive(CIWAE(beta, 3), x, logits)
        assert value == pytest.approx(beta * known.elbo()[x] + (1 - beta) * known.iwae(3, x), abs=1e-10)


@pytest.mark.parametrize("logits", [exact.C_LOGITS, OTHER], ids=["given", "other"])
def test_gradients_are_exact_where_the_guide_cannot_be_reparameterised(logits: np.ndarray) -> None:
    def slopes(value: Callable[[np.ndarray], float]) -> np.ndarray:
        moved = [np.pad(step[None], ((0, 3), (0, 0))) for step in 1e-5 * np.eye(3)]
        return np.array([value(logits + each) - value(logits - each) for each in moved]) / 2e-5

    iwae = slopes(lambda at: exact.Discrete(at).iwae(2))
    elbo = exact.Discrete(logits).elbo_gradient()[0]
    for objective, exactly in (
        (MIWAE(2, 2), iwae),
        (MIWAE(1, 3), elbo),
        (MIWAE(3, 1), slopes(lambda at: exact.Discrete(at).iwae(3))),
        (CIWAE(0.3, 2), 0.3 * elbo + 0.7 * iwae),
    ):
        _, gradient, _ = exhaustive(objective, logits=logits)
        np.testing.assert_allclose(gradient, exactly, rtol=0, atol=1e-8)


def by_hand(objective: Any, log_w: Tensor) -> Tensor:
    """The bounds' formulas, without logsumexp."""
    if isinstance(objective, MIWAE):
        groups = log_w.reshape(objective.batches, objective.within, -1)
        return torch.stack([group.exp().mean(0).log() for group in groups]).mean(0)
    return objective.beta * log_w.mean(0) + (1 - objective.beta) * log_w.exp().mean(0).log()


def gradients(loss: Callable[[], Tensor], model: Any) -> list[Tensor]:
    return list(torch.autograd.grad(seeded(loss), list(model.parameters()), allow_unused=True))


@pytest.mark.parametrize("objective", [MIWAE(2, 3), CIWAE(0.3, 6)], ids=["miwae", "ciwae"])
@pytest.mark.parametrize("make", [exact.LinearGaussianModel, exact.TwoLayerModel])
def test_value_and_gradient_are_those_of_the_formula_on_the_same_draws(objective: Any, make: Any) -> None:
    model, x = make(), torch.randn(5, 3, dtype=DOUBLE)
    expected = seeded(lambda: -by_hand(objective, pvae.log_weights(model, {"x": x}, 6).log_w).sum())
    terms = seeded(lambda: objective.terms(model.model, model.guide, (x,), {}, "all"))
    assert terms.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    ours = torch.autograd.grad(terms.surrogate, list(model.parameters()))
    for mine, other in zip(ours, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_the_ends_of_miwae_and_ciwae_are_elbo_and_iwae() -> None:
    model, x = exact.LinearGaussianModel(), torch.randn(5, 3, dtype=DOUBLE)
    for ours, end in ((MIWAE(1, 6), Renyi(1.0, 6)), (MIWAE(6, 1), IWAE(6)), (CIWAE(1.0, 6), Renyi(1.0, 6))):
        mine, other = (seeded(lambda o=o: o.terms(model.model, model.guide, (x,), {}, "all")) for o in (ours, end))
        assert mine.loss.item() == pytest.approx(other.loss.item(), rel=1e-12)


def test_piwae_moves_theta_by_iwae_and_phi_by_miwae() -> None:
    model, x = exact.LinearGaussianModel(), torch.randn(5, 3, dtype=DOUBLE)
    seeded(lambda: PIWAE(2, 3).loss_and_grads(model.model, model.guide, x))
    found = {name: each.grad.clone() for name, each in model.named_parameters()}

    def drawn() -> tuple[Tensor, Tensor]:
        first, second = (pvae.log_weights(model, {"x": x}, 6).log_w for _ in range(2))
        return -first.exp().mean(0).log().sum(), -by_hand(MIWAE(2, 3), second).sum()

    theta, phi = seeded(drawn)
    names = dict(model.named_parameters())
    for loss, group in ((theta, ("weight", "bias", "log_scale")), (phi, ("q_loc", "q_log_scale"))):
        for name in group:
            (expected,) = torch.autograd.grad(loss, names[name], retain_graph=True)
            torch.testing.assert_close(found[name], expected, rtol=1e-10, atol=1e-12, msg=name)
    assert seeded(lambda: PIWAE(2, 3).loss(model.model, model.guide, x)) == pytest.approx(theta.item(), rel=1e-12)


def test_piwae_as_a_module_keeps_the_groups_apart() -> None:
    model, x = exact.LinearGaussianModel(), torch.randn(5, 3, dtype=DOUBLE)
    seeded(lambda: PIWAE(2, 3).loss_and_grads(model.model, model.guide, x))
    found = [each.grad.clone() for each in model.parameters()]
    model.zero_grad()
    module = PIWAE(2, 3)(model.model, model.guide)
    seeded(lambda: module(x).backward())
    for each, gradient in zip(model.parameters(), found, strict=True):
        torch.testing.assert_close(each.grad, gradient, rtol=1e-12, atol=1e-14)


# ---- Rényi, any order


def test_renyi_of_the_categorical_model_for_every_order() -> None:
    golden = {-1: -0.512873, 0: -0.843970, 0.5: -1.094991, 0.9: -1.308951, 1.1: -1.408599, 2: -1.727624}
    np.testing.assert_allclose([DISCRETE.renyi(a)[0] for a in golden], list(golden.values()), rtol=0, atol=1.1e-6)
    weights, _ = even_weights(1)  # a sample with q's own shares: the mean over particles is the mean under q
    for alpha in (-1.0, -0.2, 0.0, 0.5, 0.9, 1.1, 2.0, 7.0):
        found = Renyi(alpha, 10).surrogate(weights).detach()
        np.testing.assert_allclose(found, exact.Discrete(EVEN).renyi(alpha), rtol=0, atol=1e-12)
    np.testing.assert_allclose(Renyi(1.0, 10).surrogate(weights).detach(), exact.Discrete(EVEN).elbo(), atol=1e-12)
    largest = exact.Discrete(EVEN).log_w.max(1)
    np.testing.assert_allclose(Renyi(math.inf, 10).surrogate(weights).detach(), largest, atol=1e-12)


def test_renyi_is_continuous_at_one_and_at_infinity() -> None:
    weights, _ = even_weights(1)
    elbo = Renyi(1.0, 10).surrogate(weights)
    for alpha in (1 - 1e-6, 1 + 1e-6):
        torch.testing.assert_close(Renyi(alpha, 10).surrogate(weights), elbo, rtol=0, atol=2e-6)
    # VR-max is the limit towards minus infinity; for a large order the smallest weight rules
    far, most = Renyi(-1e5, 10).surrogate(weights), Renyi(math.inf, 10).surrogate(weights)
    torch.testing.assert_close(far, most, rtol=0, atol=math.log(10) / 1e5)
    torch.testing.assert_close(
        Renyi(1e5, 10).surrogate(weights), weights.log_w.amin(0), rtol=0, atol=math.log(10) / 1e5
    )


@pytest.mark.parametrize("logits", [exact.C_LOGITS, OTHER], ids=["given", "other"])
def test_the_mean_of_renyi_moves_as_its_theorem_says(logits: np.ndarray) -> None:
    def mean(alpha: float, particles: int) -> float:
        objective = Renyi(alpha, particles)
        model = exact.DiscreteModel(logits)
        outcomes = torch.cartesian_prod(*[torch.arange(3)] * particles).reshape(-1, particles).T
        shares = np.exp(exact.Discrete(logits).log_guide[0])[outcomes].prod(0)
        with Forced({"z": outcomes}), torch.no_grad():
            weights = pvae.log_weights(model, {"x": torch.zeros(outcomes.shape[1], dtype=torch.long)}, particles)
        return float(objective.surrogate(weights).numpy() @ shares)

    for alpha in (-2.0, 0.0, 0.5, 1.0):
        found = [mean(alpha, particles) for particles in (1, 2, 3, 5)]
        assert found == sorted(found) or alpha == 1.0, alpha
    for alpha in (1.0, 1.5, 4.0):
        found = [mean(alpha, particles) for particles in (1, 2, 3, 5)]
        assert all(b <= a + 1e-12 for a, b in itertools.pairwise(found)), alpha
    orders = [mean(alpha, 3) for alpha in (-3.0, -1.0, 0.0, 0.5, 1.0, 2.0, 9.0)]
    assert orders == sorted(orders, reverse=True)
    exactly = exact.Discrete(logits).renyi(-2.0)[0]
    assert mean(-2.0, 2) < exact.Discrete(logits).log_evidence()[0] < exactly  # few particles: still below


def test_renyi_below_zero_exceeds_the_evidence_of_the_linear_gaussian_model_in_the_limit() -> None:
    assert KNOWN.renyi(-0.2, *exact.A_Q1) == pytest.approx(-3.465486, abs=1e-6)
    wide = (exact.A_Q1[0], 4 * exact.A_Q1[1])
    x = torch.tensor(exact.A_X).expand(30, 3)
    for q in (exact.A_Q1, wide):
        with torch.no_grad():
            weights = pvae.log_weights(exact.LinearGaussianModel(*q), {"x": x}, 30_000)
        mean, error = mean_and_error(Renyi(-0.2, 30_000).surrogate(weights).numpy())
        exactly = KNOWN.renyi(-0.2, *q)
        assert mean > KNOWN.log_evidence() + 10 * error
        # the bias at this many particles, by the delta method, is far below the error
        assert_close_in_sigmas(mean, exactly, error, effect=exactly - KNOWN.log_evidence(), resolution=0.05)


# ---- thermodynamic


def path_integrand(known: exact.LinearGaussian, beta: float) -> float:
    """E_b[log p(x given z)] under N(0, I) tempered by the likelihood to the power of b, at A_X."""
    precision = np.eye(known.latent) + beta * known.weight.T @ known.weight / known.variance
    cov = np.linalg.inv(precision)
    mean = beta * cov @ known.weight.T @ (exact.A_X - known.bias) / known.variance
    rest = exact.A_X - known.bias - known.weight @ mean
    spread = rest @ rest + np.trace(known.weight @ cov @ known.weight.T)
    return float(-0.5 * spread / known.variance - 0.5 * known.data * np.log(2 * np.pi * known.variance))


PARTICLES = 40_000
RIEMANN = {1: (-9.17737, -2.37338), 4: (-4.73375, -3.03275), 16: (-3.85768, -3.43243), 64: (-3.67968, -3.57337)}


@pytest.mark.parametrize("variance", [0.25, 0.6], ids=["given", "other"])
def test_tvo_of_the_linear_gaussian_model_is_the_riemann_sum_of_the_exact_path(variance: float) -> None:
    known = exact.LinearGaussian(variance=variance)
    model = exact.LinearGaussianModel(*exact.A_PRIOR, exact=known)
    with torch.no_grad():
        weights = pvae.log_weights(model, {"x": torch.tensor(exact.A_X).expand(8, 3)}, PARTICLES)
    for steps, golden in RIEMANN.items():
        points = np.linspace(0, 1, steps + 1)
        values = np.array([path_integrand(known, each) for each in points])
        sums = {"left": values[:-1].mean(), "right": values[1:].mean()}
        if variance == 0.25:
            np.testing.assert_allclose([sums["left"], sums["right"]], golden, atol=6e-6)
        for side, exactly in sums.items():
            found = Thermodynamic(PARTICLES, tuple(points), side=side).bound(weights).numpy()
            mean, error = mean_and_error(found)
            width = sums["right"] - sums["left"]
            assert_close_in_sigmas(mean, exactly, error, effect=width, resolution=0.15)
        assert sums["left"] < known.log_evidence() < sums["right"]


def tvo_of_c(logits: np.ndarray, log_joint: np.ndarray, points: np.ndarray, side: str) -> float:
    """The exact Riemann sum of the enumerable categorical model, summed over x."""
    log_q = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    log_w = log_joint - log_q
    total = 0.0
    for low, high in itertools.pairwise(points):
        path = log_q + (low if side == "left" else high) * log_w
        share = np.exp(path - np.logaddexp.reduce(path, axis=1, keepdims=True))
        total += (high - low) * (share * log_w).sum()
    return float(total)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("partition", [1, 3, (0.0, 0.1, 0.4, 1.0)], ids=str)
def test_tvo_and_its_gradient_are_exact_on_a_sample_with_the_guides_own_shares(partition: Any, side: str) -> None:
    repeats = 4000  # the covariance's factor S / (S - 1) is then 1 + 2.5e-5
    objective = Thermodynamic(10 * repeats, partition, 0.1, side)
    weights, model = even_weights(repeats)
    points = np.array(objective.partition)
    log_joint = exact.Discrete().log_joint
    exactly = tvo_of_c(EVEN, log_joint, points, side)
    assert objective.bound(weights).sum().item() == pytest.approx(exactly, abs=1e-10)
    phi, theta = torch.autograd.grad(objective.surrogate(weights).sum(), [model.logits, model.likelihood_logits])

    def slope(move: Callable[[float], float]) -> float:
        return (move(1e-5) - move(-1e-5)) / 2e-5

    for x in range(4):
        for z in range(3):
            step = np.zeros((4, 3))
            step[x, z] = 1.0
            by_phi = slope(lambda e, s=step: tvo_of_c(EVEN + e * s, log_joint, points, side))
            assert phi[x, z].item() == pytest.approx(by_phi, abs=1e-4), "phi"

            def by_likelihood(e: float, x: int = x, z: int = z) -> float:
                table = np.log(exact.C_LIKELIHOOD)
                table[z, x] += e
                table -= np.logaddexp.reduce(table, axis=1, keepdims=True)
                return tvo_of_c(EVEN, (np.log(exact.C_PRIOR)[:, None] + table).T, points, side)

            assert theta[z, x].item() == pytest.approx(slope(by_likelihood), abs=1e-4), "theta"


@pytest.mark.parametrize("make", [exact.LinearGaussianModel, exact.DiscreteModel, exact.TwoLayerModel])
def test_tvo_of_one_step_is_the_elbo_with_leave_one_out_gradient(make: Any) -> None:
    model = make()
    x = torch.arange(4) if make is exact.DiscreteModel else torch.randn(4, 3, dtype=DOUBLE)
    found = []
    for objective in (Thermodynamic(5, 1), LogVariance(5)):
        terms = seeded(lambda o=objective: o.terms(model.model, model.guide, (x,), {}, "all"))
        found.append([terms.loss, *torch.autograd.grad(terms.surrogate, list(model.parameters()))])
        assert -terms.named["elbo"].item() == pytest.approx(terms.loss.item(), rel=1e-12)
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-10)


def test_the_partition_is_log_uniform() -> None:
    np.testing.assert_allclose(log_uniform(3, 0.01), [0, 0.01, 0.1, 1.0])
    assert log_uniform(1) == (0.0, 1.0)
    assert Thermodynamic(4, 2).partition == pytest.approx((0.0, 0.025, 1.0))


# ---- all of them


def posterior_guide(x: Tensor) -> None:
    mean, cov = (torch.tensor(each) for each in KNOWN.posterior())
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.MultivariateNormal(mean, cov))


EVERY = {
    "miwae": lambda: MIWAE(2, 3),
    "ciwae": lambda: CIWAE(0.3, 4),
    "tvo": lambda: Thermodynamic(5, 4),
    "tvo right": lambda: Thermodynamic(5, (0.0, 0.3, 1.0), side="right"),
    "renyi -2": lambda: Renyi(-2.0, 4),
    "vr-max": lambda: Renyi(math.inf, 4),
    "piwae": lambda: PIWAE(2, 2),
}


@pytest.mark.parametrize("name", EVERY)
def test_at_the_posterior_every_bound_is_the_evidence_without_noise(name: str) -> None:
    latent_model = pair(exact.LinearGaussianModel().model, posterior_guide)
    loss = EVERY[name]().loss(latent_model.model, latent_model.guide, torch.tensor(exact.A_X).expand(3, 3))
    assert -loss / 3 == pytest.approx(-3.6252584092, abs=1e-9)


@pytest.mark.parametrize("name", EVERY)
def test_a_scale_stands_outside(name: str) -> None:
    torch.manual_seed(2)
    plain, scaled = models.Plain().double(), models.Subsampled().double()
    scaled.load_state_dict(plain.state_dict())
    x = models.data(8, DOUBLE).x
    found = []
    for model in (plain, scaled):
        objective = EVERY[name]()
        terms = seeded(lambda m=model, o=objective: o.terms(m.model, m.guide, (x,), {}, o.players[-1]))
        used = torch.autograd.grad(terms.surrogate, list(model.parameters()))
        found.append([terms.loss, terms.named["elbo"], *used])
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(5 * mine, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", EVERY)
def test_a_graph_equals_the_eager_step_in_every_bit(name: str, dtype: torch.dtype) -> None:
    graph, eager = (
        stepping.after(models.Plain, EVERY[name], graph=graph, dtype=dtype, steps=3, last=8) for graph in (True, False)
    )
    assert graph[3].graph and graph[3].fallback is None
    assert torch.equal(graph[0], eager[0]) and torch.equal(graph[2], eager[2])
    assert all(torch.equal(graph[1][key], eager[1][key]) for key in eager[1])


@pytest.mark.parametrize("make", [lambda: Thermodynamic(4), lambda: Beta(1.0, 4), lambda: LogVariance(4)])
def test_the_reported_value_and_elbo_are_per_datum_sums(make: Callable[[], Objective]) -> None:
    model, x = exact.TwoLayerModel(), torch.randn(6, 3, dtype=DOUBLE)
    whole = seeded(lambda: make().terms(model.model, model.guide, (x,), {}, "all"))
    log_w = seeded(lambda: pvae.log_weights(model, {"x": x}, 4).log_w)
    assert whole.named["elbo"].item() == pytest.approx(log_w.mean(0).sum().item(), rel=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MIWAE(0, 2),
        lambda: MIWAE(2, True),
        lambda: PIWAE(2, 0),
        lambda: CIWAE(1.2),
        lambda: CIWAE(math.nan),
        lambda: Thermodynamic(1),
        lambda: Thermodynamic(4, 0),
        lambda: Thermodynamic(4, (0.0, 0.5)),
        lambda: Thermodynamic(4, (0.0, 0.7, 0.3, 1.0)),
        lambda: Thermodynamic(4, side="middle"),
    ],
)
def test_bad_settings_are_one_clear_line(make: Callable[[], Any]) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert "\n" not in str(caught.value)
