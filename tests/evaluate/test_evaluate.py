"""Estimates, log evidence, ELBO and bounds against closed forms, in bounded memory."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import types
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import A_Q1, A_X, LinearGaussian, LinearGaussianModel, TwoLayer, TwoLayerModel
from hypothesis import given, settings
from hypothesis import strategies as st
from stats import assert_close_in_sigmas
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import pvae
import pvae.evaluate as evaluate
from pvae.errors import InputError
from pvae.evaluate.base import Estimate, difference, mean_of
from pvae.evaluate.evaluation_context import evaluation_context
from pvae.evaluate.running_statistics import Bound, EffectiveSampleSize, ParetoKhat
from pvae.programs.base import LatentModel, pair
from pvae.train.devices import isolated
from pvae.weights import log_weights

EXACT = LinearGaussian()
LOG_EVIDENCE = -3.6252584092
KL_Q1 = EXACT.kl_to_posterior(*A_Q1)


def copies(count: int, x: np.ndarray = A_X) -> Tensor:
    """The same datum many times: each copy is an independent run of the estimator."""
    return torch.tensor(np.tile(x, (count, 1)))


class AtPosterior(LinearGaussianModel):
    """The linear-Gaussian model with its exact posterior as the guide."""

    def guide(self, x: Tensor) -> Tensor:
        precision = torch.tensor(EXACT.precision)
        mean = (x - self.bias) @ self.weight @ precision.inverse() / EXACT.variance
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.MultivariateNormal(mean, precision_matrix=precision))


# ---- Estimate -------------------------------------------------------------------------------------------------------


def test_an_estimate_is_the_mean_with_the_standard_error_of_the_mean() -> None:
    found = mean_of(torch.tensor([1.0, 2.0, 6.0]))
    assert (found.value, found.count) == (3.0, 3)
    assert found.error == pytest.approx(math.sqrt(7.0 / 3.0), rel=1e-12)
    assert found.pointwise is not None and found.pointwise.dtype == torch.float64


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (-94.4567, 0.8163, "-94.46 ± 0.82"),
        (-94.4567, 12.3, "-94 ± 12"),
        (-94.4567, 0.0996, "-94.46 ± 0.10"),
        (-3.62525, 1.4e-4, "-3.62525 ± 0.00014"),
        (1.0, 0.0, "1.0000 ± 0"),
        (-3.62527, math.nan, "-3.6253"),
    ],
)
def test_an_estimate_prints_two_digits_of_its_error(value: float, error: float, text: str) -> None:
    assert str(Estimate(value, error, 10)) == text


def test_the_error_of_a_single_datum_is_unknown_and_null_in_json() -> None:
    found = mean_of(torch.tensor([2.5]))
    assert math.isnan(found.error)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False)) == {"value": 2.5, "error": None, "count": 1}


def test_a_difference_is_paired() -> None:
    hard = torch.linspace(-30.0, 30.0, 101, dtype=torch.float64)
    noise = 0.1 * torch.cos(torch.arange(101.0, dtype=torch.float64))
    a, b = mean_of(hard + 1.0 + noise), mean_of(hard)
    found = difference(a, b)
    assert found.value == pytest.approx(1.0 + float(noise.mean()), rel=1e-12)
    assert found.error == pytest.approx(float(noise.std()) / math.sqrt(101), rel=1e-9)
    assert found.error < math.hypot(a.error, b.error) / 100


def test_a_difference_needs_the_same_data_and_pointwise_values() -> None:
    with pytest.raises(InputError, match="3 data and 2"):
        difference(mean_of(torch.zeros(3)), mean_of(torch.zeros(2)))
    with pytest.raises(InputError, match="no pointwise"):
        difference(Estimate(0.0, 1.0, 3), mean_of(torch.zeros(3)))
    with pytest.raises(InputError, match="one number per datum"):
        mean_of(torch.zeros(0))


# ---- Exact answers --------------------------------------------------------------------------------------------------


def test_everything_is_exact_where_the_guide_is_the_posterior() -> None:
    found = evaluate.judge(AtPosterior(), copies(3), 200, chunk=150)
    assert found.log_evidence.value == pytest.approx(LOG_EVIDENCE, abs=1e-10)
    for estimate in (found.log_evidence, found.elbo, *found.bounds.values()):
        assert estimate.pointwise is not None
        assert (estimate.pointwise - EXACT.log_evidence()).abs().max() < 1e-10
    assert abs(found.gap.value) < 1e-10 and found.gap.error < 1e-10
    torch.testing.assert_close(found.ess, torch.full((3,), 200.0, dtype=torch.float64), rtol=1e-10, atol=0)
    assert (found.khat == 0).all()
    assert found.notes == ("site 'z' has no closed-form KL here: it is estimated from the draws",)


def test_log_evidence_and_elbo_agree_with_the_linear_gaussian_model() -> None:
    found = evaluate.judge(LinearGaussianModel(), copies(400), 1000)
    bias = EXACT.chi2(*A_Q1) / (2 * 1000)
    assert_close_in_sigmas(found.log_evidence.value, LOG_EVIDENCE - bias, found.log_evidence.error, effect=KL_Q1)
    assert_close_in_sigmas(found.elbo.value, -5.0148794163, found.elbo.error, effect=KL_Q1)
    assert_close_in_sigmas(found.gap.value, KL_Q1 - bias, found.gap.error, effect=KL_Q1)


def test_bounds_rise_with_particles_to_the_evidence_of_the_linear_gaussian_model() -> None:
    golden = {1: -5.0149, 2: -4.2958, 5: -3.8917, 10: -3.7597, 50: -3.6517, 500: -3.6278}
    found = evaluate.importance_bounds(LinearGaussianModel(), copies(400), tuple(golden))
    values = [found[particles].value for particles in golden]
    assert values == sorted(values)
    for particles, value in golden.items():
        error = math.hypot(found[particles].error, 0.001)
        assert_close_in_sigmas(found[particles].value, value, error, effect=KL_Q1)


def test_evidence_and_elbo_of_two_stochastic_layers() -> None:
    exact = TwoLayer()
    x = exact.x[0]
    found = evaluate.judge(TwoLayerModel(), copies(400, x), 1000)
    gap = exact.log_evidence(x) - exact.elbo(x)
    assert_close_in_sigmas(found.log_evidence.value, exact.log_evidence(x), found.log_evidence.error, effect=gap)
    assert_close_in_sigmas(found.elbo.value, exact.elbo(x), found.elbo.error, effect=gap)


@pytest.mark.parametrize("particles", [1, 2, 5])
def test_the_estimated_evidence_is_unbiased_and_seldom_far_too_high(particles: int) -> None:
    """E p-hat = p(x), so by Markov P(log p-hat >= log p + b) <= e^-b, whatever the guide."""
    variance = A_Q1[1] * 2
    found = evaluate.log_evidence(LinearGaussianModel(A_Q1[0], variance), copies(20_000), particles)
    assert found.pointwise is not None
    excess = found.pointwise - EXACT.log_evidence()
    for b in (0.25, 0.5, 1.0, 2.0):
        share = float((excess >= b).double().mean())
        assert share <= math.exp(-b) + 4.5 * math.sqrt(math.exp(-b) / 20_000)
    ratio = mean_of(excess.exp())
    assert_close_in_sigmas(ratio.value, 1.0, ratio.error, effect=1.0, resolution=0.02)


# ---- One pass, in bounded memory ----------------------------------------------------------------------------------


def test_a_sweep_summarises_the_very_weights_that_were_drawn() -> None:
    model, x = LinearGaussianModel(), copies(7)
    with isolated(3), torch.no_grad():
        log_w = log_weights(model, {"x": x}, 60).log_w
    found = evaluate.judge(model, x, 60, seed=3)
    evidence = log_w.logsumexp(0) - math.log(60)
    weights = log_w.softmax(0)
    torch.testing.assert_close(found.log_evidence.pointwise, evidence, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.elbo.pointwise, log_w.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.gap.pointwise, evidence - log_w.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.ess, 1 / (weights**2).sum(0), rtol=1e-12, atol=0)
    bound = log_w[:50].logsumexp(0) - math.log(50)
    torch.testing.assert_close(found.bounds[50].pointwise, bound, rtol=1e-12, atol=0)


def test_judge_gives_the_numbers_of_the_single_functions() -> None:
    model, x = LinearGaussianModel(), copies(9)
    options: dict[str, Any] = {"particles": 70, "seed": 5, "chunk": 100}
    found = evaluate.judge(model, x, **options)
    assert found.log_evidence == evaluate.log_evidence(model, x, **options)
    assert found.elbo == evaluate.elbo(model, x, **options)
    single = evaluate.diagnose(model, x, **options)
    assert torch.equal(found.ess, single.ess) and torch.equal(found.khat, single.khat)
    assert found.bounds.keys() == {50, 70}
    assert found.decoder_evaluations == (70 + 16) * 9 and found.membership is None
    assert evaluate.log_evidence(model, x, 70, seed=6, chunk=100) != found.log_evidence


@settings(max_examples=25, deadline=None)
@given(
    particles=st.integers(1, 60),
    group=st.integers(1, 60),
    cuts=st.lists(st.integers(1, 59), max_size=8),
    seed=st.integers(0, 9),
)
def test_statistics_do_not_depend_on_the_chunks(particles: int, group: int, cuts: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    log_w = 3 * torch.randn(particles, 2, generator=generator, dtype=torch.float64) - 1000
    edges = [0, *sorted({cut for cut in cuts if cut < particles}), particles]
    for make in (lambda: Bound(min(group, particles)), EffectiveSampleSize, lambda: ParetoKhat(particles)):
        whole, parts = make(), make()
        whole.add(log_w)
        for start, stop in itertools.pairwise(edges):
            parts.add(log_w[start:stop])
        torch.testing.assert_close(parts.result(), whole.result(), rtol=1e-10, atol=0, equal_nan=True)


def test_a_bound_leaves_out_an_incomplete_group() -> None:
    log_w = torch.tensor([[0.0], [1.0], [2.0], [50.0]], dtype=torch.float64)
    bound = Bound(3)
    bound.add(log_w)
    assert float(bound.result()) == pytest.approx(math.log((1 + math.e + math.e**2) / 3), rel=1e-12)


def test_weights_of_zero_count_and_do_not_spread() -> None:
    log_w = torch.tensor([[-math.inf, -math.inf], [0.0, -math.inf]], dtype=torch.float64)
    bound, ess = Bound(2), EffectiveSampleSize()
    for row in log_w.split(1):
        bound.add(row)
        ess.add(row)
    assert bound.result().tolist() == [pytest.approx(-math.log(2)), -math.inf]
    assert float(ess.result()[0]) == 1.0 and math.isnan(ess.result()[1])


class Spy(LinearGaussianModel):
    """Counts how many z the model scores at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self.total = 0

    def model(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            self.most = max(self.most, z.numel() // 2)
            self.total += z.numel() // 2
            mean = z @ self.weight.T + self.bias
            return pyro.sample("x", dist.Normal(mean, self.log_scale.exp()).to_event(1), obs=x)


class LargestTensor(TorchDispatchMode):
    """Records the most elements of any tensor that torch makes."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            if isinstance(each, Tensor):
                self.numel = max(self.numel, each.numel())
        return made


def test_memory_does_not_grow_with_particles() -> None:
    largest = {}
    for particles in (2_000, 20_000):
        model, memory = Spy(), LargestTensor()
        with memory:
            evaluate.judge(model, copies(4), particles, chunk=500, draws=1)
        assert model.most <= 500
        assert model.total >= 4 * particles
        largest[particles] = memory.numel
    # the tail that k-hat needs grows with the square root, and trust keeps the weights of 2000 particles at most
    assert largest[20_000] <= largest[2_000] + 3 * math.sqrt(20_000) * 4


@pytest.mark.parametrize(("particles", "data", "chunk"), [(7, 5, 3), (7, 5, 20), (3, 11, 7), (1, 1, 1)])
def test_every_chunk_size_draws_every_particle_of_every_datum(particles: int, data: int, chunk: int) -> None:
    found = evaluate.judge(AtPosterior(), copies(data), particles, chunk=chunk)
    assert found.log_evidence.count == data
    torch.testing.assert_close(found.ess, torch.full((data,), float(particles), dtype=torch.float64))


def test_data_keep_their_order_through_the_chunks() -> None:
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)[:, None] * torch.ones(3, dtype=torch.float64)
    found = evaluate.log_evidence(AtPosterior(), x, 10, chunk=37)
    exact = torch.tensor([EXACT.log_evidence(each.numpy()) for each in x], dtype=torch.float64)
    torch.testing.assert_close(found.pointwise, exact, rtol=1e-10, atol=0)


# ---- The context ----------------------------------------------------------------------------------------------------


class Noisy(LatentModel):
    """A model whose score shows the mode, the grad mode and the random state it ran in."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.Dropout(0.5).eval()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen: list[tuple[bool, bool]] = []

    def model(self, x: Tensor) -> None:
        self.seen.append((self.dropout.training, torch.is_grad_enabled()))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, self.scale))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.dropout(0.5 * x), 0.5**0.5))


