"""Chunks of standardised data for the E-step, kept between passes where the data are small."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from pvae.em.rows.row_sources import Chunk, RowSource
from pvae.em.rows.standardise import Standardiser

__all__ = ["StandardisedChunks"]

#: Standardised data up to this size are kept; larger data are standardised again in each pass.
KEPT_BYTES = 24 << 20


class ChunkPreparation(Protocol):
    """An object that prepares each chunk in its own form; an `EStepKernel` is one."""

    dtype: torch.dtype

    @property
    def chunk_size(self) -> int:
        """Number of data in a chunk."""

    @property
    def prepared_size(self) -> int:
        """Number of values that a prepared chunk holds for each datum."""

    def prepare(self, u: Tensor, scratch: Any = None) -> Tensor:
        """Return a chunk in the form of this object, (prepared_size, batch).

        Args:
            u: (features, batch).
            scratch: memory for the result; None allocates new memory.
        """


class StandardisedChunks:
    """Data in standardised coordinates, in chunks with one column for each datum.

    Args:
        rows: the data.
        standardiser: the standardised coordinates.
    """

    def __init__(self, rows: RowSource, standardiser: Standardiser) -> None:
        self.rows = rows
        self.standardiser = standardiser
        self._kept: dict[Any, list[Chunk]] = {}
        self._scratch: dict[Any, dict[Any, Any]] = {}

    def chunks(self, size: int, dtype: torch.dtype) -> Iterator[Chunk]:
        """Yield u, (features, batch), and sample weights, (batch,), or None for 1 each.

        Args:
            size: largest number of data in a chunk.
            dtype: of u and of the sample weights.
        """
        yield from self._keep_if_small((size, dtype), self._standardise(size, dtype), self.rows.features, dtype)

    def prepared_chunks(self, kernel: ChunkPreparation) -> Iterator[Chunk]:
        """Yield chunks as a kernel prepares them, (prepared_size, at most chunk_size), and sample weights or None."""
        key = type(kernel), kernel.chunk_size, kernel.dtype
        chunks = self.chunks(kernel.chunk_size, kernel.dtype)
        if self.rows.device.type == "cpu":
            # Prepared data are larger than the data; to read them from memory takes longer than to prepare them again.
            scratch = self._scratch.setdefault(key, {})
            yield from ((kernel.prepare(u, scratch), weights) for u, weights in chunks)
            return
        prepared = ((kernel.prepare(u), weights) for u, weights in chunks)
        yield from self._keep_if_small(key, prepared, kernel.prepared_size, kernel.dtype)

    def _keep_if_small(self, key: Any, chunks: Iterator[Chunk], size: int, dtype: torch.dtype) -> Iterator[Chunk]:
        """Yield chunks; where they are small, keep them for the next pass instead of those kept before.

        Args:
            key: identifies the kind of chunks.
            chunks: of this kind, read only where they are not kept.
            size: number of values for each datum.
            dtype: of the values.
        """
        if key in self._kept:
            yield from self._kept[key]
            return
        if not self._fits(size, dtype):
            yield from chunks
            return
        kept = []
        for chunk in chunks:
            kept.append(chunk)
            yield chunk
        self._kept = {key: kept}

    def _fits(self, size: int, dtype: torch.dtype) -> bool:
        device = self.rows.device
        allowed = KEPT_BYTES if device.type == "cpu" else torch.cuda.mem_get_info(device)[0] // 2
        return self.standardiser.rows * size * dtype.itemsize <= allowed

    def _standardise(self, size: int, dtype: torch.dtype) -> Iterator[Chunk]:
        shift = self.standardiser.shift.unsqueeze(1)
        factor = self.standardiser.scale.reciprocal().unsqueeze(1)
        for x, weights in self.rows.chunks(size):
            # In float64 for any dtype of the data: subtracting a large mean in float32 would cancel.
            u = torch.empty(x.shape[1], x.shape[0], dtype=torch.float64, device=x.device)
            torch.sub(x.mT, shift, out=u)
            yield u.mul_(factor).to(dtype), None if weights is None else weights.to(dtype)
