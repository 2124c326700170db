"""Alternating training against expectation maximisation in closed form; local and refined q against exact optima."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import LinearGaussianModel
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor, nn

import pvae
from pvae.errors import InputError
from pvae.models import LatentModel
from pvae.objectives import IWAE, Alternate, WakeSleep, check, describe, make_objective
from pvae.objectives.joint_outcomes import weights_of_outcomes
from pvae.programs.bound import BoundPrograms
from pvae.train.checkpoint import read

Y = np.array([-2.1, -1.9, -2.0, -1.7, 1.8, 2.2, 2.0, 0.1])
LOG_LIKELIHOODS = {0: -15.853250, 1: -13.091548, 2: -11.923477, 5: -8.529144, 10: -8.529144}

pytestmark = pytest.mark.usefixtures("own_store")


class Mixture(LatentModel):
    """Two Gaussians; the guide knows the sign of x alone: q for one, q the other way round for the other."""

    def __init__(self, w: float = 0.5, mu: Any = (-1.0, 1.0), var: Any = (1.0, 1.0), q: Any = (0.8, 0.2)) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([w, 1 - w], dtype=torch.float64).log())
        self.mu = nn.Parameter(torch.tensor(mu, dtype=torch.float64))
        self.log_var = nn.Parameter(torch.tensor(var, dtype=torch.float64).log())
        self.q_logits = nn.Parameter(torch.tensor(q, dtype=torch.float64).log())

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=self.logits))
            pyro.sample("x", dist.Normal(self.mu[k], (0.5 * self.log_var[k]).exp()), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            by_sign = torch.where((x < 0)[:, None], self.q_logits, self.q_logits.flip(0))
            pyro.sample("k", dist.Categorical(logits=by_sign))

    def log_likelihood(self, x: np.ndarray = Y) -> float:
        return float(_log_joint(self, x).logsumexp(0).sum())


class Enumerated(Mixture):
    """The same, its guide marked for enumeration."""

    guide = config_enumerate(Mixture.guide)


def _log_joint(model: Mixture, x: np.ndarray) -> Tensor:
    with torch.no_grad():
        log_w, sd = model.logits.log_softmax(0), (0.5 * model.log_var).exp()
        return log_w[:, None] + dist.Normal(model.mu[:, None], sd[:, None]).log_prob(torch.tensor(x))


def em(w: np.ndarray, mu: np.ndarray, var: np.ndarray, r: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
    """One iteration in closed form; with r given, its M-step alone."""
    if r is None:
        log_joint = np.log(w)[:, None] - 0.5 * (
            (Y - mu[:, None]) ** 2 / var[:, None] + np.log(2 * np.pi * var)[:, None]
        )
        r = np.exp(log_joint - np.logaddexp.reduce(log_joint, 0))
    mean = (r * Y).sum(1) / r.sum(1)
    return r.mean(1), mean, (r * (Y - mean[:, None]) ** 2).sum(1) / r.sum(1)


def data(x: np.ndarray = Y) -> pvae.Splits:
    return pvae.Splits(pvae.Batch(x=torch.tensor(x)), None, None, name="y", data_shape=())


def fit(model: Any, objective: Any, **options: Any) -> pvae.Run:
    settings = {"epochs": 1, "batch_size": 8, "precision": "float64", "progress": False, "optimiser": "rprop"}
    return pvae.fit(model, options.pop("data", None) or data(), objective=objective, **{**settings, **options})


# The exact posterior


def test_em_iterations_equal_the_closed_form() -> None:
    model = Mixture()
    objective = Alternate(theta_steps=200, phi="exact")
    assert model.log_likelihood() == pytest.approx(LOG_LIKELIHOODS[0], abs=1e-6)
    for iteration in range(1, 6):
        before = [each.detach().numpy().copy() for each in (model.logits.softmax(0), model.mu, model.log_var.exp())]
        step = "graph" if iteration == 1 else "eager"
        run, exact = fit(model, objective, step=step), em(*before)
        assert run.step == step
        found = [model.logits.softmax(0), model.mu, model.log_var.exp()]
        for ours, theirs in zip(found, exact, strict=True):
            np.testing.assert_allclose(ours.detach().numpy(), theirs, atol=1e-5)
        if iteration == 1:
            np.testing.assert_allclose(exact[0][0], 0.552493, atol=1e-6)
            np.testing.assert_allclose(exact[1], [-1.669927, 1.614772], atol=1e-6)
        if iteration in LOG_LIKELIHOODS:
            assert model.log_likelihood() == pytest.approx(LOG_LIKELIHOODS[iteration], abs=5e-5)


def test_the_log_likelihood_never_falls_with_an_exact_posterior() -> None:
    model, seen = Mixture(), []

    def callback(record: Any, model: Any) -> None:
        seen.append(model.log_likelihood())

    run = fit(model, Alternate(theta_steps=30, phi="exact"), epochs=12, optimiser="sgd", learning_rate=0.02,
              callbacks=[callback])  # fmt: skip
    rises = np.diff(seen)
    assert (rises >= -1e-12).all() and seen[-1] > seen[0] + 1.0
    # what is recorded is minus log p(x) per datum before the epoch's step
    recorded = [-8 * each["loss"] for each in run.history]
    np.testing.assert_allclose(recorded[1:], seen[:-1], rtol=1e-10)
    # the guide is not the q, and rests
    np.testing.assert_allclose(model.q_logits.softmax(0).detach(), [0.8, 0.2])


def test_the_bound_of_the_held_posterior_is_an_elbo() -> None:
    """At the held q it is log p(x) - KL, whatever theta has become; its gradient is that of the energy alone."""
    model, objective, x = Mixture(), Alternate(2, phi="exact"), torch.tensor(Y)
    objective.terms(model.model, model.guide, (x,), {}, "phi")
    posterior = (_log_joint(model, Y) - _log_joint(model, Y).logsumexp(0)).exp()
    with torch.no_grad():
        model.mu += torch.tensor([0.3, -0.5])
    terms = objective.terms(model.model, model.guide, (x,), {}, "theta")
    now = _log_joint(model, Y) - _log_joint(model, Y).logsumexp(0)
    kl = (posterior * (posterior.log() - now)).sum()
    assert float(-terms.loss) == pytest.approx(model.log_likelihood() - float(kl), rel=1e-12)
    (gradient,) = torch.autograd.grad(-terms.surrogate, [model.mu])
    by_hand = (posterior * (x - model.mu[:, None]) / model.log_var.exp()[:, None]).sum(1)
    torch.testing.assert_close(gradient, by_hand.detach(), rtol=1e-10, atol=0.0)


class Layers(LatentModel):
    """Two binary sites, the second with an event, the first a parent of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor([[0.5, -0.2], [-1.0, 0.4]], dtype=torch.float64))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Bernoulli(logits=self.a))
            z = pyro.sample("z", dist.Bernoulli(logits=self.b[u.long()]).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1) - u, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Bernoulli(logits=self.a.detach().expand(len(x))))
            pyro.sample("z", dist.Bernoulli(logits=self.b.detach()[u.long()]).to_event(1))


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_joint_values_of_several_sites_give_the_evidence(scale: float) -> None:
    model, x = Layers(), torch.tensor([0.2, -1.0, 1.7], dtype=torch.float64)
    programs = [pyro.poutine.scale(each, scale) for each in (model.model, model.guide)]
    objective = Alternate(phi="exact")
    terms = objective.terms(*programs, (x,), {}, "phi")
    expected = 0.0
    a, b = 1 / (1 + np.exp(-0.3)), 1 / (1 + np.exp(-model.b.detach().numpy()))
    for value in x.numpy():
        p = 0.0
        for u in (0, 1):
            for z0 in (0, 1):
                for z1 in (0, 1):
                    prior = np.where(u, a, 1 - a) * np.where(z0, b[u][0], 1 - b[u][0])
                    prior = prior * np.where(z1, b[u][1], 1 - b[u][1])
                    p += prior * np.exp(-0.5 * (value - (z0 + z1 - u)) ** 2) / np.sqrt(2 * np.pi)
        expected += np.log(p)
    assert float(-terms.loss) == pytest.approx(scale * expected, rel=1e-12)
    assert float(-objective.terms(*programs, (x,), {}, "theta").loss) == pytest.approx(scale * expected, rel=1e-12)
    assert -objective.differentiable_loss(*programs, x).item() == pytest.approx(scale * expected, rel=1e-12)
    weights = weights_of_outcomes(BoundPrograms(model.model, model.guide, (x,)))
    torch.testing.assert_close(weights.log_guide.exp().sum(0), torch.ones(3, dtype=torch.float64))


