"""The prior of weights and covariances for MAP estimates."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pvae.em.base import Mixture

__all__ = ["Prior"]


@dataclass(frozen=True)
class Prior:
    """A Dirichlet prior of the weights and an inverse Wishart prior of the covariances, for MAP estimates.

    Attributes:
        concentration: concentration of the Dirichlet prior, at least 1; 1 is flat.
        scale: scale matrix of the inverse Wishart prior, (features, features); None leaves the covariances without
            a prior.
        degrees: degrees of freedom of the inverse Wishart prior, above features - 1.

    Example:
        >>> import torch
        >>> from pvae import em
        >>> x, shares = torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> prior = em.Prior(concentration=2.0)
        >>> em.maximise(x, shares, reg_covar=0.1, prior=prior).weights  # (2 + 1) / (3 + 2) and (1 + 1) / (3 + 2)
        tensor([0.6000, 0.4000], dtype=torch.float64)
    """

    concentration: float = 1.0
    scale: Tensor | None = None
    degrees: float = 0.0

    def log_density(self, mixture: Mixture) -> Tensor:
        """Return the log density of a mixture up to a constant, (), nats.

        For restricted covariances it is the density of the matrices that they represent. A tied covariance counts once.
        """
        log_density = (self.concentration - 1) * mixture.weights.clamp_min(1e-300).log().sum()
        if self.scale is None:
            return log_density
        family = mixture.family
        features = mixture.features
        matrices = 1 if family.name == "tied" else mixture.components
        whitening = family.to_dense(mixture.whitening, matrices, features)
        traces = (whitening * (self.scale @ whitening)).sum((1, 2))
        log_dets = family.whitening_log_det(mixture.whitening, features)
        return log_density + (self._pseudo_count(features) * log_dets - 0.5 * traces).sum()

    def _pseudo_count(self, features: int) -> float:
        return self.degrees + features + 1

    def weights(self, counts: Tensor) -> Tensor:
        """Return the posterior mode of the weights, (components,).

        Args:
            counts: sums of the responsibilities, (components,).
        """
        pseudo_counts = counts + (self.concentration - 1)
        return pseudo_counts / pseudo_counts.sum()

    def covariances(self, scatter: Tensor, counts: Tensor, mixture: Mixture) -> Tensor:
        """Return the posterior mode of the covariances, in the shape of the covariances.

        Args:
            scatter: second moments about the means, in the shape of the covariances.
            counts: sums of the responsibilities, (components,).
            mixture: a mixture of the same family and size.
        """
        family = mixture.family
        features = mixture.features
        if self.scale is None:
            return family.covariances_from_scatter(scatter, counts, features)
        matrices = 1 if family.name == "tied" else len(counts)
        scatter = scatter + family.from_dense(self.scale.expand(matrices, features, features))
        # A tied covariance divides by the sum of the counts, so that each component gets its part.
        pseudo_count = self._pseudo_count(features) / (len(counts) if matrices == 1 else 1)
        return family.covariances_from_scatter(scatter, counts + pseudo_count, features)
