"""Joined products give the numbers of the single ones, and products that need one another stay apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pvae.products.joined_products import join_products


def heads(x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """Two products with a bias and one left factor, and two without."""
    linear = torch.nn.functional.linear
    return linear(x, a, a[:, 0]), linear(x, b, b[:, 1]), x @ a.t(), x @ b.t()


def gradients(x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """The gradients of two heads: a sum of two products, and two products with one right factor."""
    left, right = x[:, : len(a)].sin(), x[:, : len(b)].cos()
    return left @ a + right @ b, left.t() @ x, right.t() @ x


def chain(x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """Two products of one left factor, the second of which needs the first."""
    square = x[:5]
    first = square @ square
    return (square @ (first + 1),)


def wide(x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """Products of matrices that would take long to copy, and a sum of which one product is used again."""
    weights = torch.ones(5, 65, dtype=x.dtype) * x[0, 0]
    product = x @ a.t()
    columns = x @ weights, x @ (2 * weights)
    return *columns, columns[0] @ weights.t() + columns[1] @ weights.t(), product + x[:, :4] @ x[:4, :3], product


def broadcast(x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """A sum of a column and a matrix."""
    return (x[:, :3] @ a[:, :1] + x[:, :2] @ b,)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (heads, {"mm": 1, "addmm": 1}),
        (gradients, {"mm": 2}),
        (chain, {"mm": 2}),
        (wide, {"mm": 6}),
        (broadcast, {"mm": 2}),
    ],
)
def test_joined_products_give_the_same_numbers(
    function: Callable[..., tuple[Tensor, ...]], expected: dict[str, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    x, a, b = (torch.randn(rows, 5, generator=generator, dtype=torch.float64) for rows in (7, 3, 2))
    graph = make_fx(function, tracing_mode="fake")(x, a, b)
    before = Counter(str(node.target).split(".")[1] for node in graph.graph.nodes if "mm." in str(node.target))
    saved = join_products(graph)
    after = Counter(str(node.target).split(".")[1] for node in graph.graph.nodes if "mm." in str(node.target))
    assert after == expected and saved == (before - after).total()
    others = [torch.randn(tensor.shape, generator=generator, dtype=torch.float64) for tensor in (x, a, b)]
    for result, single in zip(graph(*others), function(*others), strict=True):
        torch.testing.assert_close(result, single, rtol=1e-13, atol=1e-13)
