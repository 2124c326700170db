"""Gradient strategies: every one right in the mean, against all outcomes of discrete guides and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import exact
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from forcing import Forced, moments
from stats import assert_close_in_sigmas, mean_and_error
from torch import Tensor, nn

import pvae
from pvae import IWAE, VIMCO, InputError, LatentModel, Marginal, Renyi, ScoreFunction, WeightsObjective
from pvae.objectives import admissible, check, make_objective
from pvae.weights import LogWeights

KNOWN = exact.Discrete()
OTHER_LOGITS = np.array([[-0.6, 0.4, 1.1], [0.3, -1.2, 0.5], [0.0, 0.7, -0.4], [1.5, 0.2, -0.3]])
VALUES = {"z": torch.arange(3)}

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def on_categorical(objective: Any, x: int = 0, logits: np.ndarray = exact.C_LOGITS) -> Any:
    model = exact.DiscreteModel(logits)
    found = moments(objective, model, torch.tensor([x]), VALUES, [model.logits])
    assert found.total == pytest.approx(1.0, rel=1e-12)
    return found


def iwae_gradient(logits: np.ndarray, particles: int, x: int) -> np.ndarray:
    """Gradient of the exact bound in the logits of x, by central differences of the enumerated value."""
    step, found = 1e-5, np.zeros((4, 3))
    for unit in range(3):
        shift = np.zeros((4, 3))
        shift[x, unit] = step
        up, down = (exact.Discrete(logits + sign * shift).iwae(particles, x) for sign in (1, -1))
        found[x, unit] = (up - down) / (2 * step)
    return found.ravel()


STRATEGIES = ["score", "score:leave-one-out", "enumerate", "measure"]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("particles", [1, 2, 3])
@pytest.mark.parametrize(("logits", "x"), [(exact.C_LOGITS, 0), (OTHER_LOGITS, 3)])
def test_each_strategy_has_the_gradient_of_the_importance_weighted_bound(
    strategy: str, particles: int, logits: np.ndarray, x: int
) -> None:
    if particles == 1 and strategy == "score:leave-one-out":
        pytest.skip("one particle has no others")
    found = on_categorical(IWAE(particles, gradients={"z": strategy}), x, logits)
    assert found.value == pytest.approx(exact.Discrete(logits).iwae(particles, x), rel=1e-12)
    np.testing.assert_allclose(found.mean, iwae_gradient(logits, particles, x), atol=2e-9)
    if strategy == "enumerate":
        assert found.variance < 1e-25


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
@pytest.mark.parametrize("alpha", [-1.0, 0.5, 2.0])
def test_strategies_agree_under_a_renyi_bound(strategy: str, alpha: float) -> None:
    plain = on_categorical(Renyi(alpha, 2, gradients="z=score"), 1)
    found = on_categorical(Renyi(alpha, 2, gradients={"z": strategy}), 1)
    assert found.value == pytest.approx(plain.value, rel=1e-12)
    np.testing.assert_allclose(found.mean, plain.mean, atol=1e-12)


def test_the_models_gradient_is_the_same_under_every_strategy() -> None:
    model = exact.DiscreteModel()
    means = [
        moments(IWAE(2, gradients={"z": each}), model, torch.tensor([2]), VALUES, model.theta()).mean
        for each in STRATEGIES
    ]
    for mean in means[1:]:
        np.testing.assert_allclose(mean, means[0], atol=1e-12)


# ---- Baselines on the enumerable categorical model (docs/exact-models.md)

GOLDEN_GRADIENT = [0.476419, -0.208464, -0.267955]


@pytest.mark.parametrize(
    ("baseline", "particles", "variance"),
    [
        ("none", 1, 1.578427),
        (1.0, 1, 4.062186),
        (-1.387402, 1, 0.311884),
        (float(KNOWN.elbo()[0]), 1, 0.312386),
        ("none", 2, 0.7892),
        ("none", 3, 0.5261),
        ("leave-one-out", 2, 0.6556),
        ("leave-one-out", 3, 0.2706),
        ("leave-one-out", 4, 0.1613),
    ],
)
def test_baselines_leave_the_mean_and_have_the_known_variance(baseline: Any, particles: int, variance: float) -> None:
    found = on_categorical(ScoreFunction(baseline, particles))
    np.testing.assert_allclose(found.mean[:3], GOLDEN_GRADIENT, atol=1e-6)
    np.testing.assert_allclose(found.mean.reshape(4, 3)[0], KNOWN.elbo_gradient()[0], rtol=1e-10)
    assert found.variance == pytest.approx(variance, abs=5e-5 if particles > 1 else 1e-6)


@pytest.mark.parametrize("baseline", ["leave-one-out", "optimal", "optimal-per-coordinate", "mean", "decaying"])
@pytest.mark.parametrize(("logits", "x"), [(exact.C_LOGITS, 2), (OTHER_LOGITS, 1)])
def test_estimated_baselines_are_unbiased(baseline: str, logits: np.ndarray, x: int) -> None:
    objective = ScoreFunction(baseline, 3)
    if baseline == "decaying":  # as after a step; in evaluation it stays so through all outcomes
        objective.average.fill_(-1.7)
        objective.steps.fill_(1.0)
        objective.eval()
    found = on_categorical(objective, x, logits)
    np.testing.assert_allclose(found.mean.reshape(4, 3)[x], exact.Discrete(logits).elbo_gradient()[x], rtol=1e-10)


def test_the_optimal_baseline_tends_to_the_constant_of_least_variance() -> None:
    # the best constant c* = -1.387402 at x = 0; from 4000 other particles the estimate is near it
    model = exact.DiscreteModel()
    objective = ScoreFunction("optimal", 4000)
    weights = objective.weights(model.model, model.guide, (torch.tensor([0]),), {})
    constants = objective.baseline(weights.log_w.detach(), weights)
    assert constants.std() < 1e-3
    score = np.eye(3) - KNOWN.guide[0]
    draws = np.random.default_rng(0).choice(3, p=KNOWN.guide[0], size=(400, 4000))
    squares = (score**2).sum(1)[draws]
    spread = ((squares * KNOWN.log_w[0][draws]).sum(1) / squares.sum(1)).std()
    assert constants.mean().item() == pytest.approx(-1.387402, abs=4.5 * spread)


def test_per_coordinate_baselines_do_better_than_one_for_all_in_the_limit() -> None:
    # traces .311884 and .157437 at x = 0, here with the constants from many other particles
    torch.manual_seed(3)
    model, x = exact.DiscreteModel(), torch.zeros(1, dtype=torch.long)
    found = {}
    for name in ("optimal", "optimal-per-coordinate"):
        objective, particles = ScoreFunction(name, 400), 400
        draws = []
        for _ in range(150):
            terms = objective.terms(model.model, model.guide, (x,), {}, "all")
            draws.append(-torch.autograd.grad(terms.surrogate, model.logits)[0][0])
        found[name] = particles * torch.stack(draws).var(0).sum().item()
    error = np.sqrt(2 / 150)  # of a variance estimate, relative; three coordinates can only do better
    assert found["optimal"] == pytest.approx(0.311884, rel=4.5 * error)
    assert found["optimal-per-coordinate"] == pytest.approx(0.157437, rel=4.5 * error)


def test_a_plug_in_baseline_would_shrink_the_gradient() -> None:
    # with a particle's own sample in the baseline the mean is (1 - 1/K) of the gradient
    class PlugIn(ScoreFunction):
        def baseline(self, signals: Tensor, weights: LogWeights) -> Tensor:
            return signals.mean(0).expand_as(signals)

    for particles in (2, 3, 4):
        found = on_categorical(PlugIn("leave-one-out", particles))
        expected = (1 - 1 / particles) * KNOWN.elbo_gradient()[0]
        np.testing.assert_allclose(found.mean.reshape(4, 3)[0], expected, rtol=1e-10)


def test_the_decaying_baseline_uses_the_average_of_earlier_steps_alone() -> None:
    model, x = exact.DiscreteModel(), torch.arange(4)
    objective = ScoreFunction("decaying", 3, decay=0.5)
    seen = []
    for _ in range(3):
        weights = objective.weights(model.model, model.guide, (x,), {})
        signals = weights.log_w.detach()
        expected = sum(0.5 ** (len(seen) - i) * each for i, each in enumerate(seen)) / (
            sum(0.5 ** (len(seen) - i) for i in range(len(seen))) or 1.0
        )
        assert objective.baseline(signals, weights)[0, 0].item() == pytest.approx(float(expected), rel=1e-12)
        seen.append(signals.mean().item())
    steps = objective.steps.clone()
    objective.loss(model.model, model.guide, x)
    assert torch.equal(objective.steps, steps)


def test_the_baseline_network_is_fitted_to_the_signal_and_leaves_the_mean() -> None:
    network = nn.Linear(1, 1).double()
    objective = ScoreFunction(network, 2)
    found = on_categorical(objective, 1)
    np.testing.assert_allclose(found.mean.reshape(4, 3)[1], KNOWN.elbo_gradient()[1], rtol=1e-10)
    model, optimiser = exact.DiscreteModel(), torch.optim.LBFGS(network.parameters(), max_iter=50)

    def closure() -> Tensor:
        optimiser.zero_grad()
        torch.manual_seed(5)
        terms = objective.terms(model.model, model.guide, (torch.full((2000,), 1),), {}, "all")
        terms.surrogate.backward()
        return terms.surrogate

    optimiser.step(closure)
    torch.manual_seed(5)
    log_w = pvae.log_weights(model, {"x": torch.full((2000,), 1)}, 2).log_w
    assert network(torch.ones(1, 1).double()).item() == pytest.approx(log_w.mean().item(), abs=1e-6)


@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
def test_vimco_takes_off_the_bound_without_the_particle(mean: str) -> None:
    # by hand, from the formula: L - L with log w_k replaced by a mean of the others
    log_w = KNOWN.log_w[0]
    particles, expected = 3, np.zeros(3)
    outcome = [2, 0, 1]
    score = np.eye(3) - KNOWN.guide[0]
    w = log_w[outcome]
    bound = np.logaddexp.reduce(w) - np.log(particles)
    for k in range(particles):
        rest = np.delete(w, k)
        other = rest.mean() if mean == "geometric" else np.logaddexp.reduce(rest) - np.log(2)
        without = np.logaddexp.reduce([*rest, other]) - np.log(particles)
        expected += (bound - without - np.exp(w[k] - bound) / particles) * score[outcome[k]]
    model = exact.DiscreteModel()
    with Forced({"z": torch.tensor(outcome)[:, None]}):
        terms = VIMCO(3, mean=mean).terms(model.model, model.guide, (torch.tensor([0]),), {}, "all")
    found = -torch.autograd.grad(terms.surrogate, model.logits)[0][0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


# ---- derivatives of any order

HESSIAN = [[-0.086291, 0.040698, 0.045593], [0.040698, -0.292482, 0.251783], [0.045593, 0.251783, -0.297376]]


def averaged_loss(objective: Callable[[], Any]) -> Callable[[Tensor], Tensor]:
    """The differentiable loss of the categorical model at x = 0 as a function of its logits, over all outcomes."""
    model = exact.DiscreteModel()
    own = model.logits.detach()
    shares = torch.softmax(own[0], -1)

    def loss(logits: Tensor) -> Tensor:
        copy = exact.DiscreteModel()
        del copy._parameters["logits"]
        copy.logits = torch.cat([logits[None], own[1:]])
        total = torch.zeros((), dtype=torch.float64)
        for z in range(3):
            with Forced({"z": torch.tensor([[z]])}):
                total = total - shares[z] * objective().differentiable_loss(copy.model, copy.guide, torch.tensor([0]))
        return total

    return loss


@pytest.mark.parametrize(
    "objective",
    [
        lambda: IWAE(1),
        lambda: ScoreFunction("none", 1),
        lambda: ScoreFunction(0.7, 1),
        lambda: IWAE(1, gradients="z=enumerate"),
    ],
)
def test_the_surrogate_is_right_to_the_second_order(objective: Callable[[], Any]) -> None:
    own = exact.DiscreteModel().logits.detach()[0]
    found = torch.autograd.functional.hessian(averaged_loss(objective), own)
    np.testing.assert_allclose(found.numpy(), HESSIAN, atol=1e-6)


def test_the_plain_score_surrogate_has_the_wrong_second_order() -> None:
    class Plain(WeightsObjective):
        def surrogate(self, weights: LogWeights) -> Tensor:
            return (weights.log_w.detach() * weights.log_guide).mean(0)

    class PlainScore(Plain):
        pathwise = False
        scored = "score"

        def terms(self, *args: Any) -> Any:
            weights = self.weights(*args[:4])
            surrogate = self.surrogate(weights)
            return pvae.Terms(-surrogate.sum().detach(), -surrogate.sum())

    own = exact.DiscreteModel().logits.detach()[0]
    found = torch.autograd.functional.hessian(averaged_loss(PlainScore), own)
    assert found[0, 0].item() == pytest.approx(0.309910, abs=1e-6)


# ---- two Bernoulli sites (docs/exact-models.md), f = (b1 - .3)^2 + (b2 - .6)^2 + .7 b1 b2


class Pair(LatentModel):
    """log p(x, z) = f(b): as two sites, or as one with an event of two."""

    def __init__(self, joined: bool = False, logits: tuple[float, float] = (0.3, -0.5)) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits, dtype=torch.float64))
        self.joined = joined

    def sites(self, x: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        if self.joined:
            b = pyro.sample("b", dist.Bernoulli(logits=logits.expand(len(x), 2)).to_event(1))
            return b[..., 0], b[..., 1]
        return tuple(pyro.sample(f"b{i}", dist.Bernoulli(logits=logits[i].expand(len(x)))) for i in range(2))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            b1, b2 = self.sites(x, self.logits.new_zeros(2))
            pyro.factor("f", (b1 - 0.3) ** 2 + (b2 - 0.6) ** 2 + 0.7 * b1 * b2 + 2 * np.log(2.0))

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            self.sites(x, self.logits)


class Expectation(WeightsObjective):
    """E_q[log p(x, z)], to see estimators without the guide's entropy."""

    pathwise, averages, entropy = False, True, 0.0

    def surrogate(self, weights: LogWeights) -> Tensor:
        return weights.log_joint.mean(0)


