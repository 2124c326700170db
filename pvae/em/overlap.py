"""How much components overlap, and how well each fits its data: one pass over the data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pvae.em.ascent import Rules
from pvae.em.base import Family, Mixture
from pvae.em.passes import Passes

__all__ = ["Look", "look", "merged", "scatter"]


@dataclass(frozen=True)
class Look:
    """What the posteriors of all data say of the components of a mixture.

    Attributes:
        gram: summed r_i r_j, (components, components).
        surprise: minus the mean log p(x) of each component's data, (components,), nats per datum, in the frame.
        bound: log-likelihood and log prior, nats per datum, in the frame.
    """

    gram: Tensor
    surprise: Tensor
    bound: float

    def overlap(self) -> Tensor:
        """Return the cosine of each two components' posteriors, (components, components), 0 on the diagonal.

        It is 1 if and only if the posteriors of all data are proportional: one component then takes the place of both,
        and the likelihood stays. How two duplicates share their data does not matter, nor do units.
        """
        norms = self.gram.diagonal().clamp_min(torch.finfo(torch.float64).tiny).sqrt()
        cosine = self.gram / norms / norms.unsqueeze(1)
        return cosine.fill_diagonal_(0.0)


def look(passes: Passes, mixture: Mixture, rules: Rules) -> Look:
    """Return what a pass over the data says of a mixture, in the coordinates of the frame."""
    route = passes.route(mixture)
    k = mixture.components
    # Rows of the Gram matrix, then counts, then summed r log p(x), then log p(x) and weight.
    gram, sums = mixture.weights.new_zeros(k, k), mixture.weights.new_zeros(2, k)
    total = mixture.weights.new_zeros(2)
    for prepared, weights in passes.columns.prepared(route):
        logits, correction = route.logits(prepared), route.correction(prepared)
        values = logits.logsumexp(0) if correction is None else logits.logsumexp(0) + correction
        r, values = torch.softmax(logits, 0).double(), values.double()
        w = torch.ones_like(values) if weights is None else weights.double()
        gram += (r * w) @ r.mT
        sums += torch.stack([r @ w, r @ (w * values)])
        total += torch.stack([w @ values, w.sum()])
    gram, sums, total = (passes.processes.total(each) for each in (gram, sums, total))
    surprise = -sums[1] / sums[0].clamp_min(torch.finfo(torch.float64).tiny)
    bound = float((total[0] + rules.prior.log_density(mixture)) / total[1])
    return Look(gram, surprise, bound)


def scatter(family: Family, covariances: Tensor, counts: Tensor, features: int) -> Tensor:
    """Return second moments about the means: what `Family.divided` turns into these covariances."""
    return covariances / family.divided(torch.ones_like(covariances), counts, features)


def merged(mixture: Mixture, groups: list[list[int]]) -> Mixture:
    """Return the mixture with each group of components made one, of the weight and the moments of the group.

    Weights add; mean and covariance are those of the group's own mixture, or what the family keeps of them: of all
    mixtures of the family, the one of the least KL divergence from each group.

    Args:
        mixture: the parameters.
        groups: numbers of components; each component is in one group.
    """
    family, features = mixture.family, mixture.features
    which = torch.empty(mixture.components, dtype=torch.int64, device=mixture.means.device)
    for number, group in enumerate(groups):
        which[group] = number
    weights = mixture.weights.new_zeros(len(groups)).index_add_(0, which, mixture.weights)
    # Relative to its group, so that a component alone stays bit for bit what it was, one of weight 0 too.
    alone = torch.tensor([len(group) == 1 for group in groups], device=which.device)
    share = torch.where(alone[which], 1.0, mixture.weights / weights[which])
    means = torch.zeros_like(mixture.means[: len(groups)])
    means.index_add_(0, which, mixture.means * share.unsqueeze(1))
    by = means[which] - mixture.means
    if family.name == "tied":
        covariances = _moved(mixture, mixture.weights, by)
        return family.mixture(weights, means, family.divided(covariances, weights, features))
    second = _moved(mixture, share, by)
    second = torch.zeros_like(second[: len(groups)]).index_add_(0, which, second)
    found = family.mixture(weights, means, family.divided(second, torch.ones_like(weights), features))
    return replace(found, weights=weights)


def _moved(mixture: Mixture, counts: Tensor, by: Tensor) -> Tensor:
    second = scatter(mixture.family, mixture.covariances, counts, mixture.features)
    return mixture.family.moved(second, torch.zeros_like(by), counts, by)
