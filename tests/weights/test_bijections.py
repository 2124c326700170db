"""Guides that draw z as a Delta of auxiliary draws, z = T(u): all numbers are those of a guide that draws z."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

import pvae
from pvae.objectives import adapt
from pvae.objectives.registry import make_objective
from pvae.programs.bound import BoundPrograms
from pvae.weights.compute import weights_of

DOUBLE = torch.float64
X = torch.tensor([0.5, -1.0, 2.0], dtype=DOUBLE)

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


class Direct(pvae.LatentModel):
    """A guide that draws z ~ LogNormal(loc + slope x, scale)."""

    flips = False

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([0.3, -0.2], dtype=DOUBLE))
        self.log_scale = nn.Parameter(torch.tensor([-0.5, 0.1], dtype=DOUBLE))
        self.slope = nn.Parameter(torch.tensor(0.4, dtype=DOUBLE))
        self.weight = nn.Parameter(torch.tensor(0.7, dtype=DOUBLE))

    def theta(self) -> list[nn.Parameter]:
        return [self.weight]

    def phi(self) -> list[nn.Parameter]:
        return [self.loc, self.log_scale, self.slope]

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.weight * z.log().sum(-1), 0.5), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            self.draw(self.loc + self.slope * x[..., None], self.log_scale.exp())

    def draw(self, loc: Tensor, scale: Tensor) -> None:
        pyro.sample("z", dist.LogNormal(loc, scale).to_event(1))


class Transformed(Direct):
    """z = exp(u), u ~ Normal(loc + slope x, scale): the map has no parameters, as in AutoNormal."""

    def draw(self, loc: Tensor, scale: Tensor) -> None:
        u = pyro.sample("u", dist.Normal(loc, scale).to_event(1), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Delta(u.exp(), log_density=-u.sum(-1), event_dim=1))


class Standardised(Direct):
    """z = exp(loc + slope x + scale u), u ~ Normal(0, 1): all parameters are in the map, as in AutoStructured."""

    def draw(self, loc: Tensor, scale: Tensor) -> None:
        u = pyro.sample("u", dist.Normal(loc.new_zeros(2), 1.0).to_event(1), infer={"is_auxiliary": True})
        y = loc + scale * u
        pyro.sample("z", dist.Delta(y.exp(), log_density=-(y + scale.log()).sum(-1), event_dim=1))


class Mixed(Standardised):
    """As `Standardised`, with a map that mixes the numbers of u, and its inverse before it."""

    def draw(self, loc: Tensor, scale: Tensor) -> None:
        mixing = torch.tensor([[1.0, 0.5], [0.0, 2.0]], dtype=DOUBLE)
        unmixed = dist.Normal(loc.new_zeros(2), 1.0).to_event(1)
        skewed = dist.TransformedDistribution(unmixed, dist.transforms.LowerCholeskyAffine(loc.new_zeros(2), mixing.T))
        u = pyro.sample("u", skewed, infer={"is_auxiliary": True})
        y = loc + scale * (u @ mixing.inverse())
        log_density = -(y + scale.log()).sum(-1) + mixing.det().log()
        pyro.sample("z", dist.Delta(y.exp(), log_density=log_density, event_dim=1))


EVERY_FORM = ["elbo", "iwae", "renyi", "miwae", "ciwae", "piwae", "stl", "dreg", "vimco", "tvo", "beta", "variance"]
EVERY_FORM += ["log-variance", "rws", "rws:phi=sleep", "rws:phi=both", "alternate", "elbo-graph", "aae", "ali", "gan"]


def loss_and_gradients(model: Direct, objective: str) -> tuple[float, Tensor]:
    torch.manual_seed(3)
    chosen = adapt(make_objective(objective))
    loss = chosen.loss_and_grads(model.model, model.guide, X)
    parameters = (*model.phi(), *model.theta())
    return loss, torch.cat([torch.zeros(1) if each.grad is None else each.grad.flatten() for each in parameters])


@pytest.mark.parametrize("form", [Transformed, Standardised, Mixed])
@pytest.mark.parametrize("objective", EVERY_FORM)
def test_every_objective_gives_the_loss_and_the_gradient_of_the_direct_guide(objective: str, form: Any) -> None:
    loss, gradients = loss_and_gradients(Direct(), objective)
    found_loss, found = loss_and_gradients(form(), objective)
    assert found_loss == pytest.approx(loss, abs=1e-10)
    assert torch.allclose(found, gradients, atol=1e-9)


@pytest.mark.parametrize("objective", ["score", "score:leave-one-out"])
def test_the_score_of_all_sites_of_the_map_is_that_of_z(objective: str) -> None:
    expected = loss_and_gradients(Direct(), f"iwae:particles=4:gradients=z={objective.removeprefix('score:')}")
    for form in (Transformed, Standardised):
        text = f"iwae:particles=4:gradients=*={objective.removeprefix('score:')}"
        loss, gradients = loss_and_gradients(form(), text)
        assert loss == pytest.approx(expected[0], abs=1e-10)
        assert torch.allclose(gradients, expected[1], atol=1e-9)


def test_a_score_of_the_delta_alone_is_refused() -> None:
    with pytest.raises(pvae.InputError, match="'u' has no"):
        loss_and_gradients(Transformed(), "iwae:gradients=z=score")


class Latent(pvae.LatentModel):
    """A guide like AutoNormal and its direct form, for a prior on some support."""

    def __init__(self, prior: Any, direct: bool) -> None:
        super().__init__()
        self.prior, self.direct = prior, direct
        self.loc = nn.Parameter(torch.linspace(-0.5, 0.4, 3, dtype=DOUBLE))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior)
            pyro.sample("x", dist.Normal(z.square().sum(-1), 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        transform = dist.transforms.biject_to(self.prior.support)
        density = dist.Normal(self.loc.expand(len(x), 3), 0.7).to_event(1)
        with pyro.plate("data", len(x)):
            if self.direct:
                is_real = self.prior is PRIORS["real"]
                pyro.sample("z", density if is_real else dist.TransformedDistribution(density, [transform]))
                return
            u = pyro.sample("u", density, infer={"is_auxiliary": True})
            z = transform(u)
            log_density = -transform.log_abs_det_jacobian(u, z)
            if log_density.dim() == u.dim():
                log_density = log_density.sum(-1)
            pyro.sample("z", dist.Delta(z, log_density=log_density, event_dim=1))


PRIORS = {
    "real": dist.Normal(torch.zeros(3, dtype=DOUBLE), 1.0).to_event(1),
    "positive": dist.Gamma(torch.full((3,), 2.0, dtype=DOUBLE), 1.0).to_event(1),
    "interval": dist.Beta(torch.full((3,), 2.0, dtype=DOUBLE), 1.0).to_event(1),
    "simplex": dist.Dirichlet(torch.full((4,), 2.0, dtype=DOUBLE)),
}


CASES = [(support, objective) for support in PRIORS for objective in ("iwae", "stl", "dreg", "rws")]
CASES += [("real", "free-bits"), ("real", "capacity"), ("real", "info-mmd")]  # they have the KL in closed form


@pytest.mark.parametrize(("support", "objective"), CASES)
def test_every_support_gives_the_loss_and_the_gradient_of_the_direct_guide(support: str, objective: str) -> None:
    results = []
    for direct in (True, False):
        torch.manual_seed(3)
        model = Latent(PRIORS[support], direct)
        loss = make_objective(objective)().loss_and_grads(model.model, model.guide, X)
        results.append((loss, model.loc.grad))
    assert results[1][0] == pytest.approx(results[0][0], abs=1e-9)
    assert torch.allclose(results[1][1], results[0][1], atol=1e-8)


def test_a_log_density_that_is_not_that_of_the_map_is_refused() -> None:
    class Forgotten(Transformed):
        def draw(self, loc: Tensor, scale: Tensor) -> None:
            u = pyro.sample("u", dist.Normal(loc, scale).to_event(1), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u.exp(), event_dim=1))

    model = Forgotten()
    with pytest.raises(pvae.InputError, match=r"'z' is a Delta.*log_density"):
        pvae.log_weights(model, pvae.Batch(x=X), 2)
    assert "log_density" in str(pvae.check(model, pvae.Batch(x=X), "elbo").fatal)


def test_a_map_to_fewer_numbers_is_refused() -> None:
    class Projected(Transformed):
        def draw(self, loc: Tensor, scale: Tensor) -> None:
            wide = torch.cat([loc, loc], -1)
            u = pyro.sample("u", dist.Normal(wide, 1.0).to_event(1), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u[..., :2].exp(), log_density=-u[..., :2].sum(-1), event_dim=1))

    with pytest.raises(pvae.InputError, match="12 numbers of u become 6 numbers of z"):
        pvae.log_weights(Projected(), pvae.Batch(x=X), 2)


def test_a_map_that_is_flat_is_refused() -> None:
    class Flat(Transformed):
        def draw(self, loc: Tensor, scale: Tensor) -> None:
            u = pyro.sample("u", dist.Normal(loc, scale).to_event(1), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta((0 * u + 1).exp(), event_dim=1))

    with pytest.raises(pvae.InputError, match="not one to one: its Jacobian is singular"):
        pvae.log_weights(Flat(), pvae.Batch(x=X), 2)


def test_draws_at_which_the_support_ends_by_rounding_are_no_fault() -> None:
    class Far(Latent):
        def __init__(self) -> None:
            super().__init__(PRIORS["interval"], direct=False)
            self.loc.data = torch.tensor([0.1, 60.0, 0.2], dtype=DOUBLE)  # sigmoid(60) is 1

    assert pvae.log_weights(Far(), pvae.Batch(x=X), 2).log_guide.shape == (2, 3)


def test_a_delta_of_earlier_draws_is_a_point_beside_the_map() -> None:
    """As in AutoStructured with a conditional 'delta': training is possible, and the evidence is not."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.LogNormal(x.new_zeros(()), 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 0.5), obs=x)

    def guide(x: Tensor) -> None:
        scale = pyro.param("scale", x.new_ones(()), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(x, scale), infer={"is_auxiliary": True})
            a = pyro.sample("a", dist.Delta(u.exp(), log_density=-u))
            pyro.sample("b", dist.Delta(2 * a))

    pair, batch = pvae.pair(model, guide), pvae.Batch(x=X)
    findings = pvae.check(pair, batch, "elbo")
    assert not findings.fatal
    assert [finding.subject for finding in findings if finding.kind == "point estimate"] == ["b"]
    with pytest.raises(pvae.InputError, match="uide site 'b' is a Delta, a point"):
        pvae.evaluate.log_evidence(pair, batch, particles=3)


