"""`Alternate`: another objective, maximised in turns: over theta for a fixed q, then over q for a fixed theta."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pvae.errors import InputError
from pvae.names import unknown
from pvae.objectives.base import Objective, Terms
from pvae.objectives.joint_outcomes import weights_of_outcomes
from pvae.objectives.kl.weighted_kl import StatefulObjective
from pvae.objectives.named import named
from pvae.objectives.phases.alternating import PlayersObjective
from pvae.objectives.pyro.adapt_losses import adapt
from pvae.programs.bound import BoundPrograms

__all__ = ["Alternate"]

_PHI = ("gradient", "exact")


@named("alternate", "updates theta for a fixed q, then phi for a fixed theta; phi=exact uses the exact posterior")
class Alternate(PlayersObjective):
    """Another objective, maximised in turns: over theta for a fixed q, then over phi for a fixed theta.

    With ``phi="exact"`` q is the posterior instead of the guide. It is computed by enumeration at the start of each
    step and is fixed while theta is updated. This is generalised expectation maximisation: if each update of theta
    increases the bound, the log-likelihood never decreases. With a guide that cannot equal the posterior, only the
    bound increases, and the log-likelihood may decrease.

    In a plain `pyro.infer.SVI` script each step is one update of one player; the players take turns by their numbers of
    updates.

    Args:
        theta_steps: the number of updates of theta per turn.
        phi_steps: the number of updates of phi per turn; the exact posterior needs one.
        objective: the objective that is maximised: a `pvae.Objective`, a loss of `pyro.infer` or a factory of one; by
            default `pyro.infer.Trace_ELBO`. On the command line its settings follow slashes:
            ``alternate:theta_steps=5:objective=iwae/particles=8``.
        phi: ``"gradient"``, or ``"exact"`` if the latent sites have few joint values.
        tolerance: see `PlayersObjective`. It compares losses in a row, so it needs losses that are exact or have little
            noise.
        data_plate: for the exact posterior, the name of the plate over data, if several plates hold every site.

    Raises:
        InputError: for settings that contradict each other; in use, if the exact posterior cannot be enumerated.

    Source: Neal & Hinton, A View of the EM Algorithm that Justifies Incremental, Sparse, and other Variants (1998).

    Example:
        >>> import pvae, torch
        >>> objective = pvae.Alternate(theta_steps=2, objective=pvae.IWAE(particles=5))
        >>> x = torch.eye(4).repeat(10, 1)
        >>> run = pvae.fit("vae:latent=2:hidden=8", x, objective=objective, epochs=1, step="eager", progress=False)
        >>> objective.players, objective.updates
        (('theta', 'phi'), {'theta': 2, 'phi': 1})
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
                "phi='exact' needs its own objective and one phi step; got objective or phi_steps. Leave out objective "
                "and phi_steps."
            )
        if inner.players != ("all",):
            raise InputError(
                f"Alternate needs an objective that updates all parameters together; {type(inner).__name__} updates "
                f"{', '.join(inner.players)} separately. Use it without Alternate."
            )
        self.exact = phi == "exact"
        self.data_plate = data_plate
        self.inner = inner
        self.labelled, self.ranks_by_loss = inner.labelled, inner.ranks_by_loss
        self.no_bound, self.unranked = inner.no_bound, inner.unranked
        if self.exact:
            self.players = ("phi", "theta")
        # Posteriors by shape, type and device: the update of phi writes them, and the update of theta reads them.
        self._posteriors: dict[Any, Tensor] = {}
        self._turn = 0
        self._is_step_of_svi = False

    @property
    def bound_objective(self) -> Objective:
        """The objective that both players maximise."""
        return self.inner

    @property
    def biased(self) -> str:  # type: ignore[override]
        """Why the gradient is biased: the reason of the inner objective."""
        return "" if self.exact else self.inner.biased

    def settings(self) -> dict[str, Any]:
        """Return the settings of the updates, and the objective that is maximised."""
        if self.exact:
            return {"phi": "exact", **self.phases()}
        return {**self.phases(), "objective": self.inner}

    def terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the objective's terms of a batch.

        With the exact posterior the loss is minus log p(x) for phi, and minus the ELBO of the fixed q for theta.
        """
        if not self.exact:
            with self._steps_counted_here():
                return self.inner.terms(model, guide, args, kwargs, "all")
        programs = BoundPrograms(model, guide, args, kwargs)
        return self._find_posterior(programs) if player == "phi" else self._elbo_of_posterior(programs)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss of the inner objective, or minus log p(x), as a scalar in nats; there are no turns.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: the positional arguments of both programs.
            kwargs: the keyword arguments of both programs.
        """
        if not self.exact:
            return self.inner.differentiable_loss(model, guide, *args, **kwargs)
        weights = weights_of_outcomes(BoundPrograms(model, guide, args, kwargs), data_plate=self.data_plate)
        return -(torch.logsumexp(weights.log_joint, 0) * weights.scale).sum()

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the loss, in nats, and add gradients for the player of this turn; the others get no gradient.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: the positional arguments of both programs.
            kwargs: the keyword arguments of both programs.
        """
        self._is_step_of_svi = True
        try:
            loss = super().loss_and_grads(model, guide, *args, **kwargs)
        finally:
            self._is_step_of_svi = False
        self.diagnose()
        for player in set(self.players) - set(self.acting()):
            for parameter in self.group(model, guide, args, kwargs, player):
                parameter.grad = None
        self._turn += 1
        return loss

    def acting(self) -> tuple[str, ...]:
        """Return the player of this turn in a plain SVI script.

        Both players if the exact posterior is computed each time.
        """
        if self.exact:
            return self.players
        turns = [player for player in self.players for _ in range(self.updates[player])]
        return (turns[self._turn % len(turns)],)

    @contextmanager
    def _steps_counted_here(self) -> Iterator[None]:
        """Let the inner objective count steps in place of updates; in a plain SVI script a step is one update."""
        inner = self.inner
        if not isinstance(inner, StatefulObjective) or self._is_step_of_svi:
            yield
            return
        inner.advances = False
        try:
            yield
        finally:
            inner.advances = True

    def end_step(self, means: Mapping[str, Tensor]) -> None:
        """Change the state of the inner objective after a step of training.

        Args:
            means: the recorded terms of the step, means per datum, scalars in nats.
        """
        if isinstance(self.inner, StatefulObjective) and self.training:
            self.inner.advance(means)

    def look_at(self, data: Mapping[str, Tensor]) -> None:
        """Let the inner objective read what it needs from the training data.

        Args:
            data: the training data, as named tensors.
        """
        self.inner.look_at(data)

    def diagnose(self) -> None:
        """Warn if the inner objective finds a problem of the training so far."""
        self.inner.diagnose()

    def _find_posterior(self, programs: BoundPrograms) -> Terms:
        """Store the posterior at the present theta; the loss is minus log p(x)."""
        with torch.no_grad():
            weights = weights_of_outcomes(programs, data_plate=self.data_plate)
            posterior = torch.softmax(weights.log_joint, 0)
            evidence = (torch.logsumexp(weights.log_joint, 0) * weights.scale).sum()
        key = posterior.shape, posterior.dtype, posterior.device
        # Copy in place, because a traced step of theta reads the stored tensor.
        if key in self._posteriors:
            self._posteriors[key].copy_(posterior)
        else:
            self._posteriors[key] = posterior.clone()
        return Terms(-evidence, -evidence, {"elbo": evidence})

    def _elbo_of_posterior(self, programs: BoundPrograms) -> Terms:
        """Return minus E_q[log p(x, z) - log q(z)] at the stored q."""
        weights = weights_of_outcomes(programs, data_plate=self.data_plate)
        log_joint = weights.log_joint
        posterior = self._posteriors[log_joint.shape, log_joint.dtype, log_joint.device]
        # An impossible value has probability 0 and no gradient.
        energy = posterior * torch.where(posterior > 0, log_joint, torch.zeros_like(log_joint))
        elbo = ((energy + torch.special.entr(posterior)).sum(0) * weights.scale).sum()
        return Terms(-elbo.detach(), -elbo, {"elbo": elbo.detach()})
