"""`WeightsObjective`: an objective made of log weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Unpack

import pyro
import torch
from torch import Tensor

from pvae.errors import InputError
from pvae.objectives.base import Call, Objective, Terms
from pvae.objectives.gradients.estimator import estimate
from pvae.objectives.gradients.strategies import (
    BIASED,
    WeightsOptions,
    chooser,
    gradients_of,
    require_matches,
    require_pathwise,
    text_of,
)
from pvae.weights import LogWeights, trace_weights
from pvae.weights.auxiliary import Marginal
from pvae.weights.handlers import ChooseStrategy

__all__ = ["WeightsObjective", "WeightsOptions"]


class WeightsObjective(Objective):
    """An objective made of log weights: one method, from the weights to a bound per datum.

    Args:
        particles: draws of z per datum.
        options: see `WeightsOptions`.
    """

    #: whether the surrogate is right only for guides whose sites all have a pathwise gradient
    pathwise = True

    #: whether the surrogate is a mean over particles, each of which adds a number of its own
    averages = False

    #: for a mean over particles, the factor of -log q in the number of each
    entropy: float | Tensor = 1.0

    #: how the other particles' weights stand in for one particle's, in a leave-one-out baseline
    mean = "geometric"

    #: the strategy of sites that cannot be reparameterised; None for the score, leave-one-out where possible
    scored: str | None = None

    def __init__(self, particles: int = 1, **options: Unpack[WeightsOptions]) -> None:
        super().__init__(particles)
        self.data_plate = options.get("data_plate")
        self.gradients = gradients_of(options.get("gradients"))
        self.auxiliary = options.get("auxiliary")
        if self.auxiliary is not None and not isinstance(self.auxiliary, Marginal):
            raise InputError(f"auxiliary needs a pvae.Marginal(reverse=...); got {self.auxiliary!r}.")
        self.biased = self._bias()

    def _bias(self) -> str:
        """Why the gradient is biased, or nothing: relaxations are."""
        relaxed = {site: each for site, each in self.gradients.items() if each in BIASED}
        return f"relaxed draws: {text_of(relaxed)}" if relaxed else type(self).biased

    def settings(self) -> dict[str, Any]:
        """Return the number of particles, and the gradients chosen by site."""
        chosen = text_of(self.gradients)
        return {**super().settings(), **({"gradients": chosen} if chosen else {})}

    @abstractmethod
    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return what is maximised, per datum, shape (batch,), in nats; its gradient is the estimator."""

    def bound(self, weights: LogWeights) -> Tensor:
        """Return the value that is reported, per datum, shape (batch,), in nats: by default the surrogate's own."""
        return self.surrogate(weights).detach()

    def baseline(self, signals: Tensor, weights: LogWeights) -> Tensor:
        """Return what is taken off each particle's number for sites with the strategy ``score``: by default nothing.

        Only objectives that average over particles are asked.

        Args:
            signals: the number of each particle, shape (particles, batch), nats.
            weights: of the batch.

        Returns:
            Shape (particles, batch); it must not depend on a particle's own draw.
        """
        return torch.zeros_like(signals)

    def control(self, signals: Tensor, weights: LogWeights) -> Tensor | None:
        """Return a further term per datum whose gradient has mean zero, shape (batch,), or None."""
        return None

    def choose(self) -> ChooseStrategy:
        """Return the function that gives each site of a run its strategy."""
        return chooser(self.gradients, self.num_particles, "pathwise" if self.pathwise else self.scored)

    def weights(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any]) -> LogWeights:
        """Return the log weights of a batch, with the strategy of each site.

        Raises:
            InputError: if a site cannot have its strategy, or a name in ``gradients`` matches none.
        """
        weights = trace_weights(
            model,
            guide,
            args,
            kwargs,
            self.num_particles,
            data_plate=self.data_plate,
            choose=self.choose(),
            auxiliary=self.auxiliary,
        )
        require_matches(self.gradients, weights.strategies)
        if self.pathwise:
            require_pathwise(type(self).__name__, weights)
        return weights

    def reported(self, weights: LogWeights, surrogate: Tensor) -> Tensor:
        """Return `bound` of weights whose surrogate is known, shape (batch,)."""
        return surrogate.detach() if type(self).bound is WeightsObjective.bound else self.bound(weights)

    def terms(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the loss of a batch: minus the sum of the bounds per datum, each times its scale."""
        relaxed = "concrete" in self.gradients.values()  # its draws lie outside the support
        with pyro.validation_enabled(False) if relaxed else nullcontext():
            weights = self.weights(model, guide, args, kwargs)
            value, surrogate = estimate(self, weights)
        named = {name: (each * weights.scale).sum().detach() for name, each in weights.named().items()}
        return Terms(-(value * weights.scale).sum(), -(surrogate * weights.scale).sum(), named)
