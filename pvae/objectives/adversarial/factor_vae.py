"""`FactorVAE`: a critic estimates the total correlation of the aggregate posterior, which is a penalty of the ELBO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from pvae.checks import require_number
from pvae.errors import InputError
from pvae.objectives.adversarial.base import Adversarial
from pvae.objectives.adversarial.critic_inputs import draw_codes, scale_of
from pvae.objectives.adversarial.critics import frozen_parameters
from pvae.objectives.adversarial.sides import Sides
from pvae.objectives.base import Terms, scaled_sums
from pvae.objectives.gradients.strategies import require_pathwise
from pvae.objectives.kl.kl_by_unit import LatentSite, only_latent_site
from pvae.objectives.named import named
from pvae.programs.bound import BoundPrograms
from pvae.programs.sites import Site
from pvae.weights.compute import weights_of

__all__ = ["FactorVAE", "permute_units"]


@named("factor-vae", "FactorVAE: ELBO minus gamma times the total correlation of the codes, by a critic; biased")
class FactorVAE(Adversarial):
    """FactorVAE: maximises the ELBO minus gamma times the total correlation of the aggregate posterior.

    The total correlation KL(q(z) to the product of the q(z_u)) is 0 if the units u of z are independent over all data.
    The critic estimates it: class 1 are the codes of a batch, and class 0 are the same codes with each unit permuted
    separately over the batch, or drawn again if the data have different scales. In large batches these are draws from
    the product of the q(z_u); in a batch of B data, two units still come from the same datum with probability 1 / B. So
    `log_ratio(z)` estimates log q(z) - sum of log q(z_u), and its mean over codes is recorded as
    ``total_correlation``. For large batches the best critic gives its exact value. Small batches, and a critic in
    training, usually give a smaller value, which may be below 0 for a critic in training.

    A step updates ``together`` (theta and phi) by the ELBO and the penalty, with the critic's parameters frozen; then
    it updates ``critic`` on new draws without gradient. (In the paper the permuted codes are those of a second batch.)
    `TotalCorrelation` is the same objective for alpha = gamma = 1 and a weight of 1 + gamma, with the total
    correlation estimated from the densities of the batch in place of a critic.

    The loss is minus the ELBO plus the penalty, which is not a bound. The validation bound is the importance-weighted
    bound of the guide, a true bound on log p(x), and ranks the epochs. Conditions are not inputs of the critic.

    Args:
        gamma: the weight of the total correlation, at least 0; 0 is the ELBO.
        critic_steps: the number of updates of the critic per step, on the same batch with new draws.
        hidden: the sizes of the critic's hidden layers. The paper has six of 1000.
        critic: a module from codes, shape (batch, units), to the log ratio, shape (batch,) or (batch, 1), used instead
            of the built-in critic.

    Raises:
        InputError: for a setting out of its range; in use, for a batch of one datum, for several latent sites, for
            fewer than two units, or for a site that is not reparameterised, is a point, or has units that constrain
            each other (a sphere or a simplex), where the total correlation is infinite.

    Source: Kim & Mnih, Disentangling by Factorising, arXiv:1802.05983, equations 2 and 3 and algorithm 2.

    Example:
        >>> import pvae, torch
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4).repeat(10, 1)
        >>> objective = pvae.FactorVAE(gamma=10.0, hidden=(8,))
        >>> run = pvae.fit(model, x, objective=objective, epochs=1, step="eager", progress=False)
        >>> objective.players, "total_correlation" in run.history[-1]
        (('together', 'critic'), True)
    """

    players = ("together", "critic")
    unions = MappingProxyType({"together": ("theta", "phi")})
    moves = "q"
    conditional = False
    biased = "it is the gradient for the present critic, and only the best critic gives the total correlation"
    unranked = ""

    def __init__(
        self,
        gamma: float = 10.0,
        critic_steps: int = 1,
        *,
        hidden: int | Sequence[int] = (128, 128),
        critic: nn.Module | None = None,
    ) -> None:
        super().__init__("non-saturating", critic_steps, hidden=hidden, critic=critic)
        self.gamma = float(require_number(gamma, "gamma", least=0))

    def settings(self) -> dict[str, Any]:
        """Return gamma, and the settings of the critic that are not the defaults."""
        return {"gamma": self.gamma, **super().settings()}

    def sides(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sides:
        """Return codes of the data, and the same codes with each unit permuted over the batch."""
        codes, trace = draw_codes(BoundPrograms(model, guide, args, kwargs))
        if len(codes) != 1:
            raise InputError(
                f"FactorVAE needs a guide with one latent site, with units that may be independent; this guide has "
                f"{len(codes)}: {', '.join(codes)}. Join them to one site."
            )
        ((name, rows),) = codes.items()
        site = trace.nodes[name]
        _require_product_support(site)
        scale = scale_of(site)
        return Sides((rows,), (permute_units(rows, scale),), scale)

    def terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the loss of a player for one batch: the sum over data, each times its scale."""
        if player != "together":
            return super().terms(model, guide, args, kwargs, player)
        programs = BoundPrograms(model, guide, args, kwargs)
        weights = weights_of(programs, 1)
        require_pathwise(type(self).__name__, weights)
        (latent,) = only_latent_site(weights, self.data_plate, type(self).__name__)
        self._make_critic(programs)
        log_ratio = self._log_ratio_of_codes(latent)
        loss = ((self.gamma * log_ratio - weights.log_w[0]) * weights.scale).sum()
        named = {**weights.named(), "total_correlation": log_ratio}
        return Terms(loss.detach(), loss, scaled_sums(named, weights.scale))

    def _log_ratio_of_codes(self, latent: LatentSite) -> Tensor:
        """Return the critic's log ratio at the codes of one particle, shape (batch,), with gradients for phi alone."""
        codes = latent.by_unit(latent.guide["value"], latent.guide["fn"].event_dim)[0]
        with frozen_parameters(self._require_network()):
            return self._output(self._rows((codes,), ()))


