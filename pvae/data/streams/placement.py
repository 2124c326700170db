"""Put data on a device: resident if they fit, else batch by batch."""

from __future__ import annotations

import torch

from pvae.batch import Batch
from pvae.data.streams.mapped_rows import MappedRows
from pvae.data.streams.preparation import Preparation
from pvae.data.streams.row_batch import RowBatch
from pvae.data.streams.stored_batch import StoredBatch
from pvae.memory import format_bytes, free_bytes

__all__ = ["placed"]

#: Data that need more than this share of the free memory of a device stay in main memory.
_SHARE_OF_MEMORY = 0.5


def placed(batch: Batch, device: torch.device | str) -> Batch:
    """Return data on a device; if they need more than half of its free memory, each batch is copied when it is taken.

    Args:
        batch: data in memory or stored.
        device: the device.
    """
    target = torch.device(device)
    if isinstance(batch, StoredBatch) or target == batch.device or target.type == "cpu":
        return batch.to(target)
    needed, free = sum(tensor.nbytes for tensor in batch.values()), free_bytes(target)
    if free is None or needed <= _SHARE_OF_MEMORY * free:
        return batch.to(target)
    account = f"data of {format_bytes(needed)} in main memory, because {format_bytes(free)} are free on {target}"
    rows = MappedRows({name: tensor.cpu().numpy() for name, tensor in batch.items()}, account)
    return RowBatch(rows, Preparation(channels="first")).to(target)  # in data in memory, the channels are first already
