"""Operations of a traced step on tensors before their expansion have the same bits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pvae.train.graph.trace import trace

Function = Callable[[Tensor, Tensor], Tensor]


def operations(function: Function, x: Tensor, y: Tensor) -> list[tuple[str, int]]:
    """The operations of the graph with the number of elements of their results, once it has agreed in all bits."""
    graph = trace(lambda first, second: (function(first, second),), (x, y))
    other = torch.randn_like(x), torch.randn_like(y).abs()
    for arguments in ((x, y), other):
        (result,) = graph.run(*arguments)
        assert result is not None
        assert torch.equal(result, function(*arguments))
    nodes = [node for node in graph.module.graph.nodes if node.op == "call_function"]
    return [(node.target.name().split("::")[1].split(".")[0], node.meta["val"].numel()) for node in nodes]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, y: x * y.expand(5, 7, 9), [("mul", 315)]),
        (lambda x, y: y.expand(5, 7, 9) / x, [("div", 315)]),
        (lambda x, y: x + -((y.expand(5, 7, 9)) ** 2) * 3.0, [("pow", 63), ("neg", 63), ("mul", 63), ("add", 315)]),
        (lambda x, y: (-x.exp()).sum(-1), [("exp", 315), ("sum", 35), ("neg", 35)]),
        (lambda x, y: x * y[:1, :1].expand(7, 9).expand(5, 7, 9), [("slice", 7), ("slice", 1), ("mul", 315)]),
    ],
)
def test_operations_use_tensors_before_their_expansion(function: Function, expected: list[tuple[str, int]]) -> None:
    found = operations(function, torch.randn(5, 7, 9), torch.rand(7, 9))
    assert [pair for pair in found if pair[0] != "slice"] == [pair for pair in expected if pair[0] != "slice"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: (-(y.expand(5, 7, 9))).sum(-1) + x.sum(-1),  # a sum of elements that share memory
        lambda x, y: y.expand(5, 7, 9).mul(2.0).log() + x,
        lambda x, y: y[0].expand(7, 9) * y.sum(0).expand(7, 9),  # the result would be smaller
        lambda x, y: torch.add(y.expand(5, 7, 9), x, alpha=3),
        lambda x, y: (-(y.expand(5, 7, 9))).contiguous().view(35, 9) + x.view(35, 9),
        lambda x, y: (-x).sum((0, 2), dtype=torch.float64),
    ],
)
def test_operations_that_do_not_qualify_keep_their_bits(function: Function) -> None:
    operations(function, torch.randn(5, 7, 9), torch.rand(7, 9))


def _with_diagonal(x: Tensor, y: Tensor) -> Tensor:
    matrix = x @ y
    matrix.diagonal(dim1=-2, dim2=-1).exp_()
    return matrix


def _with_narrow_part(x: Tensor, y: Tensor) -> Tensor:
    product = x * y
    product.narrow(1, 0, 2).mul_(3.0)
    return product


def _with_window(x: Tensor, y: Tensor) -> Tensor:
    product = x * y
    product.unfold(1, 2, 2).add_(1.0)
    return product


def _with_real_part(x: Tensor, y: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(x * y)
    torch.view_as_real(spectrum).mul_(2.0)
    return torch.fft.irfft(spectrum, n=9)


@pytest.mark.parametrize("function", [_with_diagonal, _with_narrow_part, _with_window, _with_real_part])
def test_a_change_of_a_part_in_place_changes_the_whole(function: Function) -> None:
    operations(function, torch.randn(5, 9, 9), torch.rand(9, 9))


def test_one_hot_vectors_are_traced_if_the_number_of_classes_is_given() -> None:
    labels = torch.tensor([2, 0, 1])
    graph = trace(lambda y: (nn.functional.one_hot(y, 3), nn.functional.one_hot(y.view(3, 1), 4)), (labels,))
    other = torch.tensor([1, 1, 2])
    first, second = graph.run(other)
    assert torch.equal(first, nn.functional.one_hot(other, 3)) and first.dtype == torch.int64  # type: ignore[arg-type, union-attr]
    assert torch.equal(second, nn.functional.one_hot(other.view(3, 1), 4))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError):
        graph.run(torch.tensor([3, 0, 1]))
    with pytest.raises(RuntimeError):
        trace(lambda y: (nn.functional.one_hot(y),), (labels,))