def traces(objective: Any, model: nn.Module, draws: int) -> tuple[Tensor, float, float]:
    """Mean gradient, its error as sigmas from the exact one, and the trace variance with its error, from many data."""
    x = torch.zeros(draws, 1)
    wide = model.logits.detach().expand(draws, 2).clone().requires_grad_()
    copy = type(model)(model.joined)
    del copy._parameters["logits"]
    copy.logits = _PerDatum(wide)
    copy.sites = lambda data, logits: _sites(copy, data, logits)
    terms = objective.terms(copy.model, copy.guide, (x,), {}, "all")
    gradient = -torch.autograd.grad(terms.surrogate, wide)[0]
    squares = (gradient - gradient.mean(0)).square().sum(1)
    return gradient, squares.mean().item(), (squares.std() / draws**0.5).item()


class _PerDatum:
    """Logits with one row per datum, each its own leaf of the gradient."""

    def __init__(self, wide: Tensor) -> None:
        self.wide = wide

    def new_zeros(self, *shape: int) -> Tensor:
        return torch.zeros_like(self.wide)


def _sites(model: Pair, x: Tensor, logits: Any) -> tuple[Tensor, Tensor]:
    rows = logits.wide if isinstance(logits, _PerDatum) else logits
    if model.joined:
        b = pyro.sample("b", dist.Bernoulli(logits=rows).to_event(1))
        return b[..., 0], b[..., 1]
    return tuple(pyro.sample(f"b{i}", dist.Bernoulli(logits=rows[:, i])) for i in range(2))


