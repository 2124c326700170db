"""Valid Pyro programs of many kinds: checked, trained, and evaluated to the exact evidence.

Nearly all guides are the exact posterior, so that every log weight is the evidence, and few particles give it to
rounding.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroSample
from stats import assert_close_in_sigmas
from torch import Tensor, nn

import pvae
from pvae import InputError
from pvae.evaluate.arviz_versions import groups_of

pytestmark = [
    pytest.mark.usefixtures("own_store", "seeded"),
    pytest.mark.filterwarnings("ignore:The validation bound is the objective's own"),
    pytest.mark.filterwarnings("ignore:The step cannot be traced"),
    pytest.mark.filterwarnings("ignore:Particles are drawn one by one"),
]

Program = Callable[..., Any]


class Case(NamedTuple):
    """A pair of programs with its data; `evidence` is log p(x) by datum, or divided by the number of data."""

    model: Program
    guide: Program
    batch: dict[str, Tensor]
    evidence: Tensor


def data(*shape: int) -> Tensor:
    """Reproducible data in float32, in which `fit` trains."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(8))


def gaussian_evidence(x: Tensor, shared: float, own: float) -> Tensor:
    """log p of rows of x whose entries share a Gaussian of variance `shared` and have one of variance `own`."""
    size = x.shape[-1]
    covariance = torch.full((size, size), shared, dtype=torch.float64) + own * torch.eye(size, dtype=torch.float64)
    return dist.MultivariateNormal(torch.zeros(size, dtype=torch.float64), covariance).log_prob(x.double())


def plain_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def plain_guide(x: Tensor, site: str = "z") -> None:
    with pyro.plate("data", len(x)):
        pyro.sample(site, dist.Normal(pyro.param("half", torch.tensor(0.5)) * x, math.sqrt(0.5)))


def plain(model: Program = plain_model, guide: Program = plain_guide) -> Case:
    """A model of x with z ~ N(0, 1) and x ~ N(z, 1), written in another way."""
    x = data(12)
    return Case(model, guide, {"x": x}, gaussian_evidence(x[:, None], 1.0, 1.0))


def deterministic() -> Case:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            twice = pyro.deterministic("twice", 2 * pyro.sample("z", dist.Normal(0.0, 1.0)))
            pyro.sample("x", dist.Normal(twice / 2, 1.0), obs=x)

    return plain(model)


def conditioned() -> Case:
    def joint(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0))

    return plain(lambda x: poutine.condition(joint, data={"x": x})(x))


def blocked() -> Case:
    def model(x: Tensor) -> None:
        with poutine.block():
            noise = pyro.sample("noise", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + 0 * noise, 1.0), obs=x)

    return plain(model)


def reparameterised() -> Case:
    model = poutine.reparam(plain_model, config={"z": LocScaleReparam(0.0)})
    return plain(model, functools.partial(plain_guide, site="z_decentered"))


def broadcast() -> Case:
    return plain(poutine.broadcast(plain_model), poutine.broadcast(plain_guide))


def factor() -> Case:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("likelihood", dist.Normal(z, 1.0).log_prob(x))

    return plain(model)


def transformed() -> Case:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            prior = dist.TransformedDistribution(dist.Normal(0.0, 1.0), [dist.transforms.ExpTransform()])
            pyro.sample("x", dist.Normal(pyro.sample("z", prior).log(), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal(pyro.param("half", torch.tensor(0.5)) * x, math.sqrt(0.5)))

    return plain(model, guide)


def subsampled_inside() -> Case:
    def subsampled(program: Program) -> Program:
        def run(x: Tensor) -> None:
            with pyro.plate("data", len(x), subsample_size=len(x)):
                program(pyro.subsample(x, event_dim=0))

        return run

    def model(x: Tensor) -> None:
        pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(pyro.param("half", torch.tensor(0.5)) * x, math.sqrt(0.5)))

    return plain(subsampled(model), subsampled(guide))


