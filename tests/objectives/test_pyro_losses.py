"""Every loss of `pyro.infer`: run with Pyro's value and gradient, or refused by name."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import exact
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.contrib.gp.kernels import RBF
from pyro.infer import (
    CSIS,
    MCMC,
    NUTS,
    SVGD,
    SVI,
    EnergyDistance,
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    RBFSteinKernel,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    Trace_MMD,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
    TraceTMC_ELBO,
)
from pyro.infer.autoguide import AutoHierarchicalNormalMessenger, AutoNormalMessenger, AutoRegressiveMessenger
from stepping import after
from torch import Tensor, nn

import pvae
from pvae import InputError
from pvae.objectives import adapt, describe

DOUBLE = torch.float64

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


class Gaussian(pvae.LatentModel):
    """A linear Gaussian VAE whose guide also reads simulated observations, as Pyro's sleep phase passes them."""

    def __init__(self, likelihood: Callable[..., Any] = dist.Normal, scale: float = 1.0) -> None:
        super().__init__()
        self.decoder, self.encoder = nn.Linear(2, 3), nn.Linear(3, 4)
        self.likelihood, self.scale = likelihood, scale

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=self.scale):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", self.likelihood(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, observations: dict[str, Tensor] | None = None) -> None:
        x = observations["x"] if observations else x
        with pyro.plate("data", x.shape[-2]), pyro.poutine.scale(scale=self.scale):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def bernoulli(logits: Tensor, _: float) -> Any:
    return dist.Bernoulli(logits=logits)


def gaussian() -> tuple[Gaussian, Tensor]:
    torch.manual_seed(5)
    return Gaussian().double(), torch.randn(4, 3, dtype=DOUBLE)


def kernel() -> RBF:
    return RBF(2, variance=torch.tensor(1.0, dtype=DOUBLE), lengthscale=torch.tensor(1.0, dtype=DOUBLE))


# For each loss: the loss, and the nesting that Pyro would find by a run of its own (None: it needs none).
LOSSES: dict[str, tuple[Callable[[], Any], int | None]] = {
    "wake": (lambda: ReweightedWakeSleep(num_particles=3), 2),
    "wake, one by one": (lambda: ReweightedWakeSleep(num_particles=3, vectorize_particles=False), None),
    "wake and sleep": (lambda: ReweightedWakeSleep(num_particles=3, insomnia=0.3, num_sleep_particles=2), 2),
    "sleep": (lambda: ReweightedWakeSleep(insomnia=0.0), 2),
    "only sleep": (lambda: ReweightedWakeSleep(insomnia=0.0, model_has_params=False), 2),
    "tail-adaptive": (lambda: TraceTailAdaptive_ELBO(num_particles=4, vectorize_particles=True), 2),
    "tail-adaptive, half": (
        lambda: TraceTailAdaptive_ELBO(num_particles=4, vectorize_particles=True, tail_adaptive_beta=-0.5),
        2,
    ),
    "energy distance": (lambda: EnergyDistance(num_particles=3), 2),
    "energy distance and prior": (lambda: EnergyDistance(beta=1.5, num_particles=3, prior_scale=0.1), 2),
    "mean discrepancy": (lambda: Trace_MMD(kernel(), num_particles=3), 2),
    "mean discrepancy, one by one": (lambda: Trace_MMD(kernel(), num_particles=3, vectorize_particles=False), None),
    "one particle in a plate": (lambda: Trace_ELBO(num_particles=1, vectorize_particles=True), 1),
    "tensor Monte Carlo": (lambda: TraceTMC_ELBO(strict_enumeration_warning=False), 1),
    "renyi": (lambda: RenyiELBO(alpha=0.5, num_particles=3, vectorize_particles=True), 2),
}