GRADIENT = np.array([0.162388, 0.047497])


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize(
    ("strategy", "particles", "variance"),
    [
        ("score", 1, 0.312258),
        ("score:leave-one-out", 2, 0.077792),
        ("arm", 1, 0.055475),
        ("disarm", 1, 0.044279),
        ("measure", 1, 0.013497),
        ("enumerate", 1, 0.0),
    ],
)
def test_estimators_of_two_coins_have_the_known_mean_and_variance(
    strategy: str, particles: int, variance: float, joined: bool
) -> None:
    if strategy in ("arm", "disarm") and not joined:
        variance = 0.0  # each site is then paired on its own, the other shared: checked in the mean alone
    objective = Expectation(particles, gradients={"b*": strategy})
    gradient, found, error = traces(objective, Pair(joined), 100_000)
    mean, sigma = gradient.mean(0).numpy(), gradient.std(0).numpy() / 100_000**0.5
    np.testing.assert_array_less(np.abs(mean - GRADIENT), 4.5 * sigma + 1e-6)
    if variance or strategy == "enumerate":
        assert found == pytest.approx(variance, abs=4.5 * error + 1e-6)


# ---- Measure-valued derivatives of continuous and counting sites


class Single(LatentModel):
    """One latent site of any distribution q, and log p(x, z) = g(z)."""

    def __init__(self, make: Callable[..., Any], g: Callable[[Tensor], Tensor], *parameters: float) -> None:
        super().__init__()
        self.make, self.g = make, g
        self.values = nn.Parameter(torch.tensor(parameters, dtype=torch.float64))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            q = self.make(*self.values.detach().expand(len(x), -1).unbind(-1))
            z = pyro.sample("z", q)
            pyro.factor("g", self.g(z) - q.log_prob(z))

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.make(*self.values.expand(len(x), -1).unbind(-1)))


