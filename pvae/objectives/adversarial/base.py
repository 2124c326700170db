"""Matching by a critic: what GAN, AAE and ALI share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pvae.checks import require_number, require_sizes, require_whole
from pvae.errors import InputError
from pvae.names import unknown
from pvae.objectives.adversarial.conditioning import conditions_of
from pvae.objectives.adversarial.critic_inputs import joined
from pvae.objectives.adversarial.critics import LOSSES, gradient_penalty, held_still, new_critic
from pvae.objectives.base import Call, Terms
from pvae.objectives.phases.alternating import PlayersObjective
from pvae.randomness import evaluating

__all__ = ["Adversarial", "Sides"]

_PENALTY = 10.0  # of a Wasserstein critic that nothing else bounds: Gulrajani et al.


@dataclass(frozen=True)
class Sides:
    """What the critic is to tell apart, row by row.

    Attributes:
        q: sites as data and guide give them, each of shape (batch, numbers): class 1.
        p: the same sites as the model gives them: class 0.
        scale: what each datum counts for; a number or shape (batch,).
    """

    q: tuple[Tensor, ...]
    p: tuple[Tensor, ...]
    scale: float | Tensor


class Adversarial(PlayersObjective):
    """Two distributions matched by a critic: q, which data and guide make, and p, which the model makes.

    Class 1 is q and class 0 is p, for every objective, so that the critic's log ratio is log q - log p. Each step
    trains the critic, on draws that it passes no gradient to, before whoever fools it, with the critic held still.
    The critic is the parameter group ``critic``: it has a learning rate, is checkpointed and moved with the objective,
    and is made at the first batch, whose numbers tell its width. Arguments that a simulation of the model depends on
    (labels, conditions) are found then, and given to the critic on both sides.

    Losses: ``"non-saturating"`` and ``"minimax"`` (Goodfellow et al., arXiv:1406.2661), whose critic pays -log D on q
    and -log(1 - D) on p and so estimates the Jensen-Shannon divergence; ``"least-squares"`` (Mao et al.,
    arXiv:1611.04076, targets 1 for q and 0 for p, 1 for who fools it), which estimates Le Cam's squared distance
    1/2 int (q - p)^2 / (q + p), from 0 to 1; ``"wasserstein"`` (Arjovsky et al., arXiv:1701.07875, with the gradient
    penalty of Gulrajani et al., arXiv:1704.00028), which estimates Wasserstein-1, in the unit of the features. The
    first three tell a density ratio, the last does not.

    Recorded beside the losses: that divergence under its name (``jensen_shannon`` in nats, ``le_cam``,
    ``wasserstein``), as the critic sees it: a critic that has not learned yet sees less, even below 0; and
    ``critic_accuracy``, the share of draws on the right side of log ratio 0 (none for Wasserstein).

    Args:
        loss: one of the losses above.
        critic_steps: updates of the critic per step, on the same batch with fresh draws.
        hidden: sizes of the critic's hidden layers.
        spectral: divide the critic's weights by their largest singular values (Miyato et al., arXiv:1802.05957).
        penalty: weight of (||slope of the critic|| - 1)^2 between draws of q and of p; None is 10 for ``"wasserstein"``
            without ``spectral``, else 0.
        critic: a module of your own from features, shape (batch, features), to a number each, shape (batch,) or
            (batch, 1): the sites in the order of the model, flat, then the conditions.

    Raises:
        InputError: for an unknown loss, a setting out of its range, or one that a critic of your own leaves no use for.
    """

    #: the sites of which side a gradient moves, where the critic is fooled: "q", "p" or both
    moves = "qp"

    biased = "it follows the critic of the moment, which stands for the divergence only where it is the best one"
    unranked = "neither the loss of a game nor a bound by a guide that climbs no bound ranks them"

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
        self.kind, self.rule = loss, LOSSES[loss]
        self.updates = {"critic": require_whole(critic_steps, "critic_steps")}
        self.hidden = require_sizes(hidden, "hidden")
        self.spectral = bool(spectral)
        self.penalty = _penalty(penalty, loss == "wasserstein" and not self.spectral)
        if critic is not None and (self.spectral or not isinstance(critic, nn.Module)):
            raise InputError(
                "critic is a torch.nn.Module, and spectral=True is for the built-in one: normalise it inside."
            )
        if loss == "wasserstein" and not self.penalty and not self.spectral and critic is None:
            raise InputError("A Wasserstein critic has to be bounded: give penalty > 0 or spectral=True.")
        self.network, self.given = critic, critic is not None
        self._conditions: tuple[Any, ...] | None = None

    def settings(self) -> dict[str, Any]:
        """Return the loss, and what is not the default."""
        held: dict[str, Any] = {} if self.kind == "non-saturating" else {"loss": self.kind}
        if self.given:
            held["critic"] = type(self.network).__name__
        elif self.hidden != (128, 128):
            held["hidden"] = ",".join(str(each) for each in self.hidden)
        if self.spectral:
            held["spectral"] = True
        if self.penalty != _penalty(None, self.kind == "wasserstein" and not self.spectral):
            held["penalty"] = self.penalty
        return held | self.phases()

    def critic(self) -> list[nn.Parameter]:
        """Return the parameters of the critic; none before the first batch."""
        return [] if self.network is None else list(self.network.parameters())

    @abstractmethod
    def sides(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any]) -> Sides:
        """Return draws of q and of p for one batch; the sides in `moves` carry gradients where these are enabled."""

    def terms(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return what a player pays for one batch: the sum over data, each times its scale."""
        self._prepare(model, guide, args, kwargs)
        if player == "critic":
            with torch.no_grad():
                sides = self.sides(model, guide, args, kwargs)
            return self._judging(sides, self._given(args, kwargs))
        sides = self.sides(model, guide, args, kwargs)
        return self._fooling(sides, self._given(args, kwargs))

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the first player's loss, and add each player's gradient to ``.grad`` of its group."""
        self._prepare(model, guide, args, kwargs)  # the critic has to exist before it is registered
        return super().loss_and_grads(model, guide, *args, **kwargs)

    def divergence(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the divergence between q and p that the critic implies on one batch; nothing moves.

        Fresh draws, and the critic in evaluation mode: the Jensen-Shannon divergence in nats, or what the loss
        estimates. For a fixed critic its mean is a lower bound, whatever that critic has learned; of Wasserstein-1
        only if the critic's slope is nowhere above 1, which a penalty asks for and does not ensure.
        """
        self._prepare(model, guide, args, kwargs)
        with evaluating(self), torch.no_grad():
            sides = self.sides(model, guide, args, kwargs)
            q, p = self._outputs(sides, self._given(args, kwargs))
            return float(self.rule.implied(self.rule.on_q(q) + self.rule.on_p(p)).mean())

    def log_ratio(self, *parts: Tensor) -> Tensor:
        """Return the critic's estimate of log q - log p at given values, shape (batch,), in nats.

        Args:
            parts: the sites that this objective matches, in the order of the model, then the conditions where there
                are any, each of shape (batch, ...).

        Raises:
            InputError: before the first batch, for a Wasserstein critic, or for another number of features.
        """
        if self.rule.log_ratio is None:
            raise InputError("A Wasserstein critic tells no density ratio: use another loss, or read `divergence`.")
        if self.network is None:
            raise InputError("The critic is made at the first batch: train first.")
        like = next(iter(self.critic()), parts[0])
        rows = joined([each.reshape(len(each), -1).to(like.device) for each in parts], like.dtype)
        self._require_width(rows.shape[1])
        with evaluating(self), torch.no_grad():
            return self.rule.log_ratio(self._output(rows))

    def _judging(self, sides: Sides, given: tuple[Tensor, ...]) -> Terms:
        rule = self.rule
        q, p = self._outputs(sides, given)
        paid = rule.on_q(q) + rule.on_p(p)
        named = {rule.divergence: rule.implied(paid)}
        if rule.log_ratio is not None:
            named["critic_accuracy"] = 0.5 * ((rule.log_ratio(q) > 0).to(q) + (rule.log_ratio(p) < 0).to(q))
        if self.penalty:
            rows, others = self._rows(sides.q, given), self._rows(sides.p, given)
            judged = sum(each.shape[1] for each in sides.q)
            paid = paid + self.penalty * gradient_penalty(self._output, rows, others, judged)
        loss = (paid * sides.scale).sum()
        return Terms(loss.detach(), loss, {name: (each.detach() * sides.scale).sum() for name, each in named.items()})

    def _fooling(self, sides: Sides, given: tuple[Tensor, ...]) -> Terms:
        moved = {"q": (sides.q, self.rule.fool_q), "p": (sides.p, self.rule.fool_p)}
        parts, rules = zip(*(moved[side] for side in self.moves), strict=True)
        with held_still(self._built()):
            outputs = self._output(torch.cat([self._rows(each, given) for each in parts])).chunk(len(parts))
        paid = torch.stack([rule(each) for rule, each in zip(rules, outputs, strict=True)]).sum(0)
        loss = (paid * sides.scale).sum()
        return Terms(loss.detach(), loss)

    def _outputs(self, sides: Sides, given: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """The critic's outputs on q and on p, each of shape (batch,), in one pass: spectral norms move once."""
        q, p = self._output(torch.cat([self._rows(sides.q, given), self._rows(sides.p, given)])).chunk(2)
        return q, p

    def _rows(self, parts: tuple[Tensor, ...], given: tuple[Tensor, ...]) -> Tensor:
        like = next(iter(self.critic()), None)
        return joined((*parts, *given), parts[0].dtype if like is None else like.dtype)

    def _output(self, rows: Tensor) -> Tensor:
        output: Tensor = self._built()(rows)
        if output.shape not in ((len(rows),), (len(rows), 1)):
            raise InputError(
                f"A critic gives one number per datum, shape ({len(rows)},) or ({len(rows)}, 1); got "
                f"{tuple(output.shape)}."
            )
        return output.reshape(-1)

    def _built(self) -> nn.Module:
        if self.network is None:
            raise InputError("The critic is made at the first batch: train first.")
        return self.network

    def _given(self, args: Call, kwargs: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """The conditions of a batch, a row for each datum."""
        found = [args[place] if isinstance(place, int) else kwargs[place] for place in self._conditions or ()]
        return tuple(each.reshape(len(each), -1) for each in found)

    def _prepare(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any]) -> None:
        """At the first batch, find the conditions and make the critic."""
        if self._conditions is not None:
            return
        conditions = conditions_of(model, guide, args, kwargs)
        self._conditions = conditions
        with torch.no_grad():
            sides = self.sides(model, guide, args, kwargs)
        parts = (*sides.q, *self._given(args, kwargs))
        if self.network is None:
            width = sum(each.shape[1] for each in parts)
            self.network = new_critic(width, self.hidden, self.spectral).to(parts[0].device, _wide(parts))
            self.network.train(self.training)

    def _require_width(self, width: int) -> None:
        first = next((each for each in self._built().modules() if isinstance(each, nn.Linear)), None)
        if not self.given and first is not None and first.in_features != width:
            raise InputError(
                f"This critic judges {first.in_features} numbers per datum, and got {width}: give each site that "
                f"{type(self).__name__} matches, in the order of the model, then the conditions."
            )


def _wide(parts: tuple[Tensor, ...]) -> torch.dtype:
    """The floating type that holds all parts; at least float32, also where casts to less are automatic."""
    found = torch.float32
    for each in parts:
        if each.is_floating_point():
            found = torch.promote_types(found, each.dtype)
    return found


def _penalty(given: float | None, needed: bool) -> float:
    if given is None:
        return _PENALTY if needed else 0.0
    return float(require_number(given, "penalty", least=0, infinite=True))
