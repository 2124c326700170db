"""Annealed importance sampling and the sandwich, against closed forms of the log evidence."""

from __future__ import annotations

import math
from typing import Any

import annealed_models as models
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import A_BIAS, A_VARIANCE, A_WEIGHT, A_X, LinearGaussianModel
from planted import Planted
from pyro.infer.autoguide import AutoNormal
from stats import assert_close_in_sigmas, mean_and_error
from torch import Tensor

from pvae import evaluate
from pvae.errors import InputError
from pvae.evaluate.annealing.temperatures import SCHEDULES, make_temperatures
from pvae.programs.base import pair

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

LOG_EVIDENCE = -3.6252584092
#: E log w of the forward and of the reverse chains with exact moves, by the number of temperatures (linear schedule).
EXACT_MOVES = {1: (-9.17737, -2.37338), 4: (-4.73375, -3.03275), 16: (-3.85768, -3.43243), 64: (-3.67968, -3.57337)}


def copies_of_a(count: int) -> Tensor:
    return torch.tensor(np.tile(A_X, (count, 1)))


def exact_move(numbers: Tensor, b: float) -> Tensor:
    """Draw from p(z) p(x given z)^b of the linear-Gaussian model at its datum."""
    weight, residual = torch.tensor(A_WEIGHT), torch.tensor(A_X - A_BIAS)
    covariance = (torch.eye(2, dtype=torch.float64) + b * weight.T @ weight / A_VARIANCE).inverse()
    mean = covariance @ (b * weight.T @ residual / A_VARIANCE)
    return mean + torch.randn_like(numbers) @ torch.linalg.cholesky(covariance).T


@pytest.mark.parametrize("temperatures", EXACT_MOVES)
def test_exact_moves_give_the_riemann_sums_of_the_path(temperatures: int) -> None:
    found = evaluate.sandwich(
        LinearGaussianModel(),
        copies_of_a(4000),
        temperatures=temperatures,
        chains=1,
        schedule="linear",
        limit=None,
        transition=exact_move,
        progress=False,
    )
    for estimate, expected in zip((found.lower, found.upper), EXACT_MOVES[temperatures], strict=True):
        effect = expected - LOG_EVIDENCE
        assert_close_in_sigmas(estimate.value, expected, estimate.error, effect=effect, resolution=0.15)


def test_reverse_chains_of_simulated_data_start_from_the_z_that_made_them() -> None:
    """With one temperature the mean upper estimate is that of log p(x given z): minus the entropy of the noise."""
    settings = {"temperatures": 1, "chains": 1, "leapfrog_steps": 1, "limit": None, "progress": False}
    found = evaluate.sandwich(LinearGaussianModel(), copies_of_a(2000), **settings).on_simulated
    entropy = 1.5 * (math.log(2 * math.pi * A_VARIANCE) + 1)
    assert_close_in_sigmas(found.upper.value, -entropy, found.upper.error, effect=2.0, resolution=0.02)


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_intervals_with_hmc_hold_the_evidence_in_200_repeats(start: str) -> None:
    settings = {"chains": 4, "start": start, "leapfrog_steps": 5, "limit": None, "progress": False}
    found = evaluate.sandwich(LinearGaussianModel(), copies_of_a(200), temperatures=64, **settings)
    low, high = found.intervals(0.99)
    assert ((low <= LOG_EVIDENCE) & (high >= LOG_EVIDENCE)).sum() >= 198
    assert found.interval()[0] < LOG_EVIDENCE < found.interval()[1]
    assert 0.6 < found.acceptance < 0.7


def test_the_gap_shrinks_like_one_over_the_temperatures() -> None:
    settings = {"chains": 1, "start": "guide", "leapfrog_steps": 4, "limit": None, "progress": False}
    gaps = []
    for temperatures in (16, 64):
        found = evaluate.sandwich(LinearGaussianModel(), copies_of_a(500), temperatures=temperatures, **settings)
        assert found.on_simulated is not None
        gaps.append(found.on_simulated.gap)
    error = math.hypot(gaps[0].error, 4 * gaps[1].error)
    assert_close_in_sigmas(4 * gaps[1].value, gaps[0].value, error, effect=gaps[0].value, resolution=0.15)


def assert_unbiased(model: Any, start: str) -> None:
    """E[w] = p(x) for the forward chains of one datum, and E[1 / w] = 1 / p(x) for reverse chains of simulated data."""
    data = model.x.expand(400, *model.x.shape[1:]).clone()
    settings = {"chains": 1, "temperatures": 32, "leapfrog_steps": 4, "limit": None, "progress": False}
    found = evaluate.sandwich(model, data, start=start, **settings)
    assert found.on_simulated is not None, found.note
    simulated, exact = found.on_simulated, model.log_evidence(found.on_simulated.data["x"])
    ratios = [found.lower.pointwise - model.log_evidence(data), simulated.lower.pointwise - exact]
    ratios.append(exact - simulated.upper.pointwise)
    for log_ratio in ratios:
        mean, error = mean_and_error(log_ratio.exp())
        assert_close_in_sigmas(mean, 1.0, error, effect=1.0, resolution=0.08)