def masked_mixture() -> Case:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.MaskedMixture(x > 0, dist.Normal(z, 1.0), dist.Normal(z, 2.0)), obs=x)

    def guide(x: Tensor) -> None:
        precision = 1 + torch.where(x > 0, 0.25, 1.0)
        with pyro.plate("data", len(x)):
            loc = x * (1 - 1 / precision) * pyro.param("one", torch.tensor(1.0))
            pyro.sample("z", dist.Normal(loc, precision.rsqrt()))

    x = data(12)
    variances = torch.where(x > 0, 5.0, 2.0).double()
    return Case(model, guide, {"x": x}, dist.Normal(0.0, variances.sqrt()).log_prob(x.double()))


def improper_prior() -> Case:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.ImproperUniform(constraints.real, (), ()))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x + pyro.param("offset", torch.tensor(0.0)), 1.0))

    return Case(model, guide, {"x": data(12)}, torch.zeros(12, dtype=torch.float64))


def prior_too_wide_to_draw_from() -> Case:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1e4))
            pyro.sample("x", dist.Exponential(z.exp()), obs=x)

    def guide(x: Tensor) -> None:
        rate = dist.Exponential(x * pyro.param("one", torch.tensor(1.0)))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(rate, [dist.transforms.ExpTransform().inv]))

    x = data(12).abs() + 0.5
    # The integral of exp(z) exp(-x exp(z)) over z is 1 / x, where the prior is flat.
    flat = -x.double().log() - math.log(1e4 * math.sqrt(2 * math.pi))
    return Case(model, guide, {"x": x}, flat)


def nested_plates() -> Case:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))
            with pyro.plate("pixels", 3, dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2):
            quarter = pyro.param("quarter", torch.tensor(0.25))
            pyro.sample("z", dist.Normal(quarter * x.sum(-1, keepdim=True), 0.5))

    x = data(10, 3)
    return Case(model, guide, {"x": x}, gaussian_evidence(x, 1.0, 1.0))


def sequential_plate_of_pixels() -> Case:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            for pixel in pyro.plate("pixels", 3):
                pyro.sample(f"x_{pixel}", dist.Normal(z, 1.0), obs=x[:, pixel])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("quarter", torch.tensor(0.25)) * x.sum(-1), 0.5))

    x = data(10, 3)
    return Case(model, guide, {"x": x}, gaussian_evidence(x, 1.0, 1.0))


def latents_of_pixels() -> Case:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("pixels", 3, dim=-2):
                pyro.sample("x", dist.Normal(pyro.sample("w", dist.Normal(z, 1.0)), 1.0), obs=x.T)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.sum(-1) / 5, math.sqrt(0.4)))
            with pyro.plate("pixels", 3, dim=-2):
                half = pyro.param("half", torch.tensor(0.5))
                pyro.sample("w", dist.Normal((z + x.T) * half, math.sqrt(0.5)))

    x = data(10, 3)
    return Case(model, guide, {"x": x}, gaussian_evidence(x, 1.0, 2.0))


def time_series() -> Case:
    """A random walk with noise; the guide is the exact posterior, sampled backwards in time by its chain rule."""
    steps = 3
    times = torch.arange(1.0, steps + 1)
    prior = torch.minimum(times[:, None], times)
    gain = prior @ torch.linalg.inv(prior + torch.eye(steps))
    factor = torch.linalg.cholesky(prior - gain @ prior)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z: Tensor | float = 0.0
            for t in pyro.markov(range(steps)):
                z = pyro.sample(f"z_{t}", dist.Normal(z, 1.0))
                pyro.sample(f"x_{t}", dist.Normal(z, 1.0), obs=x[:, t])

    def guide(x: Tensor) -> None:
        means = x @ gain.T * pyro.param("one", torch.tensor(1.0))
        noise: list[Tensor] = []
        with pyro.plate("data", len(x)):
            for t in range(steps):
                loc = means[:, t] + sum(factor[t, s] * noise[s] for s in range(t))
                z = pyro.sample(f"z_{t}", dist.Normal(loc, factor[t, t]))
                noise.append((z - loc) / factor[t, t])

    x = data(9, steps)
    covariance = (prior + torch.eye(steps)).double()
    evidence = dist.MultivariateNormal(torch.zeros(steps, dtype=torch.float64), covariance).log_prob(x.double())
    return Case(model, guide, {"x": x}, evidence)


