"""The noise-free limit against maxima a posteriori, and against the ELBO at little noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import A_X, LinearGaussian, LinearGaussianModel, TwoLayer, TwoLayerModel, normal_log_prob
from pyro.infer import SVI
from stats import assert_close_in_sigmas
from torch import Tensor, nn

import pvae
from pvae.errors import InputError
from pvae.models import LatentModel
from pvae.objectives import Dirac, check, describe, make_objective
from pvae.train.checkpoint import read

MAP = 0.8672773573
# argmax over the mean of E log p(x, z), z ~ N(mean, sd^2)
BEST_MEANS = {0.01: 0.867299, 0.1: 0.869425, 0.5: 0.915180}

pytestmark = pytest.mark.usefixtures("own_store")


class Logistic(LatentModel):
    """z ~ N(0, 1), x_j ~ Bernoulli(w_j z + b_j) with all fixed; the guide's mean is free, its scale given or none."""

    def __init__(self, mean: float = 0.0, sd: float | None = None) -> None:
        super().__init__()
        self.register_buffer("w", torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64))
        self.register_buffer("b", torch.tensor([0.2, 0.0, -1.0], dtype=torch.float64))
        self.loc = nn.Parameter(torch.tensor([mean], dtype=torch.float64))
        self.sd = sd

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z * self.w + self.b).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        loc = self.loc.expand(len(x), 1)
        with pyro.plate("data", len(x)):
            density: Any = dist.Delta(loc) if self.sd is None else dist.Normal(loc, self.sd)
            pyro.sample("z", density.to_event(1))


X = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)


def log_joint(z: np.ndarray) -> np.ndarray:
    eta = z[:, None] * np.array([2.0, -1.0, 0.5]) + np.array([0.2, 0.0, -1.0])
    return (np.array([1.0, 0.0, 1.0]) * eta - np.logaddexp(0, eta)).sum(1) - 0.5 * (z**2 + np.log(2 * np.pi))


def data(x: Tensor = X, **parts: Any) -> pvae.Splits:
    return pvae.Splits(pvae.Batch(x=x), parts.get("validation"), None, name="x", data_shape=tuple(x.shape[1:]))


def fit(model: Any, objective: Any = "dirac", **options: Any) -> pvae.Run:
    settings = {"epochs": 150, "batch_size": 1, "precision": "float64", "progress": False, "optimiser": "rprop"}
    return pvae.fit(model, options.pop("data", None) or data(), objective=objective, **{**settings, **options})


@pytest.mark.parametrize("sd", [None, 0.3])
def test_training_reaches_the_maximum_a_posteriori(sd: float | None) -> None:
    """With a Delta, and with a guide whose noise is left out."""
    model = Logistic(0.0, sd)
    run = fit(model)
    assert run.step == "graph" and model.loc.item() == pytest.approx(MAP, abs=1e-5)
    record = run.history[-1]
    assert -record["loss"] == pytest.approx(float(log_joint(np.array([MAP]))[0]), abs=1e-9)
    assert record["log_likelihood"] + record["log_prior"] == pytest.approx(-record["loss"], rel=1e-12)
    assert ("elbo" in record) is (sd is not None)
    at = Logistic(MAP, sd)
    terms = Dirac().terms(at.model, at.guide, (X,), {}, "all")
    (slope,) = torch.autograd.grad(terms.surrogate, [at.loc])
    assert abs(slope.item()) < 1e-7


