"""`WakeSleep`: reweighted wake-sleep, with an importance-weighted bound for theta and the inclusive KL for phi."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.replay_messenger import ReplayMessenger
from torch import Tensor

from pvae.checks import require_number
from pvae.errors import InputError
from pvae.names import unknown
from pvae.objectives.base import Terms, scaled_sums
from pvae.objectives.named import named
from pvae.objectives.phases.alternating import PlayersObjective
from pvae.programs.bound import BoundPrograms
from pvae.programs.program_in_context import with_guide_in, without_guide_gradient, without_model_gradient
from pvae.programs.sites import Site, sample_sites
from pvae.weights import LogWeights, log_mean_exp
from pvae.weights.compute import weights_of
from pvae.weights.traces import trace_pair

__all__ = ["WakeSleep"]

_PHI = ("wake", "sleep", "both")


@named("rws", "reweighted wake-sleep: theta maximises IWAE, phi minimises the inclusive KL; biased unless phi=sleep")
class WakeSleep(PlayersObjective):
    """Reweighted wake-sleep: a loss for theta and a loss for phi; guide sites need not be reparameterised.

    theta maximises the importance-weighted bound E log (1/K) sum_k w_k at draws of the guide. phi minimises
    KL(p(z given x) to q): at the data ("wake": minus sum_k w~_k log q(z_k given x), with self-normalised weights w~),
    at simulations of the model ("sleep": minus log q(z given x) for x and z drawn together), or at both.

    The wake gradient is biased for few particles: its mean is zero for one particle, and its bias is of order 1/K. The
    sleep gradient is unbiased for the mean over data that the model simulates, not for the mean over the training data.
    The reported loss is the loss of theta.

    Args:
        particles: K, draws of z per datum; the papers' settings are 5 to 50.
        phi: ``"wake"``, ``"sleep"`` or ``"both"``.
        mixing: the share of the wake loss for ``phi="both"``, from 0 to 1.
        data_plate: the name of the plate over data, if several plates hold every site.
        theta_steps: the number of updates of theta per step.
        phi_steps: the number of updates of phi per step.
        tolerance: see `PlayersObjective`.

    Raises:
        InputError: for a setting out of its range; in use, if the simulated data cannot replace an argument (the error
            names the site).

    Sources: Bornschein & Bengio, Reweighted Wake-Sleep, arXiv:1406.2751, section 2; Le et al., Revisiting Reweighted
        Wake-Sleep, arXiv:1805.10469, equations 3 to 6.

    Example:
        >>> import pvae, torch
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4).repeat(10, 1)
        >>> objective = pvae.WakeSleep(particles=5, phi="both")
        >>> run = pvae.fit(model, x, objective=objective, epochs=1, step="eager", progress=False)
        >>> objective.players
        ('theta', 'phi')
    """

    def __init__(
        self,
        particles: int = 5,
        phi: str = "wake",
        mixing: float = 0.5,
        *,
        data_plate: str | None = None,
        theta_steps: int = 1,
        phi_steps: int = 1,
        tolerance: float | None = None,
    ) -> None:
        super().__init__(particles, theta_steps=theta_steps, phi_steps=phi_steps, tolerance=tolerance)
        if phi not in _PHI:
            raise unknown("phi of WakeSleep", str(phi), _PHI)
        self.learning = phi
        advice = "0 is only sleep, 1 is only wake."
        self.mixing = float(require_number(mixing, "mixing", least=0, most=1, advice=advice))
        self.data_plate = data_plate
        if phi != "sleep":
            self.biased = "self-normalised weights: the bias of phi's gradient is of order 1/particles"

    def settings(self) -> dict[str, Any]:
        """Return the loss of phi, the number of particles, and the settings of the updates."""
        mixing = {"mixing": self.mixing} if self.learning == "both" else {}
        return {"phi": self.learning, **mixing, **super().settings()}

    def terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the loss of a batch for theta or for phi: the sum over data, each times its scale."""
        programs = BoundPrograms(model, guide, args, kwargs)
        if player == "theta":
            return self._theta_terms(programs)
        loss = self._phi_loss(programs)
        return Terms(loss.detach(), loss)

    def _theta_terms(self, programs: BoundPrograms) -> Terms:
        """Return minus the importance-weighted bound at draws of the guide, which gets no gradient."""
        weights = self._weights_of(without_guide_gradient(programs))
        loss = -(log_mean_exp(weights.log_w) * weights.scale).sum()
        return Terms(loss.detach(), loss, scaled_sums(weights.named(), weights.scale))

    def _phi_loss(self, programs: BoundPrograms) -> Tensor:
        """Return the loss of phi, a scalar in nats."""
        if self.learning == "wake":
            return self._wake_loss(programs)
        if self.learning == "sleep":
            return self._sleep_loss(programs)
        wake_loss = self._wake_loss(programs)
        return self.mixing * wake_loss + (1.0 - self.mixing) * self._sleep_loss(programs)

    def _weights_of(self, programs: BoundPrograms) -> LogWeights:
        return weights_of(programs, self.num_particles, data_plate=self.data_plate)

    def _wake_loss(self, programs: BoundPrograms) -> Tensor:
        """Return minus the sum over data of sum_k w~_k log q(z_k given x), a scalar in nats."""
        weights = self._weights_of(without_model_gradient(programs))
        shares = torch.softmax(weights.log_w.detach(), 0)
        return -((shares * weights.log_guide_at_fixed_z()).sum(0) * weights.scale).sum()

    def _sleep_loss(self, programs: BoundPrograms) -> Tensor:
        """Return minus the sum of log q(z given x) at simulated x and z, one simulation for each datum, in nats."""
        with torch.no_grad():
            observed = programs.trace_model()
            simulated = programs.trace_model(simulate=True)
        latent = poutine.Trace()
        for site in sample_sites(observed):
            if not site["is_observed"]:
                latent.add_node(site["name"], **simulated.nodes[site["name"]])
        on_simulation = _with_simulated_data(programs, sample_sites(observed), simulated)
        if on_simulation.layout.bijection.points:
            latent = trace_pair(on_simulation).guide_elsewhere(latent)
        replayed = with_guide_in(lambda: ReplayMessenger(latent), without_model_gradient(on_simulation))
        weights = weights_of(replayed, 1, data_plate=self.data_plate)
        return -(weights.log_guide[0] * weights.scale).sum()