def pyro_gradient(loss: Any, model: Gaussian, x: Tensor) -> tuple[Any, list[Tensor]]:
    """Pyro's own value and gradient."""
    model.zero_grad()
    torch.manual_seed(11)
    if isinstance(loss, EnergyDistance):
        value = loss(model.model, model.guide, x)
        value.backward()
        value = value.item()
    else:
        value = loss.loss_and_grads(model.model, model.guide, x)
    return value, [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("is_stated", [True, False])
def test_a_loss_has_the_value_and_gradient_of_pyro(name: str, is_stated: bool) -> None:
    make, nesting = LOSSES[name]
    model, x = gaussian()
    theirs, ours = make(), make()
    if nesting is not None:
        theirs.max_plate_nesting = nesting
        ours.max_plate_nesting = nesting if is_stated else math.inf
    value, expected = pyro_gradient(theirs, model, x)
    got, gradients = pyro_gradient(adapt(ours), model, x)
    if isinstance(value, tuple):
        value = value[name == "only sleep"]
    if not isinstance(theirs, TraceTailAdaptive_ELBO):  # its value is infinite; the next test is for ours
        assert got == pytest.approx(value, rel=1e-12)
    assert any(gradient.abs().sum() > 0 for gradient in expected)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-12, atol=1e-14)
    assert ours.max_plate_nesting == (nesting if is_stated and nesting is not None else math.inf)


def test_the_tail_adaptive_loss_reports_minus_the_elbo_of_its_particles() -> None:
    model, x = gaussian()
    settings = {"num_particles": 4, "vectorize_particles": True}
    torch.manual_seed(11)
    value = adapt(TraceTailAdaptive_ELBO(**settings)).loss(model.model, model.guide, x)
    torch.manual_seed(11)
    assert value == pytest.approx(Trace_ELBO(max_plate_nesting=1, **settings).loss(model.model, model.guide, x))


def test_both_losses_of_wake_sleep_are_recorded() -> None:
    model, x = gaussian()
    elbo = ReweightedWakeSleep(num_particles=3, max_plate_nesting=1)
    terms = adapt(elbo).terms(model.model, model.guide, (x,), {}, "all")
    assert terms.loss == terms.named["theta_loss"] != terms.named["phi_loss"]
    assert terms.surrogate.item() == pytest.approx((terms.loss + terms.named["phi_loss"]).item())


@pytest.mark.parametrize("name", [name for name in LOSSES if "one by one" not in name])
def test_fit_trains_by_a_loss_and_its_graph_gives_the_eager_step(name: str) -> None:
    losses, tensors = {}, {}
    for graph in (True, False):
        losses[graph], tensors[graph], *_ = after(Wide, LOSSES[name][0], graph=graph, steps=2, dtype=DOUBLE)
    assert torch.isfinite(losses[True]).all()
    assert torch.equal(losses[True], losses[False])
    assert all(torch.equal(tensors[True][key], tensors[False][key]) for key in tensors[True])


