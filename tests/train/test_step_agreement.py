"""A compiled step may differ from the graph by the rounding that the step itself makes larger, and by no more."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from pvae.train.compiled.step_agreement import find_disagreement

EPS = torch.finfo(torch.float64).eps


class WithOtherRounding:
    """The graph of softmax(scale * w) with its gradient, computed from other last digits of w.

    Args:
        scale: how much the softmax enlarges rounding errors.
        digits: the number of last digits by which w is increased, and decreased at every second position.
        draws: whether it draws a number that the graph does not draw.
    """

    updates, count = False, 1

    def __init__(self, scale: float, digits: float, draws: bool = False) -> None:
        self.scale, self.digits, self.draws = scale, digits, draws
        self.w = torch.linspace(1.0, 1.0 + 5 / scale, 4, dtype=torch.float64)
        self.parameters = self.held = self.changed_tensors = [self.w]

    def graph(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.outputs(self.w, x)

    def __call__(self, arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if self.draws:
            torch.rand(1)
        signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
        return self.outputs(self.w * (1 + self.digits * EPS * signs), *arguments)

    def outputs(self, w: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaf = w.detach().requires_grad_()
            loss = (torch.softmax(self.scale * leaf, 0) * x).sum()
            (gradient,) = torch.autograd.grad(loss, leaf)
        return loss.detach(), gradient / self.scale

    def disagreement(self) -> str | None:
        x = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
        return find_disagreement(self, self.graph, (x,), ["loss", "gradient of w"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scale", "digits", "reason"),
    [
        (1.0, 1, None),
        (1e5, 1, None),  # the softmax makes one digit of w some hundred thousand times as large
        (1e5, 100, "its loss differs from that of the graph"),
        (1.0, 1000, "its loss differs from that of the graph"),
    ],
)
def test_only_rounding_that_the_step_makes_larger_is_allowed(scale: float, digits: float, reason: str | None) -> None:
    step = WithOtherRounding(scale, digits)
    former, random = step.w.clone(), torch.get_rng_state()
    assert step.disagreement() == reason
    assert torch.equal(step.w, former) and torch.equal(torch.get_rng_state(), random)


def test_other_draws_are_named_before_the_numbers_that_follow_from_them() -> None:
    assert WithOtherRounding(1e5, 100, draws=True).disagreement() == "it draws other numbers than the graph"
