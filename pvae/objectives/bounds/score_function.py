"""Score-function objectives: for guides that cannot be reparameterised, with baselines that leave the mean alone."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor, nn

from pvae.errors import InputError
from pvae.names import unknown
from pvae.objectives.base import Call, Terms
from pvae.objectives.bounds.iwae import IWAE
from pvae.objectives.gradients.baselines import (
    checked_decay,
    coordinate_scores,
    new_network,
    optimal,
    others,
    seen_by,
    zero,
)
from pvae.objectives.named import named
from pvae.objectives.weights_objective import WeightsObjective, WeightsOptions
from pvae.weights import LogWeights

__all__ = ["BASELINES", "VIMCO", "ScoreFunction"]

#: baselines by name
BASELINES: dict[str, str] = {
    "none": "nothing is taken off",
    "mean": "the mean of the other data of the batch",
    "decaying": "a decaying average of earlier steps",
    "network": "a network's guess from x, trained by least squares",
    "leave-one-out": "the mean of the other particles (RLOO)",
    "optimal": "the constant of least variance, from the other particles",
    "optimal-per-coordinate": "the same for each parameter of q(z given x)",
}
_OF_PARTICLES = ("leave-one-out", "optimal", "optimal-per-coordinate")


@named("reinforce", "ELBO by the score function, with a baseline; any guide")
class ScoreFunction(WeightsObjective):
    """The ELBO with the score-function gradient, also called REINFORCE, for sites without a pathwise one.

    The gradient is E[(log_w - c) * score]: the baseline c must not depend on the particle's own draw, and then changes
    the variance alone. Sites that can be reparameterised keep their pathwise gradient.

    Args:
        baseline: a name of `BASELINES`, a number, or a module from x to one number per datum; the default, the mean
            of the other particles, is safe and needs no tuning.
        particles: K, draws of z per datum; 2 or more where the baseline comes from the other particles.
        decay: of the decaying average, between 0 and 1.
        options: see `WeightsOptions`.

    Raises:
        InputError: for an unknown baseline, or one particle where it needs two; in use, if no site takes a baseline.
    Sources: Williams 1992; Mnih & Gregor, Neural Variational Inference and Learning, arXiv:1402.0030 (network and
        decaying baselines); Kool, van Hoof & Welling 2019 (leave-one-out); Ranganath, Gerrish & Blei, Black Box
        Variational Inference, arXiv:1401.0118, equation 9 (optimal).
    """

    pathwise = False
    averages = True
    scored = "score"

    def __init__(
        self,
        baseline: str | float | nn.Module = "leave-one-out",
        particles: int = 4,
        decay: float = 0.9,
        **options: Unpack[WeightsOptions],
    ) -> None:
        super().__init__(particles, **options)
        if isinstance(baseline, str) and baseline not in BASELINES:
            raise unknown("baseline", baseline, BASELINES)
        if baseline in _OF_PARTICLES and particles < 2:
            raise InputError(
                f"The baseline {baseline!r} comes from the other particles, and there is one: use particles=2 or more, "
                "or 'mean', 'decaying' or 'network'."
            )
        self.kind: str | float = "network" if isinstance(baseline, nn.Module) else baseline
        self.decay = checked_decay(decay)
        self._args: Call = ()
        self.network: nn.Module | None = baseline if isinstance(baseline, nn.Module) else None
        if baseline == "network":
            self.network = new_network()
        if baseline == "decaying":
            self.average: Tensor
            self.register_buffer("average", torch.zeros((), dtype=torch.float64))
            self.steps: Tensor
            self.register_buffer("steps", torch.zeros((), dtype=torch.float64))

    def settings(self) -> dict[str, Any]:
        """Return the baseline and the number of particles."""
        decay = {"decay": self.decay} if self.kind == "decaying" and self.decay != 0.9 else {}
        return {"baseline": self.kind, **decay, **super().settings()}

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the mean of log_w over particles, shape (batch,), in nats."""
        return weights.log_w.mean(0)

    def terms(self, model: Any, guide: Any, args: Call, kwargs: Any, player: str) -> Terms:
        """Return the loss of a batch."""
        self._args = args
        try:
            return super().terms(model, guide, args, kwargs, player)
        finally:
            self._args = ()

    def weights(self, model: Any, guide: Any, args: Call, kwargs: Any) -> LogWeights:
        """Return the log weights of a batch; refuse a baseline that no site can use."""
        weights = super().weights(model, guide, args, kwargs)
        if self.kind != "none" and set(weights.strategies.values()) <= {"pathwise"}:
            raise InputError(
                f"The baseline {self.kind!r} is for score-function sites, and the guide has none: "
                f"{', '.join(f'{site} is {strategy}' for site, strategy in weights.strategies.items())}. Use 'elbo' or "
                "'iwae', or ask for the score with gradients='SITE=score'."
            )
        return weights

    def baseline(self, signals: Tensor, weights: LogWeights) -> Tensor:
        """Return what is taken off each particle's log_w, shape (particles, batch), in nats."""
        if isinstance(self.kind, int | float):
            return torch.full_like(signals, float(self.kind))
        if self.kind == "mean":
            per_datum = signals.mean(0)
            return others(per_datum).expand_as(signals) if len(per_datum) > 1 else torch.zeros_like(signals)
        if self.kind == "leave-one-out":
            return others(signals)
        if self.kind == "decaying":
            return self._decaying(signals)
        if self.network is not None:
            return self._guess(self.network, signals).detach().expand_as(signals)
        if self.kind == "optimal":
            return optimal(signals, coordinate_scores(weights)[0].square().sum(-1, keepdim=True))[..., 0]
        return torch.zeros_like(signals)

    def control(self, signals: Tensor, weights: LogWeights) -> Tensor | None:
        """Return the baseline network's least-squares term, or the baseline of each coordinate."""
        if self.network is not None:
            return -(signals.mean(0) - self._guess(self.network, signals)).square()
        if self.kind == "optimal-per-coordinate":
            scores, parameters = coordinate_scores(weights)
            constants = optimal(signals, scores.square())
            return -((constants * scores).detach() * zero(parameters)).sum(-1).mean(0)
        return None

    def _decaying(self, signals: Tensor) -> Tensor:
        """The average of earlier steps: with the present one in it, the gradient would shrink."""
        started = 1 - self.decay**self.steps
        average = torch.where(self.steps > 0, self.average / started.clamp_min(1e-12), torch.zeros_like(self.average))
        if self.training:
            with torch.no_grad():
                self.average.mul_(self.decay).add_((1 - self.decay) * signals.mean().to(self.average))
                self.steps.add_(1)
        return average.to(signals).expand_as(signals)

    def _guess(self, network: nn.Module, signals: Tensor) -> Tensor:
        """The network's baseline, shape (batch,)."""
        x = seen_by(network, self._args)
        if len(x) != signals.shape[1]:
            raise InputError(
                f"The baseline network sees {len(x)} data, and the plate holds {signals.shape[1]}: give the programs "
                "batches instead of subsampling in the plate, or use another baseline."
            )
        guess: Tensor = network(x)
        return guess.reshape(-1).to(signals.dtype)


