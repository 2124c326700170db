"""The objective of JointVAE: separate capacities for the KL of continuous latents and of discrete latents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Unpack

import pyro
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from pvae.errors import InputError
from pvae.objectives.base import Terms
from pvae.objectives.gradients.estimator import estimate
from pvae.objectives.gradients.strategies import BIASED, enumerating_guide
from pvae.objectives.kl.batch_kl import BatchKLObjective, batch_mean
from pvae.objectives.kl.schedules import Schedule
from pvae.objectives.kl.weighted_kl import StatefulObjective, not_negative
from pvae.objectives.named import named
from pvae.objectives.weights_objective import WeightsOptions, scaled_terms
from pvae.programs.site_masks import is_masked
from pvae.programs.sites import Site, is_delta, is_discrete
from pvae.weights import LogWeights
from pvae.weights.enumeration import ENUMERATE, support_size
from pvae.weights.handlers import PATHWISE, ChooseStrategy
from pvae.weights.kl import prior_is_fixed

__all__ = ["JointCapacity"]

CONTINUOUS, DISCRETE = "continuous", "discrete"
#: C_y at the end in the source, for MNIST
_DISCRETE = 5.0
_STRATEGIES = (PATHWISE, ENUMERATE, *BIASED)


@named(
    "joint-capacity",
    "JointVAE: one growing capacity for the KL of continuous latents, and one for the KL of discrete latents",
)
class JointCapacity(BatchKLObjective, StatefulObjective):
    """E log p(x given z, y) - gamma * abs(KL of z - C_z) - gamma * abs(KL of y - C_y), with mean KLs of the batch.

    z are all continuous latent sites and y all discrete ones. The source uses one capacity for each kind because a
    model may otherwise leave a discrete latent unused. Discrete sites that are marked for enumeration are summed out
    exactly in the first term, and their KL is in closed form. With ``gradients="y=concrete"``, a site of one-hot
    vectors is drawn from a relaxation, as in the source, and the gradient is biased. The KL of z is in closed form if
    there is one, else it is estimated from the draws.

    A KL of y near C_y does not mean that y depends on the data: q(y given x) with the same value for all data has the
    largest KL too. A large `gamma` can lead to it. For small batches the gradient is biased, as for `Capacity`.
    ``kl_continuous``, ``kl_discrete`` and both capacities are recorded.

    Args:
        continuous: C_z at the end, in nats per datum. The default is that of the source for MNIST.
        discrete: C_y at the end, in nats per datum; at most the sum of the logarithms of the numbers of values, which
            is the largest KL to a uniform prior. By default it grows to 5 as in the source, and stops at the largest.
        gamma: the weight of both distances. The default is that of the source for MNIST.
        steps: the number of training steps in which both grow linearly from 0. The default is that of the source.
        particles: draws of z per datum.
        options: see `WeightsOptions`.

    Raises:
        InputError: for a negative capacity or weight; in use, if the density of one site depends on a summed-out one,
            a site is a point or masked, its draws are neither reparameterised nor enumerated, or `discrete` is above
            the largest KL.

    Source: Dupont, Learning Disentangled Joint Continuous and Discrete Representations, arXiv:1804.00104, equation
        7 and appendix A.

    Example:
        >>> import pvae, torch
        >>> model = pvae.JointVAE(4, categories=3, latent=2, hidden=8)
        >>> objective = pvae.JointCapacity(continuous=5.0, discrete=1.0, steps=100)
        >>> terms = objective.terms(model.model, model.guide, (torch.eye(4),), {}, "all")
        >>> sorted(terms.named)[:3]
        ['capacity_continuous', 'capacity_discrete', 'elbo']
    """

    pathwise = False
    averages = True

    def __init__(
        self,
        continuous: float = 5.0,
        discrete: float | None = None,
        gamma: float = 30.0,
        steps: int = 25_000,
        particles: int = 1,
        **options: Unpack[WeightsOptions],
    ) -> None:
        super().__init__(particles, **options)
        self.gamma = not_negative("gamma", gamma)
        self.schedule = Schedule("linear", 0.0, not_negative("continuous", continuous), steps)
        self.discrete = discrete
        end = _DISCRETE if discrete is None else not_negative("discrete", discrete)
        self.discrete_schedule = Schedule("linear", 0.0, end, steps)

    def settings(self) -> dict[str, Any]:
        """Return both capacities, the weight, the steps and the number of particles."""
        capacities = {CONTINUOUS: self.schedule.end, DISCRETE: self.discrete}
        return {**capacities, "gamma": self.gamma, "steps": self.schedule.steps, **super().settings()}

    def is_linear(self) -> bool:
        """Return False: the penalty needs the KL of each datum."""
        return False

    def choose(self) -> ChooseStrategy:
        """Return the strategy of each site as `WeightsObjective` does, but enumerate the guide's marked sites."""
        return enumerating_guide(super().choose())

    def shown(self, like: Tensor) -> dict[str, Tensor]:
        """Return nothing: the capacities are among the terms.

        Args:
            like: a tensor of the data type and device of the result.
        """
        return {}

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the mean of log p(x given z, y) over particles, shape (batch,), in nats."""
        return weights.log_likelihood().mean(-2)

    def _step_terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Terms:
        """Return the terms of a batch before the state changes.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: the positional arguments of both programs.
            kwargs: the keyword arguments of both programs.
        """
        has_relaxed_draws = "concrete" in self.gradients.values()  # these draws are outside the support
        with pyro.validation_enabled(False) if has_relaxed_draws else nullcontext():
            weights = self.weights(model, guide, args, kwargs)
            likelihood, surrogate = estimate(self, weights)
            by_channel, most_discrete = self._kl_by_channel(weights)
        self._require_reachable(most_discrete)
        capacities = {
            CONTINUOUS: self.schedule.at(self.steps, likelihood),
            DISCRETE: self.discrete_schedule.at(self.steps, likelihood).clamp(max=most_discrete),
        }
        value = likelihood
        for channel, kl in by_channel.items():
            excess = batch_mean(kl.detach(), weights) - capacities[channel]
            value = value - self.gamma * excess.abs()
            # for a fixed sign, the distance is linear in the KL of each datum
            surrogate = surrogate - self.gamma * excess.sign() * kl
        total = sum(by_channel.values(), start=torch.zeros_like(likelihood))
        recorded = {"elbo": likelihood - total, "log_likelihood": likelihood, "kl": total}
        recorded |= {f"kl_{channel}": kl for channel, kl in by_channel.items()}
        recorded |= {f"capacity_{channel}": capacities[channel].expand_as(total) for channel in by_channel}
        return scaled_terms(weights, value.detach(), surrogate, recorded)

    def _kl_by_channel(self, weights: LogWeights) -> tuple[dict[str, Tensor], float]:
        """Return the KL of each channel, shape (batch,), in nats, and the largest KL of the discrete one."""
        by_channel: dict[str, Tensor] = {}
        most_discrete, sampled = 0.0, []
        for name, site in weights.guide_sites().items():
            self._require_strategy(name, weights.strategies[name])
            kl, is_closed = self._kl_of_site(weights, name, site)
            channel = DISCRETE if is_discrete(site) else CONTINUOUS
            by_channel[channel] = by_channel[channel] + kl if channel in by_channel else kl
            sampled += [] if is_closed else [name]
            if channel == DISCRETE:
                most_discrete += math.log(support_size(name, site["fn"]))
        batch = weights.log_joint.shape[-1]
        self.biased = self._reason(sampled, batch, max(weights.count, self._data_size or 0))
        return by_channel, most_discrete

    def _require_reachable(self, most_discrete: float) -> None:
        """Refuse a capacity that the KL of the discrete sites cannot reach; float32 may round a limit that is given."""
        if self.discrete is not None and self.discrete > most_discrete * (1 + 1e-6):
            raise InputError(
                f"JointCapacity: discrete={self.discrete:g} nats is more than the discrete latents can hold: their KL "
                f"to a uniform prior is at most {most_discrete:.4g}, the logarithm of the number of their values. Give "
                "a smaller number, or leave discrete out."
            )

    def _require_strategy(self, name: str, strategy: str) -> None:
        if strategy not in _STRATEGIES:
            raise InputError(
                f"JointCapacity needs latent sites that are reparameterised or enumerated; site {name!r} has the "
                f"gradient {strategy!r}. Mark it with infer={{'enumerate': 'parallel'}}, or use 'beta'."
            )

    def _kl_of_site(self, weights: LogWeights, name: str, site: Site) -> tuple[Tensor, bool]:
        """Return the KL of one site, shape (batch,), in nats, and whether it is in closed form."""
        source = weights.only_source()
        in_model = {each["name"]: each for each in source.pairs[0].model_sites}
        order = list(weights.guide_sites())
        prior = in_model[name]
        if is_masked(site) or is_masked(prior):
            raise InputError(f"JointCapacity needs sites without masks; site {name!r} has one. Use 'beta'.")
        if is_delta(site):
            raise InputError(
                f"JointCapacity needs a density of each latent site; site {name!r} is a Delta, a point, and has no KL "
                "divergence. Draw it from a density, as pvae.VAE does, or use 'wae'."
            )
        is_closed = prior_is_fixed(name, order, [other for other in in_model if other in order])
        try:
            kl = kl_divergence(site["fn"], prior["fn"])
        except NotImplementedError:
            is_closed = False
        if not is_closed:
            kl = site["fn"].log_prob(site["value"]) - prior["fn"].log_prob(prior["value"])
        table = source.dims.reduce(kl)
        if table.dim() > 2 and table.numel() > table.shape[-1] * table.shape[-2]:
            raise InputError(
                "JointCapacity needs latent sites that do not depend on a summed-out one, because each has its own "
                f"KL; the density of site {name!r} does. Use 'elbo-enum' or 'iwae'."
            )
        batch = weights.log_joint.shape[-1]
        return table.reshape(-1, table.shape[-1]).mean(0).expand(batch), is_closed