def test_an_evaluation_leaves_everything_as_it_was() -> None:
    model = Noisy()
    x = torch.ones(6)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = evaluate.judge(model, x, 30)
    assert set(model.seen) == {(False, False)}
    assert model.training and model.dropout.training and not model.frozen.training
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert len(pyro.get_param_store()) == 0
    torch.rand(7)
    assert evaluate.judge(model, x, 30).log_evidence == first.log_evidence


def test_an_evaluation_that_fails_leaves_everything_as_it_was() -> None:
    model, x = Noisy(), torch.ones(6)
    state = torch.get_rng_state()
    with pytest.raises(InputError):
        evaluate.log_evidence(model, x, 0)
    with pytest.raises(RuntimeError), evaluation_context(model, x):
        raise RuntimeError("a user's program fails")
    assert model.dropout.training and torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore:The log evidence is not")
def test_limit_draws_a_random_subset_by_the_seed() -> None:
    x = copies(40) + torch.arange(40.0, dtype=torch.float64)[:, None]
    whole = evaluate.log_evidence(AtPosterior(), x, 5)
    for seed in (0, 1):
        found = evaluate.log_evidence(AtPosterior(), x, 5, limit=8, seed=seed)
        torch.testing.assert_close(found.pointwise, whole.pointwise[found.subset.indices()], rtol=1e-10, atol=0)
        assert found.count == 8 and str(found.subset) == f"8 of 40, drawn with seed {seed}"
        assert found.subset.indices().tolist() != list(range(8))
    assert str(whole.subset) == "all 40" and evaluate.judge(AtPosterior(), x, 5, limit=8).to_json()["subset"][0] == "8"


