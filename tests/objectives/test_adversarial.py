"""GAN, AAE and ALI against exact answers: density ratios, divergences and gradients by quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from critics import Quadratic, best_critic, covariance
from models import Line, Point, draws
from scipy.stats import norm
from stats import assert_close_in_sigmas, mean_and_error
from torch import Tensor, nn

import pvae

GRID = np.linspace(-14.0, 16.0, 60001)
STEP = GRID[1] - GRID[0]
AXIS = np.linspace(-9.0, 9.0, 601)
PLANE = np.meshgrid(AXIS, AXIS, indexing="ij")  # x, z
CELL = float((AXIS[1] - AXIS[0]) ** 2)

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


Q, P = norm(0.0, 1.0).pdf(GRID), norm(1.0, 1.5).pdf(GRID)
LOGIT = np.array([0.6276873, -0.4444444, -0.2777778])
TRUE_LOGIT = LOGIT[0] + LOGIT[1] * GRID + LOGIT[2] * GRID**2


def integral(values: np.ndarray) -> float:
    return float(values.sum() * STEP)


def jensen_shannon(q: np.ndarray, p: np.ndarray, step: float = STEP) -> float:
    middle = (q + p) / 2
    tiny = 1e-300
    return float(
        0.5 * step * (q * np.log((q + tiny) / (middle + tiny)) + p * np.log((p + tiny) / (middle + tiny))).sum()
    )


# ---- GAN


def test_gan_recovers_the_logit() -> None:
    assert np.allclose(norm(0, 1).logpdf(GRID) - norm(1, 1.5).logpdf(GRID), TRUE_LOGIT, atol=1e-5)
    x, model = draws(40_000), Line()
    objective = best_critic(pvae.GAN(critic=Quadratic(1)), model, x)
    p = 1.0 + 1.5 * draws(40_000, 7)
    critic = objective.network
    assert isinstance(critic, Quadratic)
    error = covariance(critic, x, p).diagonal().sqrt()
    assert_close_in_sigmas(critic.weight, LOGIT, error, effect=0.5, resolution=0.05)
    points = torch.tensor([[-1.0], [0.0], [2.0]], dtype=torch.float64)
    torch.testing.assert_close(objective.log_ratio(points), critic(points).detach())


def test_the_value_of_the_game_is_exact() -> None:
    value = integral(Q * np.log(1 / (1 + np.exp(-TRUE_LOGIT))) + P * np.log(1 / (1 + np.exp(TRUE_LOGIT))))
    assert math.isclose(value, -1.1877142, abs_tol=1e-6)
    assert math.isclose(jensen_shannon(Q, P), 0.0992901, abs_tol=1e-6)
    x, model, objective = draws(400_000), Line(), pvae.GAN(critic=Quadratic(1, LOGIT))
    terms = objective.terms(model.model, model.guide, (x,), {}, "critic")
    found = {"loss": terms.loss, **terms.named}
    on_q, on_p = np.logaddexp(0, -TRUE_LOGIT), np.logaddexp(0, TRUE_LOGIT)
    variance = sum(integral(d * f**2) - integral(d * f) ** 2 for d, f in ((Q, on_q), (P, on_p)))
    error = math.sqrt(variance / len(x))
    assert_close_in_sigmas(found["loss"] / len(x), -value, error, effect=0.2)
    assert_close_in_sigmas(found["jensen_shannon"] / len(x), 0.0992901, error / 2, effect=0.0992901)
    right = 0.5 * (integral(Q * (TRUE_LOGIT > 0)) + integral(P * (TRUE_LOGIT < 0)))
    assert_close_in_sigmas(found["critic_accuracy"] / len(x), right, 0.5 / math.sqrt(2 * len(x)), effect=0.2)
    again = objective.divergence(model.model, model.guide, x)
    assert_close_in_sigmas(again, 0.0992901, error / 2, effect=0.0992901)


def test_a_network_learns_the_logit_by_fit() -> None:
    x, model = draws(16_000, 3).float(), Line()
    objective = pvae.GAN(hidden=(32, 32))
    for each in model.theta():
        each.requires_grad_(False)
    run = pvae.fit(
        model, x, objective=objective, learning_rate={"theta": 1e-3, "phi": 1e-3, "critic": 5e-3}, epochs=20,
        schedule="exponential:gamma=0.85", batch_size=1000, precision="float64", progress=False,
    )  # fmt: skip
    assert run.step == "graph"
    with torch.no_grad():
        found = objective.log_ratio(torch.from_numpy(GRID)[:, None]).numpy()
    off = integral((Q + P) / 2 * np.abs(found - TRUE_LOGIT))
    print("E|logit - truth|", off)
    assert off < 0.08  # the mean of |truth| itself is 0.60


def at_model(make: Callable[[], Any], kind: str, count: int = 40, size: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    """Mean and error of theta's gradient per datum, over draws of both sides."""
    rows = []
    for seed in range(count):
        torch.manual_seed(seed)
        model, objective = Line(), make()
        terms = objective.terms(model.model, model.guide, (draws(size, seed),), {}, kind)
        rows.append(torch.stack(torch.autograd.grad(terms.surrogate / size, model.theta())))
    return mean_and_error(torch.stack(rows))


