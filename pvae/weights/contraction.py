"""Sums over enumerated sites, site by site: the cost of a chain depends on its length, not on its joint values.

Pyro's tensor variable elimination (`pyro.ops.contract`) decides which sites are summed in which plate; `LogSumExpRing`
does the arithmetic. Pyro's own ring multiplies exponentials that are scaled operand by operand. It loses a sum if its
operands have maxima at different values by more than 700 nats, as likelihoods of large pictures do.
Source: Obermeyer et al., Tensor Variable Elimination for Plated Factor Graphs, arXiv:1902.03210.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from pyro.ops.contract import contract_tensor_tree, contract_to_tensor
from pyro.ops.rings import LogRing
from pyro.ops.special import safe_log
from torch import Tensor

from pvae.errors import InputError
from pvae.memory import format_bytes, free_bytes

__all__ = [
    "Factor",
    "FactorTree",
    "add_factors",
    "align",
    "draw_from_tree",
    "multiply",
    "named",
    "select",
    "sum_of_tree",
    "sums_by_plates",
]

#: A tensor with a one-letter name for each dimension, in its attribute ``_pyro_dims``.
Factor: TypeAlias = Any
#: Factors by the letters of their plates.
FactorTree: TypeAlias = "OrderedDict[frozenset[str], list[Factor]]"

_CHECKED_FROM = 2**27  # bytes; smaller tensors are not compared with the free memory


def named(tensor: Tensor, names: str) -> Factor:
    """Return a factor: a new view of a tensor, with a letter for each of its dimensions."""
    factor: Any = tensor.view_as(tensor)
    factor._pyro_dims = names
    return factor


def align(factor: Factor, names: Sequence[str]) -> Tensor:
    """Return a factor with one dimension for each name, of size 1 if it does not vary."""
    own = factor._pyro_dims
    ordered = factor.permute([own.index(name) for name in names if name in own])
    sizes = iter(ordered.shape)
    aligned: Tensor = ordered.reshape([next(sizes) if name in own else 1 for name in names])
    return aligned


def add_factors(factors: Sequence[Factor]) -> Factor:
    """Return the sum of factors, which broadcast by the names of their dimensions."""
    if len(factors) == 1:
        return factors[0]
    names = "".join(sorted(set().union(*(factor._pyro_dims for factor in factors))))
    return named(functools.reduce(torch.add, [align(factor, names) for factor in factors]), names)


def multiply(first: Factor, second: Factor) -> Factor:
    """Return the product of two factors, which broadcast by the names of their dimensions."""
    names = "".join(sorted({*first._pyro_dims, *second._pyro_dims}))
    return named(align(first, names) * align(second, names), names)


def _log_sum_exp(tensor: Tensor, dim: int) -> Tensor:
    """Return logsumexp, with the gradient 0 where all entries are -inf (the gradient of torch is nan)."""
    largest = tensor.detach().amax(dim, keepdim=True)
    largest = torch.where(largest.isfinite(), largest, torch.zeros_like(largest))
    summed: Tensor = safe_log((tensor - largest).exp().sum(dim))
    return summed + largest.squeeze(dim)


class LogSumExpRing(LogRing):
    """Pyro's ring of log-space sums and products, exact for operands of any range.

    Args:
        sites: for each name of a dimension that is summed out, its site; for errors.
    """

    def __init__(self, sites: Mapping[str, str]) -> None:
        super().__init__()
        self.sites = sites

    def sumproduct(self, terms: Iterable[Factor], dims: Iterable[str]) -> Factor:
        """Add factors, then sum dimensions out by logsumexp, always next the dimension with the smallest joint table.

        Args:
            terms: the factors.
            dims: the names of the dimensions to sum out.

        Raises:
            InputError: if a joint table does not fit into the free memory.
        """
        remaining = list(terms)
        sizes = {name: size for term in remaining for name, size in zip(term._pyro_dims, term.shape, strict=True)}
        waiting = set(dims) & sizes.keys()
        joint = {dim: _joint_names(remaining, dim) for dim in waiting}
        cost = {dim: math.prod([sizes[name] for name in joint[dim]]) for dim in waiting}
        while waiting:
            dim = min(waiting, key=lambda name: (cost[name], name))
            inside = [term for term in remaining if dim in term._pyro_dims]
            self._require_memory(cost[dim], inside[0], joint[dim])
            summed = self.sum_out(add_factors(inside), dim)
            remaining = [term for term in remaining if dim not in term._pyro_dims] + [summed]
            waiting.remove(dim)
            for changed in waiting.intersection(summed._pyro_dims):
                joint[changed] = _joint_names(remaining, changed)
                cost[changed] = math.prod([sizes[name] for name in joint[changed]])
        return add_factors(remaining)

    def sum_out(self, table: Factor, dim: str) -> Factor:
        """Return a table without one dimension: the logsumexp over its values."""
        position = table._pyro_dims.index(dim)
        return named(_log_sum_exp(table, position), table._pyro_dims.replace(dim, ""))

    def inv(self, term: Factor) -> Factor:
        """Return the reciprocal of a factor."""
        return named(-term, term._pyro_dims)

    def _require_memory(self, entries: int, factor: Tensor, names: Iterable[str]) -> None:
        needed = 2 * entries * factor.element_size()  # the table and its exponentials
        if needed < _CHECKED_FROM:
            return
        free = free_bytes(factor.device)
        if free is not None and needed > free:
            sites = [self.sites[name] for name in sorted(names) if name in self.sites]
            raise InputError(
                f"The sum over the joint values of the enumerated sites {', '.join(map(repr, sites[:5]))}"
                f"{', ...' if len(sites) > 5 else ''} needs {format_bytes(needed)}; {format_bytes(free)} are free. "
                "Make a site depend on few enumerated sites, for example with pyro.markov for a chain; or take fewer "
                "particles, fewer "
                "data at a time (batch_size, chunk) or fewer values."
            )


def _joint_names(factors: Iterable[Factor], dim: str) -> set[str]:
    """Return the names of all dimensions of the factors with one dimension."""
    return set().union(*(factor._pyro_dims for factor in factors if dim in factor._pyro_dims))


def sum_of_tree(tree: FactorTree, sites: Mapping[str, str]) -> Factor:
    """Return log of the sum over the values of sites of exp of the sum of factors; plates are multiplied out.

    Args:
        tree: the factors, by the plates that are multiplied out.
        sites: for each name of a dimension that is summed out, its site.

    Raises:
        InputError: if a joint table does not fit into the free memory, or plates cross.
    """
    return _contract(contract_to_tensor, tree, sites)


def sums_by_plates(tree: FactorTree, sites: Mapping[str, str]) -> FactorTree:
    """Return factors without the summed-out dimensions, each in its own plates, one for each set of linked factors.

    Args:
        tree: the factors, by the plates that are multiplied out.
        sites: for each name of a dimension that is summed out, its site.

    Raises:
        InputError: if a joint table does not fit into the free memory, or plates cross.
    """
    return _contract(contract_tensor_tree, tree, sites)


class _RecordingRing(LogSumExpRing):
    """A ring that keeps each table before it sums out a dimension, in the order of the sums."""

    def __init__(self, sites: Mapping[str, str]) -> None:
        super().__init__(sites)
        self.tables: list[tuple[str, Factor]] = []

    def sum_out(self, table: Factor, dim: str) -> Factor:
        """Keep the table, and return it without the dimension."""
        self.tables.append((dim, table))
        return super().sum_out(table, dim)


def draw_from_tree(tree: FactorTree, sites: Mapping[str, str]) -> dict[str, Factor]:
    """Return one joint draw of the values of sites, with a probability proportional to exp of the sum of factors.

    The sums of `sum_of_tree` are taken first. Then the dimensions are drawn in reverse order: the table before the sum
    over a dimension depends only on dimensions that are drawn already, as in forward filtering and backward sampling of
    a chain.

    Args:
        tree: the factors, by the plates that are multiplied out.
        sites: for each name of a dimension that is drawn, its site.

    Returns:
        For each name of a dimension, the indices of the drawn values, int64; they vary along the dimensions of plates,
        particles and data.

    Raises:
        InputError: as `sum_of_tree`; if no joint value has a probability above 0.
    """
    ring = _RecordingRing(sites)
    _contract(contract_to_tensor, tree, sites, ring)
    drawn: dict[str, Factor] = {}
    for dim, joint in reversed(ring.tables):
        table = joint
        for name in joint._pyro_dims:
            if name in drawn:
                table = select(table, name, drawn[name])
        drawn[dim] = _draw(table, dim, sites[dim])
    return drawn


def select(factor: Factor, dim: str, index: Factor) -> Factor:
    """Return a factor at one index of a dimension; the index varies along its own dimensions.

    Args:
        factor: the factor.
        dim: the name of one of its dimensions.
        index: the indices, int64, with the names of their dimensions.
    """
    names = sorted({*factor._pyro_dims, *index._pyro_dims} - {dim})
    chosen = torch.take_along_dim(align(factor, [*names, dim]), align(index, names).unsqueeze(-1), -1)
    return named(chosen.squeeze(-1), "".join(names))


def _draw(table: Factor, dim: str, site: str) -> Factor:
    """Return one index of a dimension for each entry of the others, with probabilities proportional to exp(table)."""
    names = [name for name in table._pyro_dims if name != dim]
    log_weights = align(table, [*names, dim]).double()
    probabilities = log_weights.softmax(-1)
    if not bool(torch.isfinite(probabilities).all()):
        raise InputError(
            f"No value of site {site!r} has a probability above 0 given the data, so a value cannot be drawn. Check "
            "the data "
            "and the model."
        )
    flat = torch.multinomial(probabilities.reshape(-1, probabilities.shape[-1]), 1)
    return named(flat.reshape(probabilities.shape[:-1]), "".join(names))


def _contract(contract: Any, tree: FactorTree, sites: Mapping[str, str], ring: LogSumExpRing | None = None) -> Any:
    used: Collection[str] = set().union(*(factor._pyro_dims for factors in tree.values() for factor in factors))
    try:
        return contract(OrderedDict(tree), set(sites) & set(used), ring=ring or LogSumExpRing(sites))
    except NotImplementedError as error:  # Pyro's message names the plates by letters
        raise InputError(
            f"Enumerated sites ({', '.join(map(repr, [*sites.values()][:5]))}) depend on each other across plates that "
            "cross, so the sum is exponential in the size of a plate. Replace one of the plates by a loop "
            "(`for i in pyro.plate(...)`), or draw the sites in the guide without a mark."
        ) from error
