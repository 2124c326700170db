"""The accurate E-step kernel: one matrix product for each component, in the whitened coordinates of the component."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.em.base import Mixture, Statistics
from pvae.em.kernels.base import FLUSH_ROWS, EStepKernel, responsibilities_, scale_chunk_bytes
from pvae.products import ProductChoices, default_products
from pvae.products.libraries import Product

__all__ = ["WhitenedKernel"]

#: Size of a chunk that stays in the cache of a core, in bytes.
CHUNK_BYTES = 1 << 20


class WhitenedKernel(EStepKernel):
    """The kernel on whitened coordinates y = W'(u - m): accurate for narrow components and for components far away.

    Args:
        mixture: the parameters, in the coordinates of the chunks.
        dtype: of the chunks, and of the arithmetic on them. Sums are kept in float64.
        products: compute the matrix products; None for the fastest library for each shape.
    """

    def __init__(self, mixture: Mixture, dtype: torch.dtype, products: ProductChoices | None = None) -> None:
        super().__init__(mixture, dtype)
        self.products = products or default_products()
        self._product_functions: dict[tuple[torch.Size, torch.Size], Product] = {}
        self._memory: dict[torch.Size, tuple[Tensor, Tensor]] = {}
        self.means = mixture.means.to(dtype).unsqueeze(2)
        self.whitening = mixture.whitening.to(dtype)
        self.log_scale = mixture.log_scale().to(dtype).unsqueeze(1)
        shape = mixture.family.covariance_shape(mixture.components, mixture.features)
        self.counts = torch.zeros_like(mixture.weights)
        self.first_moments = torch.zeros_like(mixture.means)
        self.second_moments = torch.zeros(shape, dtype=torch.float64, device=self.means.device)
        self.unflushed_sums = [torch.zeros_like(total, dtype=dtype) for total in self._totals()]
        self.unflushed_rows = 0

    @property
    def chunk_size(self) -> int:
        """Number of data whose whitened coordinates fit into a chunk; at least 32, and at least twice the features."""
        mixture = self.mixture
        bytes_per_datum = mixture.components * mixture.features * self.dtype.itemsize
        fitting = scale_chunk_bytes(CHUNK_BYTES, self.means.device) // bytes_per_datum
        return max(32, 2 * mixture.features, fitting)

    @property
    def is_most_accurate(self) -> bool:
        """Whether the arithmetic is in float64."""
        return self.dtype == torch.float64

    def _totals(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.counts, self.first_moments, self.second_moments

    def _multiply(self, left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the products of two batches of matrices, (components, rows, columns)."""
        key = left.shape, right.shape
        if key not in self._product_functions:
            self._product_functions[key] = self.products.product_of(left, right)
        return self._product_functions[key](left, right, None, out)

    def _whiten(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return y = W'(u - m) and memory of its shape, (components, features, batch); the next chunk reuses both."""
        shape = torch.Size([self.mixture.components, *u.shape])
        if shape not in self._memory:
            self._memory[shape] = u.new_empty(shape), u.new_empty(shape)
        y, memory = self._memory[shape]
        # The difference comes first: far from the origin, W'u - W'm would cancel.
        torch.sub(u, self.means, out=memory)
        return self.mixture.family.whiten(memory, self.whitening, self._multiply, y), memory

    def _logits_of_whitened(self, y: Tensor, memory: Tensor) -> Tensor:
        return torch.sub(self.log_scale, torch.mul(y, y, out=memory).sum(1), alpha=0.5)

    def logits(self, prepared: Tensor) -> Tensor:
        """Return log w_k p(u given k), (components, batch).

        Args:
            prepared: u, (features, batch).
        """
        return self._logits_of_whitened(*self._whiten(prepared))

    def add(self, prepared: Tensor, weights: Tensor | None) -> None:
        """Add the statistics of a chunk, computed in the whitened coordinates of each component.

        Args:
            prepared: u, (features, batch).
            weights: sample weights, (batch,), or None for 1 each.
        """
        y, memory = self._whiten(prepared)
        responsibilities = self._logits_of_whitened(y, memory)
        self._add_log_likelihoods(responsibilities_(responsibilities, weights), weights)
        weighted = torch.mul(y, responsibilities.unsqueeze(1), out=memory)
        counts, first_moments, second_moments = self.unflushed_sums
        counts += responsibilities.sum(1)
        first_moments += weighted.sum(2)
        second_moments += self.mixture.family.weighted_second_moments(y, weighted, self._multiply)
        self.unflushed_rows += prepared.shape[1]
        if self.unflushed_rows >= FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        """Add the sums in the working dtype to the float64 sums."""
        for total, unflushed in zip(self._totals(), self.unflushed_sums, strict=True):
            total += unflushed
            unflushed.zero_()
        self.unflushed_rows = 0

    def statistics(self, outer_sum: Tensor | None) -> Statistics:
        """Return the statistics of all chunks, with moments about the means of the mixture.

        Args:
            outer_sum: is not used.
        """
        self._flush()
        mixture = self.mixture
        first, second = mixture.family.unwhiten(self.first_moments, self.second_moments, mixture.roots)
        return Statistics(self.counts, first, second, mixture.means, self.log_likelihood, self.weight)