class Wide(Gaussian):
    """The model with the six features of the batches of `stepping`."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = nn.Linear(2, 6), nn.Linear(6, 4)


JIT = {
    JitTrace_ELBO: Trace_ELBO,
    JitTraceEnum_ELBO: TraceEnum_ELBO,
    JitTraceGraph_ELBO: TraceGraph_ELBO,
    JitTraceMeanField_ELBO: TraceMeanField_ELBO,
}


@pytest.mark.parametrize("kind", JIT, ids=lambda kind: kind.__name__)
def test_a_loss_with_jit_is_the_loss_without(kind: type) -> None:
    model, x = gaussian()
    settings = {"num_particles": 2, "strict_enumeration_warning": False, "ignore_jit_warnings": True}
    value, expected = pyro_gradient(JIT[kind](**settings, max_plate_nesting=1), model, x)
    got, gradients = pyro_gradient(adapt(kind(**settings, max_plate_nesting=1)), model, x)
    assert got == pytest.approx(value, rel=1e-12)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other)


# ---- What the user states


@pytest.mark.parametrize("kind", [Trace_ELBO, TraceGraph_ELBO, TraceEnum_ELBO, RenyiELBO])
def test_a_stated_nesting_lets_programs_run_inside_the_plate_of_particles_only(kind: type) -> None:
    def program(x: Tensor) -> None:
        with pyro.plate("groups", 2):
            p = pyro.sample("p", dist.Beta(torch.tensor(1.1, dtype=DOUBLE), torch.tensor(1.1, dtype=DOUBLE)))
            assert p.shape == (5, 1, 2)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Bernoulli(p), obs=x)

    def guide(x: Tensor) -> None:
        q = pyro.param("q", torch.tensor(1.5, dtype=DOUBLE))
        with pyro.plate("groups", 2):
            pyro.sample("p", dist.Beta(q, q))

    x = torch.ones(3, 2, dtype=DOUBLE)
    values = []
    for wrap in (lambda loss: loss, adapt):
        pyro.clear_param_store()
        loss = kind(num_particles=5, vectorize_particles=True, max_plate_nesting=2, strict_enumeration_warning=False)
        torch.manual_seed(2)
        value = wrap(loss).loss_and_grads(program, guide, x)
        values.append((value, pyro.param("q").grad.item()))
    assert values[1] == pytest.approx(values[0], rel=1e-12)


def test_a_stated_nesting_is_kept_for_programs_that_mix_particles() -> None:
    def mixes(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z.mean(0), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("loc", x.new_zeros(())), 1.0).expand([len(x)]))

    x = torch.randn(4, dtype=DOUBLE)
    torch.manual_seed(3)
    expected = Trace_ELBO(num_particles=3).loss_and_grads(mixes, guide, x)
    loss = adapt(Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1))
    torch.manual_seed(3)
    with pytest.warns(UserWarning, match="one by one"):
        assert loss.loss_and_grads(mixes, guide, x) == pytest.approx(expected, rel=1e-12)


def test_a_retained_graph_can_be_differentiated_twice() -> None:
    weight = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
    shared = weight.exp()  # outside of the programs, so that two steps differentiate it

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(shared * pyro.param("loc", x.new_ones(())), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pass

    x = torch.randn(4, dtype=DOUBLE)
    loss = adapt(Trace_ELBO(retain_graph=True))
    for _ in range(2):
        loss.loss_and_grads(model, guide, x)
    adapt(Trace_ELBO()).loss_and_grads(model, guide, x)
    with pytest.raises(RuntimeError, match="second time"):
        adapt(Trace_ELBO()).loss_and_grads(model, guide, x)


def test_the_differentiable_loss_reaches_tensors_that_are_no_params_as_pyros_does() -> None:
    loc = torch.tensor(0.3, dtype=DOUBLE, requires_grad=True)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0).expand([len(x)]))

    x, gradients = torch.randn(4, dtype=DOUBLE), []
    for loss in (Trace_ELBO(), adapt(Trace_ELBO())):
        torch.manual_seed(3)
        gradients.append(torch.autograd.grad(loss.differentiable_loss(model, guide, x), loc)[0])
    assert gradients[0] == gradients[1] != 0


class Newton(pvae.LatentModel):
    """A guide that takes a gradient itself: one Newton step from 0, which is the exact posterior mean."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros((), dtype=DOUBLE))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, self.log_scale.exp()), obs=x)

    def guide(self, x: Tensor) -> None:
        z = torch.zeros_like(x, requires_grad=True)
        log_joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, self.log_scale.exp()).log_prob(x)
        (slope,) = torch.autograd.grad(log_joint.sum(), z, create_graph=True)
        precision = 1 + (-2 * self.log_scale).exp()
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope / precision, precision.rsqrt()))


@pytest.mark.parametrize("kind", [Trace_ELBO, TraceEnum_ELBO, TraceTMC_ELBO])
def test_a_guide_may_take_a_gradient_itself(kind: type) -> None:
    model, x = Newton(), torch.randn(4, dtype=DOUBLE)
    settings = {"num_particles": 3, "vectorize_particles": True, "strict_enumeration_warning": False}
    evidence = dist.Normal(x.new_zeros(()), math.sqrt(2.0)).log_prob(x).sum().item()  # each weight is exact
    loss = adapt(kind(**settings))
    assert loss.loss_and_grads(model.model, model.guide, x) == pytest.approx(-evidence, rel=1e-12)
    assert not pvae.check(model, {"x": x}, loss).fatal


