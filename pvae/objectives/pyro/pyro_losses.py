"""Pyro's own losses, as they are, behind the interface of `Objective`."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro.infer import ELBO, TraceEnum_ELBO
from torch import Tensor

from pvae.errors import InputError
from pvae.objectives.base import Call, Objective, Terms
from pvae.programs.bound import BoundPrograms
from pvae.weights.vectorise import can_vectorise

__all__ = ["PyroObjective", "adapt"]


@contextmanager
def _captured() -> Iterator[list[Tensor]]:
    """Collect what Pyro's losses call ``backward`` on, and let them carry tensors where they would read numbers.

    Only `loss_and_grads` is common to all of Pyro's losses (some have no `differentiable_loss`), and it ends in
    ``surrogate.backward()``. The surrogate itself is what a traced step needs.
    """
    surrogates: list[Tensor] = []
    item, backward = torch.Tensor.item, torch.Tensor.backward

    def carry(tensor: Tensor) -> Any:
        inside = sys._getframe(1).f_globals.get("__name__", "").startswith("pyro.infer.")
        return tensor.detach() if inside else item(tensor)

    torch.Tensor.backward = lambda tensor, *args, **kwargs: surrogates.append(tensor)  # type: ignore[method-assign]
    torch.Tensor.item = carry  # type: ignore[method-assign, assignment]
    try:
        yield surrogates
    finally:
        torch.Tensor.backward = backward  # type: ignore[method-assign]
        del torch.Tensor.item


class PyroObjective(Objective):
    """One of Pyro's losses; its value and gradient are what `pyro.infer.SVI` would use.

    Args:
        elbo: an instance of a subclass of `pyro.infer.ELBO`; it is copied, and never changed.
    """

    def __init__(self, elbo: ELBO) -> None:
        super().__init__(int(elbo.num_particles))
        self.elbo = copy.copy(elbo)
        self.vectorize_particles = elbo.vectorize_particles
        self.max_plate_nesting = elbo.max_plate_nesting

    def settings(self) -> dict[str, Any]:
        """Return the number of particles, and alpha where the loss has one."""
        alpha = getattr(self.elbo, "alpha", None)
        return {**({} if alpha is None else {"alpha": alpha}), **super().settings()}

    def _settled(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any]) -> Any:
        """The loss with its nesting known, and its particles in one run only where that is right.

        Pyro would guess the nesting by a run that moves the random state, keep it on the loss for every later
        model, and not notice a program that mixes particles.
        """
        together = self.elbo.vectorize_particles and self.num_particles > 1
        if not together and not isinstance(self.elbo, TraceEnum_ELBO):
            return self.elbo
        settled = copy.copy(self.elbo)
        programs = BoundPrograms(model, guide, args, kwargs)
        if together and not can_vectorise(programs, self.num_particles):
            together = settled.vectorize_particles = False
            settled.max_plate_nesting = math.inf
        if math.isinf(settled.max_plate_nesting):
            settled.max_plate_nesting = programs.layout.nesting + together
        return settled

    def terms(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return Pyro's loss of a batch, and what Pyro would have differentiated."""
        elbo = self._settled(model, guide, args, kwargs)
        with _captured() as surrogates:
            loss = elbo.loss_and_grads(model, guide, *args, **kwargs)
        if not surrogates:  # without gradients the loss alone tells the type
            return Terms(torch.as_tensor(loss).detach(), torch.zeros_like(torch.as_tensor(loss)))
        total = sum(surrogates[1:], start=surrogates[0])
        return Terms(torch.as_tensor(loss, dtype=total.dtype, device=total.device).detach(), total)


def adapt(objective: Any) -> Objective:
    """Return an `Objective`: pvae's own as it is, Pyro's wrapped, a class or factory called first.

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
        f"An objective is a pvae.Objective, a loss of pyro.infer or a factory of one; got {type(objective).__name__}."
    )