@pytest.mark.filterwarnings("ignore:The log evidence is not")
def test_estimates_of_other_subsets_have_no_paired_difference() -> None:
    x = copies(6)
    first, second = (evaluate.log_evidence(AtPosterior(), x, 5, limit=3, seed=seed) for seed in (0, 1))
    with pytest.raises(InputError, match="3 of 6, drawn with seed 0 data and 3 of 6, drawn with seed 1"):
        difference(first, second)
    assert difference(first, first).subset == first.subset
    whole = (evaluate.log_evidence(AtPosterior(), x, 5, limit=limit, seed=seed) for limit, seed in ((None, 0), (6, 1)))
    assert difference(*whole).count == 6


def test_arrays_of_another_precision_are_taken_as_the_model_s() -> None:
    class Single(LatentModel):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(3, 2)

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x)

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.encoder(x), 1.0).to_event(1))

    found = evaluate.log_evidence(Single(), np.tile(A_X, (3, 1))[:, :3], 5)
    assert math.isfinite(found.value) and found.pointwise.dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"particles": 0}, "particles needs a whole number of at least 1; got 0"),
        ({"particles": 2.5}, "particles needs a whole number"),
        ({"chunk": 0}, "chunk needs a whole number"),
        ({"draws": 0}, "draws needs a whole number"),
        ({"limit": 0}, "limit needs a whole number of at least 1; got 0"),
        ({"device": "cuda:99"}, "CUDA"),
        ({"data": torch.zeros(0, 3, dtype=torch.float64)}, "no data"),
        ({"data": "digitz"}, "did you mean 'digits'"),
        ({"data": None}, "is not a run"),
        ({"model": nn.Linear(2, 2)}, "needs a run or a latent model"),
    ],
)
def test_bad_input_is_one_clear_line(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"model": AtPosterior(), "data": copies(2), "particles": 5, **options}
    with pytest.raises(InputError, match=message) as raised:
        evaluate.judge(**arguments)
    assert "\n" not in str(raised.value)


