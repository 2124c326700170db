"""One free q per datum, and refined q: against the best q of the linear-Gaussian model, and against torch by hand."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import A_PRIOR, A_Q1, A_X, LinearGaussian, LinearGaussianModel, TwoLayer, TwoLayerModel
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

import pvae
from pvae.errors import InputError
from pvae.models import LatentModel, LocalGuide, SemiAmortised, pair
from pvae.objectives import IWAE, WakeSleep, check
from pvae.programs.distribution_parameters import with_parameters
from pvae.train.checkpoint import read

EXACT = LinearGaussian()
BEST = -3.6308803939  # of the linear-Gaussian model, by the best diagonal q (docs/exact-models.md)
X = torch.tensor(np.stack([A_X, [0.3, 1.0, -0.7], [-1.2, 0.1, 0.9]]))
INDEX = torch.tensor([2, 0, 1])

pytestmark = pytest.mark.usefixtures("own_store")


def frozen() -> LinearGaussianModel:
    model = LinearGaussianModel()
    for each in model.theta():
        each.requires_grad_(False)
    return model


def q_of(model: Any, **fields: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of q, by datum."""
    fields = fields or {"x": X, "index": INDEX}
    site = pyro.poutine.trace(model.guide).get_trace(**fields).nodes["z"]
    return site["fn"].mean.detach().numpy(), site["fn"].variance.detach().numpy()


def elbos(model: Any, **fields: Tensor) -> np.ndarray:
    mean, variance = q_of(model, **fields)
    return np.array([EXACT.elbo(m, v, x) for m, v, x in zip(mean, variance, X.numpy(), strict=True)])


def data(x: Tensor = X, index: Tensor = INDEX) -> pvae.Splits:
    return pvae.Splits(pvae.Batch(x=x, index=index), None, None, name="a", data_shape=tuple(x.shape[1:]))


def fit(model: Any, objective: Any = "elbo", **options: Any) -> pvae.Run:
    settings = {"epochs": 2, "batch_size": 2, "precision": "float64", "progress": False, "learning_rate": 0.05}
    return pvae.fit(model, options.pop("data", None) or data(), objective=objective, **{**settings, **options})


@pytest.mark.parametrize(("start", "before"), [("encoder", -5.0148794163), ("prior", -9.1773740579)])
def test_rows_reach_the_best_q_of_each_datum(start: str, before: float) -> None:
    """From q1, or the prior, to the per-datum optimum: no amortisation gap is left, only approximation's."""
    model = LocalGuide(frozen(), 3, start)
    mean, variance = A_Q1 if start == "encoder" else A_PRIOR
    found = q_of(model)
    np.testing.assert_allclose(found[0], np.tile(mean, (3, 1)), atol=1e-12)
    np.testing.assert_allclose(found[1], np.tile(variance, (3, 1)), rtol=1e-12)
    assert elbos(model)[0] == pytest.approx(before, abs=1e-9)
    objective = Trace_ELBO(num_particles=200, vectorize_particles=True)
    run = fit(model, objective, epochs=300, schedule="exponential:gamma=0.985")
    assert run.step == "graph"
    best = [EXACT.elbo(*EXACT.best_diagonal(x), x) for x in X.numpy()]
    assert best[0] == pytest.approx(BEST, abs=1e-9)
    # the gap is quadratic in the noise that is left: thousandths of the 1.4 and 5.5 nats at the start
    np.testing.assert_allclose(elbos(model), best, atol=2e-3)
    np.testing.assert_allclose(q_of(model)[1], np.tile(EXACT.best_diagonal(A_X)[1], (3, 1)), rtol=0.08)


def test_rows_are_looked_up_by_index_and_train_alone() -> None:
    model = LocalGuide(frozen(), 5)
    q_of(model)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    model.rows["z-loc"].data += torch.arange(5.0, dtype=torch.float64)[:, None]
    np.testing.assert_allclose(q_of(model)[0], A_Q1[0] + INDEX.numpy()[:, None])
    model.load_state_dict(before)
    fit(model, epochs=1, batch_size=3)
    moved = {name: (each != before[name]) for name, each in model.state_dict().items()}
    assert {name for name, each in moved.items() if each.any()} == {"rows.z-loc", "rows.z-scale"}
    assert moved["rows.z-loc"].all(1).tolist() == [True, True, True, False, False]