def dirichlet_multinomial() -> Case:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
            pyro.sample("x", dist.Multinomial(10, p, validate_args=False), obs=x)

    def guide(x: Tensor) -> None:
        one = pyro.param("one", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("p", dist.Dirichlet(x + one))

    x = dist.Multinomial(10, torch.tensor([0.2, 0.3, 0.5])).sample((8,))
    return Case(model, guide, {"x": x}, dist.DirichletMultinomial(torch.ones(3), 10).log_prob(x).double())


PER_DATUM = [
    plain,
    deterministic,
    conditioned,
    blocked,
    reparameterised,
    broadcast,
    factor,
    transformed,
    subsampled_inside,
    masked_mixture,
    improper_prior,
    prior_too_wide_to_draw_from,
    nested_plates,
    sequential_plate_of_pixels,
    latents_of_pixels,
    time_series,
    dirichlet_multinomial,
]


def fitted(case: Case, **settings: Any) -> pvae.train.Run:
    """One epoch of training, which refuses nothing."""
    pair = pvae.pair(case.model, case.guide)
    return pvae.fit(pair, case.batch, epochs=1, step="eager", progress=False, validation_particles=2, **settings)


@pytest.mark.parametrize("make", PER_DATUM, ids=lambda make: make.__name__)
def test_a_program_with_a_weight_per_datum_has_its_exact_evidence(make: Callable[[], Case]) -> None:
    case = make()
    pair = pvae.pair(case.model, case.guide)
    for objective in ("elbo", "iwae:particles=2"):
        assert not pvae.check(pair, case.batch, objective).fatal
    for evaluate in (pvae.evaluate.log_evidence, pvae.evaluate.elbo):
        pointwise = evaluate(pair, case.batch, particles=3).pointwise
        torch.testing.assert_close(torch.as_tensor(pointwise), case.evidence, rtol=1e-4, atol=1e-4)
    assert math.isfinite(fitted(case, objective="elbo").history[-1]["loss"])


def test_a_simulation_keeps_the_shape_of_a_deterministic_site() -> None:
    case = deterministic()
    assert pvae.models.sample(pvae.pair(case.model, case.guide), case.batch).shape == (12,)


def test_a_deterministic_site_is_exported_beside_the_draws_and_not_as_data() -> None:
    case = deterministic()
    groups = groups_of(pvae.evaluate.to_arviz(pvae.pair(case.model, case.guide), case.batch, draws=3))
    twice, z = groups["posterior_predictive"]["twice"], groups["posterior"]["z"]
    assert twice.dims == z.dims == ("chain", "draw", "datum")
    torch.testing.assert_close(torch.as_tensor(twice.values), 2 * torch.as_tensor(z.values))
    assert list(groups["observed_data"].data_vars) == ["x"]


@pytest.mark.parametrize("make", [improper_prior, prior_too_wide_to_draw_from], ids=lambda make: make.__name__)
def test_the_groups_of_a_prior_that_cannot_be_drawn_from_are_left_out(make: Callable[[], Case]) -> None:
    case = make()
    with pytest.warns(UserWarning, match="prior and prior_predictive are left out"):
        groups = groups_of(pvae.evaluate.to_arviz(pvae.pair(case.model, case.guide), case.batch, draws=20))
    assert groups["posterior"]["z"].shape == (1, 20, 12)
    assert "prior" not in groups


def lifted() -> Case:
    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        mean = x.sum() / (1 + len(x)) + pyro.param("offset", torch.tensor(0.0))
        pyro.sample("loc", dist.Normal(mean, (1 + len(x)) ** -0.5))

    x = data(12)
    prior = {"loc": dist.Normal(0.0, 1.0)}
    return Case(poutine.lift(model, prior=prior), guide, {"x": x}, gaussian_evidence(x, 1.0, 1.0) / 12)


def regression() -> Case:
    class Regression(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.linear = PyroModule[nn.Linear](1, 1, bias=False)
            self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 1]).to_event(2))

        def forward(self, x: Tensor, y: Tensor) -> None:
            mean = self.linear(x).squeeze(-1)
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    def guide(x: Tensor, y: Tensor) -> None:
        precision = 1 + x.square().sum()
        mean = (x[:, 0] * y).sum() / precision + pyro.param("offset", torch.tensor(0.0))
        pyro.sample("linear.weight", dist.Normal(mean, precision.rsqrt()).expand([1, 1]).to_event(2))

    x, y = data(10, 1), data(10)
    covariance = torch.eye(10) + x @ x.T
    return Case(
        Regression(), guide, {"x": x, "y": y}, dist.MultivariateNormal(torch.zeros(10), covariance).log_prob(y) / 10
    )


