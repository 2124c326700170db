"""Missing values integrated out: each datum counts by its observed features alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pvae.em.base import LOG_2PI, Mixture, Statistics, cholesky
from pvae.em.routes import Route, shares_

__all__ = ["Marginal", "groups"]

#: A chunk's whitened data stay under this many bytes.
BYTES = 1 << 21


@dataclass(frozen=True)
class _Pattern:
    """The components as the observed features of one pattern see them.

    Attributes:
        observed: numbers of the observed features.
        whitening: of the observed features' covariances, (components, observed, observed).
        constant: log weight and normaliser, (components, 1).
        completion: turns observed deviations into the expected deviation of all features, (components, features,
            observed).
        rest: covariance of the missing features given the observed, in all features, (components, features,
            features).
    """

    observed: Tensor
    whitening: Tensor
    constant: Tensor
    completion: Tensor
    rest: Tensor


def groups(u: Tensor) -> list[tuple[tuple[bool, ...], Tensor]]:
    """Return which features are observed, and the numbers of the data of which that is so, for each pattern."""
    patterns, which = (~u.isnan()).mT.unique(dim=0, return_inverse=True)
    return [(tuple(each), (which == i).nonzero().flatten()) for i, each in enumerate(patterns.tolist())]


class Marginal(Route):
    """The route of data with missing values, marked as NaN, grouped by which are observed.

    Source: Ghahramani & Jordan, Supervised learning from incomplete data via an EM approach, NIPS 1993.
    """

    def __init__(self, mixture: Mixture, dtype: torch.dtype) -> None:
        super().__init__(mixture, dtype)
        self.dense = mixture.family.dense(mixture.covariances, mixture.components, mixture.features)
        self.counts = torch.zeros_like(mixture.weights)
        self.first = torch.zeros_like(mixture.means)
        self.second = torch.zeros_like(self.dense)
        self._patterns: dict[tuple[bool, ...], _Pattern] = {}

    @property
    def chunk(self) -> int:
        return max(256, BYTES // (8 * self.mixture.components * self.mixture.features))

    def pattern(self, observed: tuple[bool, ...]) -> _Pattern:
        """Return the components as a pattern of observed features sees them."""
        if observed not in self._patterns:
            self._patterns[observed] = self._prepared(torch.tensor(observed, device=self.dense.device))
        return self._patterns[observed]

    def _prepared(self, seen: Tensor) -> _Pattern:
        components, features = self.mixture.means.shape
        observed, absent = seen.nonzero().flatten(), (~seen).nonzero().flatten()
        whitening = cholesky(self.dense[:, observed][:, :, observed])[1]
        log_det = whitening.diagonal(dim1=1, dim2=2).log().sum(1)
        weights = self.mixture.weights.clamp_min(1e-300).log()
        constant = (weights - 0.5 * len(observed) * LOG_2PI + log_det).unsqueeze(1)
        cross = self.dense[:, absent][:, :, observed] @ whitening
        completion = self.dense.new_zeros(components, features, len(observed))
        completion[:, observed] = torch.eye(len(observed), dtype=torch.float64, device=seen.device)
        completion[:, absent] = cross @ whitening.mT
        rest = torch.zeros_like(self.dense)
        rest[:, absent.unsqueeze(1), absent] = self.dense[:, absent][:, :, absent] - cross @ cross.mT
        return _Pattern(observed, whitening, constant, completion, rest)

    def deviations(self, u: Tensor, pattern: _Pattern) -> Tensor:
        """Return observed values less the means, (components, observed, batch)."""
        return u[pattern.observed] - self.mixture.means[:, pattern.observed].unsqueeze(2)

    def _logits(self, d: Tensor, pattern: _Pattern) -> Tensor:
        return pattern.constant - 0.5 * (pattern.whitening.mT @ d).square().sum(1)

    def logits(self, prepared: Tensor) -> Tensor:
        result = prepared.new_empty(self.mixture.components, prepared.shape[1])
        for observed, numbers in groups(prepared):
            pattern = self.pattern(observed)
            result[:, numbers] = self._logits(self.deviations(prepared[:, numbers], pattern), pattern)
        return result

    def add(self, prepared: Tensor, weights: Tensor | None) -> None:
        for observed, numbers in groups(prepared):
            pattern = self.pattern(observed)
            d = self.deviations(prepared[:, numbers], pattern)
            shares = self._logits(d, pattern)
            own = None if weights is None else weights[numbers]
            self._count(shares_(shares, own), own)
            self._gather(pattern.completion @ d, shares, pattern)

    def _gather(self, expected: Tensor, shares: Tensor, pattern: _Pattern) -> None:
        weighted = expected * shares.unsqueeze(1)
        counts = shares.sum(1)
        self.counts += counts
        self.first += weighted.sum(2)
        self.second += weighted @ expected.mT + counts[:, None, None] * pattern.rest

    def statistics(self, outer: Tensor | None) -> Statistics:
        mixture = self.mixture
        second = mixture.family.restrict(self.second)
        return Statistics(self.counts, self.first, second, mixture.means, self.log_likelihood, self.weight)

    def completed(self, u: Tensor) -> Tensor:
        """Return the data with E[missing given observed] where values are missing, (features, batch)."""
        result = u.clone()
        for observed, numbers in groups(u):
            pattern = self.pattern(observed)
            d = self.deviations(u[:, numbers], pattern)
            shares = torch.softmax(self._logits(d, pattern), 0)
            means = self.mixture.means.unsqueeze(2) + pattern.completion @ d
            mean = (shares.unsqueeze(1) * means).sum(0)
            result[:, numbers] = torch.where(u[:, numbers].isnan(), mean, u[:, numbers])
        return result
