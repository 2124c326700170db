"""How good the model is after an epoch: the same importance-weighted bound for every objective."""

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

_DRAWS = {"cpu": 5000, "cuda": 100_000}


class Validation:
    """The validation bound, in nats per datum, on the same data and from the same seed at each epoch.

    Args:
        computation: programs and objective.
        batch: validation data.
        particles: draws of z per datum.
        seed: of the draws.
    """

    def __init__(self, computation: Computation, batch: Batch, *, particles: int, seed: int) -> None:
        self.computation, self.batch, self.particles, self.seed = computation, batch, particles, seed
        self.reason = computation.objective.no_bound
        self.ranks = not computation.objective.unranked
        own = bool(self.reason) or computation.objective.ranks_by_loss
        self.kind = "objective" if own else "importance-weighted"

    def has_weights(self) -> bool:
        """Return whether the importance-weighted bound exists here: one particle is tried on the first data."""
        programs = self.computation.programs
        if self.reason:
            return False
        with isolated(self.seed), evaluating(*programs.modules), torch.no_grad():
            arguments = programs.arguments(self.batch.take(slice(0, 2)))
            try:
                return bool(weights_of(programs.bound_with(arguments), 1).log_w.numel())
            except (InputError, RuntimeError, ValueError, IndexError):
                return False

    def __call__(self) -> dict[str, float | None]:
        """Return the bound and its standard error over the data; None where it is unknown."""
        objective = self.computation.objective
        modules = [*self.computation.programs.modules, *([objective] if isinstance(objective, nn.Module) else [])]
        with isolated(self.seed), evaluating(*modules), torch.no_grad():
            accuracy = accuracy_of(self.computation.parameters.latent_model, self.batch)
            right = {} if accuracy is None else {"validation_accuracy": accuracy}
            if self.kind == "importance-weighted":
                try:
                    return self._weighted() | right
                except (InputError, RuntimeError, ValueError, IndexError) as error:
                    self.kind, self.reason = "objective", str(error)
            return self._own() | right

    def _chunks(self) -> Iterator[tuple[Tensor, ...]]:
        size = max(1, _DRAWS.get(self.batch.device.type, 5000) // self.particles)
        for start in range(0, self.batch.size, size):
            yield self.computation.programs.arguments(self.batch.take(slice(start, start + size)))

    def _weighted(self) -> dict[str, float | None]:
        bounds = []
        for arguments in self._chunks():
            weights = weights_of(self.computation.programs.bound_with(arguments), self.particles)
            bounds.append(log_mean_exp(weights.log_w.double()))
        bound = torch.cat(bounds)
        error = bound.std() / math.sqrt(len(bound)) if len(bound) > 1 else torch.tensor(math.nan)
        return json_value({"validation_bound": bound.mean(), "validation_error": error})

    def _own(self) -> dict[str, float | None]:
        """Minus the objective's loss, on all validation data at once as a batch of its own."""
        arguments = self.computation.programs.arguments(self.batch)
        objective = self.computation.objective
        terms = self.computation.terms(arguments, objective.players[0])
        bound = -float(terms.loss) / self.computation.count(arguments)
        return json_value({"validation_bound": bound, "validation_error": math.nan})