def slopes(of: Callable[[np.ndarray], float]) -> np.ndarray:
    """Central differences of a functional of p(x) in loc and slope, at loc 1, slope 1.2, noise 0.9."""
    found = []
    for loc, slope in ((1e-4, 0.0), (0.0, 1e-4)):
        both = [of(norm(1 + s * loc, math.hypot(1.2 + s * slope, 0.9)).pdf(GRID)) for s in (1, -1)]
        found.append((both[0] - both[1]) / 2e-4)
    return np.array(found)


def test_minimax_at_the_best_critic_follows_twice_the_gradient_of_jensen_shannon() -> None:
    exact = slopes(lambda p: 2 * jensen_shannon(Q, p))
    found, error = at_model(lambda: pvae.GAN(loss="minimax", critic=Quadratic(1, LOGIT)), "theta")
    assert_close_in_sigmas(found, exact, error, effect=np.abs(exact).max(), resolution=0.01)


def test_non_saturating_at_the_best_critic_follows_reverse_kl_less_twice_jensen_shannon() -> None:
    def of(p: np.ndarray) -> float:
        return integral(p * np.log((p + 1e-300) / (Q + 1e-300))) - 2 * jensen_shannon(Q, p)

    exact = slopes(of)
    found, error = at_model(lambda: pvae.GAN(critic=Quadratic(1, LOGIT)), "theta")
    assert_close_in_sigmas(found, exact, error, effect=np.abs(exact).max(), resolution=0.01)


class Shifted(nn.Module):
    """q / (q + p), and a shift linear in 1, x, x^2 that a best critic has no use for."""

    def __init__(self) -> None:
        super().__init__()
        self.best, self.shift = Quadratic(1, LOGIT).requires_grad_(False), Quadratic(1)

    def forward(self, rows: Tensor) -> Tensor:
        return torch.sigmoid(self.best(rows)) + self.shift(rows)


def test_least_squares_is_best_at_the_share_of_q() -> None:
    x, model, objective, rows = draws(200_000), Line(), pvae.GAN("least-squares", critic=Shifted()), []
    for part in x.chunk(40):
        terms = objective.terms(model.model, model.guide, (part,), {}, "critic")
        (slope,) = torch.autograd.grad(
            terms.surrogate / len(part), [each for each in objective.critic() if each.requires_grad]
        )
        rows.append(slope)
    found, error = mean_and_error(torch.stack(rows))
    assert_close_in_sigmas(found, np.zeros(3), error, effect=0.5)  # targets the other way round give as much
    exact = 0.5 * integral((Q - P) ** 2 / (Q + P + 1e-300))
    found_one = objective.divergence(model.model, model.guide, x)
    assert_close_in_sigmas(found_one, exact, 4 * 0.5 * math.sqrt(0.1 / len(x)), effect=exact, resolution=0.02)
    points = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    exact_ratio = Quadratic(1, LOGIT)(points).detach()
    torch.testing.assert_close(objective.log_ratio(points), exact_ratio, rtol=1e-9, atol=1e-9)
    exact_slope = slopes(lambda p: 0.5 * integral(p * (Q / (Q + P + 1e-300) - 1) ** 2))
    theta, error = at_model(lambda: pvae.GAN("least-squares", critic=Shifted()), "theta")
    assert_close_in_sigmas(theta, exact_slope, error, effect=np.abs(exact_slope).max(), resolution=0.01)


# ---- Wasserstein


