"""Auxiliary guides on the cone: x, y ~ N(0, 10), z ~ N(x^2 + y^2, .1 + (x^2 + y^2) / 100), z = 5 observed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from stats import assert_close_in_sigmas, mean_and_error
from torch import Tensor

from pvae import IWAE, InputError, LatentModel, Marginal

EVIDENCE = -5.323232
DOUBLE = torch.float64

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def cone(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        place = pyro.sample("place", dist.Normal(x.new_zeros(len(x), 2), 10.0).to_event(1))
        square = place.square().sum(-1)
        pyro.sample("z", dist.Normal(square, 0.1 + square / 100), obs=x)


class Ring(LatentModel):
    """The angle u first, the place near that point of a ring: for `count` angles, or any."""

    def __init__(self, radius: float, spread: float, count: int | None = None) -> None:
        super().__init__()
        self.radius, self.spread, self.count = radius, spread, count

    def model(self, x: Tensor) -> None:
        cone(x)

    def angle(self, x: Tensor) -> Any:
        if self.count is None:
            return dist.Uniform(x.new_zeros(len(x)), 2 * math.pi)
        return dist.Categorical(x.new_ones(len(x), self.count))

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", self.angle(x), infer={"is_auxiliary": True})
            turn = u if self.count is None else u.to(x.dtype) * (2 * math.pi / self.count)
            point = self.radius * torch.stack([turn.cos(), turn.sin()], -1)
            pyro.sample("place", dist.Normal(point, self.spread).to_event(1))

    def reverse(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("u", self.angle(x))


def bound(model: Ring, auxiliary: Marginal | None, size: int) -> tuple[float, float]:
    weights = IWAE(1, auxiliary=auxiliary).weights(
        model.model, model.guide, (torch.full((size,), 5.0, dtype=DOUBLE),), {}
    )
    return mean_and_error(weights.log_w[0])


def test_enumerated_angles_come_within_rounding_of_the_evidence() -> None:
    value, error = bound(Ring(2.2362075, 0.0335495, 256), None, 4000)
    assert error < 2e-4
    assert_close_in_sigmas(value, -5.323251, error)
    assert value < EVIDENCE + 4.5 * error


@pytest.mark.parametrize(("m", "golden"), [(1, -9.748077), (5, -8.179)])
def test_the_ring_with_a_uniform_kernel_has_the_known_bounds(m: int, golden: float) -> None:
    model = Ring(2.2357055, 0.0474717)
    value, error = bound(model, Marginal(model.reverse, m), 40_000)
    assert error < 0.01
    assert_close_in_sigmas(value, golden, error + (5e-4 if m == 5 else 0.0))


def test_two_auxiliary_sites_are_summed_together() -> None:
    class Two(Ring):
        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                half = pyro.sample("half", dist.Categorical(x.new_ones(len(x), 2)), infer={"is_auxiliary": True})
                step = pyro.sample("u", dist.Categorical(x.new_ones(len(x), 128)), infer={"is_auxiliary": True})
                turn = (half * 128 + step).to(x.dtype) * (2 * math.pi / 256)
                point = self.radius * torch.stack([turn.cos(), turn.sin()], -1)
                pyro.sample("place", dist.Normal(point, self.spread).to_event(1))

    value, error = bound(Two(2.2362075, 0.0335495), None, 4000)
    assert_close_in_sigmas(value, -5.323251, error)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda model: None, "no finite support"),
        (lambda model: Marginal(lambda x: None, 3), "draws nothing"),
        (lambda model: Marginal(lambda x, place: cone(x), 3), "must draw exactly the auxiliary sites"),
    ],
)
def test_a_kernel_that_does_not_fit_is_refused(make: Callable[[Ring], Any], said: str) -> None:
    model = Ring(2.0, 0.1)
    with pytest.raises(InputError, match=said):
        IWAE(2, auxiliary=make(model)).loss(model.model, model.guide, torch.full((3,), 5.0, dtype=DOUBLE))


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True])
def test_a_number_of_draws_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match="whole number"):
        Marginal(lambda x: None, wrong)


def test_the_gradient_sums_log_q_and_log_r_in_a_fixed_order() -> None:
    order: list[str] = []

    class GuideUniform(dist.Uniform):
        def log_prob(self, value: Tensor) -> Tensor:
            order.append("q")
            return super().log_prob(value)

    class KernelUniform(dist.Uniform):
        def log_prob(self, value: Tensor) -> Tensor:
            order.append("r")
            return super().log_prob(value)

    class RecordedRing(Ring):
        def angle(self, x: Tensor) -> Any:
            return GuideUniform(x.new_zeros(len(x)), 2 * math.pi)

        def reverse(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("u", KernelUniform(x.new_zeros(len(x)), 2 * math.pi))

    model = RecordedRing(2.2, 0.03)
    bound(model, Marginal(model.reverse, particles=3), 4)
    assert order[-2:] == ["q", "r"]
