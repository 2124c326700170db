"""`PyroObjective`: one of Pyro's own losses behind the interface of `Objective`."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from pyro.infer import ELBO, TraceEnum_ELBO

from pvae.errors import InputError
from pvae.objectives.base import Objective, Terms
from pvae.objectives.pyro.patches import collect_surrogates
from pvae.programs.bound import BoundPrograms
from pvae.weights.vectorise import can_vectorise

__all__ = ["PyroObjective", "adapt"]


class PyroObjective(Objective):
    """One of Pyro's losses, with the value and the gradient that `pyro.infer.SVI` would use.

    Args:
        elbo: an instance of a subclass of `pyro.infer.ELBO`. It is copied and never changed.
    """

    def __init__(self, elbo: ELBO) -> None:
        super().__init__(int(elbo.num_particles))
        self.elbo = copy.copy(elbo)
        self.vectorize_particles = elbo.vectorize_particles
        self.max_plate_nesting = elbo.max_plate_nesting

    def settings(self) -> dict[str, Any]:
        """Return the number of particles, and alpha if the loss has one."""
        alpha = getattr(self.elbo, "alpha", None)
        return {**({} if alpha is None else {"alpha": alpha}), **super().settings()}

    def _configured_loss(self, programs: BoundPrograms) -> Any:
        """Return the loss with the nesting of the programs; particles share a run only if the programs vectorise.

        Pyro itself finds the nesting by a run that changes the random state, stores it in the loss for every later
        model, and does not notice a program that mixes particles.
        """
        is_vectorised = self.elbo.vectorize_particles and self.num_particles > 1
        if not is_vectorised and not isinstance(self.elbo, TraceEnum_ELBO):
            return self.elbo
        elbo = copy.copy(self.elbo)
        if is_vectorised and not can_vectorise(programs, self.num_particles):
            is_vectorised = False
            elbo.vectorize_particles = False
            elbo.max_plate_nesting = math.inf
        if math.isinf(elbo.max_plate_nesting):
            elbo.max_plate_nesting = programs.layout.nesting + is_vectorised
        return elbo

    def terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return Pyro's loss of a batch, and the tensor that Pyro differentiates as its surrogate."""
        return self._pyro_terms(BoundPrograms(model, guide, args, kwargs))

    def _pyro_terms(self, programs: BoundPrograms) -> Terms:
        """Return the terms of the programs. Pyro's losses run the programs themselves."""
        elbo = self._configured_loss(programs)
        with collect_surrogates() as surrogates:
            loss = elbo.loss_and_grads(programs.model, programs.guide, *programs.args, **programs.kwargs)
        if not surrogates:  # gradients are disabled
            value = torch.as_tensor(loss)
            return Terms(value.detach(), torch.zeros_like(value))
        surrogate = sum(surrogates[1:], start=surrogates[0])
        return Terms(torch.as_tensor(loss, dtype=surrogate.dtype, device=surrogate.device).detach(), surrogate)


def adapt(objective: Any) -> Objective:
    """Return an `Objective`: an objective itself, a loss of Pyro wrapped, or the result of a class or factory.

    Args:
        objective: an `Objective`, a loss of `pyro.infer`, or a callable that returns one of them.

    Raises:
        InputError: for anything else.
    """
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, ELBO):
        return PyroObjective(objective)
    if callable(objective):
        return adapt(objective())
    raise InputError(
        f"An objective needs to be a pvae.Objective, a loss of pyro.infer or a factory of one; got "
        f"{type(objective).__name__}."
    )