def test_the_gradient_penalty_is_the_hand_written_one_on_the_same_draws() -> None:
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    model, x = Line(), draws(6)
    objective = pvae.ALI("wasserstein", critic=network, penalty=3.0)
    objective.loss(model.model, model.guide, x)  # the first batch also looks for conditions
    torch.manual_seed(5)
    terms = objective.terms(model.model, model.guide, (x,), {}, "critic")
    torch.manual_seed(5)
    with torch.no_grad():
        sides = objective.sides(model.model, model.guide, (x,), {})
    q, p = torch.cat(sides.q, 1), torch.cat(sides.p, 1)
    share = torch.rand(6, 1, dtype=torch.float64)
    first, last = network[0], network[2]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    between = share * q + (1 - share) * p
    hidden = torch.tanh(between @ first.weight.T + first.bias)
    slope = ((1 - hidden**2) * last.weight) @ first.weight  # the chain rule by hand
    penalty = 3.0 * ((slope.norm(dim=1) - 1) ** 2).sum()
    expected = (network(p) - network(q)).sum() + penalty
    torch.testing.assert_close(terms.loss, expected.detach(), rtol=1e-12, atol=0)
    ours = torch.autograd.grad(terms.surrogate, list(network.parameters()), allow_unused=True)
    theirs = torch.autograd.grad(expected, list(network.parameters()), allow_unused=True)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(terms.named["wasserstein"], (network(q) - network(p)).sum().detach())


def test_a_bounded_critic_tells_the_wasserstein_distance_of_a_shift() -> None:
    model, x = Line(loc=3.0, slope=0.8, noise=0.6), draws(4000)
    objective = best_critic(pvae.GAN("wasserstein", critic=nn.Linear(1, 1).double(), penalty=100.0), model, x, 20)
    found = objective.divergence(model.model, model.guide, x)
    # the best slope s maximises 3 s - 100 (s - 1)^2, so it is 1 + 3 / 200
    assert_close_in_sigmas(found, 3.0 * (1 + 3 / 200), 1.015 * math.sqrt(2 / len(x)), effect=3.0)
    with pytest.raises(pvae.InputError, match="estimates no density ratio"):
        objective.log_ratio(x)


# ---- AAE

MEANS, VARIANCES = np.array([-2.0, -1.0, 0.0, 1.5]), np.array([0.2, 0.3, 0.25, 0.1])


class Table(Line):
    """A guide with a mean and a variance of its own for each of four data, x = 0, 1, 2, 3."""

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            index = x.long()
            mean, scale = torch.tensor(MEANS)[index], torch.tensor(VARIANCES).sqrt()[index]
            pyro.sample("z", dist.Normal(mean + 0 * self.weight, scale).to_event(1))


def test_aae_sees_the_divergence_of_the_aggregate_from_the_prior() -> None:
    parts = norm(MEANS[:, None], np.sqrt(VARIANCES)[:, None]).pdf(GRID)
    aggregate, prior = parts.mean(0), norm(0, 1).pdf(GRID)
    kl = float(np.mean(0.5 * (MEANS**2 + VARIANCES - 1 - np.log(VARIANCES))))
    mismatch = integral(aggregate * np.log((aggregate + 1e-300) / (prior + 1e-300)))
    information = float(np.mean([integral(each * np.log((each + 1e-300) / (aggregate + 1e-300))) for each in parts]))
    assert np.allclose([kl, information, mismatch], [1.3252863, 0.9751490, 0.3501372], atol=2e-7)
    assert math.isclose(kl, information + mismatch, abs_tol=1e-9) and information <= math.log(4)

    model, x = Table(), torch.arange(4.0, dtype=torch.float64).repeat(1500)[:, None]
    objective = pvae.AAE(hidden=(32, 32))
    objective.loss(model.model, model.guide, x)
    best_critic(objective, model, x, 60)
    torch.manual_seed(99)  # draws that the critic has not seen
    exact = jensen_shannon(aggregate, prior)
    found = objective.divergence(model.model, model.guide, x)
    print("JS", found, exact)
    assert abs(found - exact) < 0.01 < exact / 5
    with torch.no_grad():
        ratio = objective.log_ratio(torch.from_numpy(GRID)[:, None]).numpy()
    weight = (aggregate + prior) / 2
    assert (
        integral(weight * np.abs(ratio - np.log((aggregate + 1e-300) / (prior + 1e-300))) * (np.abs(GRID) < 3)) < 0.12
    )
    assert abs(integral(aggregate * ratio) - mismatch) < 0.06  # its mean under q is KL(q(z) to p(z))
    torch.manual_seed(3)
    terms = objective.terms(model.model, model.guide, (x,), {}, "together")
    variance = np.mean(0.5 + MEANS**2)  # at least that of log q - log p, per datum
    assert_close_in_sigmas(terms.named["kl"] / len(x), kl, math.sqrt(2 * variance / len(x)), effect=kl, resolution=0.05)