# A restricted q


def test_with_a_restricted_q_the_bound_climbs_and_the_log_likelihood_falls() -> None:
    """From the maximum-likelihood point under q = .8, .2: ELBO -240.97 to -16.15, log-likelihood -8.53 to -15.88."""
    exact = (np.array([0.5, 0.5]), np.array([-1.0, 1.0]), np.array([1.0, 1.0]))
    for _ in range(200):
        exact = em(*exact)
    model = Enumerated(exact[0][0], exact[1], exact[2])
    model.q_logits.requires_grad_(False)
    assert model.log_likelihood() == pytest.approx(-8.53, abs=5e-3)
    objective = Alternate(theta_steps=600, objective=TraceEnum_ELBO(max_plate_nesting=1), tolerance=1e-14)
    run = fit(model, objective)
    assert -8 * run.history[0]["loss"] == pytest.approx(-240.97, abs=5e-3)
    found = TraceEnum_ELBO(max_plate_nesting=1).loss(model.model, model.guide, torch.tensor(Y))
    assert -found == pytest.approx(-16.15, abs=5e-3)
    assert model.log_likelihood() == pytest.approx(-15.88, abs=5e-3)
    _, mu, var = em(*exact, r=np.where(Y < 0, [[0.8], [0.2]], [[0.2], [0.8]]))
    np.testing.assert_allclose(model.mu.detach(), mu, atol=1e-5)
    np.testing.assert_allclose(model.log_var.exp().detach(), var, atol=1e-5)


