"""A copy of a step's graph in which the fastest libraries compute the matrix products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.fx import GraphModule

from pvae.products import ProductChoices, ProductKind, replace_products
from pvae.products.joined_products import join_products
from pvae.train.graph.agreement import coarsest_of
from pvae.train.graph.trace import Outputs, StepGraph, as_function, sources_forgotten

__all__ = ["ProductGraph", "with_fast_products"]


class ProductGraph:
    """A step's graph with the products of the fastest libraries.

    Its results differ from those of the graph by rounding.

    Args:
        module: the graph.
        kinds: the kinds of the products that another library than torch computes.

    Attributes:
        run: the function of the arguments.
        coarsest: the dtype with the fewest digits among these products; a float64 loss may be computed from float32
            products.
    """

    def __init__(self, module: GraphModule, kinds: frozenset[ProductKind]) -> None:
        self.module, self.kinds = module, kinds
        self.run: Callable[..., Outputs] = as_function(module)
        self.coarsest = coarsest_of(torch.empty(0, dtype=kind.dtype) for kind in kinds)


def with_fast_products(graph: StepGraph, products: ProductChoices, *, is_compiled: bool = False) -> ProductGraph | None:
    """Return a copy of a graph with the products of the fastest libraries; None if it would be the same.

    Args:
        graph: the graph of a step, which does not change. The copy holds the same parameters by reference.
        products: the choices of the libraries.
        is_compiled: whether the graph is to be compiled. Small products that share a factor are then joined first.
    """
    with sources_forgotten():
        module = graph.copied_module()
        joined = join_products(module) if is_compiled else 0
        kinds = replace_products(module, products, is_compiled=is_compiled)
        return ProductGraph(module, kinds) if kinds or joined else None
