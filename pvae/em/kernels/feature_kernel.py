"""The fast E-step kernel: two matrix products on exponential-family features for all components."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.em.base import Mixture, Statistics
from pvae.em.kernels.base import FLUSH_ROWS, EStepKernel, Scratch, responsibilities_, scale_chunk_bytes
from pvae.em.kernels.feature_products import make_feature_products
from pvae.products import ProductChoices, default_products

__all__ = ["FeatureKernel"]

#: Size of a chunk in bytes. Smaller chunks stay in the cache of a core, and cost more for the calls of operations: with
#: half of this size, a step takes up to a sixth longer where components are few.
CHUNK_BYTES = 2 << 20
#: From this number of rows on, the calls take little of the time, and more rows only need more new memory in each step.
#: It is not a power of two, because the features of a datum would then lie at the same few places of a cache.
MANY_ROWS = 2000
#: Matrix products are slow for few rows. A chunk of at most this number of rows may therefore have more bytes.
WIDE_ROWS, WIDE_BYTES = 256, 8 << 20


class FeatureKernel(EStepKernel):
    """The kernel on exponential-family features phi(u): fast, but squares cancel where components are narrow.

    Args:
        mixture: the parameters, in the coordinates of the chunks.
        dtype: of the chunks, and of the arithmetic on them. Sums are kept in float64.
        products: compute the matrix products; None for the fastest library for each shape.
    """

    def __init__(self, mixture: Mixture, dtype: torch.dtype, products: ProductChoices | None = None) -> None:
        super().__init__(mixture, dtype)
        self.products = products or default_products()
        self.natural_parameters = mixture.family.natural_parameters(mixture).to(dtype)
        self.feature_products = make_feature_products(self.natural_parameters, self.chunk_size, self.products)
        self.sums = self.feature_products.sums
        if dtype != torch.float64:
            self.sums = torch.zeros_like(self.sums, dtype=torch.float64)
        self.unflushed_rows = 0

    @property
    def chunk_size(self) -> int:
        """Number of data whose features and responsibilities fit into a chunk; at least 128."""
        bytes_per_datum = (self.mixture.components + self.prepared_size) * self.dtype.itemsize
        device = self.natural_parameters.device
        cached = scale_chunk_bytes(CHUNK_BYTES, device) // bytes_per_datum
        if device.type == "cpu":
            cached = min(cached, MANY_ROWS)
        return max(128, min(WIDE_ROWS, WIDE_BYTES // bytes_per_datum), cached)

    @property
    def prepared_size(self) -> int:
        """Length of phi(u)."""
        return self.mixture.family.phi_size(self.mixture.features)

    @property
    def needs_outer_sum(self) -> bool:
        """Whether phi(u) holds no second moments, as for tied covariances."""
        return self.mixture.family.needs_outer_sum

    def prepare(self, u: Tensor, scratch: Scratch | None = None) -> Tensor:
        """Return phi(u), (prepared_size, batch).

        Args:
            u: (features, batch).
            scratch: memory for the result, which the next chunk of the same shape overwrites; None allocates new
                memory. Only full covariances use it.
        """
        family = self.mixture.family
        if scratch is None:
            phi = u.new_empty(self.prepared_size, u.shape[1])
            family.write_phi(u, phi)
            return phi
        if u.shape not in scratch:
            phi = u.new_empty(self.prepared_size, u.shape[1])
            phi[0] = 1
            u_in_phi = phi[1 : 1 + len(u)]
            scratch[u.shape] = u_in_phi, phi, family.phi_products(u_in_phi, phi)
        u_in_phi, phi, products = scratch[u.shape]
        if not products:
            family.write_phi(u, phi)
            return phi
        u_in_phi.copy_(u)
        for left, right, destination in products:
            torch.mul(left, right, out=destination)
        return phi

    def logits(self, prepared: Tensor) -> Tensor:
        """Return natural parameters times phi(u), (components, batch), which is the logits minus `common_term`."""
        product = self.products.product_of(self.natural_parameters, prepared)
        return product(self.natural_parameters, prepared, None, None)

    def common_term(self, prepared: Tensor) -> Tensor | None:
        """Return -|W' u|^2 / 2 for tied covariances, (batch,), whose phi(u) holds no squares; else None."""
        if not self.mixture.family.needs_outer_sum:
            return None
        return -0.5 * (self.mixture.whitening.to(prepared.dtype).mT @ prepared[1:]).square().sum(0)

    def add(self, prepared: Tensor, weights: Tensor | None) -> None:
        """Add responsibilities times phi(u) to the sums, (components, prepared_size), with two matrix products.

        Args:
            prepared: phi(u), (prepared_size, batch).
            weights: sample weights, (batch,), or None for 1 each.
        """
        responsibilities = self.feature_products.logits(prepared)
        self._add_log_likelihoods(responsibilities_(responsibilities, weights), weights)
        self.feature_products.add(responsibilities, prepared)
        self.unflushed_rows += prepared.shape[1]
        if self.unflushed_rows >= FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        """Add the sums in the working dtype to the float64 sums."""
        unflushed_sums = self.feature_products.sums
        if unflushed_sums is not self.sums:
            self.sums += unflushed_sums
            unflushed_sums.zero_()
        self.unflushed_rows = 0

    def statistics(self, outer_sum: Tensor | None) -> Statistics:
        """Return the statistics of all chunks, with moments about 0.

        Args:
            outer_sum: sum of u u' over the data, (features, features), for tied covariances; else None.
        """
        self._flush()
        mixture = self.mixture
        sums = self.sums.contiguous()
        first, second = mixture.family.moments_from_phi(sums, mixture.features, outer_sum)
        log_likelihood = self.log_likelihood
        if outer_sum is not None:
            # The quadratic term that the logits of tied covariances leave out.
            precision = mixture.whitening @ mixture.whitening.mT
            log_likelihood = log_likelihood - 0.5 * (precision * outer_sum).sum()
        origins = torch.zeros_like(mixture.means)
        return Statistics(sums[:, 0], first, second, origins, log_likelihood, self.weight)
