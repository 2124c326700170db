"""Objectives that look at the guide over a whole batch, its aggregate: InfoVAE with an MMD, and beta-TCVAE."""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from torch import Tensor

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.objectives.kl.kl_by_unit import Latent, one_latent
from pvae.objectives.kl.weighted_kl import not_negative
from pvae.objectives.named import named
from pvae.objectives.weights_objective import WeightsObjective, WeightsOptions
from pvae.weights import LogWeights

__all__ = ["InfoMMD", "TotalCorrelation", "mmd"]


def _kernel(ours: Tensor, theirs: Tensor, kernel: str, scale: float) -> Tensor:
    """Values of the kernel between all pairs, shape (..., first, second), for draws of shape (..., draws, units)."""
    distance = (ours.unsqueeze(-2) - theirs.unsqueeze(-3)).square().sum(-1)
    room = 2.0 * scale**2 * ours.shape[-1]
    return (-distance / room).exp() if kernel == "gaussian" else room / (room + distance)


def mmd(ours: Tensor, theirs: Tensor, kernel: str = "gaussian", scale: float = 1.0) -> Tensor:
    """Return the unbiased estimate of the squared maximum mean discrepancy between two samples, shape (...).

    Args:
        ours: draws, shape (..., draws, units), at least 2.
        theirs: as many draws of the other.
        kernel: ``"gaussian"``, exp(-d^2 / (2 s^2 units)); or ``"imq"``, c / (c + d^2) with c = 2 s^2 units.
        scale: s, the kernel's width in units of one latent's scale.
    Source: Gretton et al., A Kernel Two-Sample Test, JMLR 13 (2012), lemma 6: pairs of a draw with itself are left out.
    """
    count = ours.shape[-2]
    others = 1.0 - torch.eye(count, dtype=ours.dtype, device=ours.device)
    within = sum((_kernel(each, each, kernel, scale) * others).sum((-1, -2)) for each in (ours, theirs))
    return within / (count * (count - 1)) - 2.0 * _kernel(ours, theirs, kernel, scale).mean((-1, -2))


@named("info-mmd", "InfoVAE: the aggregate of the guide matched to the prior by an MMD")
class InfoMMD(WeightsObjective):
    """InfoVAE: E log p(x given z) - kl * KL(q to prior) - mmd * MMD^2(aggregate of the guide to prior).

    The aggregate is the guide averaged over data. One z of each datum makes a sample of it, so each particle is
    compared on its own, over the batch, and pairs of a datum with itself are left out: for random batches the estimate
    of MMD^2 over all data is unbiased. It may be negative.

    Args:
        kl: weight of the KL, 1 - alpha in the paper; 0 is the paper's MMD-VAE.
        mmd: weight of MMD^2, alpha + lambda - 1 in the paper.
        kernel: ``"gaussian"`` or ``"imq"`` (see `pvae.objectives.mmd`).
        scale: the kernel's width in units of the prior's scale.
        particles: draws of z per datum.
        options: see `WeightsOptions`.

    Raises:
        InputError: for a negative weight or an unknown kernel; in use, for a batch of one, several latent
            sites, or one that is not reparameterised.
    Source: Zhao, Song & Ermon, InfoVAE, arXiv:1706.02262, section 3 and equation 6.
    """

    def __init__(
        self,
        kl: float = 0.0,
        mmd: float = 100.0,
        kernel: str = "gaussian",
        scale: float = 1.0,
        particles: int = 1,
        **options: Unpack[WeightsOptions],
    ) -> None:
        super().__init__(particles, **options)
        self.kl, self.mmd = not_negative("kl", kl), not_negative("mmd", mmd)
        if kernel not in ("gaussian", "imq") or not scale > 0:
            raise InputError(f"kernel is 'gaussian' or 'imq', and scale > 0; got {kernel!r}, scale={scale!r}.")
        self.kernel, self.scale = kernel, float(scale)

    def settings(self) -> dict[str, Any]:
        """Return both weights, the kernel with its width, and the number of particles."""
        return {"kl": self.kl, "mmd": self.mmd, "kernel": self.kernel, "scale": self.scale, **super().settings()}

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the objective, shape (batch,), in nats: the discrepancy is the same for every datum."""
        likelihood = weights.log_likelihood()
        apart = torch.cat([self._apart(each) for each in one_latent(weights, self.data_plate, "InfoMMD")])
        return (likelihood - self.kl * (likelihood - weights.log_w)).mean(0) - self.mmd * apart.mean()

    def _apart(self, latent: Latent) -> Tensor:
        """MMD^2 of each particle's batch, shape (particles,)."""
        prior = latent.model["fn"]
        drawn = prior.rsample() if prior.has_rsample else prior.sample()
        event_dim = prior.event_dim
        ours, theirs = latent.by_unit(latent.guide["value"], event_dim), latent.by_unit(drawn, event_dim)
        if ours.shape[1] < 2:
            raise InputError("InfoMMD compares the data of a batch with each other: give batches of at least 2 data.")
        return mmd(ours, theirs.to(ours), self.kernel, self.scale)


