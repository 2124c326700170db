"""`WeightsObjective`: an objective that is a function of log weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Unpack

import pyro
import torch
from torch import Tensor

from pvae.errors import InputError
from pvae.names import unknown
from pvae.objectives.base import Objective, Terms, scaled_sums
from pvae.objectives.gradients.estimator import estimate
from pvae.objectives.gradients.strategies import (
    BIASED,
    WeightsOptions,
    format_gradients,
    parse_gradients,
    require_matches,
    require_pathwise,
    strategy_chooser,
)
from pvae.programs.bound import BoundPrograms
from pvae.weights import LogWeights
from pvae.weights.auxiliary import Marginal
from pvae.weights.compute import weights_of
from pvae.weights.handlers import ChooseStrategy

__all__ = ["WeightsObjective", "WeightsOptions", "scaled_terms"]


class WeightsObjective(Objective):
    """An objective that is a function of log weights: a subclass maps the weights of a batch to a bound per datum.

    Args:
        particles: draws of z per datum.
        options: see `WeightsOptions`.

    Attributes:
        pathwise: whether the surrogate is valid only for guides with a pathwise gradient at every site. The default is
            True.
        averages: whether the surrogate is a mean of one number per particle. The default is False.
        entropy: for a mean over particles, the factor of -log q in the number of each particle. The default is 1.
        mean: which mean of the other particles' weights replaces a particle's own in a leave-one-out baseline:
            ``"geometric"`` (the default) or ``"arithmetic"``.
        scored: the default strategy of sites that cannot be reparameterised. None is the score, leave-one-out if there
            are several particles.

    Example:
        >>> import pvae, torch
        >>> class Best(pvae.WeightsObjective):
        ...     def surrogate(self, weights):
        ...         return weights.log_w.max(0).values  # shape (batch,), which is maximised
        >>> model = pvae.VAE(4, latent=2, hidden=8)
        >>> Best(particles=5).loss(model.model, model.guide, torch.eye(4)) > 0
        True
    """

    pathwise = True
    averages = False
    entropy: float | Tensor = 1.0
    mean = "geometric"
    scored: str | None = None

    def __init__(self, particles: int = 1, **options: Unpack[WeightsOptions]) -> None:
        super().__init__(particles)
        unknown_options = options.keys() - WeightsOptions.__annotations__.keys()
        if unknown_options:
            raise unknown(f"option of {type(self).__name__}", min(unknown_options), WeightsOptions.__annotations__)
        self.data_plate = options.get("data_plate")
        if not isinstance(self.data_plate, str | None):
            raise InputError(f"data_plate needs the name of a plate, such as 'data'; got {self.data_plate!r}.")
        self.gradients = parse_gradients(options.get("gradients"))
        self.auxiliary = options.get("auxiliary")
        if self.auxiliary is not None and not isinstance(self.auxiliary, Marginal):
            raise InputError(f"auxiliary needs a pvae.Marginal(reverse=...); got {self.auxiliary!r}.")
        self.biased = self._reason_of_bias()

    def _reason_of_bias(self) -> str:
        """Return why the gradient is biased, or an empty text: relaxed draws are biased."""
        relaxed = {site: strategy for site, strategy in self.gradients.items() if strategy in BIASED}
        return f"relaxed draws: {format_gradients(relaxed)}" if relaxed else type(self).biased

    def settings(self) -> dict[str, Any]:
        """Return the number of particles, and the gradient strategies by site."""
        gradients = format_gradients(self.gradients)
        return {**super().settings(), **({"gradients": gradients} if gradients else {})}

    @abstractmethod
    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the maximised value per datum, shape (batch,), in nats; its gradient is the estimator."""

    def bound(self, weights: LogWeights) -> Tensor:
        """Return the value that is reported, per datum, shape (batch,), in nats; by default the surrogate's value."""
        return self.surrogate(weights).detach()

    def baseline(self, signals: Tensor, weights: LogWeights) -> Tensor:
        """Return the baseline of each particle at sites with the strategy ``score``; by default 0.

        It is used only by an objective that is a mean over particles.

        Args:
            signals: the number of each particle, shape (particles, batch), nats.
            weights: the weights of the batch.

        Returns:
            Shape (particles, batch), nats. It must not depend on a particle's own draw.
        """
        return torch.zeros_like(signals)

    def control(self, signals: Tensor, weights: LogWeights) -> Tensor | None:
        """Return a further term per datum with a gradient of mean zero, shape (batch,); None for no term.

        Args:
            signals: the number of each particle, shape (particles, batch), nats.
            weights: the weights of the batch.
        """
        return None

    def is_linear(self) -> bool:
        """Return whether the surrogate is a mean over particles that is linear in their log weights.

        Then no weight per datum is needed, and latent sites may be outside the data plate. By default this is the value
        of `averages`.
        """
        return self.averages

    def choose(self) -> ChooseStrategy:
        """Return the function that gives each site of a run its strategy."""
        return strategy_chooser(self.gradients, self.num_particles, "pathwise" if self.pathwise else self.scored)

    def weights(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> LogWeights:
        """Return the log weights of a batch, with the strategy of each site.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: the positional arguments of both programs.
            kwargs: the keyword arguments of both programs.

        Raises:
            InputError: if a site cannot have its strategy, or a name in ``gradients`` matches no site.
        """
        weights = weights_of(
            BoundPrograms(model, guide, args, kwargs),
            self.num_particles,
            data_plate=self.data_plate,
            choose=self.choose(),
            auxiliary=self.auxiliary,
            per_datum=not self.is_linear(),
        )
        require_matches(self.gradients, weights.strategies)
        if self.pathwise:
            require_pathwise(type(self).__name__, weights)
        return weights

    def reported(self, weights: LogWeights, surrogate: Tensor) -> Tensor:
        """Return `bound` of weights with a known surrogate, shape (batch,), in nats."""
        return surrogate.detach() if type(self).bound is WeightsObjective.bound else self.bound(weights)

    def terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the loss of a batch: minus the sum over data of the bound, each times its scale."""
        has_relaxed_draws = "concrete" in self.gradients.values()  # these draws are outside the support
        with pyro.validation_enabled(False) if has_relaxed_draws else nullcontext():
            weights = self.weights(model, guide, args, kwargs)
            value, surrogate = estimate(self, weights)
        return scaled_terms(weights, value, surrogate, self.recorded(weights))

    def recorded(self, weights: LogWeights) -> dict[str, Tensor]:
        """Return the numbers that a training records with the loss, each of shape (batch,), nats, without gradient.

        By default they are those of `LogWeights.named`.
        """
        return weights.named()


def scaled_terms(weights: LogWeights, value: Tensor, surrogate: Tensor, recorded: Mapping[str, Tensor]) -> Terms:
    """Return the terms of a batch, as sums over data, each times its scale.

    Args:
        weights: the weights of the batch.
        value: the reported value per datum, shape (batch,), nats.
        surrogate: the maximised value per datum, shape (batch,), nats.
        recorded: the numbers that a training records with the loss, each of shape (batch,), nats.
    """
    loss = -(value * weights.scale).sum()
    return Terms(loss, -(surrogate * weights.scale).sum(), scaled_sums(recorded, weights.scale))
