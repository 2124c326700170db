"""The interface of E-step kernels: log-likelihoods, responsibilities and statistics of a chunk under one mixture."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pvae.em.base import Mixture, Statistics

__all__ = ["FLUSH_ROWS", "EStepKernel", "Scratch", "responsibilities_", "scale_chunk_bytes"]

#: Logits further below the largest are raised to this value before exp, and their responsibilities are set to 0: exp
#: takes many times longer where its result is denormal or 0, and so does arithmetic on denormals.
LOWEST_LOGIT = -60.0
LOWEST_RESPONSIBILITY = 1e-20
#: Sums in float32 are added to float64 sums after this number of rows.
FLUSH_ROWS = 16384
#: A GPU takes chunks that are larger by this factor.
GPU_CHUNK_FACTOR = 256

#: Memory for the exponential-family features of a chunk, by the shape of the chunk: the place of x in it, the features,
#: and the views of `CovarianceFamily.phi_products`. Each chunk overwrites the one before.
Scratch = dict[torch.Size, tuple[Tensor, Tensor, list[tuple[Tensor, Tensor, Tensor]]]]


def responsibilities_(logits: Tensor, weights: Tensor | None) -> Tensor:
    """Turn logits into responsibilities times sample weights, in place.

    Args:
        logits: log w_k p(x given k), overwritten, (components, batch).
        weights: sample weights, (batch,), or None for 1 each.

    Returns:
        log p(x), (batch,), nats.
    """
    highest = logits.amax(0)
    total = exp_(logits.sub_(highest).clamp_min_(LOWEST_LOGIT)).sum(0)
    logits.mul_(total.reciprocal() if weights is None else weights / total)
    functional.threshold(logits, LOWEST_RESPONSIBILITY, 0.0, inplace=True)
    return highest.add_(total.log_())


def exp_(values: Tensor) -> Tensor:
    """Replace values by their exp in place, and return them; the shape is any.

    Args:
        values: finite numbers in contiguous memory.
    """
    if values.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512":
        # On processors with AVX-512, NumPy takes less than half the time of torch on one thread.
        array = values.numpy()
        np.exp(array, out=array)
        return values
    return values.exp_()


def scale_chunk_bytes(cpu_bytes: int, device: torch.device) -> int:
    """Return the size of a chunk on a device in bytes, which is larger on a GPU.

    Args:
        cpu_bytes: the size on a CPU.
        device: the device of the chunks.
    """
    return cpu_bytes if device.type == "cpu" else cpu_bytes * GPU_CHUNK_FACTOR


class EStepKernel(ABC):
    """The E-step of one mixture on chunks of data; sums the statistics of the chunks.

    Args:
        mixture: the parameters, in the coordinates of the chunks.
        dtype: of the chunks, and of the arithmetic on them.
    """

    def __init__(self, mixture: Mixture, dtype: torch.dtype) -> None:
        self.mixture = mixture
        self.dtype = dtype
        self.log_likelihood = torch.zeros((), dtype=torch.float64, device=mixture.means.device)
        self.weight = torch.zeros_like(self.log_likelihood)

    @property
    @abstractmethod
    def chunk_size(self) -> int:
        """Number of data in a chunk."""

    @property
    def prepared_size(self) -> int:
        """Number of values that a prepared chunk holds for each datum."""
        return self.mixture.features

    @property
    def needs_outer_sum(self) -> bool:
        """Whether `statistics` needs the sum of u u' over the data."""
        return False

    @property
    def is_most_accurate(self) -> bool:
        """Whether no other kernel is more accurate for the data of this one."""
        return False

    def prepare(self, u: Tensor, scratch: Scratch | None = None) -> Tensor:
        """Return a chunk in the form that the other methods take, (prepared_size, batch).

        The result is the same for all mixtures of a family.

        Args:
            u: (features, batch).
            scratch: memory for the result, which the next chunk may overwrite; None allocates new memory.
        """
        return u

    @abstractmethod
    def logits(self, prepared: Tensor) -> Tensor:
        """Return log w_k p(u given k), (components, batch), up to the term that `common_term` returns."""

    def common_term(self, prepared: Tensor) -> Tensor | None:
        """Return the term that is added to all logits of a datum, (batch,), or None for 0."""
        return None

    @abstractmethod
    def add(self, prepared: Tensor, weights: Tensor | None) -> None:
        """Add the statistics of a chunk.

        Args:
            prepared: (prepared_size, batch).
            weights: sample weights, (batch,), or None for 1 each.
        """

    @abstractmethod
    def statistics(self, outer_sum: Tensor | None) -> Statistics:
        """Return the statistics of all chunks that were added.

        Args:
            outer_sum: sum of u u' over the data, (features, features), where `needs_outer_sum` is true; else None.
        """

    def _add_log_likelihoods(self, log_likelihoods: Tensor, weights: Tensor | None) -> None:
        weighted = log_likelihoods if weights is None else log_likelihoods * weights
        self.log_likelihood += weighted.sum(dtype=torch.float64)
        self.weight += log_likelihoods.numel() if weights is None else weights.sum(dtype=torch.float64)