def test_aae_at_the_best_critic_follows_twice_the_gradient_of_jensen_shannon() -> None:
    """The aggregate of N(w x, v) over x ~ N(0, 2.5) is N(0, 2.5 w^2 + v); the prior is N(0, 1)."""
    prior = norm(0, 1).pdf(GRID)

    def divergence(weight: float, spread: float) -> float:
        return 2 * jensen_shannon(norm(0, math.sqrt(2.5 * weight**2 + math.exp(2 * spread))).pdf(GRID), prior)

    h, spread = 1e-4, 0.5 * math.log(0.2)
    exact = [
        (divergence(0.2 + h, spread) - divergence(0.2 - h, spread)) / (2 * h),
        (divergence(0.2, spread + h) - divergence(0.2, spread - h)) / (2 * h),
    ]
    variance = 2.5 * 0.2**2 + 0.2
    logit, rows = [-0.5 * math.log(variance), 0.0, 0.5 - 0.5 / variance], []
    for seed in range(40):
        torch.manual_seed(seed)
        model, data = pairs(0.2, 0.2, 1)[0], draws(10_000, seed, math.sqrt(2.5))
        objective = pvae.AAE("minimax", critic=Quadratic(1, logit))
        surrogate = objective.terms(model.model, model.guide, (data,), {}, "phi").surrogate
        rows.append(torch.stack(torch.autograd.grad(surrogate / len(data), model.phi())))
    found, error = mean_and_error(torch.stack(rows))
    assert_close_in_sigmas(found, exact, error, effect=np.abs(exact).max(), resolution=0.02)


def test_aae_reconstructs_with_points_and_with_noise() -> None:
    """At a point z the loss is minus log p(x given z): the closed form on every datum."""
    model, x = Point(weight=0.5), draws(50)
    terms = pvae.AAE().terms(model.model, model.guide, (x,), {}, "together")
    expected = -norm(1.0 + 1.2 * 0.5 * x.numpy(), 0.9).logpdf(x.numpy()).sum()
    assert math.isclose(float(terms.loss), expected, rel_tol=1e-12)
    assert set(terms.named) == {"log_likelihood"}


# ---- ALI


def joint_logit(weight: float, variance: float) -> np.ndarray:
    """Coefficients in 1, x, z, x^2, xz, z^2 of log q(x, z) - log p(x, z), for x = 1.5 z + 0.5 e and data from it."""
    # q: x ~ N(0, 2.5), z ~ N(w x, v); p: z ~ N(0, 1), x ~ N(1.5 z, .25)
    constant = -0.5 * math.log(2.5) - 0.5 * math.log(variance) + 0.5 * math.log(0.25)
    squares = -0.5 / 2.5 - 0.5 * weight**2 / variance + 2.0
    return np.array([constant, 0, 0, squares, weight / variance - 6.0, -0.5 / variance + 0.5 + 4.5])


def joint_kl(weight: float, variance: float) -> float:
    """By the second moments of q."""
    c = joint_logit(weight, variance)
    return float(c[0] + c[3] * 2.5 + c[4] * weight * 2.5 + c[5] * (weight**2 * 2.5 + variance))


def pairs(weight: float, variance: float, size: int = 60_000) -> tuple[Line, Tensor]:
    return Line(loc=0.0, slope=1.5, noise=0.5, weight=weight, variance=variance), draws(size, 4, math.sqrt(2.5))


def test_ali_sees_nothing_where_the_joints_match() -> None:
    assert np.allclose(joint_logit(0.6, 0.1), 0.0, atol=1e-12)
    model, x = pairs(0.6, 0.1)
    objective = best_critic(pvae.ALI(critic=Quadratic(2)), model, x)
    critic = objective.network
    assert isinstance(critic, Quadratic)
    z = 0.6 * x + math.sqrt(0.1) * draws(len(x), 5)
    error = covariance(critic, torch.cat([x, z], 1), torch.cat([x, z], 1)).diagonal().sqrt()
    assert_close_in_sigmas(critic.weight, np.zeros(6), error, effect=1.4, resolution=0.1)