CASES = {
    # E g and its gradient in closed form
    "normal": (dist.Normal, lambda z: z**3, (0.4, 1.3), lambda m, s: [3 * m**2 + 3 * s**2, 6 * m * s]),
    "poisson": (dist.Poisson, lambda z: z**2, (1.7,), lambda rate: [1 + 2 * rate]),
    "gamma": (dist.Gamma, lambda z: z**2, (2.3, 1.4), lambda a, b: [(2 * a + 1) / b**2, -2 * a * (a + 1) / b**3]),
    "bernoulli": (dist.Bernoulli, lambda z: 3 * z, (0.3,), lambda p: [3.0]),
}


@pytest.mark.parametrize("name", CASES)
def test_measure_valued_derivatives_have_the_closed_form_as_their_mean(name: str) -> None:
    make, g, parameters, expected = CASES[name]
    model, draws = Single(make, g, *parameters), 200
    found = []
    for seed in range(draws):
        torch.manual_seed(seed)
        objective = Expectation(1, gradients="z=measure")
        terms = objective.terms(model.model, model.guide, (torch.zeros(2000, 1),), {}, "all")
        found.append(-torch.autograd.grad(terms.surrogate, model.values)[0] / 2000)
    for unit, truth in enumerate(expected(*parameters)):
        if name == "bernoulli":  # both values are seen: nothing is left to chance
            np.testing.assert_allclose(torch.stack(found)[:, unit], truth, rtol=1e-12)
            continue
        value, error = mean_and_error(torch.stack(found)[:, unit])
        assert error < 0.02 * abs(truth)
        assert_close_in_sigmas(value, truth, error)


