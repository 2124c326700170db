"""`Adversarial`, the base class of GAN, AAE, ALI and FactorVAE: a critic compares two distributions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pvae.checks import require_sizes, require_whole
from pvae.errors import InputError
from pvae.names import unknown
from pvae.objectives.adversarial.conditioning import find_conditions
from pvae.objectives.adversarial.critics import (
    LOSSES,
    as_output,
    checked_penalty,
    frozen_parameters,
    gradient_penalty,
    new_critic,
    require_fitting,
)
from pvae.objectives.adversarial.sides import Sides, concatenate_rows, widest_dtype
from pvae.objectives.base import Terms, scaled_sums
from pvae.objectives.phases.alternating import PlayersObjective
from pvae.programs.bound import BoundPrograms
from pvae.randomness import evaluating

__all__ = ["Adversarial", "Sides"]

#: the default gradient penalty of a Wasserstein critic without spectral normalisation, from Gulrajani et al.
_DEFAULT_PENALTY = 10.0


class Adversarial(PlayersObjective):
    """Matches two distributions by a critic: q, of data and guide, and p, of the model.

    Class 1 is q and class 0 is p in every objective, so the critic's log ratio is log q - log p. Each step updates the
    critic, on draws without gradient; then it updates the parameter group that is trained against the critic, with the
    critic's parameters frozen. The critic is the parameter group ``critic``. It has its own learning rate, and it is
    moved and checkpointed with the objective. It is made at the first batch, which determines its number of features.
    The arguments that a simulation of the model depends on (labels, conditions) are found at the first batch too, and
    the critic gets them on both sides.

    Losses: ``"non-saturating"`` and ``"minimax"`` (Goodfellow et al., arXiv:1406.2661), with a critic loss of -log D at
    q and -log(1 - D) at p, which estimates the Jensen-Shannon divergence; ``"least-squares"`` (Mao et al.,
    arXiv:1611.04076, targets 1 for q and 0 for p, 1 for the opponent), which estimates Le Cam's squared distance
    1/2 int (q - p)^2 / (q + p), from 0 to 1; ``"wasserstein"`` (Arjovsky et al., arXiv:1701.07875, with the gradient
    penalty of Gulrajani et al., arXiv:1704.00028), which estimates Wasserstein-1, in the unit of the features. The
    first three estimate a density ratio; the last does not.

    Two numbers are recorded with the losses. The first is the divergence under its name (``jensen_shannon`` in nats,
    ``le_cam``, ``wasserstein``) as estimated by the critic; an untrained critic gives a smaller value, which may be
    below 0. The second is ``critic_accuracy``, the share of draws on the right side of log ratio 0 (not for
    Wasserstein).

    Args:
        loss: one of the losses above.
        critic_steps: the number of updates of the critic per step, on the same batch with new draws.
        hidden: the sizes of the critic's hidden layers.
        spectral: whether the critic's weights are divided by their largest singular values (Miyato et al.,
            arXiv:1802.05957).
        penalty: the weight of (||gradient of the critic|| - 1)^2 between draws of q and of p; None is 10 for
            ``"wasserstein"`` without ``spectral``, else 0.
        critic: a module from features, shape (batch, features), to one number each, shape (batch,) or (batch, 1), used
            instead of the built-in critic. The features are the sites in the order of the model, flat, then the
            conditions.

    Raises:
        InputError: for an unknown loss, a setting out of its range, or a setting that does not apply to `critic`.
    """

    #: the sides that the gradient against the critic changes: "q", "p" or both
    moves = "qp"
    #: the default loss, which `settings` leaves out
    default_loss = "non-saturating"
    #: whether the critic gets the arguments that a simulation of the model depends on
    conditional = True

    biased = "it is the gradient for the present critic, and only the best critic gives the divergence"
    unranked = "no validation score ranks adversarial training"

    def __init__(
        self,
        loss: str = "non-saturating",
        critic_steps: int = 1,
        *,
        hidden: int | Sequence[int] = (128, 128),
        spectral: bool = False,
        penalty: float | None = None,
        critic: nn.Module | None = None,
    ) -> None:
        super().__init__(1)
        if loss not in LOSSES:
            raise unknown(f"loss of {type(self).__name__}", str(loss), LOSSES)
        self.kind = loss
        self.rule = LOSSES[loss]
        self.updates = {"critic": require_whole(critic_steps, "critic_steps")}
        self.hidden = require_sizes(hidden, "hidden")
        self.spectral = bool(spectral)
        self.penalty = checked_penalty(penalty, self._default_penalty())
        require_fitting(critic, self.kind, self.penalty, self.spectral)
        self.network = critic
        self._has_user_critic = critic is not None
        self._conditions: tuple[Any, ...] | None = None

    def _default_penalty(self) -> float:
        """Return the default penalty; it is not 0 for a Wasserstein critic, which needs a bound on its gradient."""
        return _DEFAULT_PENALTY if self.kind == "wasserstein" and not self.spectral else 0.0

    def settings(self) -> dict[str, Any]:
        """Return the settings that are not the defaults."""
        settings: dict[str, Any] = {} if self.kind == self.default_loss else {"loss": self.kind}
        if self._has_user_critic:
            settings["critic"] = type(self.network).__name__
        elif self.hidden != (128, 128):
            settings["hidden"] = ",".join(str(size) for size in self.hidden)
        if self.spectral:
            settings["spectral"] = True
        if self.penalty != self._default_penalty():
            settings["penalty"] = self.penalty
        return settings | self.phases()

    def critic(self) -> list[nn.Parameter]:
        """Return the parameters of the critic; none before the first batch."""
        return [] if self.network is None else list(self.network.parameters())

    @abstractmethod
    def sides(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sides:
        """Return draws of q and of p for one batch; the sides in `moves` carry gradients if these are enabled.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: the positional arguments of both programs.
            kwargs: the keyword arguments of both programs.
        """

    def terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the loss of a player for one batch: the sum over data, each times its scale."""
        self._make_critic(BoundPrograms(model, guide, args, kwargs))
        conditions = self._condition_rows(args, kwargs)
        if player != "critic":
            return self._opponent_terms(self.sides(model, guide, args, kwargs), conditions)
        with torch.no_grad():
            sides = self.sides(model, guide, args, kwargs)
        return self._critic_terms(sides, conditions)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the first player's loss, and add each player's gradient to ``.grad`` of its own parameters.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: the positional arguments of both programs.
            kwargs: the keyword arguments of both programs.
        """
        self._make_critic(
            BoundPrograms(model, guide, args, kwargs)
        )  # the critic must exist before its parameters are registered
        return super().loss_and_grads(model, guide, *args, **kwargs)

    def divergence(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the divergence between q and p that the critic estimates on one batch, without a change of state.

        It uses new draws, with the critic in evaluation mode: the Jensen-Shannon divergence in nats, or the divergence
        of another loss. For a fixed critic its mean is a lower bound on the divergence. For Wasserstein-1 this needs a
        critic with a gradient norm of at most 1 everywhere, which a penalty encourages but does not guarantee.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: the positional arguments of both programs.
            kwargs: the keyword arguments of both programs.
        """
        self._make_critic(BoundPrograms(model, guide, args, kwargs))
        with evaluating(self), torch.no_grad():
            sides = self.sides(model, guide, args, kwargs)
            q, p = self._outputs(sides, self._condition_rows(args, kwargs))
            return float(self.rule.implied(self.rule.on_q(q) + self.rule.on_p(p)).mean())

    def log_ratio(self, *parts: Tensor) -> Tensor:
        """Return the critic's estimate of log q - log p at the values of all sites, shape (batch,), in nats.

        Args:
            parts: the sites that this objective matches, in the order of the model, then the conditions if there are
                any, each of shape (batch, ...).

        Raises:
            InputError: before the first batch, for a Wasserstein critic, or for another number of features.
        """
        if self.rule.log_ratio is None:
            raise InputError("A Wasserstein critic estimates no density ratio. Use another loss, or read `divergence`.")
        self._require_network()
        like = next(iter(self.critic()), parts[0])
        rows = concatenate_rows([part.reshape(len(part), -1).to(like.device) for part in parts], like.dtype)
        self._require_features(rows.shape[1])
        with evaluating(self), torch.no_grad():
            return self.rule.log_ratio(self._output(rows))

    def _critic_terms(self, sides: Sides, conditions: tuple[Tensor, ...]) -> Terms:
        """Return the critic's loss, with its estimate of the divergence.

        Args:
            sides: draws of q and of p without gradient.
            conditions: each of shape (batch, features).
        """
        rule = self.rule
        q, p = self._outputs(sides, conditions)
        critic_loss = rule.on_q(q) + rule.on_p(p)
        named = {rule.divergence: rule.implied(critic_loss).detach()}
        if rule.log_ratio is not None:
            named["critic_accuracy"] = 0.5 * ((rule.log_ratio(q) > 0).to(q) + (rule.log_ratio(p) < 0).to(q))
        if self.penalty:
            q_rows = self._rows(sides.q, conditions)
            p_rows = self._rows(sides.p, conditions)
            drawn = sum(part.shape[1] for part in sides.q)
            critic_loss = critic_loss + self.penalty * gradient_penalty(self._output, q_rows, p_rows, drawn)
        loss = (critic_loss * sides.scale).sum()
        return Terms(loss.detach(), loss, scaled_sums(named, sides.scale))

    def _opponent_terms(self, sides: Sides, conditions: tuple[Tensor, ...]) -> Terms:
        """Return the loss of the parameter group that is trained against the critic.

        Args:
            sides: draws of q and of p; the sides in `moves` carry gradients.
            conditions: each of shape (batch, features).
        """
        parts = {"q": sides.q, "p": sides.p}
        losses = {"q": self.rule.fool_q, "p": self.rule.fool_p}
        rows = torch.cat([self._rows(parts[side], conditions) for side in self.moves])
        with frozen_parameters(self._require_network()):
            outputs = self._output(rows).chunk(len(self.moves))
        by_side = [losses[side](output) for side, output in zip(self.moves, outputs, strict=True)]
        loss = (torch.stack(by_side).sum(0) * sides.scale).sum()
        return Terms(loss.detach(), loss)

    def _outputs(self, sides: Sides, conditions: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return the critic's outputs at q and at p, each of shape (batch,).

        One pass evaluates both, because each pass updates the singular vectors of spectral normalisation.
        """
        rows = torch.cat([self._rows(sides.q, conditions), self._rows(sides.p, conditions)])
        q, p = self._output(rows).chunk(2)
        return q, p

    def _rows(self, parts: tuple[Tensor, ...], conditions: tuple[Tensor, ...]) -> Tensor:
        """Return the features of one side, shape (batch, features), in the critic's type."""
        like = next(iter(self.critic()), None)
        return concatenate_rows((*parts, *conditions), parts[0].dtype if like is None else like.dtype)

    def _output(self, rows: Tensor) -> Tensor:
        """Return the critic's output, shape (batch,), for features of shape (batch, features)."""
        return as_output(self._require_network()(rows), len(rows))

    def _require_network(self) -> nn.Module:
        if self.network is None:
            raise InputError("The critic is made at the first batch, and there was none. Train first.")
        return self.network

    def _condition_rows(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Return the conditions of a batch, each of shape (batch, features)."""
        conditions = [args[key] if isinstance(key, int) else kwargs[key] for key in self._conditions or ()]
        return tuple([condition.reshape(len(condition), -1) for condition in conditions])

    def _make_critic(self, programs: BoundPrograms) -> None:
        """Find the conditions and make the critic, at the first batch only."""
        if self._conditions is not None:
            return
        self._conditions = find_conditions(programs) if self.conditional else ()
        with torch.no_grad():
            sides = self.sides(programs.model, programs.guide, programs.args, programs.kwargs)
        parts = (*sides.q, *self._condition_rows(programs.args, programs.kwargs))
        if self.network is None:
            features = sum(part.shape[1] for part in parts)
            network = new_critic(features, self.hidden, self.spectral)
            self.network = network.to(parts[0].device, widest_dtype(parts))
            self.network.train(self.training)

    def _require_features(self, features: int) -> None:
        """Raise InputError if the number of features is not that of the built-in critic."""
        first = next((module for module in self._require_network().modules() if isinstance(module, nn.Linear)), None)
        if not self._has_user_critic and first is not None and first.in_features != features:
            raise InputError(
                f"This critic needs {first.in_features} numbers per datum; got {features}. Give each site that "
                f"{type(self).__name__} matches, in the order of the model, then the conditions."
            )
