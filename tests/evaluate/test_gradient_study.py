"""Studies of gradients, against estimators with known mean and variance."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import A_X, Discrete, DiscreteModel, LinearGaussian, LinearGaussianModel
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from scipy.stats import norm, t, trim_mean
from stats import assert_close_in_sigmas
from torch import Tensor, nn

import pvae
import pvae.evaluate as evaluate
from pvae.errors import InputError
from pvae.evaluate.base import Estimate
from pvae.evaluate.gradient_estimators.block_statistics import GradientBlocks, block_sizes, limit_of_z
from pvae.objectives import Objective, PyroObjective, Terms, WeightsObjective
from pvae.weights import LogWeights, log_mean_exp, trace_weights

EXACT = Discrete()
# The enumerable categorical model at x = 0 (docs/exact-models.md): the ELBO's gradient in the logits, and the trace
# variance of its estimators, by enumeration
ELBO_GRADIENT = [0.476419, -0.208464, -0.267955]
SCORE_VARIANCE = 1.578427
LEAVE_ONE_OUT = {2: 0.6556, 3: 0.2706, 4: 0.1613}


def classes(*x: int) -> pvae.Batch:
    return pvae.Batch(x=torch.tensor(x))


def assert_estimates(found: Estimate, exact: float, resolution: float = 0.15) -> None:
    assert_close_in_sigmas(found.value, exact, found.error, effect=exact, resolution=resolution)


class Score(Objective):
    """The score-function ELBO gradient of the categorical model, less the mean of log w of all or the other particles.

    Args:
        own: whether a particle's baseline counts the particle itself, which is wrong.
        declared: what the objective says of its bias.
    """

    def __init__(self, particles: int, *, own: bool, declared: str = "") -> None:
        super().__init__(particles)
        self.own, self.biased = own, declared

    def target(self) -> Objective:
        return PyroObjective(Trace_ELBO())

    def terms(self, model: Any, guide: Any, args: Any, kwargs: Mapping[str, Any], player: str) -> Terms:
        weights = trace_weights(model, guide, args, kwargs, self.particles)
        signal = weights.log_w.detach()
        baseline = signal.mean(0)
        if not self.own:
            baseline = (signal.sum(0) - signal) / (self.particles - 1)
        score = (signal - baseline) * weights.log_guide
        elbo = weights.log_joint.mean(0) + score.mean(0)
        return Terms(-weights.log_w.mean(0).sum().detach(), -elbo.sum())


# ---- The exact gradient ---------------------------------------------------------------------------------------------


def test_the_exact_gradient_is_the_mean_over_the_batch_of_each_datums_own() -> None:
    study = evaluate.gradients(DiscreteModel(), classes(0, 1, 2, 3), Trace_ELBO(), draws=2)
    phi, theta = study.of("elbo").exact, study.of("elbo", "theta").exact
    np.testing.assert_allclose(phi.reshape(4, 3), -EXACT.elbo_gradient() / 4, rtol=1e-10)
    assert theta.shape == (15,)
    expected = EXACT.guide.mean(0) - np.array([0.5, 0.3, 0.2])
    np.testing.assert_allclose(theta[:3], -expected, rtol=1e-10)
    np.testing.assert_allclose(-4 * phi[:3], ELBO_GRADIENT, atol=1e-6)


class Bound(WeightsObjective):
    """The importance-weighted bound, as its value alone."""

    pathwise = False

    def surrogate(self, weights: LogWeights) -> Tensor:
        return log_mean_exp(weights.log_w)


class Aimed(Score):
    """A gradient of the ELBO that claims to be one of the importance-weighted bound."""

    def target(self) -> Objective:
        return Bound(self.particles)


@pytest.mark.parametrize("particles", [2, 3, 5])
def test_the_exact_gradient_of_several_particles_is_that_of_the_enumerated_bound(particles: int) -> None:
    logits, step = DiscreteModel().logits.detach().numpy().copy(), 1e-5
    expected = []
    for place in range(3):
        shifted = [logits.copy(), logits.copy()]
        shifted[0][0, place] += step
        shifted[1][0, place] -= step
        expected.append((Discrete(shifted[0]).iwae(particles) - Discrete(shifted[1]).iwae(particles)) / (2 * step))
    study = evaluate.gradients(DiscreteModel(), classes(0), {"aimed": Aimed(particles, own=False)}, draws=2000)
    row = study.of("aimed")
    np.testing.assert_allclose(-row.exact[:3], expected, rtol=1e-7)
    assert row.bias_found and "not declared" in row.mark()
    assert study.of("aimed", "theta").reference.startswith("exact, all outcomes of Bound")


class TwoCoins(pvae.LatentModel):
    """Two bits of one site and a category that depends on them."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.3, -0.5], dtype=torch.float64))
        self.table = nn.Parameter(torch.tensor([[0.1, 0.4, -0.2], [0.7, 0.0, 0.3]], dtype=torch.float64))
        self.mean = nn.Parameter(torch.tensor([0.2, -0.4, 1.0], dtype=torch.float64))

    def model(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            bits = pyro.sample("bits", dist.Bernoulli(x.new_full((len(x), 2), 0.4)).to_event(1))
            kind = pyro.sample("kind", dist.Categorical(logits=x.new_zeros(3)))
            return pyro.sample("x", dist.Normal(self.mean[kind] + bits.sum(-1), 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            bits = pyro.sample("bits", dist.Bernoulli(logits=self.logits.expand(len(x), 2)).to_event(1))
            pyro.sample("kind", dist.Categorical(logits=(bits.unsqueeze(-1) * self.table).sum(-2)))


def test_the_exact_gradient_covers_several_sites_that_depend_on_each_other() -> None:
    model, x = TwoCoins(), torch.tensor([0.4, -1.0], dtype=torch.float64)
    row = evaluate.gradients(model, pvae.Batch(x=x), Trace_ELBO(), draws=2).of("elbo")
    loss = torch.zeros((), dtype=torch.float64)
    for bits in torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64):
        for kind in range(3):
            q_kind = (bits.unsqueeze(-1) * model.table).sum(-2).log_softmax(-1)[kind]
            q = dist.Bernoulli(logits=model.logits).log_prob(bits).sum() + q_kind
            p = dist.Bernoulli(torch.full((2,), 0.4, dtype=torch.float64)).log_prob(bits).sum() - math.log(3)
            likelihood = dist.Normal(model.mean[kind] + bits.sum(), 1.0).log_prob(x)
            loss = loss - (q.exp() * (p + likelihood - q)).mean()
    expected = torch.autograd.grad(loss, [model.logits, model.table])
    np.testing.assert_allclose(row.exact, torch.cat([each.flatten() for each in expected]), rtol=1e-9)


# ---- Variance and bias ----------------------------------------------------------------------------------------------


def test_the_variance_of_the_score_function_is_the_known_one() -> None:
    study = evaluate.gradients(DiscreteModel(), classes(0), ["elbo"], draws=4000)
    row = study.of("elbo")
    assert_estimates(row.variance, SCORE_VARIANCE, resolution=0.02)
    norm = math.sqrt(sum(each**2 for each in ELBO_GRADIENT))
    assert_estimates(row.snr_whole, norm / math.sqrt(SCORE_VARIANCE), resolution=0.02)
    assert_estimates(row.cost, SCORE_VARIANCE * row.seconds.value, resolution=0.1)
    assert row.z < row.limit and not row.mark()
    assert abs(row.bias.value) < 4.5 * row.bias.error


@pytest.mark.parametrize("particles", [2, 4])
def test_a_baseline_of_its_own_sample_shortens_the_gradient_and_is_caught(particles: int) -> None:
    objectives = {
        "own": Score(particles, own=True),
        "declared": Score(particles, own=True, declared="own sample in the baseline"),
        "others": Score(particles, own=False),
    }
    study = evaluate.gradients(DiscreteModel(), classes(0), objectives, draws=3000)
    own, others = study.of("own"), study.of("others")
    assert_estimates(own.bias, -1 / particles, resolution=0.1)
    assert own.bias_found and own.z > 1.5 * own.limit
    assert not others.bias_found
    assert abs(others.bias.value) < 4.5 * others.bias.error
    assert_estimates(others.variance, LEAVE_ONE_OUT[particles], resolution=0.05)
    assert not study.of("own", "theta").bias_found
    text = study.table()
    assert "biased (found, not declared)" in text and "biased: own sample in the baseline" in text
    assert study.ranking()[0].objective == "others"


def test_the_variance_of_a_gradient_of_a_batch_is_that_of_its_mean() -> None:
    row = evaluate.gradients(DiscreteModel(), classes(0, 0, 0, 0), Trace_ELBO(), draws=3000).of("elbo")
    assert_estimates(row.variance, SCORE_VARIANCE / 4, resolution=0.03)


def _location_only() -> LinearGaussianModel:
    model = LinearGaussianModel(np.array([0.6, -0.1]), np.array([0.35, 0.3]))
    for name in ("weight", "bias", "log_scale", "q_log_scale"):
        getattr(model, name).requires_grad_(False)
    return model


def test_every_number_of_a_pathwise_gradient_is_its_closed_form() -> None:
    exact, mean, variance = LinearGaussian(), np.array([0.6, -0.1]), np.array([0.35, 0.3])
    gradient = exact.elbo_gradient(mean, variance)[0]
    covariance = exact.precision @ np.diag(variance) @ exact.precision
    study = evaluate.gradients(
        _location_only(), torch.tensor(A_X)[None], ["elbo"], draws=3000, reference=TraceMeanField_ELBO()
    )
    row = study.of("elbo")
    assert study.groups() == ("phi",) and row.coordinates == 2
    assert_estimates(row.variance, np.trace(covariance), resolution=0.05)
    assert_estimates(row.snr, (np.abs(gradient) / np.sqrt(np.diag(covariance))).mean(), resolution=0.1)
    assert_estimates(row.snr_whole, np.linalg.norm(gradient) / np.sqrt(np.trace(covariance)), resolution=0.1)
    errors = np.sqrt(np.diag(covariance) / 3000)
    assert_close_in_sigmas(row.mean, -gradient, errors)
    rng = np.random.default_rng(0)
    draws = rng.multivariate_normal(gradient, covariance, size=200_000)
    cosine = (draws @ gradient / np.linalg.norm(draws, axis=1)).mean() / np.linalg.norm(gradient)
    assert_close_in_sigmas(row.cosine.value, cosine, math.hypot(row.cosine.error, 2e-3))
    assert not row.bias_found and not math.isnan(row.z)
    assert row.cosine_mean.value > 0.99


def test_a_sample_of_the_objective_itself_tests_nothing_and_says_so() -> None:
    row = evaluate.gradients(_location_only(), torch.tensor(A_X)[None], "elbo", draws=20).of("elbo")
    assert math.isnan(row.z) and not row.bias_found
    assert row.reference == "mean of 80 draws of elbo: itself, so a bias would not be found"


def test_a_sampled_reference_has_draws_of_its_own() -> None:
    row = evaluate.gradients(_location_only(), torch.tensor(A_X)[None], "elbo", draws=8, reference_draws=8).of("elbo")
    assert not torch.isclose(row.mean, row.exact).any()
    assert row.cosine_mean.value < 0.999999


class RawImportanceSampling(WeightsObjective):
    """p(x) itself by importance sampling: its gradient says nothing to the guide."""

    def surrogate(self, weights: LogWeights) -> Tensor:
        return weights.log_w.exp().mean(0)


def test_the_guides_gradient_of_plain_importance_sampling_is_noise_about_zero() -> None:
    x = torch.tensor(np.tile(A_X, (400, 1)))
    study = evaluate.gradients(
        _location_only(), x, {"is": RawImportanceSampling(), "elbo": Trace_ELBO()}, draws=400, reference_draws=400
    )
    raw, elbo = study.of("is"), study.of("elbo")
    errors = math.sqrt(raw.variance.value / 400)
    assert raw.variance.value > 10 * raw.variance.error > 0
    assert_close_in_sigmas(raw.mean, [0.0, 0.0], errors, effect=np.exp(-3.6253) * 1.32)
    assert_close_in_sigmas(elbo.mean, [1.320, -0.636], 2e-2, effect=1.27, resolution=0.02)


# ---- The toy of tighter bounds: D = 5 ------------------------------------------------------------------------------


class Toy(pvae.LatentModel):
    """z ~ N(mu, I), x given z ~ N(z, I), q = N(x/2 + b, 2/3 I), with b off by 0.3."""

    def __init__(self) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.zeros(5, dtype=torch.float64))
        self.b = nn.Parameter(torch.full((5,), 0.3, dtype=torch.float64))

    def model(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.mu.expand(len(x), 5), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(x / 2 + self.b, math.sqrt(2 / 3)).to_event(1))


class Sticking(WeightsObjective):
    """Sticking the landing on the importance-weighted bound: biased for several particles."""

    def surrogate(self, weights: LogWeights) -> Tensor:
        return log_mean_exp(weights.log_joint - weights.log_guide_with_phi_stopped())

    def target(self) -> Objective:
        return pvae.IWAE(self.particles)


COPIES = 100


@pytest.mark.parametrize(("particles", "phi", "theta"), [(16, 0.099, 1.60), (64, 0.049, 3.05), (256, 0.026, 6.01)])
def test_signal_to_noise_of_the_importance_weighted_bound(particles: int, phi: float, theta: float) -> None:
    # a mean over copies of one datum has the root of their number times the ratio of one
    study = evaluate.gradients(
        Toy(), torch.full((COPIES, 5), 0.7, dtype=torch.float64), pvae.IWAE(particles), draws=400, reference_draws=20
    )
    (name,) = {row.objective for row in study.rows}
    for group, golden in (("phi", phi), ("theta", theta)):
        for ratio in (study.of(name, group).snr_whole, study.of(name, group).snr):
            error = math.hypot(ratio.error / math.sqrt(COPIES), 0.005 * golden + 5e-4)
            assert_close_in_sigmas(ratio.value / math.sqrt(COPIES), golden, error, effect=golden, resolution=0.15)


@pytest.mark.parametrize(("particles", "golden"), [(16, 2.46), (64, 4.70), (256, 9.33)])
def test_signal_to_noise_of_the_doubly_reparameterised_gradient_rises(particles: int, golden: float) -> None:
    copies = 20
    x = torch.full((copies, 5), 0.7, dtype=torch.float64)
    study = evaluate.gradients(Toy(), x, {"dreg": pvae.DReG(particles)}, draws=200, reference_draws=20)
    ratio = study.of("dreg").snr_whole
    error = math.hypot(ratio.error / math.sqrt(copies), 0.005 * golden)
    assert_close_in_sigmas(ratio.value / math.sqrt(copies), golden, error, effect=golden, resolution=0.05)
    if particles == 64:
        assert_close_in_sigmas(study.of("dreg").mean, [0.0114] * 5, 1e-4, effect=0.0114)


def test_the_bias_of_sticking_the_landing_is_found_at_its_size() -> None:
    study = evaluate.gradients(
        Toy(),
        torch.full((COPIES, 5), 0.7, dtype=torch.float64),
        {"stl": Sticking(64)},
        draws=100,
        reference=pvae.DReG(64),
        reference_draws=100,
    )
    row = study.of("stl")
    assert row.bias_found and not study.of("stl", "theta").bias_found
    errors = math.sqrt(row.variance.value / 5 / 100)
    assert_close_in_sigmas(row.mean, [0.4529] * 5, math.hypot(errors, 3e-4), effect=0.4529)
    reference = np.asarray(row.exact)
    assert_close_in_sigmas(reference, [0.0114] * 5, 1e-4, effect=0.0114)


# ---- Statistics -----------------------------------------------------------------------------------------------------


def test_sums_over_blocks_give_the_statistics_of_the_draws_and_their_jackknife() -> None:
    draws = torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + torch.tensor(
        [1, 2, 0]
    )
    centre = torch.tensor([1.5, 1.5, 0.5], dtype=torch.float64)
    blocks = GradientBlocks(centre, {"phi": slice(0, 3)}, keep=True)
    times = np.random.default_rng(0).uniform(0.4, 0.6, size=60)
    times[7] = 30.0  # the machine was busy with something else
    for each, seconds in zip(draws, times, strict=True):
        blocks.add(each[None], seconds)
    found = blocks.estimates("phi")

    def by_hand(sample: np.ndarray, times: np.ndarray) -> dict[str, float]:
        seconds = trim_mean(times, 0.25)
        mean, variance, count = sample.mean(0), sample.var(0, ddof=1), len(sample)
        c = np.array([1.5, 1.5, 0.5])
        return {
            "variance": variance.sum(),
            "snr": np.sqrt(np.maximum(mean**2 / variance - 1 / count, 0)).mean(),
            "snr_whole": np.sqrt(max((mean**2).sum() / variance.sum() - 1 / count, 0)),
            "cosine": (sample @ c / np.linalg.norm(sample, axis=1) / np.linalg.norm(c)).mean(),
            "cosine_mean": mean @ c / np.linalg.norm(mean) / np.linalg.norm(c),
            "bias": (mean - c) @ c / (c @ c),
            "seconds": seconds,
            "cost": seconds * variance.sum(),
        }

    array = draws.numpy()
    whole = by_hand(array, times)
    rest = [by_hand(np.delete(array, place, 0), np.delete(times, place)) for place in range(60)]
    for name, value in whole.items():
        left_out = np.array([each[name] for each in rest])
        error = math.sqrt(59 / 60 * ((left_out - left_out.mean()) ** 2).sum())
        assert found[name].value == pytest.approx(value, rel=1e-10), name
        assert found[name].error == pytest.approx(error, rel=1e-8, abs=1e-12), name
        assert found[name].count == 60
    assert torch.equal(torch.cat(blocks.draws), draws)
    assert found["cosine"].error == pytest.approx(
        (array @ centre.numpy() / np.linalg.norm(array, axis=1) / np.linalg.norm(centre)).std(ddof=1) / math.sqrt(60)
    )


def test_the_jackknife_error_of_a_variance_is_its_spread_over_studies() -> None:
    generator = torch.Generator().manual_seed(1)
    values, errors = [], []
    for _ in range(120):
        blocks = GradientBlocks(torch.zeros(2, dtype=torch.float64), {"phi": slice(0, 2)})
        for count in block_sizes(400, 2):
            blocks.add(torch.randn(count, 2, generator=generator, dtype=torch.float64).exp(), 1.0)
        found = blocks.estimates("phi")["variance"]
        values.append(found.value)
        errors.append(found.error)
    # heavy tails make the error noisy: its root mean square is what it estimates
    assert math.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values, ddof=1), rel=0.35)


