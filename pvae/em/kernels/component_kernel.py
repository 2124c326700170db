"""The E-step kernel for full covariances of many features: the products of one component at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.em.base import Mixture, Statistics
from pvae.em.kernels.base import EStepKernel, responsibilities_, scale_chunk_bytes
from pvae.products import ProductChoices, default_products
from pvae.products.libraries import Product

__all__ = ["ComponentKernel"]

#: Size of the deviations of a chunk from one mean, in bytes.
CHUNK_BYTES = 1 << 20


class ComponentKernel(EStepKernel):
    """The kernel on deviations u - m of one component after the other, in float64, for full covariances.

    Only the deviations of one component are in memory, so that a chunk has many rows also where features are many. The
    second moments are products d d' with d = (u - m) r^(1/2), which a BLAS computes for one triangle alone. They are
    more accurate than those of `FeatureKernel`, because the mean is subtracted first, and less accurate than those of
    `WhitenedKernel`, which is for narrow components.

    Args:
        mixture: the parameters, in the coordinates of the chunks.
        products: compute the matrix products; None for the fastest library for each shape.
    """

    def __init__(self, mixture: Mixture, products: ProductChoices | None = None) -> None:
        super().__init__(mixture, torch.float64)
        self.products = products or default_products()
        self.log_scale = mixture.log_scale()
        self.counts = torch.zeros_like(mixture.weights)
        self.first_moments = torch.zeros_like(mixture.means)
        self.second_moments = torch.zeros_like(mixture.covariances)
        self._memory: dict[int, tuple[Tensor, Tensor, Product, Product]] = {}

    @property
    def chunk_size(self) -> int:
        """Number of data in a chunk; at least 64."""
        bytes_per_datum = self.mixture.features * self.dtype.itemsize
        return max(64, scale_chunk_bytes(CHUNK_BYTES, self.log_scale.device) // bytes_per_datum)

    def _memory_of(self, u: Tensor) -> tuple[Tensor, Tensor, Product, Product]:
        """Return memory for deviations and for whitened deviations, (features, batch), and the two products."""
        batch = u.shape[1]
        if batch not in self._memory:
            deviations, whitened = torch.empty_like(u), torch.empty_like(u)
            whiten = self.products.product_of(self.mixture.whitening[0].mT, deviations)
            self._memory[batch] = deviations, whitened, whiten, self.products.product_of(deviations, deviations.mT)
        return self._memory[batch]

    def logits(self, prepared: Tensor) -> Tensor:
        """Return log w_k p(u given k), (components, batch).

        Args:
            prepared: u, (features, batch).
        """
        deviations, whitened, whiten, _ = self._memory_of(prepared)
        logits = prepared.new_empty(self.mixture.components, prepared.shape[1])
        for mean, whitening, destination in zip(self.mixture.means, self.mixture.whitening, logits, strict=True):
            torch.sub(prepared, mean.unsqueeze(1), out=deviations)
            whiten(whitening.mT, deviations, None, whitened)
            torch.sum(whitened.mul_(whitened), 0, out=destination)
        return torch.sub(self.log_scale.unsqueeze(1), logits, alpha=0.5)

    def add(self, prepared: Tensor, weights: Tensor | None) -> None:
        """Add the statistics of a chunk, with moments about the means of the mixture.

        Args:
            prepared: u, (features, batch).
            weights: sample weights, (batch,), or None for 1 each.
        """
        responsibilities = self.logits(prepared)
        self._add_log_likelihoods(responsibilities_(responsibilities, weights), weights)
        self.counts += responsibilities.sum(1)
        roots = responsibilities.sqrt_()
        deviations, _, _, multiply = self._memory_of(prepared)
        for component, (mean, root) in enumerate(zip(self.mixture.means, roots, strict=True)):
            torch.sub(prepared, mean.unsqueeze(1), out=deviations).mul_(root)
            self.first_moments[component] += deviations @ root
            self.second_moments[component] += multiply(deviations, deviations.mT, None, None)

    def statistics(self, outer_sum: Tensor | None) -> Statistics:
        """Return the statistics of all chunks, with moments about the means of the mixture.

        Args:
            outer_sum: is not used.
        """
        second = 0.5 * (self.second_moments + self.second_moments.mT)
        means = self.mixture.means
        return Statistics(self.counts, self.first_moments, second, means, self.log_likelihood, self.weight)
