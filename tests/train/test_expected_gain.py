"""What compiling is expected to save: the time of products and draws is kept, and the limit of step="auto" is exact."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from pvae.train.compiled import compiled_steps, expected_gain
from pvae.train.compiled.compiled_steps import CompiledSteps
from pvae.train.compiled.expected_gain import ExpectedGain, expect_gain, largest_saving


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by one second whenever it is read."""
    seconds = itertools.count()
    monkeypatch.setattr(expected_gain.time, "thread_time", lambda: float(next(seconds)))


def test_products_and_draws_are_kept_and_the_rest_is_saved_in_part(clock: None) -> None:
    def step(x: Tensor, w: Tensor) -> Tensor:
        return torch.addmm(x, x, w).exp().sum() + torch.randn(3).tanh().sum() + torch.sort(w).values.sum()

    w = torch.eye(2)
    module = make_fx(step)(torch.ones(2, 2), w)
    operations = [str(node.target) for node in module.graph.nodes if node.op == "call_function"]
    kept = [name for name in operations if name.startswith(("aten.addmm", "aten.randn", "aten.sort"))]
    assert len(kept) == 3
    starts = 2e-6 * (len(operations) - 3)
    gain = expect_gain(module, (torch.ones(2, 2), w), 10.0)
    assert gain.saving == pytest.approx(0.9 * starts + 0.4 * (10.0 - 3.0 - starts), rel=1e-12)
    assert expect_gain(module, (torch.ones(2, 2), w), 2.0).saving == 0.0, "the kept operations take the whole step"
    assert gain.cost == largest_saving(module, 10.0).cost == pytest.approx(12 + 0.07 * len(operations))


def test_the_gradients_of_activations_are_not_kept_as_decompositions_are() -> None:
    names = ("gelu_backward", "silu_backward", "elu_backward", "leaky_relu_backward", "relu_")
    assert not [name for name in names if expected_gain._is_kept(getattr(torch.ops.aten, name).default)]
    assert expected_gain._is_kept(torch.ops.aten.lu_unpack.default)


def test_nothing_is_changed_by_the_timed_runs() -> None:
    norm = nn.BatchNorm1d(2)
    module = make_fx(lambda x: norm(x + torch.randn(4, 2)))(torch.ones(4, 2))
    tensors = [*norm.buffers(), *norm.parameters()]
    former, random = [tensor.clone() for tensor in tensors], torch.get_rng_state()
    expect_gain(module, (torch.ones(4, 2),), 1.0)
    assert all(map(torch.equal, tensors, former)) and torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(("left", "used"), [(1500, "compile"), (1499, "graph"), (100, "graph")])
def test_auto_compiles_where_the_saving_is_one_and_a_half_times_the_cost(
    left: int, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_steps, "expect_gain", lambda *_: ExpectedGain(10.0, 0.01))
    lines: list[str] = []
    steps = CompiledSteps("auto", torch.optim.SGD([torch.zeros(1)], lr=0.1), None)
    steps.steps_left, steps.note = lambda seconds: float(left), lines.append
    for _ in range(25):
        steps.add_time(0.08, 0.02)
    module = make_fx(torch.exp)(torch.ones(1))
    plan = SimpleNamespace(parameters=[torch.zeros(1)], fast=None, graph=SimpleNamespace(module=module))
    assert steps._is_wanted(plan, (torch.ones(1),)) == (used == "compile")  # type: ignore[arg-type]
    assert steps.used == used
    if left == 1499:
        expected = "compiling takes about 10 s and saves about 15 s (1499 steps of 20.00 ms are left)"
        assert lines == [f"step: graph, because {expected}"]
    if left == 100:  # 0.9 of each step could be saved
        expected = "compiling takes about 12 s and saves at most 2 s (100 steps of 20.00 ms are left)"
        assert lines == [f"step: graph, because {expected}"]


def test_auto_does_not_compile_on_another_device() -> None:
    lines: list[str] = []
    steps = CompiledSteps("auto", torch.optim.SGD([torch.zeros(1)], lr=0.1), None)
    steps.steps_left, steps.note = lambda seconds: 1e9, lines.append
    for _ in range(25):
        steps.add_time(0.08, 0.02)
    plan = SimpleNamespace(parameters=[torch.zeros(1, device="meta")], fast=None, graph=None)
    assert not steps._is_wanted(plan, ())  # type: ignore[arg-type]
    assert lines == [
        "step: graph, because step='auto' compiles only on the CPU; step='compile' does it on other devices too"
    ]