def test_a_guide_that_takes_a_gradient_is_trained_and_evaluated() -> None:
    model, x = Newton(), torch.randn(8, dtype=DOUBLE)
    pvae.fit(model, {"x": x}, epochs=1, precision="float64", step="eager", progress=False)
    variance = 1 + (2 * model.log_scale).exp().item()
    evidence = dist.Normal(x.new_zeros(()), math.sqrt(variance)).log_prob(x)
    pointwise = pvae.evaluate.log_evidence(model, {"x": x}, particles=3).pointwise
    torch.testing.assert_close(torch.as_tensor(pointwise), evidence)


@pytest.mark.parametrize("vectorize_particles", [True, False])
def test_tensor_monte_carlo_draws_marked_sites_of_any_support(vectorize_particles: bool) -> None:
    infer = {"enumerate": "parallel", "num_samples": 4, "expand": False}

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("loc", x.new_zeros(())), 1.0).expand([len(x)]), infer=infer)

    x, values = torch.randn(3, dtype=DOUBLE), []
    settings = {"num_particles": 2, "vectorize_particles": vectorize_particles}
    for loss in (TraceTMC_ELBO(max_plate_nesting=1, **settings), adapt(TraceTMC_ELBO(**settings))):
        pyro.clear_param_store()
        torch.manual_seed(2)
        values.append((loss.loss_and_grads(model, guide, x), pyro.param("loc").grad.item()))
    assert values[1] == pytest.approx(values[0], rel=1e-12)


@pytest.mark.parametrize("kind", [AutoNormalMessenger, AutoHierarchicalNormalMessenger, AutoRegressiveMessenger])
def test_particles_of_a_guide_that_is_a_messenger_share_a_run(kind: type) -> None:
    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x, guide = torch.randn(4, dtype=DOUBLE), kind(model)
    guide(x)  # creates the parameters
    settings = {"num_particles": 3, "vectorize_particles": True}
    values = []
    for loss in (Trace_ELBO(max_plate_nesting=1, **settings), adapt(Trace_ELBO(**settings))):
        torch.manual_seed(2)
        values.append(loss.loss_and_grads(model, guide, x))
    assert values[1] == pytest.approx(values[0], rel=1e-12)


def test_other_methods_of_a_loss_are_its_own() -> None:
    x = torch.tensor([0.5, -1.0], dtype=DOUBLE)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(x.new_full((), 0.3)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pass

    loss = adapt(TraceEnum_ELBO())
    odds = 0.3 * (dist.Normal(1.0, 1.0).log_prob(x).exp()) / (0.7 * dist.Normal(0.0, 1.0).log_prob(x).exp())
    marginal = loss.compute_marginals(model, guide, x)["z"]
    torch.testing.assert_close(marginal.probs, odds / (1 + odds))
    assert loss.elbo.max_plate_nesting == math.inf
    assert not hasattr(adapt(Trace_ELBO()), "compute_marginals")


# ---- Functions of both programs


def simple_elbo(model: Any, guide: Any, *args: Any) -> Tensor:
    """The ELBO as the tutorial of Pyro on custom objectives writes it."""
    guide_trace = pyro.poutine.trace(guide).get_trace(*args)
    model_trace = pyro.poutine.trace(pyro.poutine.replay(model, trace=guide_trace)).get_trace(*args)
    return guide_trace.log_prob_sum() - model_trace.log_prob_sum()


def test_a_loss_function_of_the_user_trains() -> None:
    model, x = gaussian()
    value, expected = pyro_gradient(Trace_ELBO(), model, x)
    got, gradients = pyro_gradient(adapt(simple_elbo), model, x)
    assert got == pytest.approx(value, rel=1e-12)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other)
    assert describe(simple_elbo) == "simple_elbo"
    before = model.decoder.weight.detach().clone()
    run = pvae.fit(model, {"x": x}, objective=simple_elbo, epochs=1, batch_size=4, progress=False)
    assert not torch.equal(before, model.decoder.weight)
    assert math.isfinite(run.history[-1]["loss"])


