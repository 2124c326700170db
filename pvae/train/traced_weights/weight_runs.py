"""`WeightRuns`: the log weights of one run after another, by Pyro or by a graph that agrees with it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from pvae.batch import Batch
from pvae.memory import keep_freed_memory
from pvae.objectives.pyro.patches import validity_collected
from pvae.products import ProductChoices
from pvae.products.libraries import ATEN
from pvae.programs.binding import Programs
from pvae.train.devices import capture_generators, restore_generators
from pvae.train.graph.agreement import coarsest_of, is_close
from pvae.train.graph.preserve import PreservedState, preserve_state
from pvae.train.graph.trace import Outputs, StepGraph, trace
from pvae.train.traced_weights.particle_blocks import BlockGraph, block_size, in_blocks, in_one_run
from pvae.weights.compute import weights_of
from pvae.weights.elbo import elbo_terms

__all__ = ["WeightRuns"]

_LOG = logging.getLogger(__name__)
#: A graph is made if the number of parameters times the remaining evaluations of the model exceeds this. Making it
#: takes about as long as this number of multiplications.
_LEAST_WORK = 1e11

Arguments = tuple[Tensor, ...]


@dataclass
class _Plan:
    """How the log weights of one kind of run are computed.

    Attributes:
        record: the arguments, the random state and the outputs of a run by Pyro; None before the first one.
        graph: the graph, or None.
        unlike: the arguments of the trace, until the graph has agreed with Pyro on other arguments.
        is_refused: whether a graph must not be made.
    """

    record: tuple[Arguments, dict[str, Tensor], tuple[Tensor, ...]] | None = None
    graph: BlockGraph | None = None
    unlike: Arguments | None = None
    is_refused: bool = False


class WeightRuns:
    """Computes the log weights of data by Pyro, then by a graph if much work is left.

    A graph draws the same numbers as Pyro at the same random state. It is used after it has agreed with Pyro on the
    first run, which has other data than the trace, and then on a part of the next run. If torch computes all products,
    its results must have the same bits as those of Pyro, otherwise they differ by rounding. If a parameter or a value
    of a distribution is invalid in the graph, or a weight is NaN, Pyro computes the run again and raises its error.
    Programs that cannot be traced run by Pyro.

    Args:
        model: the latent model.
        programs: its model and its guide, both callable with the same tensors.
        products: the libraries of the matrix products of a graph.
        data_plate: the name of the plate over data, if several plates hold every site.
        allow_point_masses: whether guide sites may be point masses without a density.
        with_elbo: whether the terms of the ELBO are wanted too.

    Attributes:
        runs_of_graphs: the number of runs that a graph has computed.
    """

    def __init__(
        self,
        model: Any,
        programs: Programs,
        products: ProductChoices,
        *,
        data_plate: str | None = None,
        allow_point_masses: bool = False,
        with_elbo: bool = False,
    ) -> None:
        self.model, self.programs, self.products, self.data_plate = model, programs, products, data_plate
        self.allow_point_masses, self.with_elbo = allow_point_masses, with_elbo
        self.runs_of_graphs = 0
        keep_freed_memory()
        self._plans: dict[Any, _Plan] = {}
        self._evaluations_left = 0.0
        self._size = float(sum(parameter.numel() for parameter in programs.modules.parameters()))

    def expect(self, evaluations: float) -> None:
        """Set how many evaluations of the model are left; until this is known, Pyro computes all runs.

        Args:
            evaluations: the number of particles times data.
        """
        self._evaluations_left = evaluations

    def still_agrees(self, batch: Batch, particles: int) -> bool:
        """Return whether the graph for such data still agrees with Pyro, in case a Python value has changed.

        A part of the particles is compared. The result is True if Pyro computes the log weights of such data.

        Args:
            batch: the data.
            particles: the number of draws of z per datum.
        """
        arguments = self.programs.arguments(batch)
        plan = self._plan(arguments, particles)
        return plan.graph is None or self._agrees_on_part(plan, plan.graph, arguments)

    def __call__(self, batch: Batch, particles: int) -> tuple[Tensor, Tensor]:
        """Return the log weights and the terms of the ELBO, float64 on the CPU, shape (particles, batch) each.

        Without `with_elbo`, the log weights take the place of the terms.

        Args:
            batch: the data.
            particles: the number of draws of z per datum.

        Raises:
            InputError: if the programs give no weight per datum.
        """
        arguments = self.programs.arguments(batch)
        plan = self._plan(arguments, particles)
        if plan.graph is None and plan.record is not None and self._pays():
            self._make_graph(plan, arguments, particles)
        self._evaluations_left -= particles * batch.size
        outputs = self._by_pyro(arguments, particles) if plan.is_refused else self._run(plan, arguments, particles)
        log_w, *terms = (table.detach().to("cpu", torch.float64) for table in outputs)
        return log_w, terms[0] if terms else log_w

    def _run(self, plan: _Plan, arguments: Arguments, particles: int) -> tuple[Tensor, ...]:
        """Return the outputs of the graph if there is one, else those of Pyro, which are recorded."""
        random = capture_generators()
        outputs = self._by_graph(plan, arguments, particles)
        if outputs is None:
            restore_generators(random)
            outputs = self._by_pyro(arguments, particles)
        if plan.graph is None and not plan.is_refused:
            plan.record = (arguments, random, outputs)
        return outputs

    def _pays(self) -> bool:
        return self._size * self._evaluations_left >= _LEAST_WORK

    def _plan(self, arguments: Arguments, particles: int) -> _Plan:
        """Return the plan for this kind of run; programs with arguments that are not tensors have none."""
        if not all(type(argument) is Tensor for argument in arguments):
            return _Plan(is_refused=True)
        kinds = [(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device) for tensor in arguments]
        return self._plans.setdefault((particles, *kinds), _Plan())

    def _by_pyro(self, arguments: Arguments, particles: int) -> tuple[Tensor, ...]:
        """Return the log weights and, with `with_elbo`, the terms of the ELBO."""
        programs = self.programs.bound_with(arguments).without_loss_terms()
        weights = weights_of(programs, particles, data_plate=self.data_plate)
        log_w = weights.log_joint - weights.log_guide if self.allow_point_masses else weights.log_w
        return (log_w, elbo_terms(weights)) if self.with_elbo else (log_w,)

    def _by_graph(self, plan: _Plan, arguments: Arguments, particles: int) -> tuple[Tensor, ...] | None:
        """Return the outputs of the graph; None if Pyro has to compute them."""
        graph = plan.graph
        if graph is None:
            return None
        is_known = all(map(torch.equal, arguments, plan.unlike or arguments))
        if not (is_known or self._agrees_on_part(plan, graph, arguments)):
            return None
        try:
            *tables, valid = graph(arguments, particles)
        except Exception:  # Pyro then raises the error with the user's line
            self._refuse(plan)
            return None
        if not bool(valid) or any(bool(table.isnan().any()) for table in tables) or not graph.graph.has_fixed_values():
            return None
        self.runs_of_graphs += 1
        return tuple(tables)

    def _make_graph(self, plan: _Plan, arguments: Arguments, particles: int) -> None:
        """Trace the log weights on these arguments, and keep the graph if it agrees with the recorded run of Pyro."""
        block = block_size(particles, len(arguments[0]))
        try:
            if self._is_repeatable(arguments):
                plan.graph = self._traced(plan, arguments, particles, block)
        except Exception:  # a trace of a user's code may raise any error; Pyro computes the weights then
            plan.graph = None
        if plan.graph is None:
            _LOG.debug("log weights of %d particles: by Pyro, because no graph agrees", particles)
            self._refuse(plan)
        else:
            _LOG.debug("log weights of %d particles: by a graph of %d particles", particles, plan.graph.block)
            plan.record, plan.unlike = None, arguments

    def _is_repeatable(self, arguments: Arguments) -> bool:
        """Return whether a run of the programs reads and changes nothing that a graph would freeze."""
        programs = self.programs.bound_with(arguments)
        if programs.layout.vectorised is False:  # each particle is a run of its own
            return False
        with self._preserved_state() as state:
            if state.reads.unstable is not None:
                return False
            self._by_pyro(arguments, 2)
            return state.untraceable_change() is None and not state.reads.has_new_objects()

    def _traced(self, plan: _Plan, arguments: Arguments, particles: int, block: int) -> BlockGraph | None:
        """Return the graph that agrees with the recorded run: in blocks if possible, else in one run, else None."""
        if block < particles:
            graph = in_blocks(self._trace(arguments, block), block, self.products)
            if graph is not None and self._agrees_with_record(plan, graph, particles):
                return graph
        traced = self._trace(arguments, particles)
        graph = in_one_run(traced, particles, self.products)
        return graph if self._agrees_with_record(plan, graph, particles) else None

    def _trace(self, arguments: Arguments, particles: int) -> StepGraph:
        validates = bool(Distribution._validate_args)

        def outputs(*values: Tensor) -> Outputs:
            with validity_collected(validates) as results:
                tables = self._by_pyro(values, particles)
            checks = [result.all() for result in results]
            return (*tables, torch.stack(checks).all() if checks else values[0].new_ones((), dtype=torch.bool))

        with self._preserved_state():
            return trace(outputs, arguments)

    def _agrees_with_record(self, plan: _Plan, graph: BlockGraph, particles: int) -> bool:
        if plan.record is None:
            return False
        arguments, random, expected = plan.record
        with self._preserved_state():
            restore_generators(random)
            return self._has_outputs(graph, arguments, particles, expected)

    def _agrees_on_part(self, plan: _Plan, graph: BlockGraph, arguments: Arguments) -> bool:
        """Return whether a block of the graph agrees with Pyro on these arguments."""
        plan.unlike = None
        random = capture_generators()
        with self._preserved_state():
            expected = self._by_pyro(arguments, graph.block)
            restore_generators(random)
            agrees = self._has_outputs(graph, arguments, graph.block, expected)
        if not agrees:
            self._refuse(plan)
        return agrees

    def _has_outputs(
        self, graph: BlockGraph, arguments: Arguments, particles: int, expected: tuple[Tensor, ...]
    ) -> bool:
        parameters = list(self.programs.modules.parameters())
        coarsest = coarsest_of([*arguments, *parameters, *expected])
        try:
            *tables, _ = graph(arguments, particles)
        except Exception:  # a library may refuse a product
            return False
        if len(tables) != len(expected):
            return False
        pairs = zip(tables, expected, strict=True)
        if self.products.matmul == ATEN:
            is_alike = all(torch.equal(*pair) for pair in pairs)
        else:  # a table of float64 may be computed from products in float32
            is_alike = all(is_close(*pair, coarsest=coarsest) for pair in pairs)
        return is_alike and graph.graph.has_fixed_values()

    @staticmethod
    def _refuse(plan: _Plan) -> None:
        plan.graph, plan.record, plan.unlike, plan.is_refused = None, None, None, True

    @contextmanager
    def _preserved_state(self) -> Iterator[PreservedState]:
        """Run a block without warnings, which the run by Pyro has shown already, and restore all state after it."""
        with warnings.catch_warnings(), preserve_state(self.model, self.programs.all_modules) as state:
            warnings.simplefilter("ignore")
            yield state
