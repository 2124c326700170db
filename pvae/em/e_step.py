"""The E-step over all data: sufficient statistics, log-likelihoods and responsibilities."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pvae.em.base import Mixture, Statistics
from pvae.em.kernels.base import EStepKernel
from pvae.em.kernels.choose_kernel import choose_kernel
from pvae.em.kernels.missing_values_kernel import MissingValuesKernel
from pvae.em.kernels.whitened_kernel import WhitenedKernel
from pvae.em.rows.standardised_chunks import StandardisedChunks
from pvae.process_group import ProcessGroup
from pvae.products import ProductChoices, default_products

__all__ = ["EStep", "chunk_log_likelihoods", "chunk_responsibilities"]


class EStep:
    """E-steps over the same data under different mixtures.

    Args:
        data: the data in standardised coordinates.
        dtype: of the arithmetic; float64 replaces it where float32 is not accurate enough.
        has_missing: whether NaN marks missing values, which are marginalised.
        group: the processes that share the data.
        products: compute the matrix products; None for the fastest library for each shape.
    """

    def __init__(
        self,
        data: StandardisedChunks,
        dtype: torch.dtype,
        has_missing: bool,
        group: ProcessGroup,
        products: ProductChoices | None = None,
    ) -> None:
        self.data = data
        self.dtype = dtype
        self.has_missing = has_missing
        self.group = group
        self.products = products or default_products()
        self._outer_sum: Tensor | None = None

    @property
    def rounding(self) -> float:
        """Relative rounding error of the log-likelihood per datum."""
        return 1e-5 if self.dtype == torch.float32 else 1e-9

    def make_kernel(self, mixture: Mixture) -> EStepKernel:
        """Return the fastest kernel that is accurate for a mixture in standardised coordinates."""
        if self.has_missing:
            return MissingValuesKernel(mixture, torch.float64)
        return choose_kernel(mixture, self.data.standardiser.mean_square, self.dtype, self.products)

    def statistics(self, kernel: EStepKernel) -> Statistics:
        """Return the sufficient statistics of all data of all processes.

        Args:
            kernel: a kernel to which no data were added yet.
        """
        for prepared, weights in self.data.prepared_chunks(kernel):
            kernel.add(prepared, weights)
        outer_sum = self._compute_outer_sum(kernel) if kernel.needs_outer_sum else None
        return _sum_over_processes(kernel.statistics(outer_sum), self.group)

    def _compute_outer_sum(self, kernel: EStepKernel) -> Tensor:
        """Return the sum of u u' over the data of this process, (features, features); computed once."""
        if self._outer_sum is None:
            total = torch.zeros_like(kernel.mixture.covariances)
            for u, weights in self.data.chunks(kernel.chunk_size, torch.float64):
                total += (u if weights is None else u * weights) @ u.mT
            self._outer_sum = total
        return self._outer_sum

    def least_likely_datum(self, mixture: Mixture) -> Tensor:
        """Return the datum with the lowest log-likelihood, (features,), with missing values at the mean of the data."""
        kernel: EStepKernel = WhitenedKernel(mixture, torch.float64, self.products)
        if self.has_missing:
            kernel = MissingValuesKernel(mixture, torch.float64)
        lowest = float("inf")
        datum = torch.zeros_like(mixture.means[0])
        for u, _ in self.data.chunks(kernel.chunk_size, kernel.dtype):
            values = chunk_log_likelihoods(kernel, kernel.prepare(u))
            index = int(values.argmin())
            if float(values[index]) < lowest:
                lowest = float(values[index])
                datum = u[:, index].double().nan_to_num(0.0)
        candidates = self.group.gather_rows(torch.cat([datum.new_tensor([lowest]), datum]).unsqueeze(0))
        return candidates[int(candidates[:, 0].argmin()), 1:]


def _sum_over_processes(own: Statistics, group: ProcessGroup) -> Statistics:
    """Return the statistics of the data of all processes, by one all-reduce."""
    if not group.is_distributed:
        return own
    names = Statistics.summed_names()
    parts = [getattr(own, name) for name in names]
    summed = group.sum(torch.cat([part.reshape(-1) for part in parts]))
    pieces = summed.split([part.numel() for part in parts])
    reshaped = [piece.reshape(part.shape) for piece, part in zip(pieces, parts, strict=True)]
    return replace(own, **dict(zip(names, reshaped, strict=True)))


def chunk_log_likelihoods(kernel: EStepKernel, prepared: Tensor) -> Tensor:
    """Return log p(u) of a prepared chunk, (batch,), nats.

    Args:
        kernel: the E-step kernel of one mixture.
        prepared: the chunk as `EStepKernel.prepare` returns it, (prepared_size, batch).
    """
    values = kernel.logits(prepared).logsumexp(0)
    common_term = kernel.common_term(prepared)
    return values if common_term is None else values + common_term


def chunk_responsibilities(kernel: EStepKernel, prepared: Tensor) -> Tensor:
    """Return p(component given u) of a prepared chunk, (components, batch).

    Args:
        kernel: the E-step kernel of one mixture.
        prepared: the chunk as `EStepKernel.prepare` returns it, (prepared_size, batch).
    """
    return torch.softmax(kernel.logits(prepared), 0)
