"""Replacing groups of components by one component each, with the weight and moments of the group."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pvae.em.base import CovarianceFamily, Mixture

__all__ = ["combine_groups", "scatter_from_covariances"]


def scatter_from_covariances(family: CovarianceFamily, covariances: Tensor, counts: Tensor, features: int) -> Tensor:
    """Return second moments about the means: the inverse of `CovarianceFamily.covariances_from_scatter`.

    Args:
        family: the family of the covariances.
        covariances: in the shape of the family, which is also the shape of the result.
        counts: sums of responsibilities, (components,).
        features: number of features.
    """
    return covariances / family.covariances_from_scatter(torch.ones_like(covariances), counts, features)


def combine_groups(mixture: Mixture, groups: list[list[int]]) -> Mixture:
    """Return the mixture in which one component replaces each group.

    The new component has the sum of the weights, and the mean and covariance of the group's own mixture, or the part
    of it that the family keeps. Of all mixtures of the family, it has the least KL divergence from each group.

    Args:
        mixture: the parameters.
        groups: numbers of components; each component is in one group.
    """
    family = mixture.family
    features = mixture.features
    group_of = _find_group_numbers(mixture, groups)
    weights = mixture.weights.new_zeros(len(groups)).index_add_(0, group_of, mixture.weights)
    # Exactly 1 for a component alone in its group, which therefore does not change in any bit, even with weight 0.
    is_alone = torch.tensor([len(group) == 1 for group in groups], device=group_of.device)
    share = torch.where(is_alone[group_of], 1.0, mixture.weights / weights[group_of])
    means = torch.zeros_like(mixture.means[: len(groups)])
    means.index_add_(0, group_of, mixture.means * share.unsqueeze(1))
    offset = means[group_of] - mixture.means
    if family.name == "tied":
        scatter = _scatter_about(mixture, mixture.weights, offset)
        return family.make_mixture(weights, means, family.covariances_from_scatter(scatter, weights, features))
    scatter = _scatter_about(mixture, share, offset)
    scatter = torch.zeros_like(scatter[: len(groups)]).index_add_(0, group_of, scatter)
    covariances = family.covariances_from_scatter(scatter, torch.ones_like(weights), features)
    return replace(family.make_mixture(weights, means, covariances), weights=weights)


def _find_group_numbers(mixture: Mixture, groups: list[list[int]]) -> Tensor:
    """Return the number of the group of each component, (components,)."""
    group_of = torch.empty(mixture.components, dtype=torch.int64, device=mixture.means.device)
    for number, group in enumerate(groups):
        group_of[group] = number
    return group_of


def _scatter_about(mixture: Mixture, counts: Tensor, offset: Tensor) -> Tensor:
    """Return second moments of the components about their means plus `offset`, (components, features)."""
    scatter = scatter_from_covariances(mixture.family, mixture.covariances, counts, mixture.features)
    return mixture.family.shift_second_moments(scatter, torch.zeros_like(offset), counts, offset)