@pytest.mark.parametrize("make", [lifted, regression], ids=lambda make: make.__name__)
def test_a_program_with_a_shared_latent_has_its_exact_elbo(make: Callable[[], Case]) -> None:
    case = make()
    estimate = pvae.evaluate.elbo(pvae.pair(case.model, case.guide), case.batch, particles=3)
    assert estimate.value == pytest.approx(case.evidence.item(), abs=1e-4)
    assert math.isfinite(fitted(case, objective="elbo", batch_size=12).history[-1]["loss"])


def test_random_control_flow_trains_and_has_its_exact_elbo() -> None:
    def model(x: Tensor) -> None:
        count = int(pyro.sample("n", dist.Categorical(torch.ones(3) / 3))) + 1
        total = sum(pyro.sample(f"z_{i}", dist.Normal(0.0, 1.0)) for i in range(count))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(total, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        count = int(pyro.sample("n", dist.Categorical(logits=pyro.param("logits", torch.zeros(3))))) + 1
        for i in range(count):
            pyro.sample(f"z_{i}", dist.Normal(0.0, 0.5))

    x = data(4)
    kl = torch.distributions.kl_divergence(dist.Normal(0.0, 0.5), dist.Normal(0.0, 1.0))
    by_count = [dist.Normal(0.0, 1.0).log_prob(x).sum() - n * (0.5 * 0.25 * len(x) + kl) for n in (1, 2, 3)]
    expected = torch.stack(by_count).mean().item() / len(x)
    case = Case(model, guide, {"x": x}, torch.tensor(expected))
    pair = pvae.pair(model, guide)
    estimates = torch.tensor([pvae.evaluate.elbo(pair, case.batch, particles=40, seed=k).value for k in range(10)])
    assert_close_in_sigmas(estimates.mean().item(), expected, estimates.std().item() / math.sqrt(10))
    assert math.isfinite(fitted(case, objective="elbo:particles=2", batch_size=4).history[-1]["loss"])


def test_plates_of_two_names_over_data_are_named_in_the_error() -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    with pytest.raises(
        InputError, match=r"is in plate 'rows', which only one program has.*Give both plates the same name"
    ):
        pvae.evaluate.log_evidence(pvae.pair(plain_model, guide), {"x": data(4)}, particles=2)


def test_a_guide_is_kept_by_its_bound_where_the_model_has_no_parameters() -> None:
    """The importance-weighted bound of every guide estimates one evidence, so noise alone would rank the epochs."""

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("half", torch.tensor(0.0)) * x, math.sqrt(0.5)))

    x = data(100) + 3
    pair = pvae.pair(plain_model, guide)
    run = pvae.fit(pair, {"x": x}, epochs=60, learning_rate=0.05, step="eager", progress=False)
    assert run.history[-1]["validation_of"] == "objective"
    evidence = gaussian_evidence(x[:, None], 1.0, 1.0).mean().item()
    assert pvae.evaluate.elbo(pair, {"x": x}, particles=100).value == pytest.approx(evidence, abs=0.1)
