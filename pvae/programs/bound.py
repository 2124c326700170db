"""`BoundPrograms`: a model and a guide together with the arguments of one batch."""

from __future__ import annotations

import dataclasses
import operator
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.messenger import unwrap
from torch import Tensor, nn

from pvae.errors import InputError
from pvae.programs.base import Program
from pvae.programs.bijections import find_bijection
from pvae.programs.held_modules import find_held_modules
from pvae.programs.layout import Layout, has_same_densities, layout_of_traces, population_of
from pvae.programs.plate_sizes import require_same_sizes
from pvae.programs.simulation import simulated
from pvae.programs.site_shapes import check_site_shapes
from pvae.programs.usable_data import NO_DATA
from pvae.randomness import preserved_buffers, preserved_randomness
from pvae.structures import count_of

__all__ = ["BoundPrograms", "owner_and_name"]

_TRAINING = operator.attrgetter("training")

# Layouts by the owner of the model, then by the owner of the guide. The references are weak, because a name or an id
# could return the layout of another object later.
_LAYOUTS: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class BoundPrograms:
    """Two Pyro programs on the arguments of one batch.

    An evaluation, a loss or a training step makes it once and passes it on. Outside `pvae.programs` and
    `pvae.weights`, no code of pvae runs a user's program except by the methods of this class.

    Attributes:
        model: p(x, z).
        guide: q(z given x).
        args: the positional arguments of both programs.
        kwargs: the keyword arguments of both programs.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(unwrap(self.guide), GuideMessenger):  # `Program` hides the observed sites of such a guide
            object.__setattr__(self, "guide", Program(self.guide))
        for value in self.args:
            if isinstance(value, Tensor) and value.dim():
                if value.shape[0] == 0:
                    raise InputError(NO_DATA)
                break

    @cached_property
    def layout(self) -> Layout:
        """The layout of the programs on this kind of batch.

        It is found by one run of both programs, which leaves random generators and buffers unchanged. It is cached by
        the pair of programs and the kind of batch, not by the objective, because one objective serves many models.
        """
        cached = _cache_for(self).get(_cache_key(self))
        if cached is not None:
            known: Layout = cached
            return known
        programs = self.with_programs(_without_contexts(self.model), _without_contexts(self.guide))
        with programs.preserved_state():
            return programs.find_layout(*programs.trace_both())

    def find_layout(self, guide_trace: poutine.Trace, model_trace: poutine.Trace) -> Layout:
        """Return and cache the layout of the traces of both programs.

        The guide is run again at its own draws, to find out whether its densities are repeatable. This run must follow
        the traces without a reset of the random generators, because otherwise dropout would drop the same units again.

        Args:
            guide_trace: a trace of the guide.
            model_trace: a trace of the model at the guide's draws.
        """
        require_same_sizes(guide_trace, model_trace)
        with self.preserved_state():
            repeatable = has_same_densities(guide_trace, self.trace_guide(guide_trace))
            bijection = find_bijection(self.trace_guide, guide_trace, model_trace)
        layout = layout_of_traces(model_trace, guide_trace, repeatable, bijection)
        if is_validation_enabled():
            check_site_shapes(guide_trace, model_trace)
        _cache_for(self)["population", self.size, _cache_key(self)] = population_of(model_trace, self.size)
        self.store_layout(layout)
        return layout

    def store_layout(self, layout: Layout) -> None:
        """Replace the cached layout, for this batch and for the next batches of its kind."""
        _cache_for(self)[_cache_key(self)] = layout
        self.__dict__["layout"] = layout

    @property
    def size(self) -> int:
        """The number of data of the first argument that has one, such as the length of a tensor; 1 if none has one."""
        counts = (count_of(value) for value in self.args)
        return next((count for count in counts if count is not None), 1)

    @property
    def count(self) -> int:
        """The number of data that these arguments represent: N in a plate that is a subsample of N data, else B."""
        cache = _cache_for(self)
        key = ("population", self.size, _cache_key(self))
        if key not in cache:  # a plate that is subsampled for one size of batch may be complete for another
            with self.preserved_state(), poutine.block():  # handlers around an objective must not handle this run
                _, model_trace = self.trace_both()
            cache[key] = population_of(model_trace, self.size)
        return int(cache[key] or self.size)

    def trace_guide(self, replay: poutine.Trace | None = None) -> poutine.Trace:
        """Return a trace of the guide.

        Args:
            replay: a trace that gives the values of latent sites; None to draw them.
        """
        return self._trace(self.guide, replay)

    def trace_model(
        self,
        replay: poutine.Trace | None = None,
        *,
        values: Mapping[str, Tensor] | None = None,
        simulate: bool = False,
    ) -> poutine.Trace:
        """Return a trace of the model.

        Args:
            replay: a trace that gives the values of latent sites; None to draw them from the prior.
            values: values of latent sites by name, which then count as observed.
            simulate: whether observed sites are drawn too.
        """
        program = simulated(self.model) if simulate else self.model
        return self._trace(program if values is None else poutine.condition(program, data=dict(values)), replay)

    def trace_both(self) -> tuple[poutine.Trace, poutine.Trace]:
        """Return a trace of the guide, and a trace of the model at the values that the guide drew."""
        guide_trace = self.trace_guide()
        return guide_trace, self.trace_model(guide_trace)

    def _trace(self, program: Callable[..., Any], replay: poutine.Trace | None) -> poutine.Trace:
        """Return a trace of a program.

        A program that computes a gradient itself, for example for a Newton step, is traced with gradients even if they
        are disabled; the values of its sites are then detached.
        """
        replayed = program if replay is None else poutine.replay(program, trace=replay)
        try:
            return poutine.trace(replayed).get_trace(*self.args, **self.kwargs)
        except RuntimeError as error:
            if torch.is_grad_enabled() or "does not require grad" not in str(error):
                raise
        with torch.enable_grad():
            trace = poutine.trace(replayed).get_trace(*self.args, **self.kwargs)
        trace.detach_()
        return trace

    def with_programs(self, model: Callable[..., Any], guide: Callable[..., Any]) -> BoundPrograms:
        """Return a model and a guide on the arguments of these programs."""
        return BoundPrograms(model, guide, self.args, self.kwargs)

    def without_loss_terms(self) -> BoundPrograms:
        """Return the programs with a guide that has only the sites of q, for evaluations; a warning names the others.

        Raises:
            InputError: if a `pyro.factor` of the guide may be a loss or the density of a Delta site.
        """
        layout = self.layout
        if layout.unclear_terms:
            raise InputError(
                f"The guide has Delta sites and pyro.factor({layout.unclear_terms[0]!r}, ..., has_rsample=False), "
                "which may be their density or a further loss. Give the density to the Delta, as "
                "pyro.distributions.Delta(value, log_density), and leave the factor out of the guide that is evaluated."
            )
        if not layout.loss_terms:
            return self
        warnings.warn(
            f"Guide site {layout.loss_terms[0]!r} is observed (pyro.factor does so), so it is a further loss of the "
            "training and not a part of q(z given x). Evaluations leave it out.",
            stacklevel=3,
        )
        return self.with_programs(self.model, poutine.block(self.guide, hide=list(layout.loss_terms)))

    @cached_property
    def owners(self) -> tuple[Any, Any]:
        """The objects that hold the two programs: latent models, modules or functions."""
        return self._places[0][0], self._places[1][0]

    @cached_property
    def modules(self) -> list[nn.Module]:
        """The modules that hold the two programs, and the other modules that the programs use."""
        held = (find_held_modules(function, None) for function in (self.model, self.guide) if _holder(function) is None)
        return [*self._known_modules, *[module for by_name in held for module in by_name.values()]]

    @cached_property
    def _known_modules(self) -> list[nn.Module]:
        """The modules among `modules` that are known without a search."""
        modules: list[nn.Module] = []  # comprehensions would be further calls in each step of a training
        for owner in self.owners:
            if isinstance(owner, nn.Module):
                modules.append(owner)
        for function in (self.model, self.guide):
            holder = _holder(function)
            if holder is not None:
                modules.extend(holder.held.values())
        return modules

    @cached_property
    def _places(self) -> tuple[tuple[Any, str], tuple[Any, str]]:
        return owner_and_name(self.model), owner_and_name(self.guide)

    @contextmanager
    def preserved_state(self) -> Iterator[None]:
        """Run a block, and restore random generators and buffers after it.

        The block computes gradients if its caller does, because a program may compute a gradient itself, for example
        for a Newton step.
        """
        with preserved_randomness(), preserved_buffers(*self.modules):
            yield


def _holder(program: Any) -> Program | None:
    """Return the `Program` inside a program of `pvae.programs.binding.bind`; None for another callable."""
    while isinstance(program, nn.Module) and not isinstance(program, Program):
        program = getattr(program, "program", None)
    return program if isinstance(program, Program) else None


def owner_and_name(program: Any) -> tuple[Any, str]:
    """Return the object that holds a program, and the name of the program on it; the name is "" for a function."""
    while True:
        inner = getattr(program, "program", None) or getattr(program, "function", None)
        if inner is None or not isinstance(program, nn.Module):
            break
        program = inner
    owner = getattr(program, "__self__", None)
    return (program, "") if owner is None else (owner, getattr(program, "__name__", ""))


def _without_contexts(program: Any) -> Any:
    """Return a program without the contexts of `ProgramInContext`; the layout needs gradients to find a bijection."""
    while hasattr(program, "make_context"):
        program = program.program
    return program


def _kind(value: Any) -> Any:
    """Return the properties on which the layout may depend: type and dimensions of a tensor, or the class of a value.

    A batch of one datum is a separate kind, because it broadcasts in cases in which the shapes of more
    data do not fit.
    """
    if not isinstance(value, Tensor):
        return type(value).__name__
    return str(value.dtype), value.dim(), value.dim() > 0 and len(value) == 1


def _training_modes(owners: Iterable[nn.Module]) -> tuple[bool, ...]:
    """Return the training flags of all modules. Batch normalisation vectorises in only one of the modes."""
    modules: list[nn.Module] = []  # a comprehension would be a further call in each step of a training
    for owner in owners:
        modules.extend(owner.modules())
    return tuple(map(_TRAINING, modules))


def _cache_for(programs: BoundPrograms) -> dict[Any, Any]:
    """Return the layouts of a pair of programs; an owner without weak references gets an empty cache each time."""
    model_owner, guide_owner = programs.owners
    try:
        by_guide = _LAYOUTS.setdefault(model_owner, weakref.WeakKeyDictionary())
        cache: dict[Any, Any] = by_guide.setdefault(guide_owner, {})
    except TypeError:
        return {}
    return cache


def _cache_key(programs: BoundPrograms) -> tuple[Any, ...]:
    names = (programs._places[0][1], programs._places[1][1])
    positional = tuple(map(_kind, programs.args))
    named = tuple(sorted(zip(programs.kwargs, map(_kind, programs.kwargs.values()), strict=True)))
    return (names, positional, named, _training_modes(programs._known_modules))