def test_a_subsampled_plate_is_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=2) as index:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=2):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(InputError, match="without a subsample"):
        evaluate.log_evidence(pair(model, guide), torch.zeros(5), 3)


# ---- What may be evaluated ------------------------------------------------------------------------------------------


def test_splits_are_judged_on_their_test_data_binarised_by_the_likelihood() -> None:
    data = pvae.load_data("digits")
    assert data.binarise == "auto"
    with isolated(0):
        model = pvae.VAE(data.data_shape, latent=2, hidden=(5,))
    found = evaluate.log_evidence(model, data, 5, limit=20)
    settled = data.for_likelihood(True)
    assert set(settled.test.x.unique().tolist()) == {0.0, 1.0}
    assert found == evaluate.log_evidence(model, settled.test, 5, limit=20)
    assert found != evaluate.log_evidence(model, settled, 5, limit=20, split="train")
    with pytest.raises(InputError, match="no test split"):
        evaluate.log_evidence(model, dataclasses.replace(data, test=None), 5)
    with pytest.raises(InputError, match="train, validation and test"):
        evaluate.log_evidence(model, data, 5, split="tests")


def test_grey_data_stay_grey_for_a_gaussian_likelihood() -> None:
    data = pvae.load_data("digits")
    with isolated(0):
        model = pvae.VAE(data.data_shape, latent=2, hidden=(5,), likelihood="gaussian")
    assert evaluate.elbo(model, data, 5, limit=9) == evaluate.elbo(model, data.test, 5, limit=9)


