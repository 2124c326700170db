"""Reweighted wake-sleep: theta by an importance-weighted bound, phi by the inclusive divergence, per datum."""

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
from pvae.objectives.base import Call, Terms
from pvae.objectives.named import named
from pvae.objectives.phases.alternating import PlayersObjective, Within
from pvae.programs.bound import BoundPrograms
from pvae.programs.sites import Site, sample_sites
from pvae.weights import LogWeights, log_mean_exp, trace_weights

__all__ = ["WakeSleep"]

_PHI = ("wake", "sleep", "both")


@named("rws", "reweighted wake-sleep: theta by IWAE, phi by the inclusive KL; any guide")
class WakeSleep(PlayersObjective):
    """Reweighted wake-sleep: two losses, for guides of any kind, since nothing is reparameterised.

    theta ascends the importance-weighted bound E log (1/K) sum_k w_k at draws of the guide. phi descends
    KL(p(z given x) to q), at the data ("wake": minus sum_k w~_k log q(z_k given x), w~ the self-normalised weights) or
    at simulations of the model ("sleep": minus log q(z given x) for x, z drawn together), or at both.

    The wake gradient is biased for few particles: at one particle it is zero in the mean, and it tends to the exact
    one like 1/K. The sleep gradient is unbiased, for data that the model believes in. The reported loss is theta's.

    Args:
        particles: K, draws of z per datum; the papers' settings are 5 to 50.
        phi: ``"wake"``, ``"sleep"`` or ``"both"``.
        mixing: the share of wake where both are mixed, from 0 to 1.
        data_plate: the name of the plate over data, where several hold every site.
        theta_steps: updates of theta per step.
        phi_steps: updates of phi per step.
        tolerance: see `PlayersObjective`.

    Raises:
        InputError: for a number or a word out of range; in use, if the simulated data cannot take the place of an
            argument, with the site's name.
    Sources: Bornschein & Bengio, Reweighted Wake-Sleep, arXiv:1406.2751, section 2; Le et al., Revisiting Reweighted
    Wake-Sleep, arXiv:1805.10469, equations 3 to 6.
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
        self.learning, self.data_plate = phi, data_plate
        advice = "0 is sleep alone, 1 is wake alone."
        self.mixing = float(require_number(mixing, "mixing", least=0, most=1, advice=advice))
        if phi != "sleep":
            self.biased = "self-normalised weights: phi's gradient is off by a term of order 1/particles"

    def settings(self) -> dict[str, Any]:
        """Return how phi learns, the number of particles, and the phases."""
        mixing = {"mixing": self.mixing} if self.learning == "both" else {}
        return {"phi": self.learning, **mixing, **super().settings()}

    def terms(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return a player's loss of a batch: the sum over data of what the class says, each times its scale."""
        if player == "theta":
            weights = self._weights(model, Within(guide, torch.no_grad), args, kwargs)
            bound = log_mean_exp(weights.log_w)
            named = {name: (each * weights.scale).sum() for name, each in weights.named().items()}
            loss = -(bound * weights.scale).sum()
            return Terms(loss.detach(), loss, named)
        loss = self._phi(model, guide, args, kwargs)
        return Terms(loss.detach(), loss)

    def _phi(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any]) -> Tensor:
        if self.learning == "wake":
            return self._wake(model, guide, args, kwargs)
        if self.learning == "sleep":
            return self._sleep(model, guide, args, kwargs)
        wake, sleep = self._wake(model, guide, args, kwargs), self._sleep(model, guide, args, kwargs)
        return self.mixing * wake + (1.0 - self.mixing) * sleep

    def _weights(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any]) -> LogWeights:
        return trace_weights(model, guide, args, kwargs, self.num_particles, data_plate=self.data_plate)

    def _wake(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any]) -> Tensor:
        weights = self._weights(Within(model, torch.no_grad), guide, args, kwargs)
        shares = torch.softmax(weights.log_w.detach(), 0)
        return -((shares * weights.log_guide_at_fixed_z()).sum(0) * weights.scale).sum()

    def _sleep(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any]) -> Tensor:
        """Minus log q of simulated z given simulated x: one simulation takes the place of each datum."""
        with torch.no_grad():
            programs = BoundPrograms(model, guide, args, kwargs)
            observed, simulated = programs.trace_model(), programs.trace_model(simulate=True)
        args, kwargs = _with_simulated(sample_sites(observed), simulated, args, kwargs)
        latent = poutine.Trace()
        for site in sample_sites(observed):
            if not site["is_observed"]:
                latent.add_node(site["name"], **simulated.nodes[site["name"]])
        replayed = Within(guide, lambda: ReplayMessenger(latent))
        still = Within(model, torch.no_grad)
        weights = trace_weights(still, replayed, args, kwargs, 1, data_plate=self.data_plate)
        return -(weights.log_guide[0] * weights.scale).sum()


def _with_simulated(
    observed: list[Site], simulated: poutine.Trace, args: Call, kwargs: Mapping[str, Any]
) -> tuple[Call, dict[str, Any]]:
    """The arguments, with what the model has simulated in the places of what it had observed."""
    places: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
    taken: dict[Any, Tensor] = {}
    for site in observed:
        if not site["is_observed"]:
            continue
        place = _place(site, {key: each for key, each in places.items() if key not in taken})
        given = places[place]
        drawn: Site = simulated.nodes[site["name"]]
        taken[place] = drawn["value"].reshape(given.shape).to(given.dtype)
    return tuple(taken.get(place, each) for place, each in enumerate(args)), {
        name: taken.get(name, each) for name, each in kwargs.items()
    }


def _place(site: Site, arguments: Mapping[Any, Any]) -> Any:
    """The argument that a site observes: itself, else a view of it, else the only one of as many numbers."""
    value = site["value"]
    alike = {
        key: each
        for key, each in arguments.items()
        if isinstance(each, Tensor) and each.numel() == value.numel() and each.dim()
    }
    tests = (
        lambda each: each is value,
        lambda each: each.data_ptr() == value.data_ptr() and each.dtype == value.dtype,
        lambda each: True,
    )
    for test in tests:
        found = [key for key, each in alike.items() if test(each)]
        if len(found) == 1:
            return found[0]
    raise InputError(
        f"The sleep phase simulates site {site['name']!r}, and cannot tell which argument of the guide it replaces: "
        f"it observes a tensor of shape {tuple(value.shape)}, and {len(alike)} arguments have as many numbers. Observe "
        "an argument as it is passed, or use phi='wake'."
    )