def test_theta_trains_beside_the_rows() -> None:
    model = LinearGaussianModel()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    fit(LocalGuide(model, 3), "elbo")
    moved = {name for name, each in model.state_dict().items() if not torch.equal(each, before[name])}
    assert moved == {"weight", "bias", "log_scale"}


class Families(LatentModel):
    """A site of each of several families, for constraints; what the guide says depends on x."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            for name, density in self.densities(torch.zeros_like(x[:, 0])).items():
                pyro.sample(name, density)
            pyro.sample("x", dist.Normal(x.new_zeros(len(x), 3), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            for name, density in self.densities(x[:, 0] * self.a).items():
                pyro.sample(name, density)

    def densities(self, a: Tensor) -> dict[str, Any]:
        ones = torch.ones(len(a), 2, dtype=a.dtype)
        return {
            "beta": dist.Beta(2 * a.exp(), 3.0),
            "bits": dist.Bernoulli(logits=a[:, None] * ones).to_event(1),
            "class": dist.Categorical(logits=a[:, None] * torch.tensor([1.0, -1.0, 0.5], dtype=a.dtype)),
            "gamma": dist.Gamma(a.exp()[:, None] * ones, 2.0).to_event(1),
            "joint": dist.MultivariateNormal(a[:, None] * ones, torch.diag_embed(ones * a.exp()[:, None])),
            "point": dist.Delta(a[:, None] * ones).to_event(1),
            "positive": dist.LogNormal(a, 0.5),
            "share": dist.Dirichlet(a.exp()[:, None] * ones),
        }


def test_every_family_begins_as_it_was_and_keeps_its_constraints() -> None:
    inner = Families()
    model = LocalGuide(inner, 3)
    here = pyro.poutine.trace(inner.guide).get_trace(X)
    there = pyro.poutine.trace(model.guide).get_trace(X, index=INDEX)
    torch.manual_seed(0)
    for each in model.rows.values():
        each.data = 2 * torch.randn_like(each)
    far = pyro.poutine.trace(model.guide).get_trace(X, index=INDEX)
    for name in inner.densities(X[:, 0]):
        ours, theirs = here.nodes[name]["fn"], there.nodes[name]["fn"]
        value = here.nodes[name]["value"].detach()
        torch.testing.assert_close(ours.log_prob(value), theirs.log_prob(value), rtol=1e-9, atol=1e-12)
        moved = far.nodes[name]["fn"]
        assert ours.batch_shape == moved.batch_shape and ours.event_shape == moved.event_shape
        base = moved.base_dist if isinstance(moved, torch.distributions.Independent) else moved
        for key, constraint in base.arg_constraints.items():
            if key in vars(base) and name != "point":  # a Delta says nothing of its v
                assert bool(constraint.check(getattr(base, key)).all()), (name, key)
        if name != "point":
            assert bool(moved.support.check(far.nodes[name]["value"]).all()), name
    assert model.rows["joint-scale_tril"].shape == (3, 2, 2) and "point-log_density" not in model.rows


def test_a_shift_is_one_of_the_unconstrained_parameter() -> None:
    density = dist.Normal(torch.zeros(4, 2), torch.full((4, 2), 2.0)).to_event(1).mask(torch.tensor(True))
    found = with_parameters("z", density, lambda name, value: value + (1.0 if name == "scale" else -3.0))
    expected = dist.Normal(-3.0 * torch.ones(4, 2), 2.0 * np.e).to_event(1)
    value = torch.randn(4, 2)
    torch.testing.assert_close(found.log_prob(value), expected.log_prob(value))


def test_two_layers_keep_their_dependence_under_particles() -> None:
    """z2's mean depends on z1 through the copy; each row shifts it; particles share a datum's row."""
    inner, x = TwoLayerModel(), torch.tensor(TwoLayer().x)
    model, index = LocalGuide(inner, 2), torch.tensor([1, 0])
    pvae.log_weights(model, {"x": x, "index": index}, 1)
    assert {name: tuple(each.shape) for name, each in model.rows.items()} == dict.fromkeys(
        ("z1-loc", "z1-scale", "z2-loc", "z2-scale"), (2, 2)
    )
    torch.manual_seed(1)
    shift = {name: torch.randn_like(each) for name, each in model.rows.items()}
    for name, each in model.rows.items():
        each.data = shift[name].clone()
    weights = pvae.log_weights(model, {"x": x, "index": index}, 4)
    z1, z2 = weights.values["z1"], weights.values["z2"]
    loc1 = x @ inner.C.T + inner.c + shift["z1-loc"][index]
    loc2 = z1 @ inner.D.T + inner.d + shift["z2-loc"][index]
    log_q = dist.Normal(loc1, (inner.t1 + shift["z1-scale"][index]).exp()).log_prob(z1).sum(-1)
    log_q = log_q + dist.Normal(loc2, (inner.t2 + shift["z2-scale"][index]).exp()).log_prob(z2).sum(-1)
    torch.testing.assert_close(weights.log_guide, log_q, rtol=1e-10, atol=1e-12)


# Refinement


class Encoded(LinearGaussianModel):
    """The linear-Gaussian model with an encoder of x."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.tensor([[0.2, 0.1, -0.3], [0.0, 0.4, 0.1]], dtype=torch.float64))

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ self.map.T + self.q_loc, self.q_log_scale.exp()).to_event(1))

    def phi(self) -> list[nn.Parameter]:
        return [self.map, self.q_loc, self.q_log_scale]


