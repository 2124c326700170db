"""`PyroObjective`: one of Pyro's own losses with the interface of `Objective`."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any
from weakref import WeakSet

import torch
from pyro.infer import ELBO, ReweightedWakeSleep, Trace_MMD, TraceEnum_ELBO, TraceTailAdaptive_ELBO, TraceTMC_ELBO
from torch import Tensor

from pvae.errors import InputError
from pvae.objectives.base import Objective, Terms
from pvae.objectives.pyro.patches import collect_surrogates
from pvae.programs.bound import BoundPrograms
from pvae.weights.vectorise import can_vectorise

__all__ = ["PyroObjective", "can_share_a_run"]

#: the errors of a program that runs in a plate of particles only
_ERRORS_OF_PROGRAMS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)

_NO_BOUND = {Trace_MMD: "a maximum mean discrepancy replaces the KL divergence"}

_BIASED = {
    ReweightedWakeSleep: "self-normalised weights: the bias of phi's gradient is of order 1/particles",
    TraceTailAdaptive_ELBO: "ranks of the particles replace their weights, so no bound has this gradient",
}


def can_share_a_run(programs: BoundPrograms, particles: int, max_plate_nesting: float) -> bool:
    """Return whether all particles of a loss of Pyro may share one run.

    Args:
        programs: both programs with their arguments.
        particles: the number of particles.
        max_plate_nesting: the nesting that the user gives; infinite if Pyro has to find it. If it is given, programs
            may run only inside a plate of particles, and cannot be checked. As in Pyro, the user is responsible for
            them.
    """
    try:
        return can_vectorise(programs, particles)
    except _ERRORS_OF_PROGRAMS:
        if math.isinf(max_plate_nesting):
            raise
        return True


#: The objectives that have run, and have shown the warnings of Pyro that are needed once.
_RUN_BEFORE: WeakSet[PyroObjective] = WeakSet()


class _TailAdaptiveWithValue(TraceTailAdaptive_ELBO):
    """`TraceTailAdaptive_ELBO` with minus the ELBO of its particles as its loss; Pyro returns infinity."""

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> tuple[Any, Any]:
        _, surrogate = super()._differentiable_loss_particle(model_trace, guide_trace)
        return (guide_trace.log_prob_sum() - model_trace.log_prob_sum()).detach(), surrogate


class PyroObjective(Objective):
    """One of Pyro's losses, with the value and the gradient that `pyro.infer.SVI` would use.

    Two losses of Pyro do not return one number. The loss of `ReweightedWakeSleep` is that of theta, minus the
    importance-weighted bound, and both losses are recorded; if only the guide is trained (``model_has_params=False``
    and ``insomnia=0``), the loss is that of phi. The loss of `TraceTailAdaptive_ELBO` is minus the ELBO of the same
    particles.

    Args:
        elbo: an instance of a subclass of `pyro.infer.ELBO`. It is copied and never changed.
    """

    def __init__(self, elbo: ELBO) -> None:
        super().__init__(int(elbo.num_particles))
        self.elbo = copy.copy(elbo)
        self.vectorize_particles = elbo.vectorize_particles
        self.max_plate_nesting = elbo.max_plate_nesting
        self.retain_graph = elbo.retain_graph
        self.no_bound = next((why for kind, why in _NO_BOUND.items() if isinstance(elbo, kind)), "")
        self.biased = next((why for kind, why in _BIASED.items() if isinstance(elbo, kind)), "")
        if isinstance(elbo, ReweightedWakeSleep) and elbo.insomnia == 0:
            self.biased = ""
            self.no_bound = "" if elbo.model_has_params else "only the guide is trained, on data of the model"

    def __getattr__(self, name: str) -> Any:
        """Return a public attribute of the loss, such as `TraceEnum_ELBO.compute_marginals`; a method gets a copy."""
        elbo = self.__dict__.get("elbo")
        if elbo is not None and not name.startswith("_") and hasattr(elbo, name):
            return getattr(copy.copy(elbo), name)
        return super().__getattr__(name)

    def settings(self) -> dict[str, Any]:
        """Return the number of particles, and the settings that only this loss has."""
        names = ("alpha", "insomnia")
        return {name: getattr(self.elbo, name) for name in names if hasattr(self.elbo, name)} | super().settings()

    def _configured_loss(self, programs: BoundPrograms) -> Any:
        """Return the loss with the nesting of the programs; particles share a run only if the programs vectorise.

        Pyro itself finds the nesting by a run that changes the random state, stores it in the loss for every later
        model, and does not notice a program that mixes particles.
        """
        elbo = copy.copy(self.elbo)
        if isinstance(elbo, TraceTailAdaptive_ELBO):
            elbo.__class__ = _TailAdaptiveWithValue
        if isinstance(elbo, TraceEnum_ELBO):  # Pyro warns at each step if no site is marked
            elbo.strict_enumeration_warning = elbo.strict_enumeration_warning and self not in _RUN_BEFORE
            _RUN_BEFORE.add(self)
        is_vectorised = elbo.vectorize_particles and self.num_particles > 1
        if is_vectorised and not can_share_a_run(programs, self.num_particles, elbo.max_plate_nesting):
            is_vectorised = elbo.vectorize_particles = False
            elbo.max_plate_nesting -= 1  # of the plate of particles
        if isinstance(elbo, TraceTailAdaptive_ELBO) and not elbo.vectorize_particles:
            raise InputError(
                "TraceTailAdaptive_ELBO needs all particles in one run (vectorize_particles=True, and programs that "
                "broadcast over a leading dimension). Use 'renyi:alpha=0.5' or 'iwae', which also draw one by one."
            )
        needs_nesting = elbo.vectorize_particles or isinstance(elbo, TraceEnum_ELBO | TraceTMC_ELBO)
        if needs_nesting and math.isinf(elbo.max_plate_nesting):
            elbo.max_plate_nesting = programs.layout.nesting + is_vectorised
        return elbo

    def terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return Pyro's loss of a batch, and the tensor that Pyro differentiates as its surrogate."""
        return self._pyro_terms(BoundPrograms(model, guide, args, kwargs))

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss of a batch, in nats, as a scalar tensor, by Pyro's own method if the loss has one.

        Pyro's method also differentiates tensors that are not ``param`` sites; `loss_and_grads` does not.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: the positional arguments of both programs.
            kwargs: the keyword arguments of both programs.
        """
        elbo = self._configured_loss(BoundPrograms(model, guide, args, kwargs))
        if not hasattr(elbo, "differentiable_loss"):
            return super().differentiable_loss(model, guide, *args, **kwargs)
        return torch.as_tensor(elbo.differentiable_loss(model, guide, *args, **kwargs))

    def _pyro_terms(self, programs: BoundPrograms) -> Terms:
        """Return the terms of the programs. Pyro's losses run the programs themselves."""
        elbo = self._configured_loss(programs)
        with collect_surrogates() as surrogates:
            loss = elbo.loss_and_grads(programs.model, programs.guide, *programs.args, **programs.kwargs)
        named: dict[str, Tensor] = {}
        if isinstance(elbo, ReweightedWakeSleep):
            theta_loss, phi_loss = (torch.as_tensor(part).detach() for part in loss)
            named = {"phi_loss": phi_loss} if self.no_bound else {"theta_loss": theta_loss, "phi_loss": phi_loss}
            loss = next(iter(named.values()))
        if not surrogates:  # gradients are disabled
            value = torch.as_tensor(loss)
            return Terms(value.detach(), torch.zeros_like(value), named)
        surrogate = sum(surrogates[1:], start=surrogates[0])
        return Terms(torch.as_tensor(loss, dtype=surrogate.dtype, device=surrogate.device).detach(), surrogate, named)
