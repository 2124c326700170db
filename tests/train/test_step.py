"""The traced step does what the eager one does, bit for bit; and both do what plain torch does."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from models import (
    LATENT,
    Counted,
    Discrete,
    Drawn,
    Enumerated,
    OfPyroModules,
    Plain,
    Repeated,
    Subsampled,
    autoguided,
    data,
    global_guide,
    global_model,
)
from pyro.infer import (
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from stepping import after, stepper
from torch import Tensor, nn

from pvae.models import LatentModel, pair
from pvae.objectives import IWAE, Renyi
from pvae.train.clipping import clipped
from pvae.train.devices import isolated

CASES = {
    "modules": (Plain, Trace_ELBO),
    "PyroModule": (OfPyroModules, Trace_ELBO),
    "pyro.param": (lambda: pair(global_model, global_guide), Trace_ELBO),
    "score function": (Discrete, Trace_ELBO),
    "score function, particles": (Discrete, lambda: Trace_ELBO(num_particles=3)),
    "subsampled plate": (Subsampled, Trace_ELBO),
    "subsample drawn inside": (Drawn, Trace_ELBO),
    "dropout": (lambda: Plain(dropout=0.5), Trace_ELBO),
    "running averages": (lambda: Plain(norm=True), Trace_ELBO),
    "vectorised particles": (Plain, lambda: Trace_ELBO(num_particles=3, vectorize_particles=True)),
    "buffer written to": (Counted, Trace_ELBO),
    "two like draws": (Repeated, Trace_ELBO),
    "autoguide": (autoguided, Trace_ELBO),
    "TraceMeanField": (Plain, TraceMeanField_ELBO),
    "TraceGraph": (Discrete, TraceGraph_ELBO),
    "TraceEnum": (Enumerated, lambda: TraceEnum_ELBO(max_plate_nesting=1)),
    "RenyiELBO": (Plain, lambda: RenyiELBO(alpha=0.5, num_particles=3, vectorize_particles=True)),
    "IWAE": (Plain, lambda: IWAE(particles=4)),
    "IWAE under a scale": (Subsampled, lambda: IWAE(particles=4)),
    "Renyi": (Plain, lambda: Renyi(alpha=0.3, particles=4)),
}


@pytest.mark.parametrize("case", [*CASES, "modules in float64", "IWAE in float64"])
def test_graph_equals_eager_in_every_bit(case: str) -> None:
    make, objective = CASES[case.removesuffix(" in float64")]
    options = {"dtype": torch.float64 if case.endswith("float64") else torch.float32}
    options["last"] = 8 if case == "autoguide" else 5  # Pyro's autoguides remember the size of a plate
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a fallback would make the comparison empty
        graph = after(make, objective, graph=True, **options)
        eager = after(make, objective, graph=False, **options)
    assert graph[3].graph and graph[3].fallback is None
    if case == "TraceEnum":  # sums the same terms in another order
        torch.testing.assert_close(graph[0], eager[0], rtol=1e-6, atol=0.0)
        return
    assert torch.equal(graph[0], eager[0])
    assert graph[1].keys() == eager[1].keys() and all(torch.equal(graph[1][n], eager[1][n]) for n in graph[1])
    assert torch.equal(graph[2], eager[2]), "the generator stands elsewhere"


def test_parameters_move() -> None:
    for case in ("modules", "pyro.param", "autoguide"):
        make, objective = CASES[case]
        _, before, _, _ = after(make, objective, graph=True, steps=0, last=8)
        _, moved, _, _ = after(make, objective, graph=True, steps=2, last=8)
        assert not any(torch.equal(before[name], moved[name]) for name in moved), case


def test_clipping_limits_the_norm_and_keeps_the_direction() -> None:
    gradients = (torch.tensor([3.0, 0.0]), None, torch.tensor([[4.0]]))
    short = clipped(gradients, 1.0)
    assert short[1] is None
    torch.testing.assert_close(short[0], torch.tensor([0.6, 0.0]))
    torch.testing.assert_close(short[2], torch.tensor([[0.8]]))
    assert all(torch.equal(a, b) for a, b in zip(clipped(gradients, 50.0)[::2], gradients[::2], strict=True))


def _by_hand(latent_model: Plain, x: Tensor, noise: Tensor) -> Tensor:
    """Minus the ELBO of `Plain` per datum with one draw, written without Pyro."""
    loc, log_scale = latent_model.encoder(x).chunk(2, -1)
    z = loc + log_scale.exp() * noise
    log_q = (-0.5 * noise**2 - log_scale - 0.5 * math.log(2 * math.pi)).sum(-1)
    log_prior = (-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum(-1)
    cross = F.binary_cross_entropy_with_logits(latent_model.decoder(z), x, reduction="none").sum(-1)
    return (cross + log_q - log_prior).mean()


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize("clip", [None, 0.05], ids=["free", "clipped"])
def test_updates_equal_those_of_plain_torch_adam(graph: bool, clip: float | None) -> None:
    steps, batch = 6, data(8, torch.float64)
    with isolated(3):
        reference = Plain().double()
    optimiser = torch.optim.Adam(reference.parameters(), lr=1e-2)
    losses = []
    with isolated(4):
        for _ in range(steps):
            noise = torch.normal(torch.zeros(8, LATENT).double(), torch.ones(8, LATENT).double())
            loss = _by_hand(reference, batch.x, noise)
            optimiser.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(reference.parameters(), clip)
            optimiser.step()
            losses.append(loss.detach())
    with isolated(3):
        latent_model = Plain().double()
    with stepper(latent_model, Trace_ELBO(), graph=graph, batch=batch, clip=clip) as (step, _):
        with isolated(4):
            found = [step(batch)[0] for _ in range(steps)]
        torch.testing.assert_close(torch.stack(found), torch.stack(losses), rtol=1e-12, atol=1e-12)
        for name, parameter in latent_model.named_parameters():
            other = dict(reference.named_parameters())[name]
            torch.testing.assert_close(parameter, other, rtol=1e-12, atol=1e-12)
            ours, theirs = step.optimiser.state[parameter], optimiser.state[other]
            for key in ("step", "exp_avg", "exp_avg_sq"):
                torch.testing.assert_close(
                    ours[key].double(), theirs[key].double(), rtol=1e-12, atol=1e-12, msg=f"{name}.{key}"
                )


def test_loss_and_gradient_under_a_subsampled_plate_are_per_datum_of_all() -> None:
    batch = data(8, torch.float64)
    gradients = {}
    for kind in (Plain, Subsampled):
        with isolated(3):
            latent_model = kind().double()
        with stepper(latent_model, Trace_ELBO(), graph=True, batch=batch) as (step, _), isolated(4):
            loss = step(batch)[0]
            gradients[kind] = [loss, *(each.grad.clone() for each in latent_model.parameters())]
    for plain, scaled in zip(gradients[Plain], gradients[Subsampled], strict=True):
        torch.testing.assert_close(plain, scaled, rtol=1e-12, atol=1e-12)


class Branching(Plain):
    """Looks at a drawn value."""

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            z = pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))
        if z.sum() > 1e6:
            raise RuntimeError


class NumPyNoise(Plain):
    """Draws from NumPy's generator."""

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x + float(np.random.rand())).chunk(2, -1)  # noqa: NPY002
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class Counting(Plain):
    """Keeps a Python number that changes at each call."""

    calls = 0

    def guide(self, x: Tensor) -> None:
        self.calls += 1
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x * self.calls).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class Validated(Plain):
    """Asks for torch's checks of arguments."""

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp(), validate_args=True).to_event(1))