@pytest.mark.parametrize(("draws", "size"), [(2, 1), (99, 5), (100, 5), (151, 5), (1000, 3), (1000, 10**6)])
def test_blocks_hold_every_draw_and_are_few_where_they_are_large(draws: int, size: int) -> None:
    sizes = block_sizes(draws, size)
    assert sum(sizes) == draws and min(sizes) >= 1 and len(sizes) <= 100
    assert len(set(sizes[:-1])) <= 1
    assert len(sizes) * size * 2 <= 4 * 10**7 or len(sizes) <= 20


@pytest.mark.parametrize(("coordinates", "draws"), [(1, 100), (5, 1000), (300, 400), (10**6, 1000)])
def test_the_limit_of_the_largest_z_is_bonferronis_with_students_quantile(coordinates: int, draws: int) -> None:
    tail = norm.sf(4.5) / coordinates
    assert limit_of_z(coordinates, draws) == pytest.approx(t.isf(tail, draws - 1), rel=2e-2)
    assert limit_of_z(1, 10**9) == pytest.approx(4.5, rel=1e-6)


def test_a_gradient_without_variance_has_none_and_no_bias_from_rounding() -> None:
    model = DiscreteModel(enumerate="parallel")
    row = evaluate.gradients(model, classes(0, 2), "elbo-enum", draws=20).of("elbo-enum")
    assert row.variance == Estimate(0.0, 0.0, 20)
    assert row.z < 1 and row.snr.value == math.inf
    assert row.cosine.value == pytest.approx(1.0) and abs(row.bias.value) < 1e-12


