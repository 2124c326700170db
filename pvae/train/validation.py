"""`Validation`: the validation score after each epoch, for most objectives the importance-weighted bound."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pvae.batch import Batch
from pvae.errors import InputError
from pvae.json_values import json_value
from pvae.programs.classifier import accuracy_of
from pvae.randomness import evaluating
from pvae.train.computation import Computation
from pvae.train.devices import isolated
from pvae.weights import log_mean_exp
from pvae.weights.compute import weights_of

__all__ = ["Validation"]

#: The greatest number of draws of z that are computed at a time, by the kind of device.
_DRAWS_AT_A_TIME = {"cpu": 5000, "cuda": 100_000}


class Validation:
    """Computes the validation score, in nats per datum, on the same data and from the same seed at each epoch.

    Args:
        computation: the computation of a training step.
        batch: the validation data.
        particles: the number of draws of z per datum.
        seed: the seed of the draws.

    Attributes:
        ranks: whether the score ranks parameters.
        kind: ``"importance-weighted"``; or ``"objective"`` if the score is minus the loss of the objective.
        reason: the reason why the score is the objective's own although a bound was wanted; "" if there is none.
    """

    def __init__(self, computation: Computation, batch: Batch, *, particles: int, seed: int) -> None:
        self.computation, self.batch, self.particles, self.seed = computation, batch, particles, seed
        objective = computation.objective
        self.reason = objective.no_bound
        self.ranks = not objective.unranked
        self.kind = "objective" if self.reason or objective.ranks_by_loss else "importance-weighted"

    def has_weights(self) -> bool:
        """Return whether the importance-weighted bound exists; one particle is tried on the first part of the data."""
        programs = self.computation.programs
        if self.reason:
            return False
        with isolated(self.seed), evaluating(*programs.modules), torch.no_grad():
            try:
                first = programs.bound_with(next(self._chunks())).without_loss_terms()
                return bool(weights_of(first, 1).log_w.numel())
            except (InputError, RuntimeError, ValueError, IndexError):
                return False

    def __call__(self) -> dict[str, float | None]:
        """Return the score and its standard error over the data, and the accuracy of a classifier if there is one.

        A number that is unknown or not finite is None.
        """
        objective = self.computation.objective
        modules = [*self.computation.programs.modules, *([objective] if isinstance(objective, nn.Module) else [])]
        with isolated(self.seed), evaluating(*modules), torch.no_grad():
            accuracy = accuracy_of(self.computation.parameters.latent_model, self.batch)
            scores = {} if accuracy is None else {"validation_accuracy": accuracy}
            if self.kind == "importance-weighted":
                try:
                    return self._importance_weighted_bound() | scores
                except (InputError, RuntimeError, ValueError, IndexError) as error:
                    self.kind, self.reason = "objective", str(error)
            return self._minus_loss() | scores

    def _chunks(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield the arguments of the programs for a part of the data after another."""
        size = max(1, _DRAWS_AT_A_TIME.get(self.batch.device.type, 5000) // self.particles)
        for start in range(0, self.batch.size, size):
            yield self.computation.programs.arguments(self.batch.take(slice(start, start + size)))

    def _importance_weighted_bound(self) -> dict[str, float | None]:
        bounds = []
        for arguments in self._chunks():
            weights = weights_of(self.computation.programs.bound_with(arguments).without_loss_terms(), self.particles)
            bounds.append(log_mean_exp(weights.log_w.double()))
        bound = torch.cat(bounds)
        error = bound.std() / math.sqrt(len(bound)) if len(bound) > 1 else torch.tensor(math.nan)
        return json_value({"validation_bound": bound.mean(), "validation_error": error})

    def _minus_loss(self) -> dict[str, float | None]:
        """Return minus the loss of the objective on all validation data together, as one batch."""
        arguments = self.computation.programs.arguments(self.batch)
        terms, count = self.computation.terms(arguments, self.computation.objective.players[0])
        bound = -float(terms.loss) / float(count)
        return json_value({"validation_bound": bound, "validation_error": math.nan})
