"""Reweighted wake-sleep against enumeration, the posterior's moments and the theory of its bias."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import C_DATA, C_LOGITS, Discrete, DiscreteModel, LinearGaussianModel, TwoLayer, TwoLayerModel
from forcing import Forced
from pyro.infer import SVI
from scipy.special import gammaln
from stats import assert_close_in_sigmas, mean_and_error
from torch import Tensor, nn

import pvae
from pvae.errors import InputError
from pvae.models import LatentModel, pair
from pvae.objectives import IWAE, WakeSleep, check, describe, make_objective
from pvae.train.checkpoint import read

EXACT = Discrete()
POSTERIOR = np.exp(EXACT.log_joint - EXACT.log_evidence()[:, None])
# p(x) E_post[score] of the enumerable categorical model at x = 0 (docs/exact-models.md)
POSTERIOR_SCORE = np.array([0.19891, -0.08193, -0.11698])

pytestmark = pytest.mark.usefixtures("own_store")


class PerDatum(DiscreteModel):
    """The categorical model at x = 0 with logits of their own for each datum, so that one loss gives each gradient."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(C_LOGITS[0]).repeat(size, 1))

    def guide(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Categorical(logits=self.logits))


def wake_gradient(draws: np.ndarray, x: int = 0) -> np.ndarray:
    """sum_k w~_k score(z_k), for each column of draws (particles, outcomes): shape (outcomes, 3)."""
    w = np.exp(EXACT.log_w[x])[draws]
    score = np.eye(3)[draws] - EXACT.guide[x]
    return ((w / w.sum(0))[:, :, None] * score).sum(0)


def mean_wake_gradient(particles: int, x: int = 0) -> np.ndarray:
    """Its exact mean over all draws, by how often each value comes."""
    counts = np.array([c for c in itertools.product(range(particles + 1), repeat=3) if sum(c) == particles])
    chance = np.exp(gammaln(particles + 1) - gammaln(counts + 1).sum(1) + counts @ EXACT.log_guide[x])
    share = counts * np.exp(EXACT.log_w[x])
    share /= share.sum(1, keepdims=True)
    return np.asarray(chance @ (share - EXACT.guide[x]))


@pytest.mark.parametrize("particles", [1, 2, 3, 4])
def test_wake_gradient_of_every_outcome_and_its_mean_are_exact(particles: int) -> None:
    draws = np.array(list(itertools.product(range(3), repeat=particles))).T
    latent_model = PerDatum(draws.shape[1])
    x = torch.zeros(draws.shape[1], dtype=torch.long)
    objective = WakeSleep(particles)
    with Forced({"z": torch.tensor(draws)}):
        terms = objective.terms(latent_model.model, latent_model.guide, (x,), {}, "phi")
    (found,) = torch.autograd.grad(-terms.surrogate, [latent_model.logits])
    np.testing.assert_allclose(found.numpy(), wake_gradient(draws), rtol=1e-10, atol=1e-12)
    chance = np.exp(EXACT.log_guide[0][draws].sum(0))
    np.testing.assert_allclose(chance @ found.numpy(), mean_wake_gradient(particles), rtol=1e-10, atol=1e-14)


def test_wake_bias_equals_its_theory() -> None:
    """E_q[w score] / E_q[w] is POSTERIOR_SCORE / p(x).

    The self-normalised mean tends to it like -Cov(w, w (s - mu)) / K.
    """
    exact = POSTERIOR[0] - EXACT.guide[0]
    np.testing.assert_allclose(exact * 0.43, POSTERIOR_SCORE, atol=6e-6)
    np.testing.assert_allclose(mean_wake_gradient(1), 0.0, atol=1e-15)
    ratio = np.exp(EXACT.log_w[0]) / 0.43
    leading = -(EXACT.guide[0] * ratio**2) @ (np.eye(3) - POSTERIOR[0])
    for particles in (40, 80):
        bias = mean_wake_gradient(particles) - exact
        np.testing.assert_allclose(particles * bias, leading, rtol=3.0 / particles)