def test_a_loss_function_that_returns_no_tensor_is_refused() -> None:
    model, x = gaussian()
    with pytest.raises(InputError, match=r"needs to return a tensor with one number.*loss returned float"):
        adapt(Trace_ELBO().loss).loss_and_grads(model.model, model.guide, x)


def test_the_energy_distance_needs_no_density_of_x() -> None:
    class Simulator(dist.Normal):
        def log_prob(self, value: Tensor) -> Tensor:
            raise NotImplementedError

    model, x = Gaussian(Simulator).double(), torch.randn(4, 3, dtype=DOUBLE)
    value, _ = pyro_gradient(EnergyDistance(max_plate_nesting=2), model, x)
    assert pyro_gradient(adapt(EnergyDistance()), model, x)[0] == pytest.approx(value, rel=1e-12)
    assert not pvae.check(model, {"x": x}, EnergyDistance()).fatal


# ---- What `check` says


def rules(model: Any, x: Tensor, loss: Any) -> dict[str, bool]:
    """The findings by rule, with whether they are fatal."""
    return {finding.kind: finding.fatal for finding in pvae.check(model, {"x": x}, loss)}


@pytest.mark.parametrize("name", ["wake", "tail-adaptive"])
def test_check_refuses_a_scale_inside_the_weights(name: str) -> None:
    make, x = LOSSES[name][0], torch.randn(4, 3, dtype=DOUBLE)
    assert rules(Gaussian(scale=3.0).double(), x, make())["scaled bound"]
    found = rules(Gaussian().double(), x, make())
    assert not found["weight of a batch"]
    assert not any(found.values())


def test_check_refuses_draws_without_a_pathwise_gradient() -> None:
    x = torch.ones(4, 3, dtype=DOUBLE)
    assert rules(Gaussian(bernoulli).double(), x, EnergyDistance())["score-function likelihood"]
    for loss in (TraceTailAdaptive_ELBO(num_particles=4, vectorize_particles=True), EnergyDistance()):
        assert rules(exact.DiscreteModel(), torch.arange(4), loss)["score-function site"]


def test_the_tail_adaptive_loss_needs_all_particles_in_one_run() -> None:
    model, x = gaussian()
    with pytest.raises(InputError, match="TraceTailAdaptive_ELBO needs all particles in one run"):
        adapt(TraceTailAdaptive_ELBO(num_particles=4)).loss_and_grads(model.model, model.guide, x)


def nothing() -> None:
    pass


OTHERS = {
    "SVI": lambda: SVI(nothing, nothing, pyro.optim.Adam({}), Trace_ELBO()),
    "SVGD": lambda: SVGD(nothing, RBFSteinKernel(), pyro.optim.Adam({}), 2, 0),
    "RBFSteinKernel": RBFSteinKernel,
    "CSIS": lambda: CSIS(nothing, nothing, pyro.optim.Adam({})),
    "MCMC": lambda: MCMC(NUTS(nothing), 1),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_loss_is_refused_by_name_with_advice(name: str) -> None:
    for given in (OTHERS[name](), type(OTHERS[name]())):
        with pytest.raises(InputError, match=f"^{name} of pyro.infer is not a loss: .*(pass|use)"):
            adapt(given)


def test_an_enumerating_loss_without_marked_sites_warns_once() -> None:
    model, x = pvae.VAE((3,), latent=2, hidden=2), torch.zeros(4, 3)
    objective = adapt(TraceEnum_ELBO(max_plate_nesting=1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            objective.loss(model.model, model.guide, x)
    assert len([warning for warning in caught if "no sample sites configured for enum" in str(warning.message)]) == 1