def test_the_best_mean_at_little_noise_tends_to_the_maximum_a_posteriori() -> None:
    """The mean ELBO gradient, by quadrature on pvae's own weights, is zero at the goldens: MAP + .2156 sd^2."""
    nodes, shares = np.polynomial.hermite_e.hermegauss(60)
    for sd, best in BEST_MEANS.items():
        model = Logistic(best, sd)
        z = model.loc + sd * torch.tensor(nodes)
        eta = z[:, None] * model.w + model.b
        value = (X * eta - nn.functional.softplus(eta)).sum(1) - 0.5 * z**2
        mean = (torch.tensor(shares / shares.sum()) * value).sum()
        (slope,) = torch.autograd.grad(mean, [model.loc])
        assert abs(slope.item()) < 3e-6  # the goldens have six digits, the curvature is 1.9
        points = Logistic(best, sd)
        (at_point,) = torch.autograd.grad(
            Dirac().terms(points.model, points.guide, (X,), {}, "all").surrogate, [points.loc]
        )
        if sd == 0.5:  # the point's gradient is another one: noise moves the optimum
            assert abs(at_point.item()) > 0.05
    assert (BEST_MEANS[0.1] - MAP) / 0.01 == pytest.approx(0.2156, abs=2e-3)


def test_the_elbo_falls_like_the_logarithm_of_the_noise() -> None:
    """ELBO(sd) - log sd tends to Dirac's value plus half of log 2 pi e: the entropy left out by definition."""
    value = -float(Dirac().terms(*_programs(Logistic(MAP)), (X,), {}, "all").loss)
    torch.manual_seed(0)
    for sd in (1e-2, 1e-3, 1e-4):
        weights = pvae.log_weights(Logistic(MAP, sd), {"x": X}, 4000)
        elbo, error = weights.log_w.mean().item(), weights.log_w.std().item() / math.sqrt(4000)
        limit = value + 0.5 * math.log(2 * math.pi * math.e)
        # E log p(x, z) falls below its value at the mode by half the curvature times the variance, 1e-4 at most
        assert_close_in_sigmas(
            elbo - math.log(sd) - limit, 0.0, error + sd**2, effect=abs(math.log(sd)), resolution=0.01
        )


def _programs(model: LatentModel) -> tuple[Any, Any]:
    return model.model, model.guide


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_value_and_gradient_of_the_linear_model(scale: float) -> None:
    """log N(x; W m + b, v) + log N(m; 0, I), and its gradient Lam (posterior mean - m), at the guide's mean m."""
    exact, mean, model = LinearGaussian(), np.array([0.8, -0.4]), LinearGaussianModel()
    programs = [pyro.poutine.scale(each, scale) for each in _programs(model)]
    terms = Dirac().terms(*programs, (torch.tensor(A_X)[None],), {}, "all")
    value = normal_log_prob(A_X, exact.weight @ mean + exact.bias, exact.variance * np.eye(3))
    value += normal_log_prob(mean, np.zeros(2), np.eye(2))
    assert float(-terms.loss) == pytest.approx(scale * value, rel=1e-12)
    found = torch.autograd.grad(-terms.surrogate, model.phi(), allow_unused=True)
    slope = exact.precision @ (exact.posterior()[0] - mean)
    np.testing.assert_allclose(found[0].numpy(), scale * slope, rtol=1e-10)
    assert found[1] is None, "the noise's scale has no part in it"


def test_points_of_one_site_feed_the_next() -> None:
    exact, model, x = TwoLayer(), TwoLayerModel(), TwoLayer().x
    terms = Dirac().terms(*_programs(model), (torch.tensor(x),), {}, "all")
    total = 0.0
    for each in x:
        z1 = exact.C @ each + exact.c
        z2 = exact.D @ z1 + exact.d
        total += normal_log_prob(z2, np.zeros(2), np.eye(2))
        total += normal_log_prob(z1, exact.A @ z2 + exact.a, exact.s1**2 * np.eye(2))
        total += normal_log_prob(each, exact.B @ z1 + exact.b, exact.s2**2 * np.eye(3))
    assert float(-terms.loss) == pytest.approx(total, rel=1e-12)


class Encoded(LatentModel):
    """A deterministic autoencoder with a prior: encoder and decoder are linear, groups undeclared."""

    def __init__(self, sd: float | None = None) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 2, dtype=torch.float64)
        self.decoder = nn.Linear(2, 6, dtype=torch.float64)
        self.sd = sd

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = self.encoder(x)
            density: Any = dist.Delta(loc) if self.sd is None else dist.Normal(loc, self.sd)
            pyro.sample("z", density.to_event(1))