@pytest.mark.parametrize(
    ("make", "objective", "reason"),
    [
        (Branching, Trace_ELBO, r"test_step\.py:\d+: a number or a branch depends on the value of a tensor"),
        (NumPyNoise, Trace_ELBO, "NumPy's generator"),
        (Counting, Trace_ELBO, r"changes Counting\.calls"),
        (Validated, Trace_ELBO, ""),
        (lambda: Discrete(baseline=True), TraceGraph_ELBO, "decaying-average baseline"),
    ],
    ids=["branch", "numpy", "counter", "validate_args", "baseline"],
)
def test_what_a_graph_cannot_hold_runs_eagerly_after_one_warning(
    make: Callable[[], Any], objective: Any, reason: str
) -> None:
    with pytest.warns(UserWarning, match=f"cannot be traced.*({reason})") as caught:
        graph = after(make, objective, graph=True, last=8)
    assert len(caught) == 1
    assert not graph[3].graph and graph[3].fallback
    eager = after(make, objective, graph=False, last=8)
    assert torch.equal(graph[0], eager[0])
    assert torch.equal(graph[2], eager[2])


def test_a_replaced_parameter_is_trained_after_refresh() -> None:
    batch = data()
    with isolated(3):
        latent_model = Plain()
    with stepper(latent_model, Trace_ELBO(), graph=True, batch=batch) as (step, _), isolated(4):
        step(batch)
        other = {name: each.clone() for name, each in latent_model.state_dict().items()}
        latent_model.load_state_dict(other, assign=True)
        step.refresh()
        before = latent_model.decoder[0].weight.detach().clone()
        step(batch)
        assert not torch.equal(before, latent_model.decoder[0].weight)
        assert int(step.optimiser.state[latent_model.decoder[0].weight]["step"]) == 2, "the state was lost"


