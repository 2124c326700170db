"""Alternating training as the textbook derives it: theta for a fixed q, then q for a fixed theta."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pvae.errors import InputError
from pvae.names import unknown
from pvae.objectives.base import Call, Objective, Terms
from pvae.objectives.named import named
from pvae.objectives.phases.alternating import PlayersObjective
from pvae.objectives.phases.enumeration import weights_of_outcomes
from pvae.objectives.pyro.pyro_losses import adapt

__all__ = ["Alternate"]

_PHI = ("gradient", "exact")


@named("alternate", "theta for a fixed q, then phi for a fixed theta; phi=exact where enumerable")
class Alternate(PlayersObjective):
    """Another objective, climbed in turns: theta for a fixed q, then phi for a fixed theta.

    With ``phi="exact"`` q is no guide but the posterior itself, found by enumeration at the begin of each step and held
    fixed while theta climbs: generalised expectation maximisation, whose log-likelihood never falls where each phase
    climbs. With a guide that cannot reach the posterior only the bound climbs, and the log-likelihood may fall.

    In a plain `pyro.infer.SVI` script each step is one update of one player, whose turn comes as often as asked.

    Args:
        theta_steps: updates of theta per turn.
        phi_steps: updates of phi per turn; the exact posterior needs one.
        objective: what is climbed: a `pvae.Objective`, a loss of `pyro.infer` or a factory of one; by default
            `pyro.infer.Trace_ELBO`. On the command line its settings follow slashes:
            ``alternate:theta_steps=5:objective=iwae/particles=8``.
        phi: ``"gradient"``, or ``"exact"`` where the latent sites have few joint values.
        tolerance: see `PlayersObjective`; it compares losses in a row, so give it with losses that are exact or have
            little noise.
        data_plate: the name of the plate over data, for the exact posterior, where several hold every site.

    Raises:
        InputError: for settings that do not fit together; in use, if the exact posterior cannot be enumerated.
    Source: Neal & Hinton, A View of the EM Algorithm that Justifies Incremental, Sparse, and other Variants (1998).
    """

    def __init__(
        self,
        theta_steps: int = 1,
        phi_steps: int = 1,
        objective: Any = None,
        *,
        phi: str = "gradient",
        tolerance: float | None = None,
        data_plate: str | None = None,
    ) -> None:
        inner = adapt(Trace_ELBO() if objective is None else objective)
        super().__init__(inner.num_particles, theta_steps=theta_steps, phi_steps=phi_steps, tolerance=tolerance)
        if phi not in _PHI:
            raise unknown("phi of Alternate", str(phi), _PHI)
        if phi == "exact" and (objective is not None or phi_steps != 1):
            raise InputError(
                "phi='exact' has one objective and one phi step of its own: leave objective and phi_steps."
            )
        if inner.players != ("all",):
            raise InputError(f"Alternate needs an objective that trains all at once; {type(inner).__name__} does not.")
        self.exact, self.data_plate = phi == "exact", data_plate
        self.inner = inner
        self.biased = "" if self.exact else inner.biased
        if self.exact:
            self.players = ("phi", "theta")
        # scratch of one step: it is written by the first phase, and read by the second
        self._posteriors: dict[Any, Tensor] = {}
        self._turn = 0

    @property
    def bound_objective(self) -> Objective:
        """The objective that both phases maximise."""
        return self.inner

    def settings(self) -> dict[str, Any]:
        """Return the phases, and the objective that is climbed."""
        if self.exact:
            return {"phi": "exact", **self.phases()}
        return {**self.phases(), "objective": self.inner}

    def terms(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the objective's terms; with the exact posterior minus log p(x), and for theta minus its ELBO."""
        if not self.exact:
            return self.inner.terms(model, guide, args, kwargs, "all")
        return self._find(model, guide, args, kwargs) if player == "phi" else self._climb(model, guide, args, kwargs)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss of the objective that is climbed, or minus log p(x), as a scalar in nats: it has no turns."""
        if not self.exact:
            return self.inner.differentiable_loss(model, guide, *args, **kwargs)
        weights = weights_of_outcomes(model, guide, args, kwargs, data_plate=self.data_plate)
        return -(torch.logsumexp(weights.log_joint, 0) * weights.scale).sum()

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the loss, in nats, and give gradients to whom the turn is; the others have none, and so rest."""
        loss = super().loss_and_grads(model, guide, *args, **kwargs)
        resting = set(self.players) - set(self.acting())
        for player in resting:
            for each in self.group(model, guide, args, kwargs, player):
                each.grad = None
        self._turn += 1
        return loss

    def acting(self) -> tuple[str, ...]:
        """Return whose turn it is in a plain SVI script: the exact posterior is found anew for each update."""
        if self.exact:
            return self.players
        turns = [player for player in self.players for _ in range(self.updates[player])]
        return (turns[self._turn % len(turns)],)

    def _find(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any]) -> Terms:
        """Hold the posterior at the present theta; the loss is minus log p(x)."""
        with torch.no_grad():
            weights = weights_of_outcomes(model, guide, args, kwargs, data_plate=self.data_plate)
            posterior = torch.softmax(weights.log_joint, 0)
            evidence = (torch.logsumexp(weights.log_joint, 0) * weights.scale).sum()
        key = posterior.shape, posterior.dtype, posterior.device
        if key in self._posteriors:
            self._posteriors[key].copy_(posterior)
        else:
            self._posteriors[key] = posterior.clone()
        return Terms(-evidence, -evidence, {"elbo": evidence})

    def _climb(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any]) -> Terms:
        """Minus E_q[log p(x, z) - log q(z)] at the held q."""
        weights = weights_of_outcomes(model, guide, args, kwargs, data_plate=self.data_plate)
        log_joint = weights.log_joint
        posterior = self._posteriors[log_joint.shape, log_joint.dtype, log_joint.device]
        # what is impossible has no share, and no gradient
        energy = posterior * torch.where(posterior > 0, log_joint, torch.zeros_like(log_joint))
        elbo = ((energy + torch.special.entr(posterior)).sum(0) * weights.scale).sum()
        return Terms(-elbo.detach(), -elbo, {"elbo": elbo.detach()})
