"""Sticking the landing and doubly reparameterised gradients: their formulas, their means, their noise."""

from __future__ import annotations

import warnings
from typing import Any

import exact
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from stats import assert_close_in_sigmas
from torch import Tensor, nn

from pvae import IWAE, VAE, DReG, InputError, LatentModel, LogWeights, Renyi, StickingTheLanding

KNOWN = exact.LinearGaussian()

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def gradient(objective: Any, model: nn.Module, x: Tensor, parameters: list[nn.Parameter], seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    terms = objective.terms(model.model, model.guide, (x,), {}, "all")
    found = torch.autograd.grad(-terms.surrogate, parameters, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(p).ravel() if g is None else g.ravel() for p, g in zip(parameters, found, strict=True)]
    )


def at_the_posterior() -> exact.LinearGaussianModel:
    """A model whose posterior is diagonal, and the guide that is it."""
    model = exact.LinearGaussian(np.array([[1.0, 0.5], [0.5, -1.0], [0.0, 0.0]]))
    mean, cov = model.posterior()
    assert abs(cov[0, 1]) < 1e-12
    return exact.LinearGaussianModel(mean, np.diag(cov), model)


@pytest.mark.parametrize(
    "objective", [StickingTheLanding(1), StickingTheLanding(4), DReG(4), DReG(4, alpha=0.5), DReG(4, alpha=1.0)]
)
def test_at_the_exact_posterior_the_guides_gradient_is_exactly_zero(objective: Any) -> None:
    model, x = at_the_posterior(), torch.tensor(exact.A_X)[None]
    assert gradient(objective, model, x, model.phi()).abs().max() < 1e-12
    assert gradient(IWAE(4), model, x, model.phi()).abs().max() > 0.1
    bound = -objective.loss(model.model, model.guide, x)
    assert bound == pytest.approx(exact.LinearGaussian(model.weight.detach().numpy()).log_evidence(), rel=1e-12)


class Traced:
    """log_w of the two-layer chain as a function of z alone, phi stopped; and z as a function of phi."""

    def __init__(self, model: exact.TwoLayerModel, x: Tensor, particles: int) -> None:
        def keep(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: each.detach() for name, each in parameters.items()}

        self.model, self.x = model, x
        p, q = dict(model.named_parameters()), dict(model.named_parameters())
        torch.manual_seed(0)
        noise1 = torch.randn(particles, len(x), 2, dtype=torch.float64)
        noise2 = torch.randn(particles, len(x), 2, dtype=torch.float64)
        self.z1 = x @ q["C"].T + q["c"] + q["t1"].exp() * noise1
        self.z2 = self.z1 @ q["D"].T + q["d"] + q["t2"].exp() * noise2
        self.p, self.stopped = p, keep(q)

    def log_w(self, z1: Tensor, z2: Tensor) -> Tensor:
        p, q, normal = self.p, self.stopped, dist.Normal
        joint = normal(0.0, 1.0).log_prob(z2).sum(-1)
        joint = joint + normal(z2 @ p["A"].T + p["a"], p["s1"].exp()).log_prob(z1).sum(-1)
        joint = joint + normal(z1 @ p["B"].T + p["b"], p["s2"].exp()).log_prob(self.x).sum(-1)
        log_q = normal(self.x @ q["C"].T + q["c"], q["t1"].exp()).log_prob(z1).sum(-1)
        return joint - log_q - normal(z1 @ q["D"].T + q["d"], q["t2"].exp()).log_prob(z2).sum(-1)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_the_doubly_reparameterised_gradient_is_its_formula_with_two_layers(alpha: float) -> None:
    model, particles = exact.TwoLayerModel(), 5
    x = torch.tensor(exact.TwoLayer().x)
    found = gradient(DReG(particles, alpha=alpha), model, x, [*model.phi(), *model.theta()])
    hand = Traced(model, x, particles)
    z1, z2 = (each.detach().requires_grad_() for each in (hand.z1, hand.z2))
    log_w = hand.log_w(z1, z2)
    share = torch.softmax((1 - alpha) * log_w.detach(), 0)
    by_z = torch.autograd.grad(log_w.sum(), [z1, z2], retain_graph=True)
    factor = (alpha * share + (1 - alpha) * share**2).unsqueeze(-1)
    phi = torch.autograd.grad([hand.z1, hand.z2], model.phi(), [factor * each for each in by_z])
    theta = torch.autograd.grad((share * log_w).sum(), model.theta())
    expected = torch.cat([each.ravel() for each in (*phi, *theta)])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_sticking_the_landing_is_its_formula_with_two_layers() -> None:
    model, particles = exact.TwoLayerModel(), 4
    x = torch.tensor(exact.TwoLayer().x)
    found = gradient(StickingTheLanding(particles), model, x, [*model.phi(), *model.theta()])
    hand = Traced(model, x, particles)
    bound = torch.logsumexp(hand.log_w(hand.z1, hand.z2), 0).sum()
    expected = torch.cat([each.ravel() for each in torch.autograd.grad(bound, [*model.phi(), *model.theta()])])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


