"""Read the next batches while the current one is used, and copy them to a CUDA device during its computations."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from pvae.batch import Batch
from pvae.data.streams.structured_batch import StructuredBatch
from pvae.structures import tensors_of

__all__ = ["on_device", "read_ahead"]

T = TypeVar("T")
_AHEAD = 2


def read_ahead(read: Callable[[Any], T], keys: Iterator[Any]) -> Iterator[T]:
    """Yield ``read(key)`` for each key in order; a thread reads the next ones in the meantime.

    Args:
        read: a function that draws no random numbers, because the generators belong to the thread of the caller.
        keys: the arguments of `read`.

    Raises:
        Exception: any error of `read`, at its place in the order.
    """
    results: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=_AHEAD)
    has_stopped = threading.Event()

    def work() -> None:
        try:
            for key in keys:
                if has_stopped.is_set():
                    return
                _put(results, (True, read(key)), has_stopped)
            _put(results, (False, None), has_stopped)
        except BaseException as error:  # the thread of the caller raises it again
            _put(results, (False, error), has_stopped)

    thread = threading.Thread(target=work, name="pvae-read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            goes_on, value = results.get()
            if not goes_on:
                if value is not None:
                    raise value
                return
            yield value
    finally:
        has_stopped.set()
        thread.join()


def _put(results: queue.Queue[Any], value: Any, has_stopped: threading.Event) -> None:
    """Put a value into a queue when there is room; stop if the queue is not read any more."""
    while not has_stopped.is_set():
        try:
            results.put(value, timeout=0.05)
            return
        except queue.Full:
            continue


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches on a device. On CUDA the next batch is copied during the computations on the current one.

    Args:
        batches: batches on the CPU; those in pinned memory are copied without waiting.
        device: the device.
    """
    if device.type != "cuda":
        for batch in batches:
            yield batch.to(device)
        return
    stream = torch.cuda.Stream(device)
    waiting: tuple[Batch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            copy = _copy(batch, device)
        following = copy, stream.record_event()
        if waiting is not None:
            yield _received(*waiting, device)
        waiting = following
    if waiting is not None:
        yield _received(*waiting, device)


def _copy(batch: Batch, device: torch.device) -> Batch:
    """Return a copy of a batch on a CUDA device; the copy of plain tensors need not be complete."""
    if isinstance(batch, StructuredBatch):
        return batch.to(device)
    # PyTorch does not reuse pinned memory before the copies from it are complete.
    pinned = batch.map(lambda tensor: tensor if tensor.is_pinned() else tensor.pin_memory())
    return pinned.map(lambda tensor: tensor.to(device, non_blocking=True))


def _received(batch: Batch, event: torch.cuda.Event, device: torch.device) -> Batch:
    """Let the stream of the caller wait for the copies of a batch, and record that it uses their memory."""
    current = torch.cuda.current_stream(device)
    current.wait_event(event)
    for value in batch.values():
        for tensor in tensors_of(value):
            if tensor.is_cuda:  # the lengths of a packed sequence are on the CPU
                tensor.record_stream(current)
    return batch