def test_a_run_is_judged_by_its_model() -> None:
    model = LinearGaussianModel()
    run = types.SimpleNamespace(model=model, history=[], folder=None)
    assert evaluate.elbo(run, copies(3), 5) == evaluate.elbo(model, copies(3), 5)


def test_two_tutorial_vaes_in_one_process_are_judged_apart() -> None:
    from tutorial_vae import VAE as Tutorial

    x = torch.bernoulli(torch.full((6, 784), 0.3), generator=torch.Generator().manual_seed(0))
    with isolated(0):
        models = [Tutorial(z_dim=2, hidden_dim=3) for _ in range(2)]
    for each in (0, 1, 0):
        model = models[each]
        with isolated(0), torch.no_grad():
            mean, scale = model.encoder(x)
            z = dist.Normal(mean, scale).sample((8,))
            log_w = dist.Bernoulli(model.decoder(z.reshape(48, 2)).reshape(8, 6, 784)).log_prob(x).sum(-1)
            log_w = log_w + (dist.Normal(0, 1).log_prob(z) - dist.Normal(mean, scale).log_prob(z)).sum(-1)
        found = evaluate.elbo(model, x, 8)
        torch.testing.assert_close(found.pointwise, log_w.double().mean(0), rtol=1e-5, atol=0)


def test_functions_trained_by_plain_svi_are_judged_with_their_parameters() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(pyro.param("shift", torch.tensor(0.0)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        shift = pyro.param("shift", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + shift) / 2, 0.5**0.5))

    x = torch.tensor([4.0, 6.0])
    with pyro.get_param_store().scope():
        pyro.param("shift", torch.tensor(5.0))
        found = evaluate.log_evidence(pair(model, guide), x, 4)
    exact = dist.Normal(5.0, 2.0**0.5).log_prob(x).double()
    torch.testing.assert_close(found.pointwise, exact, rtol=1e-6, atol=0)