@pytest.mark.parametrize("through", [True, False])
def test_refinement_and_its_gradient_equal_torch_by_hand(through: bool) -> None:
    inner, steps, rate = Encoded(), 3, 0.05
    model = SemiAmortised(inner, steps, rate, through=through)
    torch.manual_seed(2)
    weights = pvae.log_weights(model, {"x": X}, 1)
    everything = [*inner.theta(), *inner.phi()]
    found = torch.autograd.grad(weights.log_w.sum(), everything)
    torch.manual_seed(2)
    noise = [torch.normal(torch.zeros(3, 2).double(), torch.ones(3, 2).double()) for _ in range(steps + 1)]
    base = X @ inner.map.T + inner.q_loc, inner.q_log_scale.expand(3, 2)
    move = [torch.zeros(3, 2, dtype=torch.float64, requires_grad=True) for _ in base]

    def elbo(step: int) -> Tensor:
        loc, log_scale = (start + each for start, each in zip(base, move, strict=True))
        z = loc + log_scale.exp() * noise[step]
        log_p = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
        log_p = log_p + dist.Normal(z @ inner.weight.T + inner.bias, inner.log_scale.exp()).log_prob(X).sum(-1)
        return (log_p - dist.Normal(loc, log_scale.exp()).log_prob(z).sum(-1)).sum()

    for step in range(steps):
        slopes = torch.autograd.grad(elbo(step), move, create_graph=through)
        move = [each + rate * slope for each, slope in zip(move, slopes, strict=True)]
        if not through:
            move = [each.detach().requires_grad_() for each in move]
    total = elbo(steps)
    torch.testing.assert_close(weights.log_w.sum(), total, rtol=1e-10, atol=1e-12)
    by_hand = torch.autograd.grad(total, everything)
    for ours, theirs in zip(found, by_hand, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_many_steps_reach_the_best_q_of_data_never_seen() -> None:
    torch.manual_seed(3)
    model = SemiAmortised(frozen(), steps=150, rate=0.03, particles=4)
    with torch.no_grad():
        found = elbos(model, x=X)
    best = [EXACT.elbo(*EXACT.best_diagonal(x), x) for x in X.numpy()]
    assert (np.array(best) - found < 0.1).all() and (np.array(best) - found > 0).all()
    assert (np.array(best) - elbos(frozen(), x=X) > 1.0).all()


# Trainer, scripts, copies


@pytest.mark.parametrize(
    ("make", "objective"),
    [
        (lambda: LocalGuide(LinearGaussianModel(), 20), lambda: IWAE(particles=3)),
        (lambda: LocalGuide(LinearGaussianModel(), 20, "prior"), lambda: WakeSleep(3)),
        (lambda: SemiAmortised(Encoded(), 2), lambda: IWAE(particles=3)),
        (lambda: SemiAmortised(Encoded(), 1, particles=2, through=False), lambda: WakeSleep(2)),
    ],
    ids=["local", "local, wake-sleep", "through", "first order, wake-sleep"],
)
def test_graph_equals_eager_and_resume_in_every_bit(make: Any, objective: Any, tmp_path: Any) -> None:
    x = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    options = {"data": data(x, torch.arange(20)), "batch_size": 10, "epochs": 2}
    for step in ("graph", "eager"):
        assert fit(make(), objective(), step=step, out=tmp_path / step, **options).step == step
    fit(make(), objective(), out=tmp_path / "parts", max_steps=3, **options)
    fit(make(), objective(), out=tmp_path / "parts", resume=True, **options)
    ends = [read(tmp_path / name / "last") for name in ("graph", "eager", "parts")]
    for other in ends[1:]:
        for part in ("parameters", "training"):
            ours, theirs = getattr(ends[0], part), getattr(other, part)
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_plain_svi_moves_the_rows_of_a_pair() -> None:
    inner = LinearGaussianModel()
    model = LocalGuide(pair(inner.model, inner.guide, fields=("x",)), 3)
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.05}), loss=Trace_ELBO())
    for _ in range(3):  # the first run makes the rows
        before = None if not model.rows else model.rows["z-loc"].detach().clone()
        svi_step(svi, model)
    assert before is not None and not torch.equal(before, model.rows["z-loc"])
    assert torch.equal(inner.q_loc, torch.tensor(A_Q1[0]))
    assert not check(model, data().train, "elbo").fatal