def test_a_number_that_a_callback_changes_is_seen_after_refresh() -> None:
    class Warmed(Plain):
        weight = 1.0

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), LATENT), 1.0).to_event(1))
                with pyro.poutine.scale(scale=self.weight):  # of the likelihood alone: a common scale cancels
                    pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    batch = data()
    with isolated(3):
        latent_model = Warmed()
    with stepper(latent_model, Trace_ELBO(), graph=True, batch=batch) as (step, _), isolated(4):
        first = step(batch)[0]
        for weight in (3.0, 9.0):
            latent_model.weight = weight
            step.refresh()
            assert 0.6 * weight < step(batch)[0] / first < 1.4 * weight
            assert step.graph


def test_tracing_leaves_pyro_and_torch_as_they_were() -> None:
    from pyro.infer import trace_elbo

    held = torch._C._get_tracing_state, trace_elbo.torch_item, trace_elbo.warn_if_nan, torch.Tensor.backward
    validation = pyro.settings.get()
    with pytest.warns(UserWarning, match="cannot be traced"):
        after(Branching, Trace_ELBO, graph=True)
    after(Plain, Trace_ELBO, graph=True)
    assert held == (
        torch._C._get_tracing_state,
        trace_elbo.torch_item,
        trace_elbo.warn_if_nan,
        torch.Tensor.backward,
    )
    assert pyro.settings.get() == validation


def test_gradients_of_a_graph_are_tensors_of_their_own() -> None:
    """Two parameters with one gradient, and a constant gradient: writing into one must not reach the other."""

    class Shared(LatentModel):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(LATENT)), nn.Parameter(torch.zeros(LATENT))

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(self.a + self.b + x.new_zeros(len(x), 1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True) + x, 1.0).to_event(1), obs=x)

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x.new_zeros(len(x), LATENT), 1.0).to_event(1))

    latent_model, batch = Shared(), data()
    with stepper(latent_model, Trace_ELBO(), graph=True, batch=batch) as (step, _), isolated(4):
        step(batch)
        first, second = latent_model.a.grad, latent_model.b.grad
        assert first is not None and second is not None and torch.equal(first, second)
        assert first.data_ptr() != second.data_ptr()
