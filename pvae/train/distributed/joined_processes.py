"""`joined_processes`: a process group for the processes that torchrun has started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

from pvae.errors import InputError, LostProcessError, first_line

__all__ = ["joined_processes"]

#: Seconds after which a process that does not answer counts as lost.
_TIMEOUT = 600


@contextmanager
def joined_processes(device: str) -> Iterator[bool]:
    """Run a block in a process group, if torchrun has started several processes; yield whether this is the first one.

    The group uses NCCL for CUDA, each process with the device of its ``LOCAL_RANK``, and gloo for the CPU.

    Args:
        device: the option ``device`` of the training.

    Raises:
        InputError: if there are fewer CUDA devices than processes on this machine.
        LostProcessError: if the processes do not find each other.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if not count.isdecimal() or int(count) < 2 or distributed.is_initialized():
        yield not distributed.is_initialized() or distributed.get_rank() == 0
        return
    is_on_cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if is_on_cuda:
        _choose_cuda_device(device)
    try:
        distributed.init_process_group("nccl" if is_on_cuda else "gloo", timeout=timedelta(seconds=_TIMEOUT))
    except (RuntimeError, ValueError) as error:
        raise LostProcessError(f"The {count} processes did not find each other: {first_line(error)[:300]}") from error
    try:
        yield distributed.get_rank() == 0
    finally:
        distributed.destroy_process_group()


def _choose_cuda_device(device: str) -> None:
    """Let this process use the CUDA device with its number on this machine."""
    number, present = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if ":" in device:
        raise InputError(f"Each of several processes needs its own device; got device={device!r}. Use cuda, or cpu.")
    if number >= present:
        raise InputError(
            f"Each process needs a CUDA device of its own; this machine has {present}, and process {number} has none. "
            "Start fewer processes, or use device='cpu'."
        )
    torch.cuda.set_device(number)