def _with_simulated_data(programs: BoundPrograms, sites: list[Site], simulated: poutine.Trace) -> BoundPrograms:
    """Return the programs with simulated values in place of the arguments that the model observes.

    Args:
        programs: both programs with their arguments.
        sites: the sites of the model with its observations.
        simulated: a trace of the model with simulated observations.
    """
    arguments: dict[Any, Any] = {**dict(enumerate(programs.args)), **programs.kwargs}
    replaced: dict[Any, Tensor] = {}
    for site in sites:
        if not site["is_observed"]:
            continue
        key = _observed_argument(site, {key: value for key, value in arguments.items() if key not in replaced})
        observed = arguments[key]
        drawn: Site = simulated.nodes[site["name"]]
        replaced[key] = drawn["value"].reshape(observed.shape).to(observed.dtype)
    args = tuple([replaced.get(position, value) for position, value in enumerate(programs.args)])
    kwargs = {name: replaced.get(name, value) for name, value in programs.kwargs.items()}
    return BoundPrograms(programs.model, programs.guide, args, kwargs)


def _observed_argument(site: Site, arguments: Mapping[Any, Any]) -> Any:
    """Return the key of the argument that a site observes.

    It is the observed tensor itself, else a view of it, else the only argument of its size.

    Args:
        site: an observed site of the model.
        arguments: the arguments by position or by name.
    """
    value = site["value"]
    candidates = {
        key: argument
        for key, argument in arguments.items()
        if isinstance(argument, Tensor) and argument.numel() == value.numel() and argument.dim()
    }
    for is_observed in (_is_same, _shares_memory, _has_same_size):
        keys = [key for key, argument in candidates.items() if is_observed(argument, value)]
        if len(keys) == 1:
            return keys[0]
    raise InputError(
        f"The sleep phase needs to know which argument a simulated site replaces; site {site['name']!r} observes a "
        f"tensor of shape {tuple(value.shape)}, and {len(candidates)} arguments have as many numbers. Observe an "
        "argument as it is passed, or use phi='wake'."
    )


def _is_same(first: Tensor, second: Tensor) -> bool:
    return first is second


def _has_same_size(first: Tensor, second: Tensor) -> bool:
    return first.numel() == second.numel()


def _shares_memory(first: Tensor, second: Tensor) -> bool:
    """Return whether two tensors of one type start at the same place in memory."""
    return first.data_ptr() == second.data_ptr() and first.dtype == second.dtype