# ---- Mixtures of sites


class Layered(LatentModel):
    """A coin, a Normal that depends on it, and a category that depends on both: every kind of site in one guide."""

    def __init__(self) -> None:
        super().__init__()
        values = {
            "coin": [0.4],
            "loc": [0.3, -0.6],
            "log_scale": [-0.2, 0.1],
            "category": [0.5, -0.4, 0.2],
            "slope": [0.7, -0.3, 0.1],
            "mean": [-1.0, 0.2, 1.5],
        }
        for name, value in values.items():
            setattr(self, name, nn.Parameter(torch.tensor(value, dtype=torch.float64)))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.5, dtype=torch.float64)))
            z = pyro.sample("z", dist.Normal(b - 0.2, 1.0))
            c = pyro.sample("c", dist.Categorical(logits=z.unsqueeze(-1) * self.slope.new_tensor([0.4, -0.1, 0.2])))
            pyro.sample("x", dist.Normal(self.mean[c.long()] + 0.5 * z * b, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(logits=self.coin[0] + 0.3 * x))
            chosen = b.long()
            z = pyro.sample("z", dist.Normal(self.loc[chosen] + 0.2 * x, self.log_scale[chosen].exp()))
            pyro.sample("c", dist.Categorical(logits=self.category + z.unsqueeze(-1) * self.slope))


def quadrature_gradient(model: Layered, x: float, particles: int) -> Tensor:
    """Gradient of the ELBO by Gauss-Hermite quadrature over z and sums over b and c."""
    nodes, shares = np.polynomial.hermite_e.hermegauss(40)
    shares = torch.tensor(shares / shares.sum())
    total = torch.zeros((), dtype=torch.float64)
    half = torch.tensor(0.5, dtype=torch.float64)
    for b in (0, 1):
        q_b = dist.Bernoulli(logits=model.coin[0] + 0.3 * x)
        log_b = q_b.log_prob(torch.tensor(float(b), dtype=torch.float64))
        q_z = dist.Normal(model.loc[b] + 0.2 * x, model.log_scale[b].exp())
        z = q_z.loc + q_z.scale * torch.tensor(nodes)
        q_c = dist.Categorical(logits=model.category + z.unsqueeze(-1) * model.slope)
        p_c = dist.Categorical(logits=z.unsqueeze(-1) * model.slope.new_tensor([0.4, -0.1, 0.2]))
        for c in range(3):
            log_c = q_c.logits[:, c]
            likelihood = dist.Normal(model.mean[c] + 0.5 * z * b, 1.0).log_prob(torch.tensor(x, dtype=torch.float64))
            log_p = half.log() + dist.Normal(b - 0.2, 1.0).log_prob(z) + p_c.logits[:, c] + likelihood
            log_w = log_p - log_b - q_z.log_prob(z) - log_c
            total = total + (shares * (log_b + log_c).exp() * log_w).sum()
    found = torch.autograd.grad(total, list(model.parameters()))
    return torch.cat([each.ravel() for each in found])


MIXES = [
    "b=score",
    "b=enumerate",
    "b=measure",
    "b=disarm",
    "b=arm",
    "c=measure",
    "c=enumerate",
    "z=score",
    "z=measure",
    "b=enumerate,c=enumerate",
    "b=measure,z=measure,c=measure",
    "b=disarm,z=score,c=enumerate",
    "b=enumerate,z=measure,c=score",
]


@pytest.mark.parametrize("mix", MIXES)
def test_strategies_mix_within_one_guide(mix: str) -> None:
    model = Layered()
    expected = quadrature_gradient(model, 0.8, 1)
    found = []
    for seed in range(60):
        torch.manual_seed(seed)
        objective = ScoreFunction("none", 1, gradients=mix) if seed == -1 else IWAE(1, gradients=mix)
        data = torch.full((1500,), 0.8, dtype=torch.float64)
        terms = objective.terms(model.model, model.guide, (data,), {}, "all")
        flat = torch.autograd.grad(-terms.surrogate, list(model.parameters()))
        found.append(torch.cat([each.ravel() for each in flat]) / 1500)
    draws = torch.stack(found)
    sigma = draws.std(0) / 60**0.5
    far = (draws.mean(0) - expected).abs() / sigma.clamp_min(1e-9)
    assert sigma.max() < 0.05
    assert far.max() < 4.5, (mix, far)


@pytest.mark.parametrize("mix", ["b=measure", "b=disarm,c=measure", "b=enumerate,c=measure", "z=score"])
def test_strategies_mix_under_a_multi_sample_bound(mix: str) -> None:
    model, draws = Layered(), 60

    def mean(text: str, size: int) -> tuple[Tensor, Tensor]:
        found = []
        for seed in range(draws):
            torch.manual_seed(seed)
            data = torch.full((size,), 0.8, dtype=torch.float64)
            terms = IWAE(2, gradients=text).terms(model.model, model.guide, (data,), {}, "all")
            flat = torch.autograd.grad(-terms.surrogate, list(model.parameters()))
            found.append(torch.cat([each.ravel() for each in flat]) / size)
        return torch.stack(found).mean(0), torch.stack(found).std(0) / draws**0.5

    # the reference: everything enumerated that can be, and many more draws of z
    expected, error = mean("b=enumerate,c=enumerate", 3000)
    found, sigma = mean(mix, 1500)
    assert ((found - expected).abs() / (error**2 + sigma**2).sqrt()).max() < 4.5


# ---- Summed out, and auxiliary sites


def test_marked_sites_are_summed_out_within_each_weight() -> None:
    model = exact.DiscreteModel(enumerate="parallel")
    terms = IWAE(3).terms(model.model, model.guide, (torch.arange(4),), {}, "all")
    assert -terms.loss.item() == pytest.approx(KNOWN.log_evidence().sum(), rel=1e-12)


AUXILIARY = {"q_u": np.array([0.4, 0.6]), "q_z": np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])}