UNBIASED = [
    (models.GammaPoisson(), "prior"),
    (models.BetaBernoulli(), "guide"),
    (models.DirichletMultinomial(), "prior"),
    (models.InnerPlate(), "guide"),
    (models.GaussianMixture(marked=False), "prior"),
    (models.GaussianMixture(marked=True), "guide"),
    (models.MixtureOfNormals(), "guide"),
]


@pytest.mark.parametrize(("model", "start"), UNBIASED, ids=lambda value: getattr(value, "name", value))
def test_weights_are_unbiased_on_constrained_supports_and_over_discrete_sites(model: Any, start: str) -> None:
    assert_unbiased(model, start)


def test_an_estimate_exceeds_the_evidence_rarely() -> None:
    """P(log p-hat >= log p + b) <= e^-b, for every unbiased estimate of p(x) (Markov's inequality)."""
    settings = {"temperatures": 16, "chains": 8, "leapfrog_steps": 4, "start": "guide", "progress": False}
    found = evaluate.ais(LinearGaussianModel(), copies_of_a(200), limit=None, **settings)
    excess = found.pointwise - LOG_EVIDENCE
    for b in (0.25, 0.5, 1.0, 2.0):
        assert (excess >= b).double().mean() <= math.exp(-b)
    assert (excess >= 0.25).any()


def quick(model: Any, data: Any, **settings: Any) -> evaluate.Sandwich:
    return evaluate.sandwich(
        model, data, **{"temperatures": 6, "chains": 2, "leapfrog_steps": 2, "progress": False, **settings}
    )


def test_chunks_do_not_change_the_numbers_and_seeds_do() -> None:
    data = torch.randn(12, 3, dtype=torch.float64)
    whole = quick(LinearGaussianModel(), data)
    parts = quick(LinearGaussianModel(), data, chunk=10)
    for one, other in ((whole, parts), (whole.on_simulated, parts.on_simulated)):
        assert torch.allclose(one.lower.pointwise, other.lower.pointwise, rtol=1e-9)
        assert torch.allclose(one.upper.pointwise, other.upper.pointwise, rtol=1e-9)
    other_seed = quick(LinearGaussianModel(), data, seed=1)
    assert not torch.isclose(whole.lower.pointwise, other_seed.lower.pointwise).any()


def test_the_announced_cost_is_the_number_of_evaluations(capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate.sandwich(LinearGaussianModel(), copies_of_a(3), temperatures=20, chains=2)
    one_way = 2 * (20 + 19 * 10)
    pilot, settling = 2 * (30 + 20 * 5) * 11, 2 * 2 * 11
    assert found.cost == 3 * (2 * (pilot + 2 * one_way) + settling)
    assert f"sandwich: about {found.cost / 1000:.3g} thousand decoder evaluations" in capsys.readouterr().err


class Eager(LinearGaussianModel):
    """The linear-Gaussian model with a branch on a value, which no graph can hold."""

    def model(self, x: Tensor) -> Tensor:
        if float(x.sum()) > 1e9:
            raise ValueError
        return super().model(x)


def test_programs_without_a_graph_run_eagerly_to_the_same_numbers() -> None:
    data = torch.randn(5, 3, dtype=torch.float64)
    with pytest.warns(UserWarning, match="cannot be traced to a graph, so it runs eagerly: .*test_annealing.py"):
        eager = quick(Eager(), data)
    traced = quick(LinearGaussianModel(), data)
    assert torch.allclose(eager.lower.pointwise, traced.lower.pointwise, rtol=1e-9)
    assert torch.allclose(eager.upper.pointwise, traced.upper.pointwise, rtol=1e-9)


class OneByOne(LinearGaussianModel):
    """The linear-Gaussian model with a program that does not broadcast over particles."""

    def model(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1)).reshape(len(x), 2)
            return pyro.sample("x", dist.Normal(z @ self.weight.T + self.bias, self.log_scale.exp()).to_event(1), obs=x)


def test_programs_that_do_not_broadcast_run_chain_by_chain() -> None:
    with pytest.warns(UserWarning, match="Particles are drawn one by one"):
        found = quick(OneByOne(), copies_of_a(60), temperatures=40, limit=None)
    assert found.interval(0.999)[0] < LOG_EVIDENCE < found.interval(0.999)[1]
    assert found.status != "bad"


def test_an_autoguide_needs_the_prior_as_start() -> None:
    model = models.GammaPoisson()
    guide = AutoNormal(model.model)
    latent = pair(model.model, guide)
    data = model.x.expand(100).clone()
    found = quick(latent, data, temperatures=40, limit=None)
    low, high = found.interval(0.999)
    assert low < float(model.log_evidence(data)[0]) < high
    with pytest.raises(InputError, match="site 'rate' prevents it"):
        quick(latent, data, start="guide")