def test_each_phase_leaves_the_other_group_alone() -> None:
    """Coordinate ascent by hand: theta's gradient at the old q, then q's at the new theta."""
    model, reference = Enumerated(), Enumerated()
    fit(model, Alternate(2, 3, TraceEnum_ELBO(max_plate_nesting=1)), optimiser="sgd", learning_rate=0.1)
    x = torch.tensor(Y)
    for group, count in (([reference.logits, reference.mu, reference.log_var], 2), ([reference.q_logits], 3)):
        for _ in range(count):
            loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(reference.model, reference.guide, x) / 8
            for each, gradient in zip(group, torch.autograd.grad(loss, group), strict=True):
                each.data -= 0.1 * gradient
    for name, each in reference.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name], each, rtol=1e-10, atol=1e-12)


def test_a_tolerance_ends_a_phase() -> None:
    held = {}

    def factory(groups: Any) -> torch.optim.Optimizer:
        held["optimiser"] = torch.optim.SGD(groups, lr=1e-9)
        return held["optimiser"]

    model, steps = Mixture(), []
    objective = Alternate(theta_steps=50, phi="exact", tolerance=1e-3)
    inner = objective.terms
    objective.terms = lambda *args: steps.append(args[-1]) or inner(*args)  # type: ignore[method-assign]
    fit(model, objective, optimiser=factory, step="eager", epochs=3)
    taken = steps[-(len(steps) % 3 + 6) :]
    assert taken.count("theta") <= 8 and steps.count("theta") < 15  # two updates a phase: the second changes nothing


# The trainer and plain SVI