@named("vimco", "IWAE by the score function, leave-one-out; any guide")
class VIMCO(IWAE):
    """The importance-weighted bound for any guide: score function with a leave-one-out baseline for each particle.

    `IWAE` does the same for sites that cannot be reparameterised; here every site that is not told otherwise does.

    Args:
        particles: K, draws of z per datum, at least 2; the paper's settings are 5 to 50.
        mean: how the other particles stand in for one, ``"geometric"`` (the paper's choice) or ``"arithmetic"``.
        options: see `WeightsOptions`.

    Raises:
        InputError: if ``particles < 2`` or ``mean`` is neither.
    Source: Mnih & Rezende, Variational Inference for Monte Carlo Objectives, arXiv:1602.06725, equations 10 to 12.
    """

    def __init__(self, particles: int = 5, mean: str = "geometric", **options: Unpack[WeightsOptions]) -> None:
        super().__init__(particles, **options)
        if particles < 2:
            raise InputError(
                f"VIMCO takes its baselines from the other particles: it needs particles=2 or more, not {particles}."
            )
        if mean not in ("geometric", "arithmetic"):
            raise unknown("mean", str(mean), ("geometric", "arithmetic"))
        self.mean = mean

    def settings(self) -> dict[str, Any]:
        """Return the mean where it is not the default, and the number of particles."""
        return {**({} if self.mean == "geometric" else {"mean": self.mean}), **super().settings()}