def latent_of(draw: Any) -> Any:
    """A model with one latent site that `draw` makes, and a guide that draws it too."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = draw(x)
            pyro.sample("x", dist.Normal(z.double(), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            draw(x)

    return pair(model, guide)


def _masked(x: Tensor) -> Tensor:
    with pyro.poutine.mask(mask=x > 0):
        return pyro.sample("w", dist.Normal(torch.zeros_like(x), 1.0))


REFUSED = {
    "Poisson": (lambda x: pyro.sample("w", dist.Poisson(torch.ones_like(x))), "sums discrete .* site 'w' .Poisson."),
    "Delta": (lambda x: pyro.sample("w", dist.Delta(torch.ones_like(x))), "site 'w' is a Delta"),
    "angle": (lambda x: pyro.sample("w", dist.VonMises(torch.zeros_like(x), 1.0)), "site 'w' is an angle"),
    "masked": (_masked, "site 'w' is masked"),
    "all discrete": (lambda x: pyro.sample("w", dist.Bernoulli(0.5 * torch.ones_like(x))), "needs a continuous latent"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_latents_that_cannot_be_annealed_are_refused_by_name(name: str) -> None:
    draw, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        quick(latent_of(draw), torch.tensor([0.5, -1.0], dtype=torch.float64))


def test_a_latent_that_all_data_share_is_refused_by_name() -> None:
    def program(x: Tensor, observed: bool = True) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(()).double(), 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            if observed:
                pyro.sample("x", dist.Normal(z + w, 1.0), obs=x)

    with pytest.raises(InputError, match="all data share site 'w'"):
        quick(pair(program, lambda x: program(x, False)), torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperatures": 0}, "temperatures"),
        ({"chains": 1.5}, "chains"),
        ({"start": "posterior"}, "start must be one of prior, guide; got 'posterior'"),
        ({"schedule": "cosine"}, "schedule must be one of sigmoid, linear, geometric; got 'cosine'"),
        ({"leapfrog_steps": -1}, "leapfrog_steps"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        quick(LinearGaussianModel(), copies_of_a(2), **settings)


def test_log_densities_that_are_nan_are_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.factor("broken", z * math.nan)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))

    with pyro.validation_enabled(False), pytest.raises(InputError, match="log-density of datum 0 is NaN"):
        quick(pair(model, guide), torch.zeros(2, dtype=torch.float64))


class SeesTheData(LinearGaussianModel):
    """An autoregressive decoder: the mean of each x depends on x itself."""

    def model(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            mean = z @ self.weight.T + 0.5 * x.roll(1, -1)
            return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


def test_a_decoder_that_takes_x_has_no_simulated_sandwich() -> None:
    found = quick(SeesTheData(), copies_of_a(4))
    assert found.on_simulated is None
    assert "as in a decoder that takes x" in found.note
    assert found.status == "look"


def test_a_likelihood_that_broadcasts_over_the_data_has_no_simulated_data() -> None:
    class Broadcast(Planted):
        """One mean for the three features of a datum."""

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z[..., :1], self.noise).to_event(1), obs=x)

    found = quick(Broadcast(), copies_of_a(4))
    assert found.on_simulated is None and found.status == "look"
    assert "site 'x' draws numbers of shape (4, 1) and is observed at numbers of shape (4, 3)" in found.note
    for check in (evaluate.calibrate, evaluate.resemblance):
        with pytest.raises(InputError, match=r"broadcasts over the data. Expand its parameters"):
            check(Broadcast(), copies_of_a(4), progress=False)


def test_an_interrupt_leaves_parameters_and_generators_unchanged() -> None:
    model, before = LinearGaussianModel(), torch.get_rng_state()

    def interrupt(numbers: Tensor, b: float) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quick(model, copies_of_a(2), transition=interrupt)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_rise_from_0_to_1(schedule: str) -> None:
    for count in (1, 2, 50):
        b = make_temperatures(count, schedule)
        assert len(b) == count + 1
        assert (b[0], b[-1]) == (0.0, 1.0)
        assert (b.diff() > 0).all()
    assert {"sigmoid": b[1] < 0.01, "linear": b[1] == 0.02, "geometric": b[1] < 0.001}[schedule]


def test_findings_have_rows_and_figures() -> None:
    found = quick(LinearGaussianModel(), copies_of_a(4))
    quantities = [row["quantity"] for row in found.table()]
    assert {"lower", "upper", "gap", "gap (simulated data)"} <= set(quantities)
    assert found.draw().axes[0].get_xlabel().endswith("(nats)")
    record = found.to_json()
    assert record["upper_is"] == "approximate"
    assert record["on_simulated"]["upper_is"] == "rigorous"
    lower = evaluate.ais(LinearGaussianModel(), copies_of_a(4), temperatures=6, chains=2, progress=False)
    assert lower.status == "look"
    assert lower.draw().axes
    one_chain = quick(LinearGaussianModel(), copies_of_a(2), chains=1)
    with pytest.raises(InputError, match="one chain"):
        one_chain.interval()
    with pytest.raises(InputError, match="level must lie between 0 and 1"):
        found.interval(95)