def svi_step(svi: SVI, model: Any) -> None:
    loss = svi.loss_and_grads(lambda x, index: model.model(x), model.guide, X, index=INDEX)
    assert np.isfinite(loss)
    svi.optim([each for each in model.parameters() if each.grad is not None])


def test_copies_are_of_their_own() -> None:
    model = LocalGuide(frozen(), 3)
    q_of(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other.rows["z-loc"].data += 1.0
        np.testing.assert_allclose(q_of(other)[0] - q_of(model)[0], 1.0)


# What is refused


class Flow(LinearGaussianModel):
    def guide(self, x: Tensor) -> None:
        base = dist.Normal(self.q_loc.expand(len(x), -1), 1.0).to_event(1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(base, [dist.transforms.SoftplusTransform()]))


class Bits(LatentModel):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5 * x.new_ones(len(x))))
            pyro.sample("x", dist.Normal(z[:, None] + x.new_zeros(len(x), 3), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(0.4 * x.new_ones(len(x))))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match=r"count needs a whole number of at least 1; got .*number of data"):
        LocalGuide(frozen(), 0)
    with pytest.raises(InputError, match="did you mean 'encoder'"):
        LocalGuide(frozen(), 3, "encode")
    with pytest.raises(InputError, match="needs a latent model that is a module"):
        LocalGuide(object(), 3)
    with pytest.raises(InputError, match="steps needs a whole number"):
        SemiAmortised(frozen(), 0)
    for model, said in (
        (LocalGuide(Flow(), 3), "'z' has a TransformedDistribution"),
        (LocalGuide(TwoLayerModel(), 3, "prior"), "one latent site"),
    ):
        with pytest.raises(InputError, match=said):
            model.guide(X, index=INDEX)
    with pytest.raises(InputError, match="plate of 2 data"):
        LocalGuide(frozen(), 3).guide(X, index=INDEX[:2])
    with pytest.raises(InputError, match=r"'z' cannot be reparameterised\. Use LocalGuide"):
        SemiAmortised(Bits()).guide(X)
    with pytest.raises(InputError, match="requires 'index'"):
        pvae.log_weights(LocalGuide(frozen(), 3), {"x": X}, 1)
    LocalGuide(Bits(), 3).guide(X, index=INDEX)


@pytest.mark.parametrize("through", [True, False])
def test_draws_without_a_second_derivative_are_refined_in_first_order_alone(through: bool) -> None:
    class Rates(pvae.LatentModel):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = torch.nn.Linear(1, 2)

        def model(self, x: torch.Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Gamma(2.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(self, x: torch.Tensor) -> None:
            codes = self.encoder(x[:, None]).exp()
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Gamma(codes[:, 0], codes[:, 1]))

    refined = pvae.SemiAmortised(Rates(), steps=1, through=through)
    if through:
        with pytest.raises(pvae.InputError, match=r"'z', Gamma.*through=False"):
            pvae.IWAE(1).loss_and_grads(refined.model, refined.guide, torch.ones(2))
    else:
        pvae.IWAE(1).loss_and_grads(refined.model, refined.guide, torch.ones(2))
        assert refined.inner.encoder.weight.grad.abs().sum() > 0
