"""Pyro's autoguides at the exact posterior of conjugate models: every estimate of the evidence is exact for all draws.

The models are a regression y ~ Normal(X w, 0.5) with weights that all data share, and z ~ Normal(0, 1),
x ~ Normal(z, 0.5) with one z per datum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import autoguide
from torch import Tensor

import pvae
from pvae.evaluate.arviz_versions import groups_of

DOUBLE = torch.float64
NOISE = 0.5

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


@dataclass(frozen=True)
class Regression:
    """The data and the exact posterior of the weights; orthogonal columns give independent weights."""

    x: Tensor
    y: Tensor

    @staticmethod
    def make(is_orthogonal: bool) -> Regression:
        x = torch.randn(12, 2, dtype=DOUBLE)
        if is_orthogonal:
            x = torch.linalg.qr(x).Q * torch.tensor([2.0, 3.0], dtype=DOUBLE)
        return Regression(x, x @ torch.tensor([1.0, -2.0], dtype=DOUBLE) + NOISE * torch.randn(12, dtype=DOUBLE))

    @property
    def covariance(self) -> Tensor:
        return torch.linalg.inv(torch.eye(2, dtype=DOUBLE) + self.x.T @ self.x / NOISE**2)

    @property
    def mean(self) -> Tensor:
        return self.covariance @ self.x.T @ self.y / NOISE**2

    @property
    def scale(self) -> Tensor:
        return self.covariance.diagonal().sqrt()

    @property
    def log_evidence(self) -> float:
        covariance = self.x @ self.x.T + NOISE**2 * torch.eye(12, dtype=DOUBLE)
        return dist.MultivariateNormal(torch.zeros(12, dtype=DOUBLE), covariance).log_prob(self.y).item()


def regression(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal((x * w).sum(-1), NOISE), obs=y)


def set_full(guide: Any, exact: Regression) -> None:
    factor = torch.linalg.cholesky(exact.covariance)
    guide.loc.data = exact.mean
    guide.scale = factor.diagonal()
    guide.scale_tril = factor / factor.diagonal().unsqueeze(-1)


def set_low_rank(guide: Any, exact: Regression) -> None:
    scale = 0.5 * torch.linalg.eigvalsh(exact.covariance)[0].sqrt()
    rest = exact.covariance - scale**2 * torch.eye(2, dtype=DOUBLE)
    guide.loc.data, guide.scale = exact.mean, scale.expand(2)
    guide.cov_factor.data = torch.linalg.cholesky(rest) / scale


def set_diagonal(guide: Any, exact: Regression) -> None:
    guide.loc.data, guide.scale = exact.mean, exact.scale


def set_by_site(guide: Any, exact: Regression) -> None:
    guide.locs.w, guide.scales.w = exact.mean, exact.scale


def set_structured(guide: Any, exact: Regression) -> None:
    guide.locs.w, guide.scales.w = exact.mean, torch.ones(2, dtype=DOUBLE)
    guide.scale_trils.w = torch.linalg.cholesky(exact.covariance)


def set_flow(guide: Any, exact: Regression) -> None:
    """Let the autoregressive network of the flow return the same mean and scale for all inputs."""
    for name, parameter in guide.named_parameters():
        parameter.data.zero_()
        if name.endswith("layers.1.bias"):
            parameter.data = torch.cat([exact.mean, exact.scale.log()])


def make_list(model: Any) -> Any:
    guide = autoguide.AutoGuideList(model)
    guide.append(autoguide.AutoMultivariateNormal(poutine.block(model, expose=["w"])))
    return guide


#: For each autoguide: how it is made, how it is set to the posterior, and whether its weights are independent.
GUIDES: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Regression], None], bool]] = {
    "AutoNormal": (autoguide.AutoNormal, set_by_site, True),
    "AutoDiagonalNormal": (autoguide.AutoDiagonalNormal, set_diagonal, True),
    "AutoMultivariateNormal": (autoguide.AutoMultivariateNormal, set_full, False),
    "AutoLowRankMultivariateNormal": (
        lambda model: autoguide.AutoLowRankMultivariateNormal(model, rank=2),
        set_low_rank,
        False,
    ),
    "AutoIAFNormal": (lambda model: autoguide.AutoIAFNormal(model, hidden_dim=[4]), set_flow, True),
    "AutoStructured": (autoguide.AutoStructured, set_structured, False),
    "AutoGuideList": (make_list, lambda guide, exact: set_full(guide[0], exact), False),
    "AutoNormalMessenger": (autoguide.AutoNormalMessenger, set_by_site, True),
    "AutoHierarchicalNormalMessenger": (autoguide.AutoHierarchicalNormalMessenger, set_by_site, True),
    "AutoRegressiveMessenger": (autoguide.AutoRegressiveMessenger, set_by_site, True),
}


@pytest.fixture
def doubles() -> Any:
    """Let the parameters that autoguides make be float64, so that an exact guide is exact to 1e-10."""
    torch.set_default_dtype(DOUBLE)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_of_shared_weights_gives_the_exact_evidence(name: str) -> None:
    make, set_exact, is_orthogonal = GUIDES[name]
    exact = Regression.make(is_orthogonal)
    guide = make(regression)
    guide(exact.x, exact.y)
    set_exact(guide, exact)
    pair, batch = pvae.pair(regression, guide), pvae.Batch(x=exact.x, y=exact.y)
    per_datum = exact.log_evidence / 12
    assert pvae.evaluate.elbo(pair, batch, particles=7).value == pytest.approx(per_datum, abs=1e-8)
    assert pvae.evaluate.log_evidence(pair, batch, particles=30).value == pytest.approx(per_datum, abs=1e-8)
    loss = pvae.objectives.make_objective("elbo")
    assert pvae.objectives.adapt(loss).loss(pair.model, pair.guide, exact.x, exact.y) == pytest.approx(-12 * per_datum)


@pytest.mark.usefixtures("doubles")
def test_the_laplace_approximation_is_exact_and_its_point_has_no_evidence() -> None:
    exact = Regression.make(is_orthogonal=False)
    point = autoguide.AutoLaplaceApproximation(regression)
    point(exact.x, exact.y)
    point.loc.data = exact.mean
    batch = pvae.Batch(x=exact.x, y=exact.y)
    value = pvae.evaluate.elbo(pvae.pair(regression, point.laplace_approximation(exact.x, exact.y)), batch, 5).value
    assert value == pytest.approx(exact.log_evidence / 12, abs=1e-8)
    for ask in (pvae.evaluate.elbo, pvae.evaluate.log_evidence):
        with pytest.raises(pvae.InputError, match="AutoLaplaceApproximation_latent' is a Delta, a point"):
            ask(pvae.pair(regression, point), batch, particles=5)


@pytest.mark.usefixtures("doubles")
def test_draws_for_arviz_have_the_weight_of_all_data() -> None:
    exact = Regression.make(is_orthogonal=False)
    guide = autoguide.AutoMultivariateNormal(regression)
    guide(exact.x, exact.y)
    set_full(guide, exact)
    tree = pvae.evaluate.to_arviz(pvae.pair(regression, guide), pvae.Batch(x=exact.x, y=exact.y), draws=100)
    groups = groups_of(tree)
    weights = groups["sample_stats"]["log_weights"]
    assert weights.dims == ("chain", "draw")
    assert weights.values == pytest.approx(exact.log_evidence, abs=1e-8)
    assert groups["posterior"]["w"].dims == ("chain", "draw", "w_dim_0")
    drawn = torch.as_tensor(groups["posterior"]["w"].values)[0]
    assert torch.allclose(drawn.mean(0), exact.mean, atol=5 * float(exact.scale.max()) / 100**0.5)
    assert groups["posterior_predictive"]["y"].dims == ("chain", "draw", "datum")
    assert list(groups["posterior"]) == ["w"]


X = torch.tensor([-1.5, 0.2, 2.0, 0.7, -0.4], dtype=DOUBLE)


def local(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, NOISE), obs=x)


def positive(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.LogNormal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z.log(), NOISE), obs=x)


def local_list(model: Any) -> Any:
    guide = autoguide.AutoGuideList(model)
    guide.append(autoguide.AutoNormal(poutine.block(model, expose=["z"])))
    return guide


def set_local(guide: Any) -> None:
    guide.locs.z, guide.scales.z = 0.8 * X, torch.full((5,), 0.2**0.5)


LOCAL_GUIDES: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "AutoNormal": (local, autoguide.AutoNormal),
    "AutoNormal of a positive z": (positive, autoguide.AutoNormal),
    "AutoGuideList": (local, local_list),
    "AutoNormalMessenger": (local, autoguide.AutoNormalMessenger),
    "AutoNormalMessenger of a positive z": (positive, autoguide.AutoNormalMessenger),
    "AutoRegressiveMessenger": (local, autoguide.AutoRegressiveMessenger),
}


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("name", LOCAL_GUIDES)
def test_a_guide_of_one_z_per_datum_gives_the_exact_evidence_of_each(name: str) -> None:
    model, make = LOCAL_GUIDES[name]
    guide = make(model)
    guide(X)
    set_local(guide[0] if name == "AutoGuideList" else guide)
    pair, batch = pvae.pair(model, guide), pvae.Batch(x=X)
    expected = dist.Normal(torch.zeros(()), 1.25**0.5).log_prob(X)
    for objective in ("elbo", "iwae", "renyi", "stl", "dreg", "vimco", "beta:beta=1", "rws", "tvo"):
        made = pvae.objectives.adapt(pvae.objectives.make_objective(objective))
        assert made.loss(pair.model, pair.guide, X) == pytest.approx(-expected.sum().item(), abs=1e-8), objective
    judgement = pvae.evaluate.judge(pair, batch, particles=30, chunk=60)  # five data in several chunks of particles
    for estimate in (judgement.log_evidence, judgement.elbo):
        assert torch.allclose(estimate.pointwise, expected, atol=1e-8)
    assert list(judgement.diagnosis.latents) == ["z"]
    kl = torch.distributions.kl_divergence(dist.Normal(0.8 * X, 0.2**0.5), dist.Normal(0.0, 1.0)).mean()
    tolerance = 1e-8 if name in ("AutoNormal", "AutoGuideList") else 0.5  # a closed form, or a mean over draws
    assert judgement.diagnosis.latents["z"].kl.value == pytest.approx(kl.item(), abs=tolerance)
    groups = groups_of(pvae.evaluate.to_arviz(pair, batch, draws=3))
    assert torch.allclose(torch.as_tensor(groups["sample_stats"]["log_weights"].values), expected, atol=1e-8)


@pytest.mark.usefixtures("doubles")
def test_a_discrete_guide_gives_the_exact_evidence() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(x.new_tensor(0.3)))
            pyro.sample("x", dist.Normal(2.0 * k, 1.0), obs=x)

    guide = autoguide.AutoDiscreteParallel(model)
    guide(X)
    joint = torch.stack(
        [dist.Normal(2.0 * k, 1.0).log_prob(X) + torch.tensor(p).log() for k, p in ((0, 0.7), (1, 0.3))]
    )
    guide.k_probs = joint.softmax(0)[1]
    expected = joint.logsumexp(0).mean().item()
    for ask in (pvae.evaluate.elbo, pvae.evaluate.log_evidence):
        assert ask(pvae.pair(model, guide), pvae.Batch(x=X), particles=5).value == pytest.approx(expected, abs=1e-8)


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("chunk", [10_000, 8])
def test_a_guide_of_all_z_in_one_vector_gives_the_exact_evidence_of_all_data(chunk: int) -> None:
    guide = autoguide.AutoDiagonalNormal(local)
    guide(X)
    guide.loc.data, guide.scale = 0.8 * X, torch.full((5,), 0.2**0.5)
    pair, batch = pvae.pair(local, guide), pvae.Batch(x=X)
    expected = dist.Normal(torch.zeros(()), 1.25**0.5).log_prob(X).mean().item()
    for ask in (pvae.evaluate.elbo, pvae.evaluate.log_evidence):
        assert ask(pair, batch, particles=25, chunk=chunk).value == pytest.approx(expected, abs=1e-8)


@pytest.mark.usefixtures("doubles")
def test_a_subsampled_plate_takes_the_rows_of_its_indices() -> None:
    x = torch.tensor([1.3, -1.3, 1.3, -1.3, -1.3, 1.3])  # the evidence is the same for both signs, the posterior is not

    def make_plate(x: Tensor) -> Any:
        return pyro.plate("data", len(x), subsample_size=3)

    def model(x: Tensor) -> None:
        with make_plate(x) as index:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, NOISE), obs=x[index])

    guide = autoguide.AutoNormal(model, create_plates=make_plate)
    guide(x)
    guide.locs.z, guide.scales.z = 0.8 * x, torch.full((6,), 0.2**0.5)
    expected = -dist.Normal(0.0, 1.25**0.5).log_prob(x).sum().item()
    for objective in ("elbo", "iwae", "dreg", "rws"):
        made = pvae.objectives.adapt(pvae.objectives.make_objective(objective))
        assert made.loss(model, guide, x) == pytest.approx(expected, abs=1e-8), objective


def test_a_point_estimate_trains_by_the_elbo_and_has_no_evidence() -> None:
    exact = Regression.make(is_orthogonal=False)
    fields = {"x": exact.x.float(), "y": exact.y.float()}
    guide = autoguide.AutoDelta(regression)
    pair, batch = pvae.pair(regression, guide), pvae.Batch(**fields)
    findings = pvae.check(pair, batch, "elbo")
    assert not findings.fatal
    assert ("point estimate", "w") in [(finding.kind, finding.subject) for finding in findings]
    splits = pvae.load_data(fields, validation=0, test=0)
    pvae.fit(pair, splits, objective="elbo", epochs=300, batch_size=12, learning_rate=0.05, progress=False)
    assert torch.allclose(guide.median()["w"], exact.mean.float(), atol=1e-2)
    for ask in (pvae.evaluate.elbo, pvae.evaluate.log_evidence, pvae.evaluate.to_arviz):
        with pytest.raises(pvae.InputError, match="uide site 'w' is a Delta, a point"):
            ask(pair, batch)


def test_uneven_weights_of_all_data_are_reported() -> None:
    exact = Regression.make(is_orthogonal=False)
    guide = autoguide.AutoNormal(regression, init_scale=0.01)
    with pytest.warns(UserWarning, match="one weight for all data"):
        pvae.evaluate.log_evidence(pvae.pair(regression, guide), pvae.Batch(x=exact.x, y=exact.y), particles=200)


def test_an_autoguide_of_other_data_is_refused_with_both_numbers() -> None:
    guide = autoguide.AutoNormal(local)
    guide(X.float())
    for ask in (pvae.evaluate.elbo, pvae.evaluate.log_evidence, pvae.evaluate.judge, pvae.evaluate.to_arviz):
        with pytest.raises(pvae.InputError, match="guide has 5 data in the plate 'data', but site 'x' has 3"):
            ask(pvae.pair(local, guide), pvae.Batch(x=X[:3].float()))