def test_ali_recovers_the_logit_of_the_joints() -> None:
    exact = joint_logit(0.4, 0.2)
    assert np.allclose(exact, [-0.3465736, 0, 0, 1.4, -4.0, 2.5], atol=1e-7)
    assert math.isclose(joint_kl(0.4, 0.2), 0.6534264, abs_tol=1e-7)
    model, x = pairs(0.4, 0.2)
    objective = best_critic(pvae.ALI(critic=Quadratic(2)), model, x)
    critic = objective.network
    assert isinstance(critic, Quadratic)
    q = torch.cat([x, 0.4 * x + math.sqrt(0.2) * draws(len(x), 5)], 1)
    z = draws(len(x), 6)
    p = torch.cat([1.5 * z + 0.5 * draws(len(x), 8), z], 1)
    error = covariance(critic, q, p).diagonal().sqrt()
    assert_close_in_sigmas(critic.weight, exact, error, effect=1.4, resolution=0.05)
    ratio = objective.log_ratio(q[:, :1], q[:, 1:])
    assert_close_in_sigmas(ratio.mean(), 0.6534264, mean_and_error(ratio)[1] + 0.02, effect=0.6534264, resolution=0.05)


def test_an_aggregate_that_matches_is_no_inference() -> None:
    """z = -0.5657 x + noise has the prior's variance and the wrong sign: AAE's critic is blind, ALI's is not."""
    weight = -math.sqrt(0.32)
    assert math.isclose(weight**2 * 2.5 + 0.2, 1.0, abs_tol=1e-12)
    assert math.isclose(joint_kl(weight, 0.2), 17.1387, abs_tol=1e-4)
    model, x = pairs(weight, 0.2, 20_000)
    blind = best_critic(pvae.AAE(critic=Quadratic(1)), model, x)
    sees = best_critic(pvae.ALI(critic=Quadratic(2)), model, x, 60)
    torch.manual_seed(50)
    assert abs(blind.divergence(model.model, model.guide, x)) < 1e-3
    q = norm(0, math.sqrt(2.5)).pdf(PLANE[0]) * norm(weight * PLANE[0], math.sqrt(0.2)).pdf(PLANE[1])
    exact = jensen_shannon(q, norm(0, 1).pdf(PLANE[1]) * norm(1.5 * PLANE[1], 0.5).pdf(PLANE[0]), CELL)
    assert abs(sees.divergence(model.model, model.guide, x) - exact) < 0.01 < exact / 40
    best = pvae.ALI(critic=Quadratic(2, joint_logit(weight, 0.2)))
    z = weight * x + math.sqrt(0.2) * draws(len(x), 5)
    ratio = best.log_ratio(x, z)
    assert_close_in_sigmas(ratio.mean(), 17.1387, mean_and_error(ratio)[1], effect=17.1387, resolution=0.02)


def test_ali_at_the_best_critic_follows_twice_the_gradient_of_jensen_shannon() -> None:
    """Both programs at once: against finite differences of the Jensen-Shannon divergence on a plane."""
    x, z = PLANE

    def divergence(slope: float, weight: float) -> float:
        q = norm(0, math.sqrt(2.5)).pdf(x) * norm(weight * x, math.sqrt(0.2)).pdf(z)
        return 2 * jensen_shannon(q, norm(0, 1).pdf(z) * norm(slope * z, 0.5).pdf(x), CELL)

    h = 1e-4
    exact = [
        (divergence(1.5 + h, 0.4) - divergence(1.5 - h, 0.4)) / (2 * h),
        (divergence(1.5, 0.4 + h) - divergence(1.5, 0.4 - h)) / (2 * h),
    ]
    rows = []
    for seed in range(40):
        torch.manual_seed(seed)
        model = pairs(0.4, 0.2, 1)[0]
        objective = pvae.ALI("minimax", critic=Quadratic(2, joint_logit(0.4, 0.2)))
        data = draws(10_000, seed, math.sqrt(2.5))
        surrogate = objective.terms(model.model, model.guide, (data,), {}, "generator").surrogate
        rows.append(torch.stack(torch.autograd.grad(surrogate / len(data), [model.slope, model.weight])))
    found, error = mean_and_error(torch.stack(rows))
    assert_close_in_sigmas(found, exact, error, effect=np.abs(exact).max(), resolution=0.02)
