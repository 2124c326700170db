"""Score-function objectives, for guides that cannot be reparameterised: REINFORCE with baselines, and VIMCO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from pvae.errors import InputError
from pvae.names import unknown
from pvae.objectives.base import Terms
from pvae.objectives.bounds.iwae import IWAE
from pvae.objectives.gradients.baselines import (
    baseline_input,
    checked_decay,
    coordinate_scores,
    gradient_only,
    kind_and_network,
    leave_one_out_mean,
    optimal_baseline,
)
from pvae.objectives.named import named
from pvae.objectives.weights_objective import WeightsObjective, WeightsOptions
from pvae.programs.bound import BoundPrograms
from pvae.weights import LogWeights

__all__ = ["BASELINES", "VIMCO", "ScoreFunction"]

#: baselines by name
BASELINES: dict[str, str] = {
    "none": "no baseline",
    "mean": "the mean of the other data of the batch",
    "decaying": "an exponentially decaying average over earlier steps",
    "network": "a network of x, trained by least squares",
    "leave-one-out": "the mean of the other particles (RLOO)",
    "optimal": "the constant that minimises the variance, estimated from the other particles",
    "optimal-per-coordinate": "like optimal, with one constant for each parameter of q(z given x)",
}
_OF_PARTICLES = ("leave-one-out", "optimal", "optimal-per-coordinate")


@named("reinforce", "ELBO with the score-function gradient and a baseline; for any guide")
class ScoreFunction(WeightsObjective):
    """The ELBO with the score-function gradient, also called REINFORCE, for sites without a pathwise gradient.

    The gradient is E[(log_w - c) * score]. The baseline c does not depend on the particle's own draw, so it changes
    only the variance. Sites that can be reparameterised keep their pathwise gradient.

    Args:
        baseline: a name of `BASELINES`, a number, or a module from x to one number per datum. The default, the mean of
            the other particles, is safe and needs no tuning.
        particles: K, draws of z per datum; at least 2 if the baseline comes from the other particles.
        decay: the decay of the decaying average, between 0 and 1.
        options: see `WeightsOptions`.

    Raises:
        InputError: for an unknown baseline, or for one particle if the baseline needs two; in use, if no site has a
            score-function gradient.

    Sources: Williams 1992; Mnih & Gregor, Neural Variational Inference and Learning, arXiv:1402.0030 (network and
        decaying baselines); Kool, van Hoof & Welling 2019 (leave-one-out); Ranganath, Gerrish & Blei, Black Box
        Variational Inference, arXiv:1401.0118, equation 9 (optimal).

    Example:
        >>> import pvae, torch
        >>> model = pvae.GMVAE(4, components=3, inference="amortised", latent=2, hidden=8)
        >>> objective = pvae.ScoreFunction(particles=4)
        >>> pvae.check(model, torch.eye(4), objective).fatal
        []
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
                f"The baseline {baseline!r} needs other particles, and there is one. Use particles=2 or more, or the "
                "baseline 'mean', 'decaying' or 'network'."
            )
        self.kind: str | float
        self.network: nn.Module | None
        self.kind, self.network = kind_and_network(baseline)
        self.decay = checked_decay(decay)
        self._args: tuple[Any, ...] = ()
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

    def terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the loss of a batch: minus the sum over data of the ELBO, each times its scale."""
        self._args = args
        try:
            return super().terms(model, guide, args, kwargs, player)
        finally:
            self._args = ()

    def weights(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> LogWeights:
        """Return the log weights of a batch.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: the positional arguments of both programs.
            kwargs: the keyword arguments of both programs.

        Raises:
            InputError: if there is a baseline and no site that uses it.
        """
        weights = super().weights(model, guide, args, kwargs)
        if self.kind != "none" and set(weights.strategies.values()) <= {"pathwise"}:
            strategies = ", ".join(f"{site} is {strategy}" for site, strategy in weights.strategies.items())
            raise InputError(
                f"The baseline {self.kind!r} needs a score-function site; the guide has none ({strategies}). Use "
                "'elbo', or ask for the score with gradients='SITE=score'."
            )
        self._require_data_of_baseline(BoundPrograms(model, guide, args, kwargs))
        return weights

    def _require_data_of_baseline(self, programs: BoundPrograms) -> None:
        """Refuse a baseline that needs a signal per datum, for programs without a plate that holds every site."""
        needs_data = self.network is not None or str(self.kind).startswith("optimal")
        if needs_data and not programs.layout.common_plates:
            raise InputError(
                f"The baseline {self.kind!r} needs a signal for each datum, and no plate holds every site. Use "
                "'reinforce:baseline=leave-one-out', which uses the signal of the whole batch."
            )

    def baseline(self, signals: Tensor, weights: LogWeights) -> Tensor:
        """Return the baseline of each particle, shape (particles, batch), in nats.

        Args:
            signals: log_w of each particle, shape (particles, batch), nats.
            weights: the weights of the batch.
        """
        if isinstance(self.kind, int | float):
            return torch.full_like(signals, float(self.kind))
        if self.kind == "mean":
            return self._mean_of_other_data(signals)
        if self.kind == "leave-one-out":
            return leave_one_out_mean(signals)
        if self.kind == "decaying":
            return self._decaying_average(signals)
        if self.network is not None:
            return self._network_baseline(self.network, signals).detach().expand_as(signals)
        if self.kind == "optimal":
            scores, _ = coordinate_scores(weights)
            return optimal_baseline(signals, scores.square().sum(-1, keepdim=True))[..., 0]
        return torch.zeros_like(signals)

    def control(self, signals: Tensor, weights: LogWeights) -> Tensor | None:
        """Return the least-squares term of a baseline network, or the baseline of each coordinate, shape (batch,).

        Args:
            signals: log_w of each particle, shape (particles, batch), nats.
            weights: the weights of the batch.
        """
        if self.network is not None:
            return -(signals.mean(0) - self._network_baseline(self.network, signals)).square()
        if self.kind == "optimal-per-coordinate":
            scores, parameters = coordinate_scores(weights)
            constants = optimal_baseline(signals, scores.square())
            return -((constants * scores).detach() * gradient_only(parameters)).sum(-1).mean(0)
        return None

    def _mean_of_other_data(self, signals: Tensor) -> Tensor:
        """Return for each datum the mean signal of the other data, shape (particles, batch); 0 for a single datum."""
        per_datum = signals.mean(0)
        if len(per_datum) == 1:
            return torch.zeros_like(signals)
        return leave_one_out_mean(per_datum).expand_as(signals)

    def _decaying_average(self, signals: Tensor) -> Tensor:
        """Return the average of earlier steps, shape (particles, batch), and in training add the present step to it.

        The returned average does not contain the present step, because that would shrink the gradient.
        """
        started = 1 - self.decay**self.steps
        average = torch.where(self.steps > 0, self.average / started.clamp_min(1e-12), torch.zeros_like(self.average))
        if self.training:
            with torch.no_grad():
                self.average.mul_(self.decay).add_((1 - self.decay) * signals.mean().to(self.average))
                self.steps.add_(1)
        return average.to(signals).expand_as(signals)

    def _network_baseline(self, network: nn.Module, signals: Tensor) -> Tensor:
        """Return the output of the baseline network, shape (batch,)."""
        x = baseline_input(network, self._args)
        if len(x) != signals.shape[1]:
            raise InputError(
                f"A baseline network needs x of the data in the plate; it sees {len(x)} data, and the plate holds "
                f"{signals.shape[1]}. Give the programs batches instead of subsampling in the plate, or use another "
                "baseline."
            )
        output: Tensor = network(x)
        return output.reshape(-1).to(signals.dtype)


@named("vimco", "IWAE with the score-function gradient and leave-one-out baselines; for any guide")
class VIMCO(IWAE):
    """The importance-weighted bound for any guide: score function with a leave-one-out baseline for each particle.

    `IWAE` does the same for sites that cannot be reparameterised.

    Args:
        particles: K, draws of z per datum, at least 2; the paper's settings are 5 to 50.
        mean: which mean of the other particles' weights replaces a particle's own: ``"geometric"`` (the paper's choice)
            or ``"arithmetic"``.
        options: see `WeightsOptions`.

    Raises:
        InputError: if ``particles < 2``, or for another ``mean``.

    Source: Mnih & Rezende, Variational Inference for Monte Carlo Objectives, arXiv:1602.06725, equations 10 to 12.

    Example:
        >>> import pvae, torch
        >>> model = pvae.GMVAE(4, components=3, inference="amortised", latent=2, hidden=8)
        >>> loss = pvae.VIMCO(particles=5).loss(model.model, model.guide, torch.eye(4))
        >>> loss > 0
        True
    """

    def __init__(self, particles: int = 5, mean: str = "geometric", **options: Unpack[WeightsOptions]) -> None:
        super().__init__(particles, **options)
        if particles < 2:
            raise InputError(
                f"VIMCO needs other particles for its baselines; got {particles} particle. Use particles=2 or more."
            )
        if mean not in ("geometric", "arithmetic"):
            raise unknown("mean", str(mean), ("geometric", "arithmetic"))
        self.mean = mean

    def settings(self) -> dict[str, Any]:
        """Return the mean if it is not the default, and the number of particles."""
        return {**({} if self.mean == "geometric" else {"mean": self.mean}), **super().settings()}