class WithAuxiliary(exact.DiscreteModel):
    """The enumerable categorical model whose guide draws u, then z given u: q(z) is their mixture, for every x."""

    def __init__(self, reverse: np.ndarray = AUXILIARY["q_u"]) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.tensor(np.log(AUXILIARY["q_u"])))
        self.z = nn.Parameter(torch.tensor(np.log(AUXILIARY["q_z"])))
        self.back = nn.Parameter(torch.tensor(np.log(reverse)))

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Categorical(logits=self.u), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Categorical(logits=self.z[u]))

    def reverse(self, x: Tensor, z: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("u", dist.Categorical(logits=self.back))


def auxiliary_bound(particles: int, m: int | None) -> tuple[float, float]:
    model, size = WithAuxiliary(), 200_000
    marginal = None if m is None else Marginal(model.reverse, m)
    weights = IWAE(particles, auxiliary=marginal).weights(
        model.model, model.guide, (torch.zeros(size, dtype=torch.long),), {}
    )
    return mean_and_error(torch.logsumexp(weights.log_w, 0) - np.log(particles))


@pytest.mark.parametrize(
    ("particles", "m", "golden"),
    [
        (1, 1, -1.488462),
        (1, 2, -1.413381),
        (1, 3, -1.388184),
        (1, 5, -1.368655),
        (1, 8, -1.358039),
        (1, None, -1.340984),
        (2, 1, -1.238914),
        (2, 2, -1.183779),
        (3, 2, -1.077802),
    ],
)
def test_auxiliary_sites_are_marginalised(particles: int, m: int | None, golden: float) -> None:
    value, error = auxiliary_bound(particles, m)
    assert error < 0.003
    assert_close_in_sigmas(value, golden, error)


def test_the_exact_reverse_kernel_gives_the_marginal_at_one_draw() -> None:
    joint = AUXILIARY["q_u"][:, None] * AUXILIARY["q_z"]
    model = WithAuxiliary()
    log_q = torch.tensor(np.log(joint.sum(0)))

    def reverse(x: Tensor, z: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("u", dist.Categorical(probs=torch.tensor((joint / joint.sum(0)).T)[z]))

    for m in (1, 4):
        weights = IWAE(2, auxiliary=Marginal(reverse, m)).weights(model.model, model.guide, (torch.arange(4),), {})
        torch.testing.assert_close(weights.log_guide, log_q[weights.values["z"]], rtol=1e-12, atol=0)


def test_the_gradient_of_an_auxiliary_guide_and_its_kernel_is_that_of_the_enumerated_bound() -> None:
    model, m = WithAuxiliary(np.array([0.7, 0.3])), 2
    log_joint = torch.tensor(KNOWN.log_joint[0])
    q_u, q_z, r = (torch.softmax(each, -1) for each in (model.u, model.z, model.back))
    bound = torch.zeros((), dtype=torch.float64)
    for u in range(2):
        for z in range(3):
            for v in range(2):
                ratio = torch.logsumexp(torch.stack([(q_u[i] * q_z[i, z] / r[i]).log() for i in (u, v)]), 0) - np.log(m)
                bound = bound + q_u[u] * q_z[u, z] * r[v] * (log_joint[z] - ratio)
    parameters = [model.u, model.z, model.back]
    expected = torch.cat([each.ravel() for each in torch.autograd.grad(bound, parameters)])
    found = []
    for seed in range(60):
        torch.manual_seed(seed)
        data = torch.zeros(2000, dtype=torch.long)
        terms = IWAE(1, auxiliary=Marginal(model.reverse, m)).terms(model.model, model.guide, (data,), {}, "all")
        found.append(torch.cat([-e.ravel() for e in torch.autograd.grad(terms.surrogate, parameters)]) / 2000)
    draws = torch.stack(found)
    far = (draws.mean(0) - expected).abs() / (draws.std(0) / 60**0.5)
    assert far.max() < 4.5


# ---- What is refused, and what is said


def test_programs_can_choose_strategies_themselves() -> None:
    model = exact.DiscreteModel()
    model.infer = {"gradient": "enumerate"}
    terms = IWAE(2).terms(model.model, model.guide, (torch.tensor([0]),), {}, "all")
    assert -terms.loss.item() == pytest.approx(KNOWN.iwae(2), rel=1e-12)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: IWAE(2, gradients="z=enumrate"), "did you mean 'enumerate'"),
        (lambda: IWAE(2, gradients="z"), "site=strategy"),
        (lambda: IWAE(2, gradients={"w*": "measure"}), "no guide site matches"),
        (lambda: IWAE(1, gradients={"z": "score:leave-one-out"}), "there is one"),
        (lambda: IWAE(2, gradients={"z": "pathwise"}), "cannot have the gradient 'pathwise'"),
        (lambda: IWAE(2, gradients={"z": "disarm"}), "it is a Categorical"),
        (lambda: IWAE(20, gradients={"z": "enumerate"}), "joint outcomes"),
        (lambda: ScoreFunction("leave-one-out", 1), "there is one"),
        (lambda: ScoreFunction("optimum"), "did you mean 'optimal'"),
        (lambda: ScoreFunction("decaying", decay=1.0), "between 0 and 1"),
        (lambda: VIMCO(1), "particles=2"),
        (lambda: IWAE(2, auxiliary="reverse"), "pvae.Marginal"),
        (lambda: pvae.DReG(2), "'vimco'"),
        (lambda: make_objective("vimco:particles=1"), "particles=2"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make: Callable[[], Any], said: str) -> None:
    model = exact.DiscreteModel()
    with pytest.raises(InputError, match=said) as error:
        make().loss_and_grads(model.model, model.guide, torch.arange(4))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ScoreFunction("mean"), "the guide has none"),
        (lambda: IWAE(2, gradients="z=enumerate"), "needs a finite support.*Normal has none"),
        (lambda: pvae.DReG(2, gradients="z=score"), "asks for 'score'"),
    ],
)
def test_a_pathwise_guide_refuses_what_is_for_others(make: Callable[[], Any], said: str) -> None:
    model = exact.LinearGaussianModel()
    with pytest.raises(InputError, match=said):
        make().loss_and_grads(model.model, model.guide, torch.tensor(exact.A_X)[None])


