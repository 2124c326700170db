"""`TrainingGroup`: the processes of one training, and their communication outside the steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, distributed

from pvae.batch import Batch
from pvae.errors import InputError, LostProcessError
from pvae.process_group import ProcessGroup
from pvae.train.checkpoint import Snapshot
from pvae.train.devices import reseed

__all__ = ["TrainingGroup"]


class TrainingGroup:
    """The processes of one training. Each has the whole model and all data, and computes its share of each batch.

    One process trains without communication, in a process group too.

    Attributes:
        count: the number of processes.
        rank: the number of this process, from 0.
        device: where tensors are for a communication outside the steps.
    """

    def __init__(self) -> None:
        is_initialised = distributed.is_available() and distributed.is_initialized()
        self.count: int = distributed.get_world_size() if is_initialised else 1
        self.rank: int = distributed.get_rank() if self.count > 1 else 0
        self._processes = ProcessGroup(self.count > 1)
        is_on_cuda = self.count > 1 and distributed.get_backend() == "nccl"
        self.device = torch.device("cuda", torch.cuda.current_device()) if is_on_cuda else torch.device("cpu")

    @property
    def is_shared(self) -> bool:
        """Whether there are several processes."""
        return self.count > 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run folder, shows the progress and calls the callbacks."""
        return self.rank == 0

    def share_size(self, size: int) -> int:
        """Return the number of data of this process in a batch of all processes.

        Args:
            size: the number of data of the batch.
        """
        return len(range(self.rank, size, self.count))

    def seeded(self, batches: Iterator[Batch], seed: int, step: int) -> Iterator[Batch]:
        """Yield batches; the draws for each depend on the seed, its step, the process and the number of processes.

        Args:
            batches: the shares of this process in the batches of an epoch.
            seed: the seed of the run.
            step: the number of steps before the first of these batches.
        """
        while True:
            reseed(seed, step, self.count, self.rank)
            batch = next(batches, None)
            if batch is None:
                return
            yield batch
            step += 1

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes.

        Raises:
            LostProcessError: if another process has ended, or does not answer in time.
        """
        return self._processes.sum(values)

    def add_to_sum(self, values: Tensor) -> None:
        """Replace a tensor by its sum over the processes, in place.

        Raises:
            LostProcessError: if another process has ended, or does not answer in time.
        """
        self._processes.sum_in_place(values)

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Run a block without communication in each process; if it fails in one of them, raise an error in all.

        Raises:
            LostProcessError: if the block has failed in another process.
        """
        try:
            yield
        except Exception:
            self.sum(torch.ones((), device=self.device))
            raise
        if float(self.sum(torch.zeros((), device=self.device))):
            raise LostProcessError(
                "Another process of this training has failed, and all processes end. See the message of that process."
            )

    def from_first(self, make: Callable[[], Any]) -> Any:
        """Return a value of the first process in all processes.

        All call this function; only the first one calls `make`.

        Args:
            make: returns a JSON value.

        Raises:
            InputError: in all processes, if the first one raises it; in the others also if it raises OSError.
            OSError: in the first process.
            LostProcessError: if another process has ended, or does not answer in time.
        """
        if not self.is_shared:
            return make()
        if not self.is_first:
            answer = json.loads(self._bytes_from_first(b""))
            if "error" in answer:
                raise InputError(answer["error"])
            return answer["value"]
        try:
            value = make()
        except (InputError, OSError) as error:
            self._bytes_from_first(json.dumps({"error": str(error)}).encode())
            raise
        self._bytes_from_first(json.dumps({"value": value}).encode())
        return value

    def snapshot_from_first(self, make: Callable[[], Snapshot]) -> Snapshot:
        """Return a snapshot of the first process in all processes. Only the first one needs the run folder.

        Args:
            make: returns the snapshot.

        Raises:
            InputError: in all processes, if the first one raises it.
            LostProcessError: if another process has ended, or does not answer in time.
        """
        made: list[Snapshot] = []

        def state_of_made() -> dict[str, Any]:
            made.append(make())
            return dict(made[0].state)

        state = self.from_first(state_of_made)
        if not self.is_shared:
            return made[0]
        parts = [
            self._bytes_from_first(safetensors.torch.save(dict(tensors)) if made else b"")
            for tensors in ((made[0].parameters, made[0].training) if made else ({}, {}))
        ]
        if made:
            return made[0]
        return Snapshot(safetensors.torch.load(parts[0]), safetensors.torch.load(parts[1]), state)

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Copy the values of tensors in the first process to those of all.

        Args:
            tensors: the same number of tensors, of the same shapes, in each process.
        """
        if self.is_shared:
            with torch.no_grad():
                for tensor in tensors:
                    tensor.copy_(self._processes.broadcast(tensor.detach().to(self.device)))

    def require_same(self, values: Mapping[str, str]) -> None:
        """Raise InputError in all processes if they do not have the same values.

        Args:
            values: texts, by the names that the message gives them.
        """
        if not self.is_shared:
            return
        first = self.from_first(lambda: dict(values))
        different = torch.tensor([float(values[name] != first[name]) for name in values], device=self.device)
        for name, count in zip(values, self.sum(different).tolist(), strict=True):
            if count:
                raise InputError(
                    f"Training in several processes needs the same {name} in each of them; {count:.0f} of {self.count} "
                    "processes differ from the first one. Load the same data with the same seed, and give the same "
                    "arguments in each process."
                )

    def _bytes_from_first(self, content: bytes) -> bytes:
        """Return the bytes of the first process."""
        size = int(self._processes.broadcast(torch.tensor([len(content)], device=self.device)))
        own = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.zeros(size).byte()
        return self._processes.broadcast(own.to(self.device)).cpu().numpy().tobytes()
