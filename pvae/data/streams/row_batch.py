"""`RowBatch`: data by number as a batch; its parts are read when they are taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pvae.batch import Batch, Index
from pvae.data.binarise import derived_seed
from pvae.data.data_digest import digest_of_chunks
from pvae.data.streams.prefetch import on_device, read_ahead
from pvae.data.streams.preparation import PLAIN, Preparation
from pvae.data.streams.same_form import form_text
from pvae.data.streams.stored_batch import StoredBatch
from pvae.data.streams.stored_rows import Rows

__all__ = ["RowBatch"]

_OWN_DRAWS = (
    "reading the same datum twice gives different values, because the data set draws from a generator that pvae cannot "
    "seed: a resumed run gets other draws than an uninterrupted one. Draw from the global generators, or from a "
    "generator that is an attribute of the data set or of its transform"
)

#: The largest number of bytes of the data that represent all data if a pass over all would take too long; at least 100
#: data are used.
_LOOK = 256 * 2**20


class RowBatch(StoredBatch):
    """Data by number. If reading draws random numbers, the generators are seeded, so reading can be repeated.

    Args:
        rows: the data.
        prepare: the changes of the arrays of each part that is read.
    """

    __slots__ = ("_positions", "_rows")
    _rows: Rows
    _positions: Tensor | None

    def __init__(self, rows: Rows, prepare: Preparation = PLAIN) -> None:
        super().__init__(prepare)
        object.__setattr__(self, "_rows", rows)
        object.__setattr__(self, "_positions", None)

    @property
    def rows(self) -> Rows:
        """All data of the source."""
        return self._rows

    @property
    def account(self) -> str:
        """One line about the kind of the data and how they are read."""
        return self._rows.account

    @property
    def classes(self) -> int | None:
        """The number of classes of the labels; None if it is not known without reading all data."""
        return self._rows.classes

    @property
    def varies(self) -> bool:
        """Whether a collate function of the user makes the batches, which may differ in their shapes."""
        return self._rows.varies

    @property
    def notes(self) -> tuple[str, ...]:
        """A note if the same data differ between two readings, although the generators are seeded."""
        if not self._rows.draws or self.varies:
            return ()
        first, again = (self.take(slice(0, 1)) for _ in range(2))
        same = all(torch.equal(first[name], again[name]) for name in first.names)
        return () if same else (_OWN_DRAWS,)

    @property
    def look_size(self) -> int:
        """The number of data that represent all data; it is smaller if each datum is large, or is made by a program."""
        return min(1000 if self._rows.draws else 10_000, max(100, _LOOK // self.bytes_of_datum))

    @property
    def size(self) -> int:
        """The number of data."""
        return self._rows.size if self._positions is None else len(self._positions)

    def subset(self, positions: Tensor) -> RowBatch:
        """Return some of the data without reading them.

        Args:
            positions: shape (data,).
        """
        chosen = positions.long().cpu()
        own = self._positions
        subset: RowBatch = self._with(_positions=chosen if own is None else own[chosen])
        return subset

    def take(self, index: Index) -> Batch:
        """Read some of the data.

        Args:
            index: a slice, or positions or a boolean mask over the data.

        Raises:
            InputError: if the data cannot be read or do not fit into memory.
        """
        positions = self._resolved(index)
        if len(positions) > 1:
            self.require_memory(self.bytes_of_datum * len(positions), f"A batch of {len(positions)} data")
        return self._read(positions, derived_seed(0, "look", *positions[:1].tolist())).to(self.device)

    def _resolved(self, index: Index) -> Tensor:
        """Return the positions in the source of some of the data."""
        if isinstance(index, slice):
            chosen = torch.arange(*index.indices(self.size))
        else:
            chosen = torch.as_tensor(index).cpu()
            chosen = chosen.nonzero().ravel() if chosen.dtype == torch.bool else chosen.long()
        return chosen if self._positions is None else self._positions[chosen]

    def _read(self, positions: Tensor, seed: int) -> Batch:
        """Return the data at positions in the source, on the CPU."""
        with self._rows.seeded(seed):
            fields = self._rows.read(positions)
        return self._checked(fields, positions.tolist())

    def _checked(self, fields: Mapping[str, Any], positions: Sequence[int]) -> Batch:
        first, last = min(positions, default=0), max(positions, default=0)
        return self._finished(fields, f"Data {first} to {last}" if last > first else f"Datum {first}")

    def batches(self, pieces: Sequence[Tensor], *, seed: int, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the batches of an epoch.

        Args:
            pieces: the positions of each batch in these data.
            seed: the seed of the run.
            epoch: the number of the epoch.
            start: the number of batches of the epoch before the first piece.
        """
        keys = ((number, self._resolved(positions)) for number, positions in enumerate(pieces, start))

        def read(key: tuple[int, Tensor]) -> Batch:
            number, positions = key
            return self._read(positions, derived_seed(seed, "items", epoch, number))

        # A thread that runs during the training must not draw from the generators of the process.
        return on_device(map(read, keys) if self._rows.draws else read_ahead(read, keys), self.device)

    def order(self, seed: int, epoch: int) -> Tensor | None:
        """Return the order of an epoch for data that are read in blocks: the blocks, and the data of each, at random.

        Args:
            seed: the seed of the run.
            epoch: the number of the epoch.

        Returns:
            Positions in these data, shape (data,); None if every order can be read.
        """
        starts = self._rows.blocks
        if starts is None:
            return None
        generator = torch.Generator().manual_seed(derived_seed(seed, "epoch", epoch))
        positions = self._resolved(slice(None))
        block_of = torch.bucketize(positions, torch.tensor(starts), right=True)
        members = [(block_of == block).nonzero().ravel() for block in block_of.unique().tolist()]
        chosen = [members[number] for number in torch.randperm(len(members), generator=generator).tolist()]
        return torch.cat([each[torch.randperm(len(each), generator=generator)] for each in chosen])

    @property
    def content(self) -> str:
        """The SHA-256 of all data, as for data in memory.

        If reading draws, the SHA-256 of a text that identifies the data set.
        """
        identity = self._rows.identity
        if identity is not None:
            return f"{identity};{form_text(self.form)}"
        plain = self._with(_changes=(), _target=torch.device("cpu"))
        return digest_of_chunks({f"train.{name}": plain.field_chunks(name) for name in plain.names}, self.size)

    def field_chunks(self, name: str) -> Iterator[Tensor]:
        """Yield one field of all data in parts, in order."""
        for chunk in self.chunks():
            yield chunk[name]