def test_a_marginalised_site_beside_a_map_is_summed_out_if_the_map_does_not_depend_on_it() -> None:
    class Beside(Transformed):
        def draw(self, loc: Tensor, scale: Tensor) -> None:
            probs = torch.full(loc.shape[:-1], 0.3, dtype=DOUBLE)
            coin = pyro.sample("coin", dist.Bernoulli(probs), infer={"is_auxiliary": True})
            u = pyro.sample("u", dist.Normal(loc, scale).to_event(1), infer={"is_auxiliary": True})
            y = u + coin[..., None] * self.flips
            pyro.sample("z", dist.Delta(y.exp(), log_density=-y.sum(-1), event_dim=1))

    model, direct = Beside(), Direct()
    weights = pvae.log_weights(model, pvae.Batch(x=X), 2)
    z = weights.values["z"]
    loc = direct.loc + direct.slope * X[:, None]
    expected = dist.LogNormal(loc, direct.log_scale.exp()).to_event(1).log_prob(z)
    assert torch.allclose(weights.log_guide, expected)
    model.flips = True
    with pytest.raises(pvae.InputError, match="depends on 'coin' too"):
        pvae.log_weights(model, pvae.Batch(x=X[:2]), 2)


def test_particles_of_an_autoguide_share_a_run() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(x.new_full((), 2.0), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    guide = AutoNormal(model)
    guide(X)
    programs = BoundPrograms(model, guide, (X,))
    weights = weights_of(programs, 5)  # a warning would fail the test
    assert programs.layout.vectorised
    u = weights.values["z_unconstrained"]
    expected = dist.Normal(guide.locs.z, guide.scales.z).log_prob(u) - u
    assert torch.allclose(weights.log_guide, expected)
    assert torch.allclose(weights.values["z"], u.exp())


def test_an_auxiliary_coin_under_a_loss_of_pyro_is_a_fatal_finding() -> None:
    class Coin(Direct):
        def draw(self, loc: Tensor, scale: Tensor) -> None:
            coin = pyro.sample("coin", dist.Bernoulli(torch.full(loc.shape[:-1], 0.5)), infer={"is_auxiliary": True})
            pyro.sample("z", dist.LogNormal(loc + 0 * coin[..., None], scale).to_event(1))

    batch = pvae.Batch(x=X)
    for objective in (Trace_ELBO(), "elbo-graph", "elbo-analytic"):
        (finding,) = pvae.check(Coin(), batch, objective).fatal
        assert (finding.kind, finding.subject) == ("auxiliary site", "coin")
    assert not pvae.check(Coin(), batch, "iwae:particles=1").fatal
    weights = pvae.log_weights(Coin(), batch, 3)
    loc, scale = Direct().loc + Direct().slope * X[:, None], Direct().log_scale.exp()
    expected = dist.LogNormal(loc, scale).to_event(1).log_prob(weights.values["z"])
    assert torch.allclose(weights.log_guide, expected)


def test_the_kl_that_leaves_a_log_density_out_is_a_fatal_finding() -> None:
    (finding,) = pvae.check(Transformed(), pvae.Batch(x=X), "elbo-analytic").fatal
    assert (finding.kind, finding.subject) == ("wrong KL", "z")


def test_codes_are_those_of_z() -> None:
    model = Latent(PRIORS["real"], direct=False)
    codes = pvae.models.encode(model, pvae.Batch(x=X))
    assert list(codes) == ["z"]
    assert torch.allclose(codes["z"], model.loc.expand(3, 3))
