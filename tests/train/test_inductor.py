"""The function of the compiler returns what the graph returns, without the functions that torch puts around it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pvae.train.compiled.inductor import compile_graph

# These functions need no compiler of C++.
FUNCTIONS: list[Callable[[Tensor, Tensor], tuple[Tensor, ...]]] = [
    lambda x, y: (x @ y, x.t(), x.t()),
    lambda x, y: (x, (x @ y).t(), x, y @ x),
    lambda x, y: ((x @ y).view(-1), y),
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_outputs_that_are_inputs_or_parts_of_each_other_are_those_of_the_graph(
    function: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
) -> None:
    x, y = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0)).unbind()
    with torch.no_grad():
        graph = make_fx(function, tracing_mode="fake")(x, y)
        compiled = compile_graph(graph, (x, y), {"compile_threads": 1})
        results, expected = compiled(x, y), function(x, y)
    assert len(results) == len(expected)
    for result, single in zip(results, expected, strict=True):
        torch.testing.assert_close(result, single)
        assert result.stride() == single.stride()
        assert [result.data_ptr() == tensor.data_ptr() for tensor in (x, y)] == [
            single.data_ptr() == tensor.data_ptr() for tensor in (x, y)
        ]