@pytest.mark.parametrize(
    "objective",
    [
        lambda: Alternate(3, phi="exact"),
        lambda: Alternate(2, 3, lambda: IWAE(particles=3)),
        lambda: Alternate(2, 3, Trace_ELBO()),
    ],
    ids=["exact", "iwae", "elbo"],
)
def test_graph_equals_eager_and_resume_in_every_bit(objective: Any, tmp_path: Any) -> None:
    kind = LinearGaussianModel if "IWAE" in str(objective().inner) else Mixture
    x = np.random.default_rng(0).normal(size=(20, 3) if kind is LinearGaussianModel else 20)
    options = {"epochs": 3, "batch_size": 12, "optimiser": "adam", "learning_rate": 0.02, "data": data(x)}
    runs = [fit(kind(), objective(), step=step, out=tmp_path / step, **options) for step in ("graph", "eager")]
    assert [run.step for run in runs] == ["graph", "eager"]
    fit(kind(), objective(), out=tmp_path / "parts", **{**options, "epochs": 1})
    fit(kind(), objective(), out=tmp_path / "parts", max_steps=3, resume=True, **options)
    fit(kind(), objective(), out=tmp_path / "parts", resume=True, **options)
    ends = [read(tmp_path / name / "last") for name in ("graph", "eager", "parts")]
    for other in ends[1:]:
        for part in ("parameters", "training"):
            ours, theirs = getattr(ends[0], part), getattr(other, part)
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not torch.equal(runs[0].model.state_dict()["mu" if kind is Mixture else "weight"],
                           kind().state_dict()["mu" if kind is Mixture else "weight"])  # fmt: skip


def test_plain_svi_takes_turns() -> None:
    model, x = Enumerated(), torch.tensor(Y)
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.1}),
              loss=Alternate(2, 1, TraceEnum_ELBO(max_plate_nesting=1)))  # fmt: skip
    moved = []
    for _ in range(6):
        before = model.mu.detach().clone(), model.q_logits.detach().clone()
        svi.step(x)
        moved.append((not torch.equal(before[0], model.mu), not torch.equal(before[1], model.q_logits)))
    assert moved == [(True, False), (True, False), (False, True)] * 2


def test_plain_svi_with_the_exact_posterior_is_gradient_ascent_of_the_log_likelihood() -> None:
    model, reference, x = Mixture(), Mixture(), torch.tensor(Y)
    svi = SVI(model.model, model.guide, pyro.optim.SGD({"lr": 0.01}), loss=Alternate(phi="exact"))
    for _ in range(3):
        loss = svi.step(x)
        sd = (0.5 * reference.log_var).exp()
        log_joint = reference.logits.log_softmax(0)[:, None] + dist.Normal(reference.mu[:, None], sd[:, None]).log_prob(
            x
        )
        total = log_joint.logsumexp(0).sum()
        assert loss == pytest.approx(-total.item(), rel=1e-12)
        group = [reference.logits, reference.mu, reference.log_var]
        for each, gradient in zip(group, torch.autograd.grad(total, group), strict=True):
            each.data += 0.01 * gradient
    torch.testing.assert_close(model.mu, reference.mu, rtol=1e-10, atol=0.0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"theta_steps": 0}, "theta_steps needs a whole number"),
        ({"phi": "exac"}, "did you mean 'exact'"),
        ({"phi": "exact", "objective": Trace_ELBO()}, "Leave out objective and phi_steps"),
        ({"objective": WakeSleep()}, "WakeSleep updates theta, phi separately"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Alternate(**settings)


def test_what_cannot_be_enumerated_is_refused() -> None:
    x = torch.zeros(2, 3, dtype=torch.float64)
    findings = check(LinearGaussianModel(), pvae.Batch(x=x), Alternate(phi="exact"))
    assert "site 'z' cannot be enumerated" in str(findings) and findings.fatal


def test_the_name_of_the_command_line_round_trips() -> None:
    for text in ("alternate:theta_steps=5:objective=iwae/particles=8", "alternate:phi=exact:theta_steps=3"):
        assert describe(make_objective(text)()) == text
    with pytest.raises(InputError, match="did you mean 'iwae'"):
        make_objective("alternate:objective=iwea")
