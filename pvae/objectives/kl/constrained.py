"""GECO: one of reconstruction and KL is bounded, the other optimised, and the multiplier is learned."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from pvae.checks import require_number
from pvae.errors import InputError
from pvae.objectives.base import Call, Terms
from pvae.objectives.kl.weighted_kl import Tilted
from pvae.objectives.named import named
from pvae.objectives.weights_objective import WeightsOptions
from pvae.weights import LogWeights

__all__ = ["Constrained"]

_STUCK = 100  # steps at the largest multiplier without meeting the bound, until that is said


@named("geco", "GECO: a target on reconstruction or on the KL, its multiplier learned")
class Constrained(Tilted):
    """Generalised ELBO with constrained optimisation (GECO): the beta of a beta-VAE found from a target.

    ``on="log_likelihood"`` minimises the KL subject to E log p(x given z) >= target; ``on="kl"`` maximises E log p(x
    given z) subject to KL <= target; both are means per datum. The multiplier is positive. In each training step its
    logarithm moves by `rate` times the moving average of the violation in nats, which counts as 1 at most. Recorded
    beside the loss: ``multiplier``, ``violation`` (the moving average; at most 0 where the target is met) and ``stuck``
    (for how many steps the multiplier has been at its largest in vain). A target that cannot be met gives one warning.

    Args:
        target: the bound, nats per datum.
        on: ``"log_likelihood"`` or ``"kl"``.
        rate: of the multiplier's logarithm, per step.
        decay: of the moving average; the paper's 0.99 is the default.
        multiplier: where it starts.
        largest: what it never exceeds; it never falls below one over that.
        particles: draws of z per datum.
        options: see `WeightsOptions`.

    Raises:
        InputError: for a target that nothing meets (a negative KL), or a setting out of its range; in use, without one.
    Source: Rezende & Viola, Taming VAEs, arXiv:1810.00597, section 2.3 and algorithm 1; the limit on a step is ours.
    """

    log_multiplier: Tensor
    violation: Tensor
    stuck: Tensor

    def __init__(
        self,
        target: float | None = None,
        on: str = "log_likelihood",
        rate: float = 0.01,
        decay: float = 0.99,
        multiplier: float = 1.0,
        largest: float = 1e4,
        particles: int = 1,
        **options: Unpack[WeightsOptions],
    ) -> None:
        super().__init__(particles, **options)
        self.goal, self.on = _target(target, on), on
        if not (rate > 0 and 0 <= decay < 1 and largest > 1 and 1 / largest <= multiplier <= largest):
            raise InputError(
                "Constrained needs rate > 0, 0 <= decay < 1, largest > 1 and 1/largest <= multiplier <= largest; "
                f"got rate={rate!r}, decay={decay!r}, largest={largest!r}, multiplier={multiplier!r}."
            )
        self.rate, self.decay, self.largest = float(rate), float(decay), float(largest)
        self.multiplier = float(multiplier)
        self.register_buffer("log_multiplier", torch.tensor(math.log(multiplier), dtype=torch.float64))
        self.register_buffer("violation", torch.zeros((), dtype=torch.float64))
        self.register_buffer("stuck", torch.zeros((), dtype=torch.int64))
        self._said = False

    def settings(self) -> dict[str, Any]:
        """Return the target and on what it is, how the multiplier is learned, and the number of particles."""
        learning = {"rate": self.rate, "decay": self.decay, "multiplier": self.multiplier, "largest": self.largest}
        return {"target": self.goal, "on": self.on, **learning, **super().settings()}

    def terms(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the loss of a batch; in training, move the multiplier on."""
        if self.goal is None:
            raise InputError(
                f"Constrained needs a target on the {self.on}, in nats per datum: give target=..., for instance what a "
                "beta-VAE of your liking reaches."
            )
        return super().terms(model, guide, args, kwargs, player)

    def coefficients(self, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Return the multiplier on the side of what is bounded, 1 on the other."""
        factor = self.log_multiplier.exp().to(like)
        return (factor, 1.0) if self.on == "log_likelihood" else (1.0, factor)

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return minus the Lagrangian, shape (batch,), in nats."""
        factor = self.log_multiplier.exp().to(weights.log_joint)
        goal = self.goal or 0.0
        return super().surrogate(weights) + factor * (goal if self.on == "kl" else -goal)

    def shown(self, like: Tensor) -> dict[str, Tensor]:
        """Return the multiplier, the violation and how long the multiplier has been at its largest in vain."""
        return {
            "multiplier": self.log_multiplier.exp().to(like),
            "violation": self.violation.to(like, copy=True),
            "stuck": self.stuck.to(like),
        }

    def advance(self, means: Mapping[str, Tensor]) -> None:
        """Move the average of the violation, then the multiplier."""
        goal = self.goal or 0.0
        now = means["kl"] - goal if self.on == "kl" else goal - means["log_likelihood"]
        now = now.to(self.violation)
        kept = torch.where(self.steps == 0, torch.zeros_like(now), torch.full_like(now, self.decay))
        self.violation.copy_(kept * self.violation + (1.0 - kept) * now)
        limit = math.log(self.largest)
        moved = self.log_multiplier + self.rate * self.violation.clamp(-1.0, 1.0)
        in_vain = (moved >= limit) & (self.violation > 0.0)
        self.log_multiplier.copy_(moved.clamp(-limit, limit))
        self.stuck.copy_(torch.where(in_vain, self.stuck + 1, torch.zeros_like(self.stuck)))
        super().advance(means)

    def diagnosis(self) -> str:
        """Return in a line what is wrong with the training so far, or an empty text; it reads from the device."""
        if int(self.stuck) < _STUCK:
            return ""
        what, side = ("KL", "raise") if self.on == "kl" else ("log-likelihood", "lower")
        return (
            f"The target {self.goal:g} on the {what} cannot be met: it is missed by {float(self.violation):.3g} nats "
            f"per datum with the multiplier at its largest, {self.largest:g}, for {int(self.stuck)} steps; {side} the "
            "target."
        )

    def diagnose(self) -> None:
        """Warn, once, where `diagnosis` finds something: `pvae.fit` asks after each epoch."""
        if not self._said and (said := self.diagnosis()):
            self._said = True
            warnings.warn(said, stacklevel=3)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the loss of a batch, as `Objective.loss_and_grads`; warn once of a target that cannot be met."""
        loss = super().loss_and_grads(model, guide, *args, **kwargs)
        self.diagnose()
        return loss


def _target(target: Any, on: str) -> float | None:
    if on not in ("log_likelihood", "kl"):
        raise InputError(f"on is 'log_likelihood' or 'kl'; got {on!r}.")
    if target is None:
        return None
    goal = float(require_number(target, "target", advice="The unit is nats per datum."))
    if on == "kl" and goal < 0:
        raise InputError(f"A KL is never below 0, so the target {goal:g} cannot be met: give one of at least 0.")
    return goal
