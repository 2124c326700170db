"""The log-density of an annealing path and its gradient, as a traced graph or eagerly."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pvae.train.graph.agreement import is_close
from pvae.train.graph.hoist import HoistedGraph, trace_with_fixed
from pvae.train.graph.refusal import describe_failure
from pvae.weights.path_terms import PathPrograms

__all__ = ["PathDensity", "PathGraphs", "PathPoint"]

_NAMES = ("log-density", "slope", "gradient")


class PathPoint(NamedTuple):
    """The density of the path at a point, with shape (chains, batch) each, in nats.

    Attributes:
        log_target: log start(z) + b (log p(x, z) - log start(z)) + log |det dz/du|.
        slope: log p(x, z) - log start(z), the derivative of `log_target` by b.
        gradient: the gradient of `log_target` by u, shape (chains, batch, numbers).
    """

    log_target: Tensor
    slope: Tensor
    gradient: Tensor


class PathGraphs:
    """The traced graphs of one path, by the shape of u; the densities of all chunks of data share them.

    Args:
        graph: whether graphs are traced.

    Attributes:
        fallback: the reason why the path runs eagerly; None if it runs as a graph.
    """

    def __init__(self, *, graph: bool = True) -> None:
        self.fallback: str | None = None if graph else "no graph was requested"
        self.by_shape: dict[tuple[int, ...], HoistedGraph] = {}

    def fall_back(self, reason: str) -> None:
        """Run eagerly from now on, and warn with the reason."""
        self.fallback = reason
        warnings.warn(f"The path cannot be traced to a graph, so it runs eagerly: {reason}", stacklevel=2)


class PathDensity:
    """The path from the prior or the guide to the posterior, for the data of one batch.

    The function from u to the density and its gradient is traced to one graph. The graph is compared with the eager
    value at two points of these data before it is used. If it cannot be traced or differs, a warning says why, and the
    path runs eagerly.

    Args:
        path: both programs on the batch.
        start: ``"prior"`` or ``"guide"``.
        graphs: the graphs, which other batches share; None for new ones.
        count: called with the number of decoder evaluations of each call.
    """

    def __init__(
        self,
        path: PathPrograms,
        start: str,
        graphs: PathGraphs | None = None,
        count: Callable[[int], None] | None = None,
    ) -> None:
        self.path, self.from_guide = path, start == "guide"
        self.graphs = graphs if graphs is not None else PathGraphs()
        self._count = count
        self._functions: dict[tuple[int, ...], Callable[..., Any]] = {}

    def __call__(self, numbers: Tensor, b: float) -> PathPoint:
        """Return the density at u.

        Args:
            numbers: u, shape (chains, batch, numbers).
            b: the inverse temperature.
        """
        numbers = numbers.contiguous()  # a graph is valid only for the strides of its trace
        temperature = torch.tensor(b, dtype=numbers.dtype, device=numbers.device)
        function = self._functions.get(numbers.shape)
        if function is None:
            function = self._functions[numbers.shape] = self._function(numbers, temperature)
        if self._count is not None:
            self._count(numbers.shape[0] * numbers.shape[1])
        return PathPoint(*function(numbers, temperature))

    def _eager(self, numbers: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._compute(numbers, b, *self.path.programs.args)

    def _compute(self, numbers: Tensor, b: Tensor, *arguments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-density, slope and gradient, by a run of the programs."""
        path = self.path.at_arguments(arguments)
        with torch.enable_grad():
            free = numbers.detach().requires_grad_()
            terms = path.terms(free, with_guide=self.from_guide)
            start = terms.log_prior if terms.log_guide is None else terms.log_guide
            slope = terms.log_joint - start
            log_target = start + b * slope + terms.log_volume
            (gradient,) = torch.autograd.grad(log_target.sum(), free)
        return log_target.detach(), slope.detach(), gradient

    def _function(self, numbers: Tensor, b: Tensor) -> Callable[..., Any]:
        """Return the graph on these data, or the eager function if there is no graph that agrees with it."""
        self._eager(numbers, b)  # an error of the programs is raised here; it does not mean that a graph fails
        if self.graphs.fallback is not None:
            return self._eager
        arguments = self.path.programs.args
        try:
            with self.path.programs.preserved_state():
                known = self.graphs.by_shape.get(numbers.shape)
                graph = known if known is not None else trace_with_fixed(self._compute, (numbers, b), arguments)
                function = graph.at(arguments)
                reason = self._difference(function, numbers, b)
        except Exception as error:  # tracing a user's code may raise any error; after each error, the path runs eagerly
            reason = describe_failure(error)
        if reason is not None:
            self.graphs.fall_back(reason)
            return self._eager
        self.graphs.by_shape[numbers.shape] = graph
        return function

    def _difference(self, function: Callable[..., Any], numbers: Tensor, b: Tensor) -> str | None:
        """Return what differs between the graph and the eager value at two points and two temperatures, or None."""
        other = numbers.roll(1, 0) * 0.9 + 0.01
        for point, temperature in ((numbers, b), (other, 1.0 - 0.5 * b)):
            expected = self._eager(point, temperature)
            rounding = torch.finfo(point.dtype).eps * float(expected[0].abs().nan_to_num(0.0, posinf=0.0).max())
            for name, output, eager in zip(_NAMES, function(point, temperature), expected, strict=True):
                if not is_close(output, eager, rounding):
                    return f"its {name} differs from that of the programs"
        return None