# ---- What a study leaves alone, and what it is given ----------------------------------------------------------------


class Noisy(LinearGaussianModel):
    """The linear-Gaussian model with a buffer that every run moves, and a layer that training mode changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(()))
        self.drop = nn.Dropout(0.5)

    def guide(self, x: Tensor) -> Tensor:
        self.runs += 1
        return super().guide(self.drop(x))


def test_a_study_moves_nothing() -> None:
    model, objective = Noisy(), pvae.IWAE(3)
    pyro.get_param_store().clear()
    torch.manual_seed(3)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    evaluate.gradients(model, torch.tensor(A_X)[None], ["elbo", objective, "elbo-graph"], draws=5)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002
    assert all(each.grad is None for each in model.parameters())
    assert model.training and model.drop.training and objective.training
    assert len(pyro.get_param_store()) == 0


def test_an_objectives_draws_depend_on_the_seed_and_not_on_the_company() -> None:
    x, model = torch.tensor(A_X)[None], LinearGaussianModel()

    def draws(objectives: Any, seed: int) -> Tensor:
        found = evaluate.gradients(model, x, objectives, draws=7, reference_draws=2, seed=seed, keep=True)
        assert found.seed == seed
        kept = found.of("iwae:particles=3").draws
        assert kept is not None and kept.shape == (7, 4)
        return kept

    alone, together = draws("iwae:particles=3", 1), draws(["elbo", "iwae:particles=3"], 1)
    assert torch.equal(alone, together)
    assert not torch.equal(alone, draws("iwae:particles=3", 2))


def test_graph_and_eager_steps_draw_the_same_gradients() -> None:
    x, model = torch.tensor(A_X)[None], LinearGaussianModel()
    rows = [
        evaluate.gradients(model, x, pvae.IWAE(3), draws=5, reference_draws=2, step=step, keep=True).rows[0]
        for step in ("auto", "eager")
    ]
    assert [row.step for row in rows] == ["graph", "eager"]
    torch.testing.assert_close(rows[0].draws, rows[1].draws, rtol=1e-12, atol=1e-12)


def test_objectives_come_as_names_instances_losses_of_pyro_and_dicts() -> None:
    found = evaluate.named_objectives(["iwae:particles=2", pvae.IWAE(4), Trace_ELBO(), Trace_ELBO()])
    assert list(found) == ["iwae:particles=2", "iwae:particles=4", "elbo", "elbo#3"]
    assert list(evaluate.named_objectives({"mine": pvae.IWAE})) == ["mine"]
    for wrong, said in (([], "at least one"), ("iwea", "did you mean 'iwae'"), ([3], "factory")):
        with pytest.raises(InputError, match=said):
            evaluate.named_objectives(wrong)


def test_what_cannot_be_studied_is_refused() -> None:
    x, model = torch.tensor(A_X)[None], LinearGaussianModel()
    with pytest.raises(InputError, match="at least 2; got 1"):
        evaluate.gradients(model, x, "elbo", draws=1)
    with pytest.raises(InputError, match="'auto' or 'eager'"):
        evaluate.gradients(model, x, "elbo", step="graph")
    study = evaluate.gradients(model, x, "elbo", draws=4)
    with pytest.raises(InputError, match="it has elbo"):
        study.of("iwae")
    model.requires_grad_(False)
    with pytest.raises(InputError, match="no parameter"):
        evaluate.gradients(model, x, "elbo", draws=4)


class NamedByGroup(nn.Module):
    """A model of any class whose parameters bear the names of the groups, which declares no groups by methods."""

    def __init__(self) -> None:
        super().__init__()
        self.phi = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.theta = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def model(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.theta, 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.phi, 1.0))


def test_parameters_with_the_names_of_groups_are_grouped_by_the_batch() -> None:
    x = torch.ones(2, dtype=torch.float64)
    study = evaluate.gradients(NamedByGroup(), x, "elbo", draws=4, reference_draws=4)
    assert [(row.group, row.coordinates) for row in study.rows] == [("theta", 1), ("phi", 1)]


def test_a_study_is_one_json_object() -> None:
    study = evaluate.gradients(DiscreteModel(), classes(0), "elbo", draws=10)
    found = study.to_json()
    assert (found["draws"], found["seed"], found["batch"]) == (10, 0, 1)
    assert [(row["objective"], row["group"]) for row in found["rows"]] == [("elbo", "theta"), ("elbo", "phi")]
    assert found["rows"][1]["variance"] == study.of("elbo").variance.to_json()