def test_a_site_in_an_inner_plate_is_not_enumerated_wrongly() -> None:
    class Grid(LatentModel):
        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x), dim=-2), pyro.plate("pixels", 3, dim=-1):
                z = pyro.sample("z", dist.Bernoulli(torch.full((3,), 0.5)))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x), dim=-2), pyro.plate("pixels", 3, dim=-1):
                pyro.sample("z", dist.Bernoulli(torch.sigmoid(x)))

    model = Grid()
    with pytest.raises(InputError, match=r"in the plate 'pixels' too"):
        IWAE(2, gradients="z=enumerate", data_plate="data").loss(model.model, model.guide, torch.randn(4, 3))
    assert np.isfinite(
        IWAE(2, gradients="z=measure", data_plate="data").loss(model.model, model.guide, torch.randn(4, 3))
    )


def test_the_admissible_strategies_of_a_site_are_named() -> None:
    def site(distribution: Any) -> Any:
        return {"name": "z", "fn": distribution, "infer": {}}

    assert admissible(site(dist.Normal(0.0, 1.0))) == ("pathwise", "score", "score:leave-one-out", "measure")
    assert "enumerate" in admissible(site(dist.Categorical(torch.ones(3))))
    assert "enumerate" not in admissible(site(dist.Poisson(1.0)))
    assert {"disarm", "arm", "concrete", "straight-through"} <= set(admissible(site(dist.Bernoulli(0.5))))
    assert "score:leave-one-out" not in admissible(site(dist.Bernoulli(0.5)), 1)


def test_relaxations_are_named_biased() -> None:
    for strategy in ("concrete", "straight-through"):
        assert "relaxed" in IWAE(2, gradients={"b": strategy}).biased
    assert IWAE(2, gradients={"b": "disarm"}).biased == ""
    assert pvae.StickingTheLanding(1).biased == ""
    assert "particles > 1" in pvae.StickingTheLanding(2).biased


def test_check_accepts_every_strategy_that_fits() -> None:
    assert not check(
        Layered(), {"x": torch.randn(5, dtype=torch.float64)}, IWAE(2, gradients="b=disarm,c=enumerate")
    ).fatal
