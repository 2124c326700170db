"""Posteriors that combine one Gaussian expert for each modality: the product of experts, and their mixture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import pyro.distributions as dist
import torch
from torch import Tensor

from pvae.densities.mixtures import DiagonalMixture

__all__ = ["ExpertMixture", "mixture_of_experts", "product_of_experts", "stratified_draws"]

_IS_STRATIFIED: ContextVar[bool] = ContextVar("is_stratified", default=False)


@contextmanager
def stratified_draws() -> Iterator[None]:
    """Make each `ExpertMixture` draw equally often from all of its experts, inside the block.

    The draws of a datum are then not independent of each other. A mean over them has less variance and no bias, but an
    estimator that needs independent draws is wrong.
    """
    token = _IS_STRATIFIED.set(True)
    try:
        yield
    finally:
        _IS_STRATIFIED.reset(token)


class ExpertMixture(DiagonalMixture):
    """A mixture of diagonal Gaussians in which each component has the weight 0 or the same weight as all others.

    It draws like `DiagonalMixture`. Inside `stratified_draws`, the K draws of a datum, on the dimensions to the left of
    the last batch dimension, are divided among the components in order: the first K / M come from the first of M
    components. If M does not divide K, the division is random, so that each component still has the expected number K /
    M. The gradient of such a draw is the gradient of its component.
    """

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return draws, shape sample_shape + (..., latent), with gradients for the locations and scales."""
        shape = (*sample_shape, *self.batch_shape)
        draws = math.prod(shape[:-1])
        if draws < 2 or not _IS_STRATIFIED.get():
            return super().rsample(sample_shape)
        wide = self.expand(shape)
        index = _strata(wide.logits.reshape(draws, -1, wide.logits.shape[-1])).reshape(shape)
        index = index[..., None, None].expand(*shape, 1, *self.event_shape)
        loc, scale = wide.loc.gather(-2, index).squeeze(-2), wide.scale.gather(-2, index).squeeze(-2)
        return loc + scale * torch.randn_like(loc)


def _strata(logits: Tensor) -> Tensor:
    """Return the component of each draw, shape (draws, batch), from logits of shape (draws, batch, components)."""
    draws, batch, _ = logits.shape
    number = (logits > -math.inf).cumsum(-1)  # the rank among the components with weight, counted from 1
    count = number[..., -1]
    offset = torch.rand(batch, dtype=logits.dtype, device=logits.device)
    position = torch.arange(draws, device=logits.device).unsqueeze(-1) + offset
    chosen = (position / draws * count).long().clamp(max=count - 1)
    return (number <= chosen.unsqueeze(-1)).sum(-1)


def product_of_experts(locs: Sequence[Tensor], scales: Sequence[Tensor], present: Sequence[Tensor]) -> dist.Independent:
    """Return the normalised product of the standard normal and of the Gaussian experts that are present.

    The precisions add, and the mean is the mean of all means weighted by the precisions. Without an expert the product
    is the standard normal.

    Args:
        locs: the mean of each expert, shape (batch, latent).
        scales: the standard deviation of each expert, shape (batch, latent).
        present: for each expert, whether it is used, shape (batch,), boolean.

    Returns:
        Batch shape (batch,), event shape (latent,).

    Source: Wu & Goodman, Multimodal Generative Models for Scalable Weakly-Supervised Learning, arXiv:1802.05335,
        section 2.2 and equation 3 (the prior is an expert, and missing experts are left out).
    """
    precision, weighted = torch.ones_like(locs[0]), torch.zeros_like(locs[0])
    for loc, scale, is_present in zip(locs, scales, present, strict=True):
        own = scale.pow(-2)
        precision = precision + torch.where(is_present.unsqueeze(-1), own, 0.0)
        weighted = weighted + torch.where(is_present.unsqueeze(-1), own * loc, 0.0)
    return dist.Normal(weighted / precision, precision.rsqrt()).to_event(1)


def mixture_of_experts(locs: Sequence[Tensor], scales: Sequence[Tensor], present: Sequence[Tensor]) -> ExpertMixture:
    """Return the mixture of the Gaussian experts that are present, with equal weights.

    Without an expert it is the standard normal.

    Args:
        locs: the mean of each expert, shape (batch, latent).
        scales: the standard deviation of each expert, shape (batch, latent).
        present: for each expert, whether it is used, shape (batch,), boolean.

    Returns:
        Batch shape (batch,), event shape (latent,).

    Source: Shi, Siddharth, Paige & Torr, Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative
        Models, arXiv:1911.03393, section 3.
    """
    counts = torch.stack(list(present), -1)
    counts = torch.cat([counts, ~counts.any(-1, keepdim=True)], -1)
    loc = torch.stack([*locs, torch.zeros_like(locs[0])], -2)
    scale = torch.stack([*scales, torch.ones_like(scales[0])], -2)
    logits = torch.zeros(counts.shape, dtype=loc.dtype, device=loc.device).masked_fill(~counts, -math.inf)
    return ExpertMixture(logits, loc, scale)