def permute_units(codes: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """Return the codes with each unit permuted over the batch by a separate random permutation.

    If each datum has a scale of its own, a permutation would combine units with the scale of another datum. Each unit
    is then drawn from the batch with probabilities proportional to the scales: a draw from the product of the q(z_u) of
    the scaled data, for any scale of the row.

    Args:
        codes: shape (batch, units).
        scale: the factor of each datum; a number or shape (batch,).

    Returns:
        Shape (batch, units), without gradient.

    Raises:
        InputError: for fewer than two data or two units.

    Source: Kim & Mnih, Disentangling by Factorising, arXiv:1802.05983, algorithm 1.
    """
    batch, units = codes.shape
    if batch < 2 or units < 2:
        raise InputError(
            "FactorVAE needs batches of at least 2 data and codes of at least 2 units, because it permutes each unit "
            f"over the batch; got {batch} data and {units} units. Give larger batches or more units, or use 'elbo'."
        )
    if isinstance(scale, Tensor) and scale.numel() == batch:
        probabilities = scale.detach().reshape(1, batch).expand(units, batch)
        order = torch.multinomial(probabilities.to(codes.dtype), batch, replacement=True).T
    else:
        order = torch.stack([torch.randperm(batch, device=codes.device) for _ in range(units)], 1)
    return codes.detach().gather(0, order)


def _require_product_support(site: Site) -> None:
    """Refuse units that constrain each other, as on a sphere or a simplex: q(z) has no density by their product."""
    try:
        support = site["fn"].support
    except (AttributeError, NotImplementedError):
        return
    while isinstance(support, torch.distributions.constraints.independent):
        support = support.base_constraint
    if support is not None and support.event_dim > 0:
        raise InputError(
            f"The total correlation is infinite if the units of z constrain each other; site {site['name']!r} "
            f"({type(site['fn']).__name__}) has such units. Use a Normal with to_event, or 'info-mmd'."
        )
