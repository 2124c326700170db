"""The inverse of a guide's one-to-one map: the auxiliary draws u at which its Delta sites have given values z."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.bijections import MOST_NUMBERS, Bijection, coordinates, jacobian, value_of, without_points
from pvae.programs.bound import BoundPrograms
from pvae.weights.tracing import is_traced

__all__ = ["Inversion"]


@dataclass(frozen=True)
class Inversion:
    """The inverse of the map z = T(u) of one run of a guide.

    Attributes:
        programs: both programs as they were run.
        guide: the trace of the guide.
        model: the trace of the model, whose sites have the supports of z.
        particles: the number of particles of the run.
        bijection: the sites of the map.
    """

    programs: BoundPrograms
    guide: poutine.Trace
    model: poutine.Trace
    particles: int
    bijection: Bijection

    def trace_guide(self, values: Mapping[str, Tensor], *, moved: bool = False) -> poutine.Trace:
        """Return a trace of the guide at given z, with the gradients of log q(z given x) by z and by the parameters.

        Args:
            values: the values of the latent sites; the values of the map's auxiliary draws follow from them.
            moved: whether the values differ from the guide's draws.

        Raises:
            InputError: if the map has too many numbers, or the guide cannot reach the values.
        """
        points = {name: values[name] for name in self.bijection.points}
        start = {name: value_of(self.guide, name).detach() for name in self.bijection.auxiliary}
        others = {name: value for name, value in values.items() if name not in points and name not in start}
        if moved:
            with torch.no_grad():
                start = self._step(points, others, start)
            self._require_reached(points, others, start)
        if torch.is_grad_enabled():
            start = self._step(points, others, start)
        return self._run(others, start)

    def _run(self, others: Mapping[str, Tensor], draws: Mapping[str, Tensor]) -> poutine.Trace:
        """Return a trace of the guide at values of its draws; the Delta sites follow from them."""
        return self.programs.trace_guide(without_points(self.guide, self.bijection, {**others, **draws}))

    def _coordinates(self, trace: poutine.Trace) -> Tensor:
        """Return the unconstrained coordinates of z in a trace of the guide, shape (particles, numbers)."""
        return coordinates({name: value_of(trace, name) for name in self.bijection.points}, self.model, self.particles)

    def _step(
        self, points: Mapping[str, Tensor], others: Mapping[str, Tensor], start: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return u after one Newton step towards given z: u + J^-1 (y(z) - y(T(u))).

        Here y are the unconstrained coordinates of z, and J = dy/du is without gradient. At a u with T(u) = z the step
        is 0, and its derivatives by z and by the parameters of T are the derivatives of the inverse of T. From another
        u the step leads to z if y(T(u)) is affine in u, as in Pyro's autoguides.
        """
        wanted = coordinates(points, self.model, self.particles)
        if not self.bijection.diagonal and wanted.shape[-1] > MOST_NUMBERS:
            raise InputError(
                f"This gradient needs the inverse of the guide's map to {', '.join(points)}, which is limited to "
                f"{MOST_NUMBERS} numbers; there are {wanted.shape[-1]}. Use 'elbo' or 'iwae'."
            )
        with torch.enable_grad():
            leaves = {name: value.detach().clone().requires_grad_() for name, value in start.items()}
            reached = self._coordinates(self._run(others, leaves))
            slopes = jacobian(reached, list(leaves.values()), self.bijection.diagonal)
        difference = wanted - reached
        step = difference / slopes if self.bijection.diagonal else torch.linalg.solve(slopes, difference)
        pieces = step.split([value.numel() // self.particles for value in start.values()], -1)
        return {
            name: value.detach() + piece.reshape(value.shape)
            for (name, value), piece in zip(start.items(), pieces, strict=True)
        }

    def _require_reached(
        self, points: Mapping[str, Tensor], others: Mapping[str, Tensor], draws: Mapping[str, Tensor]
    ) -> None:
        if is_traced():  # the eager step before the traced step has compared them
            return
        with torch.no_grad():
            reached = self._coordinates(self._run(others, draws))
        wanted = coordinates(points, self.model, self.particles)
        if not torch.allclose(reached, wanted, rtol=1e-3, atol=1e-3):
            raise InputError(
                "This phase needs log q at z that the guide did not draw; the inverse of the guide's map to "
                f"{', '.join(points)} cannot be found by one linear step. Use phi='wake', or draw the site from a "
                "distribution with "
                "a density."
            )