class OneByOne(exact.TwoLayerModel):
    """The chain with a use of z that does not vectorise, so that particles run one by one."""

    def model(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2.reshape(len(x), 2) @ self.A.T + self.a, self.s1.exp()).to_event(1))
            return pyro.sample("x", dist.Normal(z1 @ self.B.T + self.b, self.s2.exp()).to_event(1), obs=x)


def test_particles_one_by_one_have_the_same_law() -> None:
    x = torch.tensor(exact.TwoLayer().x)[:1].expand(400, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = [
            torch.stack([gradient(DReG(3), model, x, model.phi(), seed) / 400 for seed in range(30)])
            for model in (exact.TwoLayerModel(), OneByOne())
        ]
    difference = (found[0].mean(0) - found[1].mean(0)).abs()
    error = ((found[0].var(0) + found[1].var(0)) / 30).sqrt()
    assert (difference / error.clamp_min(1e-12)).max() < 4.5
    assert error.max() < 0.05


@pytest.mark.parametrize(("particles", "alpha"), [(1, 0.0), (8, 0.0), (64, 0.0), (8, 0.5), (8, -0.5)])
def test_it_has_the_mean_of_the_bounds_own_gradient(particles: int, alpha: float) -> None:
    model = exact.LinearGaussianModel()
    x = torch.tensor(exact.A_X).expand(max(20, 4000 // particles), 3)
    plain = IWAE(particles) if alpha == 0 else Renyi(alpha, particles)
    doubly = DReG(particles, alpha=alpha)
    assert type(doubly.target()) is type(plain)
    parameters = [*model.theta(), *model.phi()]
    runs = {
        each: torch.stack([gradient(each, model, x, parameters, seed) / len(x) for seed in range(50)])
        for each in (plain, doubly)
    }
    error = ((runs[plain].var(0) + runs[doubly].var(0)) / 50).sqrt()
    assert ((runs[plain].mean(0) - runs[doubly].mean(0)).abs() / error).max() < 4.5
    phi = slice(-4, None)
    if particles == 64:
        assert (runs[doubly].var(0)[phi] < 0.2 * runs[plain].var(0)[phi]).all()


class Toy(LatentModel):
    """z ~ N(0, I) in five dimensions, x ~ N(z, I), q = N(x / 2 + b, 2/3 I) with b off by 0.3."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.full((5,), 0.3, dtype=torch.float64))
        self.mu = nn.Parameter(torch.zeros(5, dtype=torch.float64))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.mu.expand(len(x), 5), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + self.b, (2 / 3) ** 0.5).to_event(1))


def per_datum(objective: Any, draws: int) -> Tensor:
    """The gradient in b of each of many draws at x = 0.7, shape (draws, 5)."""
    model = Toy()
    rows = model.b.detach().expand(draws, 5).clone().requires_grad_()
    del model._parameters["b"]
    model.b = rows
    torch.manual_seed(1)
    x = torch.full((draws, 5), 0.7, dtype=torch.float64)
    terms = objective.terms(model.model, model.guide, (x,), {}, "all")
    return -torch.autograd.grad(terms.surrogate, rows)[0]


@pytest.mark.parametrize(
    ("objective", "golden"), [(DReG(64), -0.0114), (StickingTheLanding(64), -0.4529), (StickingTheLanding(1), -0.6)]
)
def test_means_on_the_toy_are_the_known_ones(objective: Any, golden: float) -> None:
    found = per_datum(objective, 3000).mean(1)
    assert_close_in_sigmas(found.mean().item(), golden, (found.std() / 3000**0.5).item() + 5e-5)


def test_the_signal_to_noise_of_dreg_grows_and_that_of_iwae_falls() -> None:
    def ratio(objective: Any, draws: int) -> float:
        found = per_datum(objective, draws)
        return float((found.mean(0).abs() / found.std(0)).mean())

    grown = [ratio(DReG(particles), 1500) for particles in (16, 64, 256)]
    np.testing.assert_allclose(grown, [2.46, 4.70, 9.33], rtol=0.08)
    slope = np.polyfit(np.log([16, 64, 256]), np.log(grown), 1)[0]
    assert slope == pytest.approx(0.49, abs=0.05)
    # .099, .049 at K = 16, 64: a mean that small needs many draws to be seen
    assert ratio(IWAE(16), 60_000) == pytest.approx(0.099, abs=0.012)


class FixedGuideFirst(DReG):
    """DReG that computes log q at fixed z before all its other terms."""

    def surrogate(self, weights: LogWeights) -> Tensor:
        fixed = weights.log_guide_at_fixed_z()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LogWeights, "log_guide_at_fixed_z", lambda weights: fixed)
            return super().surrogate(weights)


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_of_dreg_sums_its_terms_in_a_fixed_order(seed: int) -> None:
    torch.manual_seed(seed)
    model = VAE((6,), latent=2, hidden=(5,))
    x = torch.rand(8, 6).round()
    plain = gradient(DReG(3), model, x, model.phi(), seed)
    assert torch.equal(plain, gradient(FixedGuideFirst(3), model, x, model.phi(), seed))


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), "half", True])
def test_an_order_that_is_none_is_refused(alpha: Any) -> None:
    with pytest.raises(InputError, match="finite number"):
        DReG(2, alpha=alpha)