@pytest.mark.parametrize("scale", [1.0, 7.0])
@pytest.mark.parametrize("phi", ["wake", "sleep", "both"])
def test_mean_gradients_of_a_discrete_guide(phi: str, scale: float) -> None:
    """phi's: enumerated wake means, sum_z p(x, z) - p(x) q(z given x) for sleep; theta's: of the exact bound."""
    latent_model, size, particles = DiscreteModel(), 40_000, 3
    x = torch.arange(4).repeat_interleave(size)
    latent_model.logits.data = latent_model.logits.data.repeat_interleave(size, 0)
    latent_model.guide = lambda x: _of_rows(latent_model, x)  # type: ignore[method-assign]
    torch.manual_seed(0)
    objective = WakeSleep(particles, phi, mixing=0.3)
    terms = objective.terms(*_scaled(latent_model, scale), (x,), {}, "phi")
    (found,) = torch.autograd.grad(-terms.surrogate, [latent_model.logits])
    found = found.reshape(4, size, 3) / scale
    wake = np.stack([mean_wake_gradient(particles, x) for x in range(4)])
    p = np.exp(EXACT.log_joint)
    # the logits of row n are those of datum n, whatever x was simulated in its place
    sleep = np.stack([np.einsum("xz->z", p) - p.sum() * EXACT.guide[x] for x in range(4)])
    expected = {"wake": wake, "sleep": sleep, "both": 0.3 * wake + 0.7 * sleep}[phi]
    mean, error = mean_and_error(found.transpose(0, 1))
    assert_close_in_sigmas(mean, expected, error, effect=0.5)


def _of_rows(latent_model: DiscreteModel, x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Categorical(logits=latent_model.logits))


def _scaled(latent_model: Any, scale: float) -> tuple[Any, Any]:
    return tuple(pyro.poutine.scale(program, scale) for program in (latent_model.model, latent_model.guide))  # type: ignore[return-value]


def test_sleep_reads_the_simulated_x() -> None:
    """sum_x p(x) (post - q): each row of logits learns only from the x that were simulated."""
    latent_model, size = DiscreteModel(), 400_000
    torch.manual_seed(1)
    x = torch.zeros(size, dtype=torch.long)
    terms = WakeSleep(phi="sleep").terms(latent_model.model, latent_model.guide, (x,), {}, "phi")
    (found,) = torch.autograd.grad(-terms.surrogate / size, [latent_model.logits])
    p = np.exp(EXACT.log_joint)
    error = np.sqrt(p.sum(1, keepdims=True) / size)
    assert_close_in_sigmas(found.numpy(), p - p.sum(1, keepdims=True) * EXACT.guide, error * np.ones(3), effect=0.2)


def test_theta_descends_the_bound_of_iwae_and_phi_gets_nothing_from_it() -> None:
    latent_model = LinearGaussianModel()
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = {}
    for objective, player in ((WakeSleep(4), "theta"), (IWAE(4), "all")):
        torch.manual_seed(2)
        terms = objective.terms(latent_model.model, latent_model.guide, (x,), {}, player)
        gradients = torch.autograd.grad(terms.surrogate, latent_model.theta(), retain_graph=True)
        losses[player] = terms.loss, gradients, terms.named
        if player == "theta":
            phi = torch.autograd.grad(terms.surrogate, latent_model.phi(), allow_unused=True)
            assert phi == (None, None)
    torch.testing.assert_close(losses["theta"], losses["all"], rtol=1e-12, atol=0.0)


def test_wake_gradient_of_two_layers_is_that_of_log_q_at_fixed_z() -> None:
    latent_model, x = TwoLayerModel(), torch.tensor(TwoLayer().x)
    torch.manual_seed(3)
    terms = WakeSleep(5).terms(latent_model.model, latent_model.guide, (x,), {}, "phi")
    found = torch.autograd.grad(terms.surrogate, latent_model.phi())
    torch.manual_seed(3)
    with torch.no_grad():
        weights = pvae.weights.trace_weights(latent_model.model, latent_model.guide, (x,), {}, 5)
    z1, z2 = weights.values["z1"], weights.values["z2"]
    log_q = dist.Normal(x @ latent_model.C.T + latent_model.c, latent_model.t1.exp()).log_prob(z1).sum(-1)
    log_q = log_q + dist.Normal(z1 @ latent_model.D.T + latent_model.d, latent_model.t2.exp()).log_prob(z2).sum(-1)
    by_hand = -(torch.softmax(weights.log_w, 0) * log_q).sum()
    torch.testing.assert_close(found, torch.autograd.grad(by_hand, latent_model.phi()), rtol=1e-10, atol=1e-12)


class Logistic(LatentModel):
    """z ~ N(0, 1), x_j ~ Bernoulli(w_j z + b_j); the guide's two numbers are free."""

    def __init__(self, mean: float = 0.966396, sd: float = 0.776134) -> None:
        super().__init__()
        self.w = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
        self.b = torch.tensor([0.2, 0.0, -1.0], dtype=torch.float64)
        self.loc = nn.Parameter(torch.tensor([mean], dtype=torch.float64))
        self.log_sd = nn.Parameter(torch.tensor([math.log(sd)], dtype=torch.float64))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z * self.w + self.b).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc.expand(len(x), 1), self.log_sd.exp()).to_event(1))


