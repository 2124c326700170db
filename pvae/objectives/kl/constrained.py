"""GECO: a constraint on the reconstruction or on the KL divergence, with a learned multiplier."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from pvae.checks import require_number
from pvae.errors import InputError
from pvae.objectives.base import Terms
from pvae.objectives.kl.weighted_kl import WeightedELBO
from pvae.objectives.named import named
from pvae.objectives.weights_objective import WeightsOptions
from pvae.weights import LogWeights

__all__ = ["Constrained"]

#: steps at the largest multiplier without meeting the target, before a warning
_STEPS_UNTIL_WARNING = 100


@named("geco", "GECO: constrains the reconstruction or the KL to a target, with a learned multiplier")
class Constrained(WeightedELBO):
    """Generalised ELBO with constrained optimisation (GECO): the weight of a beta-VAE is learned from a target.

    ``on="log_likelihood"`` minimises the KL subject to E log p(x given z) >= target; ``on="kl"`` maximises E log p(x
    given z) subject to KL <= target. Both are means per datum. The multiplier is positive. In each training step its
    logarithm changes by `rate` times the moving average of the violation in nats, limited to 1. Three numbers are
    recorded with the loss: ``multiplier``; ``violation``, the moving average, which is at most 0 if the target is met;
    and ``stuck``, the number of steps in a row at the largest multiplier without meeting the target. A target that
    cannot be met gives one warning.

    Args:
        target: the constraint, in nats per datum.
        on: ``"log_likelihood"`` or ``"kl"``.
        rate: the rate of change of the multiplier's logarithm, per step.
        decay: the decay of the moving average. The default is the paper's 0.99.
        multiplier: the initial multiplier.
        largest: the largest multiplier; the smallest is 1 / largest.
        particles: draws of z per datum.
        options: see `WeightsOptions`.

    Raises:
        InputError: for a target that cannot be met (a negative KL), or a setting out of its range; in use, without a
            target.

    Source: Rezende & Viola, Taming VAEs, arXiv:1810.00597, section 2.3 and algorithm 1; the limit on a step is ours.

    Example:
        >>> import pvae, torch
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4).repeat(10, 1)
        >>> objective = pvae.Constrained(target=-2.0)  # at least -2 nats of log p(x given z)
        >>> run = pvae.fit(model, x, objective=objective, epochs=1, step="eager", progress=False)
        >>> sorted({"multiplier", "violation", "stuck"} & set(run.history[-1]))
        ['multiplier', 'stuck', 'violation']
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
        self.goal = _checked_target(target, on)
        self.on = on
        if not (rate > 0 and 0 <= decay < 1 and largest > 1 and 1 / largest <= multiplier <= largest):
            raise InputError(
                "Constrained needs rate > 0, 0 <= decay < 1, largest > 1 and 1/largest <= multiplier <= largest; "
                f"got rate={rate!r}, decay={decay!r}, largest={largest!r}, multiplier={multiplier!r}."
            )
        self.rate = float(rate)
        self.decay = float(decay)
        self.largest = float(largest)
        self.multiplier = float(multiplier)
        self.register_buffer("log_multiplier", torch.tensor(math.log(multiplier), dtype=torch.float64))
        self.register_buffer("violation", torch.zeros((), dtype=torch.float64))
        self.register_buffer("stuck", torch.zeros((), dtype=torch.int64))
        self._has_warned = False

    def settings(self) -> dict[str, Any]:
        """Return the target, the constrained term, how the multiplier is learned, and the number of particles."""
        learning = {"rate": self.rate, "decay": self.decay, "multiplier": self.multiplier, "largest": self.largest}
        return {"target": self.goal, "on": self.on, **learning, **super().settings()}

    def terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the loss of a batch: minus the sum over data of the Lagrangian, each times its scale.

        In training, the multiplier changes afterwards.
        """
        if self.goal is None:
            raise InputError(
                f"Constrained needs a target on the {self.on}, in nats per datum; got none. Give target=..., for "
                "instance the value that a beta-VAE reaches."
            )
        return super().terms(model, guide, args, kwargs, player)

    def coefficients(self, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Return the coefficients of log-likelihood and KL: the multiplier for the constrained one, 1 for the other.

        Args:
            like: a tensor of the data type and device of the result.
        """
        factor = self.log_multiplier.exp().to(like)
        return (factor, 1.0) if self.on == "log_likelihood" else (1.0, factor)

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return minus the Lagrangian, shape (batch,), in nats."""
        factor = self.log_multiplier.exp().to(weights.log_joint)
        goal = self.goal or 0.0
        return super().surrogate(weights) + factor * (goal if self.on == "kl" else -goal)

    def shown(self, like: Tensor) -> dict[str, Tensor]:
        """Return the multiplier, the violation and the number of steps at the largest multiplier without success.

        Args:
            like: a tensor of the data type and device of the result.
        """
        return {
            "multiplier": self.log_multiplier.exp().to(like),
            "violation": self.violation.to(like, copy=True),
            "stuck": self.stuck.to(like),
        }

    def advance(self, means: Mapping[str, Tensor]) -> None:
        """Update the moving average of the violation, then the multiplier.

        Args:
            means: the recorded terms of the step, means per datum, scalars in nats.
        """
        goal = self.goal or 0.0
        violation = means["kl"] - goal if self.on == "kl" else goal - means["log_likelihood"]
        violation = violation.to(self.violation)
        decay = torch.where(self.steps == 0, torch.zeros_like(violation), torch.full_like(violation, self.decay))
        self.violation.copy_(decay * self.violation + (1.0 - decay) * violation)
        limit = math.log(self.largest)
        log_multiplier = self.log_multiplier + self.rate * self.violation.clamp(-1.0, 1.0)
        is_stuck = (log_multiplier >= limit) & (self.violation > 0.0)
        self.log_multiplier.copy_(log_multiplier.clamp(-limit, limit))
        self.stuck.copy_(torch.where(is_stuck, self.stuck + 1, torch.zeros_like(self.stuck)))
        super().advance(means)

    def diagnosis(self) -> str:
        """Return one line on a target that cannot be met, or an empty text; numbers are read from the device."""
        if int(self.stuck) < _STEPS_UNTIL_WARNING:
            return ""
        term, change = ("KL", "Raise") if self.on == "kl" else ("log-likelihood", "Lower")
        return (
            f"The target {self.goal:g} on the {term} cannot be met: the violation is {float(self.violation):.3g} nats "
            f"per datum, and the multiplier has been at its largest, {self.largest:g}, for {int(self.stuck)} steps. "
            f"{change} the target."
        )

    def diagnose(self) -> None:
        """Warn once if the target cannot be met; `pvae.fit` calls this after each epoch."""
        message = "" if self._has_warned else self.diagnosis()
        if message:
            self._has_warned = True
            warnings.warn(message, stacklevel=3)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the loss of a batch and add its gradients; warn once if the target cannot be met.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: the positional arguments of both programs.
            kwargs: the keyword arguments of both programs.
        """
        loss = super().loss_and_grads(model, guide, *args, **kwargs)
        self.diagnose()
        return loss


def _checked_target(target: Any, on: str) -> float | None:
    if on not in ("log_likelihood", "kl"):
        raise InputError(f"on must be 'log_likelihood' or 'kl'; got {on!r}.")
    if target is None:
        return None
    goal = float(require_number(target, "target", advice="The unit is nats per datum."))
    if on == "kl" and goal < 0:
        raise InputError(f"A target on the KL must be at least 0, because a KL is never negative; got {goal:g}.")
    return goal