@named("total-correlation", "beta-TCVAE: the total correlation of the aggregate weighted by beta")
class TotalCorrelation(WeightsObjective):
    """beta-TCVAE: E log p(x given z) - alpha information - beta total correlation - gamma rest, per datum.

    The KL to the prior is the sum of the three, here with a weight for each: I(x; z) under the guide, KL(q(z) to the
    product of the q(z_u)), and KL(q(z_u) to prior) over units u. The aggregate q(z) over all N data is estimated from
    a batch of B. All weights at 1 give the ELBO exactly. The minibatch-weighted estimate is low by a factor up to N,
    which shifts the parts by a constant and leaves gradients alone.

    Args:
        beta: weight of the total correlation.
        alpha: weight of the mutual information.
        gamma: weight of the KL unit by unit.
        data_size: N; None takes it from a subsampled plate.
        estimator: ``"weighted"`` (minibatch-weighted) or ``"stratified"`` (unbiased for q(z), given random batches).
        particles: draws of z per datum.
        options: see `WeightsOptions`.

    Raises:
        InputError: for a negative weight or an unknown estimator; in use, if N is not known or less than the batch,
            the guide has several latent sites, or its density does not factorise over units, or is not
            reparameterised.
    Source: Chen et al., Isolating Sources of Disentanglement in VAEs, arXiv:1802.04942, equation 2, section 3.1 and
        appendix C (estimators).
    """

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
        self.alpha, self.beta = not_negative("alpha", alpha), not_negative("beta", beta)
        self.gamma, self.estimator = not_negative("gamma", gamma), estimator
        self.data_size = None if data_size is None else require_whole(data_size, "data_size")
        if estimator not in ("weighted", "stratified"):
            raise InputError(f"estimator is 'weighted' or 'stratified'; got {estimator!r}.")

    def settings(self) -> dict[str, Any]:
        """Return the three weights, N where it was given, the estimator and the number of particles."""
        given = {} if self.data_size is None else {"data_size": self.data_size}
        weights = {"beta": self.beta, "alpha": self.alpha, "gamma": self.gamma}
        return {**weights, **given, "estimator": self.estimator, **super().settings()}

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the objective, shape (batch,), in nats."""
        runs = one_latent(weights, self.data_plate, "TotalCorrelation")
        size = self._size(weights.log_joint.shape[1], weights.count)
        joint, product = (torch.cat(each) for each in zip(*(self._aggregates(run, size) for run in runs), strict=True))
        likelihood = weights.log_likelihood()
        prior = weights.log_joint - likelihood
        information, correlation, rest = weights.log_guide - joint, joint - product, product - prior
        return (likelihood - self.alpha * information - self.beta * correlation - self.gamma * rest).mean(0)

    def _size(self, batch: int, count: int) -> int:
        size = self.data_size if self.data_size is not None else count if count > batch else None
        if size is None or size < batch:
            raise InputError(
                f"TotalCorrelation needs the number of all data, at least the batch's {batch}; got {self.data_size!r}. "
                "Give data_size, or a plate that is subsampled from them."
            )
        return int(size)

    def _aggregates(self, latent: Latent, size: int) -> tuple[Tensor, Tensor]:
        """Log q(z) of each draw, and the sum of its log q(z_u), each of shape (particles, batch)."""
        one = latent.factor(latent.guide)
        if one is None:
            raise InputError(
                f"TotalCorrelation needs a density of site {latent.guide['name']!r} that factorises over its units; "
                f"got {type(latent.guide['fn']).__name__}. Use a Normal with to_event, or 'info-mmd'."
            )
        pairs = _pairs(latent, one)
        shares = _log_shares(pairs.shape[1], size, self.estimator).to(pairs)
        joint = (pairs.sum(-1) + shares).logsumexp(-1)
        product = (pairs + shares.unsqueeze(-1)).logsumexp(-2).sum(-1)
        return joint, product


def _pairs(latent: Latent, one: Any) -> Tensor:
    """Log q(z_u) of each datum's draw under the guide of the datum `shift` further on.

    The shape is (particles, batch, shift, units). Each datum's density meets the draws of all others by shifting these
    along the data: one call for all shifts.
    """
    event_dim = latent.guide["fn"].event_dim
    axis = latent.data_dim - event_dim
    value = latent.guide["value"].movedim(axis, 0)
    batch = value.shape[0]
    place = torch.arange(batch, device=value.device)
    shifted = value[(place - place[:, None]) % batch].movedim(1, axis)
    moved = latent.by_unit(one.log_prob(shifted), event_dim).unflatten(-1, (batch, -1))
    return moved[:, (place[:, None] + place) % batch, place]


def _log_shares(batch: int, size: int, estimator: str) -> Tensor:
    """Logarithm of the weight of the guide `shift` further on, in q(z) at any datum's draw, shape (shift,)."""
    if estimator == "weighted":
        return torch.full((batch,), -math.log(batch * size), dtype=torch.float64)
    if batch < 2:
        raise InputError("The stratified estimator needs batches of at least 2 data; use estimator='weighted'.")
    others = batch - 1
    shares = [1.0 / size, (size - others) / (size * others), *[1.0 / others] * (others - 1)]
    return torch.tensor(shares, dtype=torch.float64).log()
