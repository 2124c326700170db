"""Objectives of the aggregate posterior, the guide averaged over data: InfoVAE with an MMD, and beta-TCVAE."""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from torch import Tensor

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.objectives.kl.kl_by_unit import LatentSite, only_latent_site
from pvae.objectives.kl.prior_discrepancy import PriorDiscrepancy
from pvae.objectives.kl.weighted_kl import not_negative
from pvae.objectives.named import named
from pvae.objectives.weights_objective import WeightsObjective, WeightsOptions
from pvae.weights import LogWeights
from pvae.weights.kl import unit_density

__all__ = ["InfoMMD", "TotalCorrelation"]


@named("info-mmd", "InfoVAE: an MMD matches the aggregate posterior to the prior")
class InfoMMD(WeightsObjective):
    """InfoVAE: E log p(x given z) - kl * KL(q to prior) - mmd * MMD^2(aggregate of the guide to prior).

    The aggregate posterior is the guide averaged over data. One z of each datum is a sample of it. Each particle is
    therefore compared separately, over the batch, and pairs of a datum with itself are left out. For random batches the
    estimate of MMD^2 over all data is unbiased. It may be negative.

    Args:
        kl: the weight of the KL, 1 - alpha in the paper; 0 is the paper's MMD-VAE.
        mmd: the weight of MMD^2, alpha + lambda - 1 in the paper.
        kernel: ``"gaussian"`` or ``"imq"`` (see `pvae.objectives.mmd`).
        scale: the width of the kernel in the unit of z, where 1 is the standard deviation of a standard normal prior;
            for several widths, the kernel is the sum.
        particles: draws of z per datum.
        options: see `WeightsOptions`.

    Raises:
        InputError: for a negative weight or an unknown kernel; in use, for a batch of one datum, for several latent
            sites, or for a site that is not reparameterised.

    Source: Zhao, Song & Ermon, InfoVAE, arXiv:1706.02262, section 3 and equation 6.

    Example:
        >>> import pvae, torch
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> loss = pvae.InfoMMD(mmd=100.0).loss_and_grads(model.model, model.guide, x)
        >>> all(parameter.grad is not None for parameter in model.parameters())
        True
    """

    def __init__(
        self,
        kl: float = 0.0,
        mmd: float = 100.0,
        kernel: str = "gaussian",
        scale: float | tuple[float, ...] = 1.0,
        particles: int = 1,
        **options: Unpack[WeightsOptions],
    ) -> None:
        super().__init__(particles, **options)
        self.kl = not_negative("kl", kl)
        self.mmd = not_negative("mmd", mmd)
        self.discrepancy = PriorDiscrepancy("InfoMMD", kernel, scale)

    def settings(self) -> dict[str, Any]:
        """Return both weights, the kernel and its width, and the number of particles."""
        return {"kl": self.kl, "mmd": self.mmd, **self.discrepancy.settings(), **super().settings()}

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the objective, shape (batch,), in nats; the discrepancy is the same for every datum."""
        likelihood = weights.log_likelihood()
        discrepancy = self.discrepancy(weights, self.data_plate)
        return (likelihood - self.kl * (likelihood - weights.log_w)).mean(0) - self.mmd * discrepancy


@named("total-correlation", "beta-TCVAE: weights the total correlation of the aggregate posterior by beta; biased")
class TotalCorrelation(WeightsObjective):
    """beta-TCVAE: E log p(x given z) - alpha information - beta total correlation - gamma rest, per datum.

    The KL to the prior is the sum of three terms: the mutual information I(x; z) under the guide, the total correlation
    KL(q(z) to the product of the q(z_u)), and the sum over units u of KL(q(z_u) to prior). Each has a weight; with all
    weights at 1 the objective is exactly the ELBO. The aggregate q(z) over all N data is estimated from a batch of B
    data.

    For B < N value and gradient are biased, because the logarithm of the estimate is not linear in it. The stratified
    estimate has no bias before the logarithm; the minibatch-weighted one is too small by a factor up to N. The bias
    falls with B, not with N. With two correlated units and N = 400, the mean gradient of the total correlation was off
    by 50 % of its norm for B = 8, 23 % for 32 and 6 % for 128 (stratified: 64 %, 19 % and 5 %).

    Args:
        beta: the weight of the total correlation.
        alpha: the weight of the mutual information.
        gamma: the weight of the KL unit by unit.
        data_size: N; None takes it from a subsampled plate.
        estimator: ``"weighted"`` (minibatch-weighted) or ``"stratified"`` (unbiased for q(z), given random batches).
        particles: draws of z per datum.
        options: see `WeightsOptions`.

    Raises:
        InputError: for a negative weight or an unknown estimator; in use, if N is unknown or smaller than the batch, if
            the guide has several latent sites, or if its density does not factorise over units or is not
            reparameterised.

    Source: Chen et al., Isolating Sources of Disentanglement in VAEs, arXiv:1802.04942, equation 2, section 3.1 and
        appendix C (estimators).

    Example:
        >>> import pvae, torch
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> objective = pvae.TotalCorrelation(beta=6.0, data_size=400)  # x is a batch of 400 data
        >>> loss = objective.loss_and_grads(model.model, model.guide, x)
        >>> all(parameter.grad is not None for parameter in model.parameters())
        True
    """

    biased = "the logarithm of q(z) over all data is estimated from a batch"

    def __init__(
        self,
        beta: float = 6.0,
        alpha: float = 1.0,
        gamma: float = 1.0,
        data_size: int | None = None,
        estimator: str = "weighted",
        particles: int = 1,
        **options: Unpack[WeightsOptions],
    ) -> None:
        super().__init__(particles, **options)
        self.alpha = not_negative("alpha", alpha)
        self.beta = not_negative("beta", beta)
        self.gamma = not_negative("gamma", gamma)
        self.data_size = None if data_size is None else require_whole(data_size, "data_size")
        self.estimator = estimator
        if estimator not in ("weighted", "stratified"):
            raise InputError(f"estimator must be 'weighted' or 'stratified'; got {estimator!r}.")

    def settings(self) -> dict[str, Any]:
        """Return the three weights, N if it is set, the estimator and the number of particles."""
        size = {} if self.data_size is None else {"data_size": self.data_size}
        weights = {"beta": self.beta, "alpha": self.alpha, "gamma": self.gamma}
        return {**weights, **size, "estimator": self.estimator, **super().settings()}

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the objective, shape (batch,), in nats."""
        runs = only_latent_site(weights, self.data_plate, "TotalCorrelation")
        batch = weights.log_joint.shape[1]
        size = self._data_size(batch, weights.count)
        reason = self._reason_of_bias()
        self.biased = "" if batch == size and reason == type(self).biased else reason  # all data have the exact q(z)
        aggregates = [self._log_aggregates(latent, size) for latent in runs]
        log_q = torch.cat([joint for joint, _ in aggregates])
        log_product = torch.cat([product for _, product in aggregates])
        likelihood = weights.log_likelihood()
        log_prior = weights.log_joint - likelihood
        information = weights.log_guide - log_q
        correlation = log_q - log_product
        unit_kl = log_product - log_prior
        return (likelihood - self.alpha * information - self.beta * correlation - self.gamma * unit_kl).mean(0)

    def _data_size(self, batch: int, count: int) -> int:
        """Return N, the number of all data.

        Args:
            batch: the number of data in the batch.
            count: the number of data that the batch represents; it is N under a subsampled plate.
        """
        size = self.data_size
        if size is None and count > batch:
            size = count
        if size is None or size < batch:
            raise InputError(
                f"TotalCorrelation needs the number of all data, at least the {batch} of the batch; got "
                f"{self.data_size!r}. Give data_size, or subsample the plate over data."
            )
        return int(size)

    def _log_aggregates(self, latent: LatentSite, size: int) -> tuple[Tensor, Tensor]:
        """Return log q(z) of each draw, and the sum over units of log q(z_u), each of shape (particles, batch)."""
        unit = unit_density(latent.guide["fn"])
        if unit is None:
            raise InputError(
                f"TotalCorrelation needs a guide density that factorises over units; site {latent.guide['name']!r} is "
                f"{type(latent.guide['fn']).__name__}. Use a Normal with to_event, or 'info-mmd'."
            )
        log_q = _log_q_of_pairs(latent, unit)
        log_shares = _log_shares(log_q.shape[1], size, self.estimator).to(log_q)
        joint = (log_q.sum(-1) + log_shares).logsumexp(-1)
        product = (log_q + log_shares.unsqueeze(-1)).logsumexp(-2).sum(-1)
        return joint, product