def test_the_inclusive_gaussian_has_the_moments_of_the_posterior() -> None:
    """The wake gradient vanishes at the golden moments, and not at the exclusive optimum (.965269, .769944)."""
    x, draws = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64), []
    torch.manual_seed(4)
    for mean, sd in ((0.966396, 0.776134), (0.965269, 0.769944)):
        latent_model = Logistic(mean, sd)
        objective = WakeSleep(20_000)
        for _ in range(100):
            terms = objective.terms(latent_model.model, latent_model.guide, (x,), {}, "phi")
            draws.append(torch.cat(torch.autograd.grad(terms.surrogate, list(latent_model.parameters()))))
    mean, error = mean_and_error(torch.stack(draws[:100]))
    # what the golden numbers' six digits leave, beside the noise
    assert_close_in_sigmas(mean, 0.0, error + 2e-6)
    mean, error = mean_and_error(torch.stack(draws[100:]))
    # -d log q / d log sd = 1 - E[(z - mean)^2] / sd^2
    assert_close_in_sigmas(
        mean[1], 1 - (0.776134**2 + (0.966396 - 0.965269) ** 2) / 0.769944**2, error[1], effect=0.016, resolution=0.1
    )


# The trainer, and plain SVI


def _data() -> pvae.Splits:
    generator = torch.Generator().manual_seed(0)
    x = torch.multinomial(torch.tensor(C_DATA), 64, replacement=True, generator=generator)
    return pvae.Splits(pvae.Batch(x=x), None, None, name="c", data_shape=())


class Undeclared(DiscreteModel):
    """The enumerable categorical model whose groups are to be found."""

    theta = LatentModel.theta
    phi = LatentModel.phi


def _fit(objective: Any, step: str = "graph", model: Any = None, **options: Any) -> pvae.Run:
    model = model or Undeclared()
    settings = {"epochs": 3, "batch_size": 24, "precision": "float64", "progress": False, "learning_rate": 0.05}
    return pvae.fit(model, _data(), objective=objective, step=step, **{**settings, **options})


@pytest.mark.parametrize("phi", ["wake", "sleep", "both"])
def test_graph_equals_eager_in_every_bit(phi: str, recwarn: pytest.WarningsRecorder) -> None:
    runs = [_fit(WakeSleep(3, phi, phi_steps=2), step) for step in ("graph", "eager")]
    assert [run.step for run in runs] == ["graph", "eager"] and not recwarn
    states = [run.model.state_dict() for run in runs]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert runs[0].history[-1]["loss"] == runs[1].history[-1]["loss"]
    assert {"loss", "phi_loss", "elbo"} <= runs[0].history[-1].keys()
    moved = {name for name, each in Undeclared().state_dict().items() if not torch.equal(each, states[0][name])}
    assert moved == {"prior_logits", "likelihood_logits", "logits"}