def _encoded(sd: float | None = None) -> Encoded:
    generator = torch.Generator().manual_seed(0)
    model = Encoded(sd)
    for each in model.parameters():
        each.data = 0.3 * torch.randn(each.shape, generator=generator, dtype=torch.float64)
    return model


def test_without_noise_codes_shrink_towards_the_mode_of_the_prior() -> None:
    """The decoder takes up the scale: code variance falls far below the prior's; noise of scale .5 holds it up."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 2, generator=generator, dtype=torch.float64) @ torch.randn(
        2, 6, generator=generator, dtype=torch.float64
    )
    spread = {}
    for sd, objective in ((None, "dirac"), (0.5, "elbo")):
        model = _encoded(sd)
        fit(model, objective, data=data(x), epochs=300, batch_size=64, optimiser="adam", learning_rate=0.1)
        spread[sd] = model.encoder(x).var(0).mean().item()
    assert spread[None] < 0.1 < 0.5 < spread[0.5]


@pytest.mark.parametrize("sd", [None, 0.3])
def test_graph_equals_eager_and_resume_in_every_bit(sd: float | None, tmp_path: Any) -> None:
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    options = {"data": data(x), "batch_size": 12, "optimiser": "adam", "learning_rate": {"theta": 0.1, "phi": 0.01}}
    for step in ("graph", "eager"):
        assert fit(_encoded(sd), step=step, out=tmp_path / step, epochs=3, **options).step == step
    fit(_encoded(sd), out=tmp_path / "parts", max_steps=3, epochs=3, **options)
    fit(_encoded(sd), out=tmp_path / "parts", resume=True, epochs=3, **options)
    ends = [read(tmp_path / name / "last") for name in ("graph", "eager", "parts")]
    for other in ends[1:]:
        for part in ("parameters", "training"):
            ours, theirs = getattr(ends[0], part), getattr(other, part)
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("sd", [None, 0.3])
def test_the_validation_value_is_the_objective_and_says_so(sd: float | None) -> None:
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model = _encoded(sd)
    with pytest.warns(UserWarning, match="not a bound on log p"):
        run = fit(model, data=data(x, validation=pvae.Batch(x=x)), epochs=1, batch_size=20)
    value = -float(Dirac().terms(*_programs(model), (x,), {}, "all").loss) / 20
    assert run.history[-1]["validation_bound"] == pytest.approx(value, rel=1e-12)
    assert run.history[-1]["validation_of"] == "objective"


def test_plain_svi_climbs_to_the_maximum_a_posteriori() -> None:
    model = Logistic()
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.05}), loss=Dirac())
    losses = [svi.step(X) for _ in range(250)]
    assert model.loc.item() == pytest.approx(MAP, abs=1e-4) and losses[-1] < losses[0]
    assert Dirac()(model.model, model.guide)(X).item() == pytest.approx(losses[-1], abs=1e-6)


class Discrete(Logistic):
    """A guide site without a point."""

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=self.loc.expand(len(x), 1)).to_event(1))


class Transformed(Logistic):
    """A density whose mean has no closed form."""

    def guide(self, x: Tensor) -> None:
        flow = dist.TransformedDistribution(
            dist.Normal(self.loc.expand(len(x), 1), 1.0).to_event(1), [dist.transforms.SigmoidTransform()]
        )
        with pyro.plate("data", len(x)):
            pyro.sample("z", flow)


@pytest.mark.parametrize(
    ("model", "said"), [(Discrete, "'z' is Bernoulli"), (Transformed, "mean of each guide site; site 'z'")]
)
def test_sites_without_a_point_are_refused(model: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Dirac().terms(*_programs(model()), (X,), {}, "all")
    assert said in str(check(model(), pvae.Batch(x=X), Dirac()).fatal)


def test_the_name_and_what_it_says() -> None:
    assert describe(make_objective("dirac")()) == "dirac"
    assert "not a bound" in Dirac.no_bound
    assert not check(Logistic(), pvae.Batch(x=X), "dirac").fatal