def _log_q_of_pairs(latent: LatentSite, unit: Any) -> Tensor:
    """Return log q(z_u) of the draw of each datum under the guide of the datum that is `shift` rows below it.

    One call evaluates all pairs: the draws are shifted along the data, cyclically, so that the density of each datum
    meets the draws of all others.

    Args:
        latent: the latent site in one run.
        unit: the density of one unit.

    Returns:
        Shape (particles, batch, shifts, units), with as many shifts as data.
    """
    event_dim = latent.guide["fn"].event_dim
    axis = latent.data_dim - event_dim
    value = latent.guide["value"].movedim(axis, 0)
    batch = value.shape[0]
    row = torch.arange(batch, device=value.device)
    shifted = value[(row - row[:, None]) % batch].movedim(1, axis)
    by_density = latent.by_unit(unit.log_prob(shifted), event_dim).unflatten(-1, (batch, -1))
    return by_density[:, (row[:, None] + row) % batch, row]


def _log_shares(batch: int, size: int, estimator: str) -> Tensor:
    """Return the log of the share in q(z) of the guide that is `shift` rows below a datum, shape (shifts,)."""
    if estimator == "weighted":
        return torch.full((batch,), -math.log(batch * size), dtype=torch.float64)
    if batch < 2:
        raise InputError(
            f"The stratified estimator needs batches of at least 2 data; got {batch}. Use estimator='weighted'."
        )
    rest = batch - 1
    shares = [1.0 / size, (size - rest) / (size * rest), *[1.0 / rest] * (rest - 1)]
    return torch.tensor(shares, dtype=torch.float64).log()
