"""The E-step kernel for missing values: the density of a datum is the marginal density of its observed features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pvae.em.base import LOG_2PI, Mixture, Statistics, factor_matrices
from pvae.em.kernels.base import EStepKernel, responsibilities_

__all__ = ["MissingValuesKernel", "group_by_observed"]

#: Size of the whitened data of a chunk, in bytes.
CHUNK_BYTES = 1 << 21


@dataclass(frozen=True)
class _ConditionalParameters:
    """The distribution of each component for data in which the same features are observed.

    Attributes:
        observed: indices of the observed features, (observed,).
        whitening: of the covariances of the observed features, (components, observed, observed).
        log_scale: log weight plus log normalising constant of the marginal density, (components, 1).
        completion: matrices that map deviations of observed features to the expected deviations of all features,
            (components, features, observed).
        conditional_covariance: covariance of the missing features given the observed ones, with zeros for the
            observed features, (components, features, features).
    """

    observed: Tensor
    whitening: Tensor
    log_scale: Tensor
    completion: Tensor
    conditional_covariance: Tensor


def group_by_observed(u: Tensor) -> list[tuple[tuple[bool, ...], Tensor]]:
    """Return the data grouped by which features are observed.

    Args:
        u: (features, batch), NaN where a value is missing.

    Returns:
        For each group, whether each feature is observed, and the indices of its data.
    """
    patterns, group_numbers = (~u.isnan()).mT.unique(dim=0, return_inverse=True)
    return [
        (tuple(pattern), (group_numbers == number).nonzero().flatten())
        for number, pattern in enumerate(patterns.tolist())
    ]


class MissingValuesKernel(EStepKernel):
    """The kernel for data with missing values, marked by NaN. It groups the data by their observed features.

    Args:
        mixture: the parameters, in the coordinates of the chunks.
        dtype: of the chunks; the sums and the parameters of the groups are float64.

    Source: Ghahramani & Jordan, Supervised learning from incomplete data via an EM approach, NIPS 1993.
    """

    def __init__(self, mixture: Mixture, dtype: torch.dtype) -> None:
        super().__init__(mixture, dtype)
        self.covariances = mixture.family.to_dense(mixture.covariances, mixture.components, mixture.features)
        self.counts = torch.zeros_like(mixture.weights)
        self.first_moments = torch.zeros_like(mixture.means)
        self.second_moments = torch.zeros_like(self.covariances)
        self._conditionals: dict[tuple[bool, ...], _ConditionalParameters] = {}

    @property
    def chunk_size(self) -> int:
        """Number of data whose whitened coordinates fit into CHUNK_BYTES; at least 256."""
        return max(256, CHUNK_BYTES // (8 * self.mixture.components * self.mixture.features))

    @property
    def is_most_accurate(self) -> bool:
        """Return True, because no other kernel takes missing values."""
        return True

    def logits(self, prepared: Tensor) -> Tensor:
        """Return log w_k p(observed features of u given k), (components, batch).

        Args:
            prepared: u, (features, batch), NaN where a value is missing.
        """
        result = prepared.new_empty(self.mixture.components, prepared.shape[1])
        for pattern, indices in group_by_observed(prepared):
            conditional = self._conditional(pattern)
            deviations = self._deviations(prepared[:, indices], conditional)
            result[:, indices] = self._group_logits(deviations, conditional)
        return result

    def add(self, prepared: Tensor, weights: Tensor | None) -> None:
        """Add the expected statistics of a chunk, given the observed features of each datum.

        Args:
            prepared: u, (features, batch), NaN where a value is missing.
            weights: sample weights, (batch,), or None for 1 each.
        """
        for pattern, indices in group_by_observed(prepared):
            conditional = self._conditional(pattern)
            deviations = self._deviations(prepared[:, indices], conditional)
            responsibilities = self._group_logits(deviations, conditional)
            group_weights = None if weights is None else weights[indices]
            self._add_log_likelihoods(responsibilities_(responsibilities, group_weights), group_weights)
            self._add_moments(conditional.completion @ deviations, responsibilities, conditional)

    def _add_moments(self, expected: Tensor, responsibilities: Tensor, conditional: _ConditionalParameters) -> None:
        """Add the expected moments of a group given its observed features.

        Args:
            expected: expected deviations of all features, (components, features, batch).
            responsibilities: (components, batch).
            conditional: the parameters of the group.
        """
        weighted = expected * responsibilities.unsqueeze(1)
        counts = responsibilities.sum(1)
        self.counts += counts
        self.first_moments += weighted.sum(2)
        self.second_moments += weighted @ expected.mT + counts[:, None, None] * conditional.conditional_covariance

    def statistics(self, outer_sum: Tensor | None) -> Statistics:
        """Return the expected statistics of all chunks, with moments about the means of the mixture.

        Args:
            outer_sum: is not used.
        """
        mixture = self.mixture
        second = mixture.family.from_dense(self.second_moments)
        return Statistics(self.counts, self.first_moments, second, mixture.means, self.log_likelihood, self.weight)

    def impute(self, u: Tensor) -> Tensor:
        """Return data in which the expectation given the observed values replaces each missing value.

        Args:
            u: (features, batch), NaN where a value is missing.

        Returns:
            (features, batch).
        """
        result = u.clone()
        for pattern, indices in group_by_observed(u):
            group = u[:, indices]
            conditional = self._conditional(pattern)
            deviations = self._deviations(group, conditional)
            responsibilities = torch.softmax(self._group_logits(deviations, conditional), 0)
            component_means = self.mixture.means.unsqueeze(2) + conditional.completion @ deviations
            mean = (responsibilities.unsqueeze(1) * component_means).sum(0)
            result[:, indices] = torch.where(group.isnan(), mean, group)
        return result

    def _conditional(self, pattern: tuple[bool, ...]) -> _ConditionalParameters:
        """Return the parameters of a group, given whether each feature is observed."""
        if pattern not in self._conditionals:
            self._conditionals[pattern] = self._compute_conditional(
                torch.tensor(pattern, device=self.covariances.device)
            )
        return self._conditionals[pattern]

    def _compute_conditional(self, is_observed: Tensor) -> _ConditionalParameters:
        components, features = self.mixture.means.shape
        observed = is_observed.nonzero().flatten()
        missing = (~is_observed).nonzero().flatten()
        whitening = factor_matrices(self.covariances[:, observed][:, :, observed])[1]
        log_det = whitening.diagonal(dim1=1, dim2=2).log().sum(1)
        log_weights = self.mixture.weights.clamp_min(1e-300).log()
        log_scale = (log_weights - 0.5 * len(observed) * LOG_2PI + log_det).unsqueeze(1)
        # With W W' the inverse of S_oo: the regression on observed features is S_mo W W', and the conditional
        # covariance is S_mm - (S_mo W)(S_mo W)'.
        cross = self.covariances[:, missing][:, :, observed] @ whitening
        completion = self.covariances.new_zeros(components, features, len(observed))
        completion[:, observed] = torch.eye(len(observed), dtype=torch.float64, device=is_observed.device)
        completion[:, missing] = cross @ whitening.mT
        conditional_covariance = torch.zeros_like(self.covariances)
        missing_covariance = self.covariances[:, missing][:, :, missing]
        conditional_covariance[:, missing.unsqueeze(1), missing] = missing_covariance - cross @ cross.mT
        return _ConditionalParameters(observed, whitening, log_scale, completion, conditional_covariance)

    def _deviations(self, u: Tensor, conditional: _ConditionalParameters) -> Tensor:
        """Return observed values minus the means, (components, observed, batch)."""
        return u[conditional.observed] - self.mixture.means[:, conditional.observed].unsqueeze(2)

    def _group_logits(self, deviations: Tensor, conditional: _ConditionalParameters) -> Tensor:
        """Return log w_k p(observed given k), (components, batch)."""
        return conditional.log_scale - 0.5 * (conditional.whitening.mT @ deviations).square().sum(1)
