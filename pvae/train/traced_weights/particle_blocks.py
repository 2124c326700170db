"""`BlockGraph`: a graph of log weights by blocks of particles, with the draws of one run of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pvae.products import ProductChoices, replace_products
from pvae.train.graph.hoist import is_impure, split_by_arguments
from pvae.train.graph.trace import Outputs, StepGraph, as_function, sources_forgotten

__all__ = ["BlockGraph", "block_size", "in_blocks", "in_one_run"]

#: Particles times data of a block. The outputs of a decoder with 784 outputs for one block (6 MB) fit into the cache of
#: a processor, which is the fastest size; blocks with fewer than the least are slower than one run.
_LARGEST_BLOCK = 2048
_LEAST_BLOCK = 256
#: Random operations whose draws do not depend on other tensors.
_DRAWS = {torch.ops.aten.randn.default, torch.ops.aten.rand.default}


@dataclass(frozen=True)
class BlockGraph:
    """A graph of the log weights of a block of particles.

    Attributes:
        block: the number of particles of a block.
        prepare: the results that are the same for all blocks, from the arguments of the programs.
        run: the outputs of a block, from its draws and the results of `prepare`; without `draws`, from the arguments.
        draws: functions that draw for a number of particles, in the order of the programs; empty if the graph draws
            itself, for all particles at once.
        graph: the traced graph.
    """

    block: int
    prepare: Callable[..., Outputs]
    run: Callable[..., Outputs]
    draws: tuple[Callable[[int], Tensor], ...]
    graph: StepGraph

    def __call__(self, arguments: Sequence[Tensor], particles: int) -> tuple[Tensor, ...]:
        """Return the outputs for all particles: tables of shape (particles, batch), and whether all values are valid.

        Args:
            arguments: the arguments of the programs.
            particles: the number of particles, a multiple of `block`.
        """
        if not self.draws:
            return _present(self.run(*arguments))
        draws = [draw(particles) for draw in self.draws]
        constants = self.prepare(*arguments)
        starts = range(0, particles, self.block)
        parts = [self.run(*[draw[start : start + self.block] for draw in draws], *constants) for start in starts]
        *tables, valid = zip(*map(_present, parts), strict=True)
        return (*map(torch.cat, tables), torch.stack(valid).all())


def _present(outputs: Outputs) -> tuple[Tensor, ...]:
    """Return outputs, and raise if one of them is None."""
    return tuple(output for output in outputs if output is not None)


def block_size(particles: int, data: int) -> int:
    """Return the number of particles of a block, which divides the number of all.

    The number of all particles if blocks are not faster.

    Args:
        particles: the number of particles of a run.
        data: the number of data of a run.
    """
    most = min(particles, _LARGEST_BLOCK // data)
    size = next((size for size in range(most, 0, -1) if particles % size == 0), particles)
    return size if size * data >= _LEAST_BLOCK else particles


def in_blocks(graph: StepGraph, block: int, products: ProductChoices) -> BlockGraph | None:
    """Return a graph that was traced with the particles of one block, as one that runs block by block.

    Args:
        graph: the graph; it does not change.
        block: the number of particles of the trace, which every draw has as its first dimension.
        products: the libraries of the matrix products.

    Returns:
        The graph in blocks; None if it changes a tensor in place, or draws in another way than by standard normal and
        uniform draws for each particle.
    """
    with sources_forgotten():
        module = graph.copied_module()
        replace_products(module, products)
        nodes = [node for node in module.graph.nodes if is_impure(node)]
        if not nodes or not all(_draws_by_particle(node, block) for node in nodes):
            return None
        draws = tuple(map(_draw_of, nodes))
        _replace_by_arguments(module, nodes)
        prepare, run = split_by_arguments(module, len(nodes))
        return BlockGraph(block, as_function(prepare), as_function(run), draws, graph)


def in_one_run(graph: StepGraph, particles: int, products: ProductChoices) -> BlockGraph:
    """Return a graph of all particles at once.

    Args:
        graph: the graph; it does not change.
        particles: the number of particles of the trace.
        products: the libraries of the matrix products.
    """
    with sources_forgotten():
        module = graph.copied_module()
        replace_products(module, products)
        return BlockGraph(particles, graph.run, as_function(module), (), graph)


def _draws_by_particle(node: Node, block: int) -> bool:
    if node.target not in _DRAWS or len(node.args) != 1:
        return False
    shape: Any = node.args[0]
    return len(shape) > 0 and shape[0] == block


def _draw_of(node: Node) -> Callable[[int], Tensor]:
    """Return the function that draws as a node does, for a number of particles."""
    shape: Any = node.args[0]
    operation: Any = node.target
    rest, options = list(shape[1:]), dict(node.kwargs)

    def draw(particles: int) -> Tensor:
        drawn: Tensor = operation([particles, *rest], **options)
        return drawn

    return draw


def _replace_by_arguments(module: GraphModule, nodes: Sequence[Node]) -> None:
    """Replace nodes by arguments of the graph, which come before the others."""
    first = next(iter(module.graph.nodes))
    for number, node in enumerate(nodes):
        with module.graph.inserting_before(first):
            argument = module.graph.placeholder(f"draw_{number}")
        argument.meta = dict(node.meta)
        node.replace_all_uses_with(argument)
        module.graph.erase_node(node)