def test_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    options = {"learning_rate": {"theta": 0.05, "phi": 0.01}, "schedule": "exponential:gamma=0.5"}
    _fit("rws:phi=both:particles=2", out=tmp_path / "whole", **options)
    _fit("rws:phi=both:particles=2", out=tmp_path / "parts", max_steps=4, **options)
    _fit("rws:phi=both:particles=2", out=tmp_path / "parts", resume=True, **options)
    whole, parts = read(tmp_path / "whole" / "last"), read(tmp_path / "parts" / "last")
    for part in ("parameters", "training"):
        ours, theirs = getattr(whole, part), getattr(parts, part)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_each_group_has_its_learning_rate_and_schedules_keep_the_ratio() -> None:
    rates = {"theta": 1e-3, "phi": 4e-3}
    for objective in (WakeSleep(2), IWAE(2)):
        model = LinearGaussianModel()
        before = {name: each.clone() for name, each in model.state_dict().items()}
        x = torch.randn(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        data = pvae.Splits(pvae.Batch(x=x), None, None, name="a", data_shape=(3,))
        run = pvae.fit(model, data, objective=objective, learning_rate=rates, epochs=1, batch_size=30,
                       precision="float64", progress=False)  # fmt: skip
        # Adam's first step is the rate itself, whatever the gradient
        for name, each in run.model.state_dict().items():
            rate = rates["phi" if name.startswith("q_") else "theta"]
            torch.testing.assert_close((each - before[name]).abs(), torch.full_like(each, rate), rtol=1e-4, atol=0.0)
        assert run.config["training"]["learning_rate"] == rates
    run = _fit(WakeSleep(2), schedule="exponential:gamma=0.5", learning_rate=rates)
    assert [each["learning_rate"] for each in run.history] == [
        {name: rate * 0.5**epoch for name, rate in rates.items()} for epoch in range(3)
    ]


def test_phases_update_each_player_as_often_as_asked() -> None:
    counts = {}

    def factory(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        counts["optimiser"] = torch.optim.Adam(groups, lr=0.01)
        return counts["optimiser"]

    model = Undeclared()
    _fit(WakeSleep(2, theta_steps=2, phi_steps=5), model=model, max_steps=3, optimiser=factory)
    state = counts["optimiser"].state
    assert int(state[model.prior_logits]["step"]) == 6 and int(state[model.logits]["step"]) == 15


@pytest.mark.parametrize("declared", [True, False])
def test_plain_svi_gives_each_group_its_own_gradient(declared: bool) -> None:
    latent_model = DiscreteModel() if declared else Undeclared()
    programs = pair(latent_model.model, latent_model.guide) if not declared else latent_model
    x, objective = torch.arange(4), WakeSleep(3)
    torch.manual_seed(5)
    expected = []
    for player, group in (("theta", latent_model.parameters()), ("phi", [latent_model.logits])):
        terms = objective.terms(programs.model, programs.guide, (x,), {}, player)
        expected += [torch.autograd.grad(terms.surrogate, list(group), allow_unused=True)]
    objective.loss_and_grads(programs.model, programs.guide, x)
    for each in latent_model.parameters():
        each.grad = None
    torch.manual_seed(5)
    loss = objective.loss_and_grads(programs.model, programs.guide, x)
    assert math.isfinite(loss)
    assert torch.equal(latent_model.prior_logits.grad, expected[0][0])
    assert torch.equal(latent_model.likelihood_logits.grad, expected[0][1])
    assert torch.equal(latent_model.logits.grad, expected[1][0])
    before = latent_model.logits.detach().clone()
    SVI(programs.model, programs.guide, pyro.optim.Adam({"lr": 0.01}), loss=objective).step(x)
    assert not torch.equal(before, latent_model.logits)


# What is refused


class Elsewhere(DiscreteModel):
    """Observes a constant of its own."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(logits=self.prior_logits))
            pyro.sample("seen", dist.Normal(z.double().unsqueeze(-1), 1.0).to_event(1), obs=torch.zeros(len(x), 2))


class TwoAlike(DiscreteModel):
    """Observes neither of two arguments as it is."""

    def model(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(logits=self.prior_logits))
            pyro.sample("both", dist.Categorical(logits=self.likelihood_logits[z]), obs=(x + y) % 4)

    def guide(self, x: Tensor, y: Tensor) -> None:
        super().guide(x)


def test_sleep_says_which_site_it_cannot_place() -> None:
    x = torch.arange(4)
    for model, args, site in ((Elsewhere(), (x,), "seen"), (TwoAlike(), (x, x + 1), "both")):
        with pytest.raises(InputError, match=f"site '{site}' observes.*phi='wake'"):
            WakeSleep(phi="sleep").terms(model.model, model.guide, args, {}, "phi")
        WakeSleep(phi="wake").terms(model.model, model.guide, args, {}, "phi")
    findings = check(Elsewhere(), pvae.Batch(x=x), WakeSleep(phi="both"))
    assert findings.fatal and "'seen'" in str(findings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"particles": 0}, "particles needs a whole number of at least 1; got 0"),
        ({"phi": "wak"}, "did you mean 'wake'"),
        ({"mixing": 1.5}, "mixing needs a number from 0"),
        ({"phi_steps": 0}, "phi_steps needs a whole number"),
        ({"tolerance": -1.0}, "tolerance needs a positive number"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        WakeSleep(**settings)


def test_bad_learning_rates_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'phi'"):
        _fit(WakeSleep(2), learning_rate={"theta": 1e-3, "phy": 1e-3})
    with pytest.raises(InputError, match="needs one for 'phi'"):
        _fit("elbo", learning_rate={"theta": 1e-3})
    with pytest.raises(InputError, match="learning_rate of phi needs a positive"):
        _fit("elbo", learning_rate={"theta": 1e-3, "phi": 0.0})


def test_the_name_of_the_command_line_round_trips() -> None:
    for text in ("rws:phi=wake:particles=5", "rws:phi=both:mixing=0.25:particles=3:phi_steps=2"):
        assert describe(make_objective(text)()) == text
