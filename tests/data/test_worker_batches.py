"""Batches from the workers of a loader are those of the loader itself, whatever memory they come through."""

from __future__ import annotations

import io
import itertools
import os
import pickle
import signal
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
import torch
from streamed_data import Augmented, Plain
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, get_worker_info

from pvae.batch import Batch, as_batch
from pvae.data import load_data, minibatches
from pvae.data.item_data import fields_of_item
from pvae.data.streams.loader_batch import LoaderBatch, seeded_order
from pvae.data.streams.shared_slots import SharedSlots
from pvae.data.streams.structured_batch import StructuredBatch
from pvae.data.streams.worker_batches import _Groups, _Message

WORKERS: dict[str, Any] = {"num_workers": 2, "persistent_workers": True}


def epoch(batch: Batch, number: int = 0, start: int = 0) -> Iterator[Batch]:
    return iter(minibatches(batch, 8, seed=3, epoch=number, start=start))


def same(one: Any, other: Any) -> bool:
    """Return whether two batches have the same values of the same types, in the same structures."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Batch):
        return one.names == other.names and all(same(one[name], other[name]) for name in one.names)
    if isinstance(one, dict):
        return list(one) == list(other) and same([*one.values()], [*other.values()])
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


class Fields(Plain):
    """Items with fields of several types."""

    def __getitem__(self, number: int) -> Any:
        return {
            "x": self.x[number].double(),
            "y": number % 3,
            "index": np.int32(number),
            "seen": torch.tensor([number > 7, True, False]),
            "part": np.full((2, 3), number, dtype=np.float16),
        }


class Series(Plain):
    """Series of different lengths."""

    def __getitem__(self, number: int) -> Any:
        return self.x[number, : 1 + number % 4]


def packed(items: list[Tensor]) -> dict[str, Any]:
    """Return series as a packed sequence, beside values of other kinds."""
    return {
        "x": pack_sequence(items, enforce_sorted=False),
        "index": torch.tensor([len(item) for item in items]),
        "titles": [f"{float(item[0]):.3f}" for item in items],
        "parts": [(item.sum(), {"all": item}) for item in items],
        "turned": torch.stack([item.mean() * torch.ones(2) for item in items]).T,
    }


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize(("dataset", "collate"), [(Plain(), None), (Fields(), None), (Series(), packed)])
def test_batches_of_workers_are_those_of_a_plain_loader(dataset: Any, collate: Any, size: int) -> None:
    loader = DataLoader(dataset, size, shuffle=True, collate_fn=collate, **WORKERS)
    stored = load_data(loader).train
    assert isinstance(stored, LoaderBatch)
    for number in range(2):
        with seeded_order(loader, 3, number):
            order = list(loader.batch_sampler)
        plain = DataLoader(dataset, batch_sampler=order, collate_fn=collate)
        for batch, content in zip(epoch(stored, number), plain, strict=True):
            expected = fields_of_item(content, "A batch", keeps_values=collate is not None)
            assert same(batch, as_batch(expected) if collate is None else StructuredBatch(expected))
    assert stored._pool[0]._slots is not None


def test_a_batch_stays_as_it_is_when_its_slot_is_used_again() -> None:
    slots = SharedSlots(2, 4070)
    values = [
        torch.arange(7, dtype=torch.uint8),
        torch.randn(3, 5, dtype=torch.float64),
        torch.tensor(2.5),
        torch.tensor([True, False]),
        torch.randn(4, dtype=torch.complex64),
        torch.randn(2, 3).to(torch.bfloat16),
    ]
    content, end = slots.put(1, {"a": values, "b": (values[1], "text", 3)}, 0)
    assert not any(isinstance(value, Tensor) for value in [*content["a"], content["b"][0]])
    following, last = slots.put(1, values, end)
    other, _ = slots.put(0, [torch.zeros(900)], 0)
    copy = slots.copy(1, pickle.loads(pickle.dumps(content)), pinned=False)
    again = slots.copy(1, following, pinned=False)
    slots.put(1, [torch.full((4096,), 255, dtype=torch.uint8)], 0)
    assert same(copy, {"a": values, "b": (values[1], "text", 3)}) and same(again, values)
    assert same(slots.copy(0, other, pinned=False), [torch.zeros(900)])
    assert end % 64 == 0 and last == 2 * end - 64 * -(-values[1].nbytes // 64)


def test_values_that_a_slot_cannot_hold_stay_as_they_are() -> None:
    slots = SharedSlots(1, 256)
    sequence = pack_sequence([torch.ones(3), torch.ones(2)])
    parameter = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    for value in (
        torch.ones(65),  # too large
        torch.ones(2, 3).T,  # strides of its own
        torch.ones(2).requires_grad_(),
        torch.ones(0),
        torch.eye(2).to_sparse(),
        torch.ones(2, device="meta"),
        parameter,
        sequence,
        "text",
    ):
        content, end = slots.put(0, [value], 0)
        assert content[0] is value and end == 0
        assert slots.copy(0, content, pinned=False)[0] is value
    assert isinstance(slots.put(0, torch.ones(64), 0)[0], type(slots.put(0, torch.ones(1), 0)[0]))
    assert isinstance(slots.put(0, torch.ones(1), 256)[0], Tensor)


def test_workers_that_are_started_anew_write_into_the_same_slots() -> None:
    slots = SharedSlots(2, 1024)
    buffer = io.BytesIO()
    ForkingPickler(buffer).dump(slots)  # as a worker gets it that is not forked
    copy = pickle.loads(buffer.getvalue())
    content, _ = copy.put(1, torch.arange(5.0), 0)
    assert torch.equal(slots.copy(1, content, pinned=False), torch.arange(5.0)) and len(copy) == 2


def test_a_slot_is_given_again_after_its_batches_are_copied() -> None:
    groups = _Groups(workers=2, most=16, slots=3)
    groups.start([(number, [number]) for number in range(9)])
    given = iter(groups)
    assert [next(given).slot for _ in range(4)] == [0, 1, 2, None]
    groups.finish(_Message(0, [], 1.0))
    assert [next(given).slot for _ in range(2)] == [None, None]  # the numbers of slots go round with those of groups
    groups.finish(_Message(1, [], 1.0))
    groups.finish(_Message(2, [], 1.0))
    groups.finish(_Message(None, [], 1.0))
    assert [next(given).slot for _ in range(2)] == [0, None]
    groups.start([(number, [number]) for number in range(9)])
    assert [group.slot for group in itertools.islice(groups, 4)] == [0, 1, 2, None]


@pytest.mark.parametrize(
    ("seconds", "sizes"),
    [(5e-3, 20 * [1]), (7e-4, [1, 1, *8 * [2], 1, 1]), (1e-9, [1, 1, 2, 2, 4, 4, 3, 2, 1])],
)
def test_batches_that_take_little_time_are_sent_together(seconds: float, sizes: list[int]) -> None:
    groups = _Groups(workers=2, most=16, slots=5)
    groups.finish(_Message(None, [], 100 * seconds))
    groups.finish(_Message(None, [], seconds / 1.5))
    groups.finish(_Message(None, [], 100 * seconds))  # a worker that had to wait for a core
    keys = [(number, [number]) for number in range(20)]
    groups.start(keys)
    found = [group.keys for group in groups]
    assert [len(each) for each in found] == sizes and [*itertools.chain(*found)] == keys


def test_two_epochs_are_read_at_the_same_time() -> None:
    train = load_data(DataLoader(Augmented(), 8, shuffle=True, **WORKERS)).train
    here = load_data(DataLoader(Augmented(), 8, shuffle=True)).train
    for one, other, *expected in zip(
        *(epoch(part, number) for part in (train, here) for number in (0, 1)), strict=True
    ):
        assert same(one, expected[0]) and same(other, expected[1])
    unfinished = epoch(train)
    next(unfinished)
    assert all(map(same, epoch(train, 2), epoch(here, 2)))
    unfinished.close()  # type: ignore[attr-defined]
    assert all(map(same, epoch(train, 1), epoch(here, 1)))
    assert len(train._pool) == 1


class Failing(Plain):
    """Items of which number 41 cannot be read in a worker."""

    def __init__(self, is_killed: bool) -> None:
        super().__init__()
        self.is_killed = is_killed

    def __getitem__(self, number: int) -> Any:
        if number == 41 and get_worker_info() is not None:
            if self.is_killed:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyError("no picture 41")
        return super().__getitem__(number)


def test_an_error_of_a_worker_has_the_lines_of_the_user_and_the_next_epoch_is_right() -> None:
    train = load_data(DataLoader(Failing(is_killed=False), 8, **WORKERS)).train
    with pytest.raises(KeyError, match=r"(?s)in __getitem__.*no picture 41"):
        list(epoch(train))
    assert all(map(same, epoch(train, start=6), epoch(load_data(DataLoader(Plain(), 8)).train, start=6)))


def test_a_killed_worker_is_an_error_and_leaves_no_shared_memory() -> None:
    train = load_data(DataLoader(Failing(is_killed=True), 8, num_workers=2)).train
    with pytest.raises(RuntimeError, match=r"killed by signal|exited unexpectedly"):
        list(epoch(train))
    if os.path.isdir("/dev/shm"):
        assert not [name for name in os.listdir("/dev/shm") if name.startswith(f"torch_{os.getpid()}_")]


def test_loaders_work_without_room_for_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    here = load_data(DataLoader(Augmented(), 4, shuffle=True)).train
    for free in (0, 2 * 5 * (2**14 + 15 * 4 * (16 + 8)) - 1):
        monkeypatch.setattr("pvae.data.streams.shared_slots._free_shared_bytes", lambda free=free: free)
        train = load_data(DataLoader(Augmented(), 4, shuffle=True, **WORKERS)).train
        assert all(map(same, epoch(train), epoch(here))) and train._pool[0]._slots is None


class Named(Plain):
    """Items that depend on attributes with the names of parts of a loader."""

    dataset, slots, collate, generators = 1.0, 2.0, 4.0, 8.0

    def __getitem__(self, number: int) -> Any:
        return self.x[number] + self.dataset + self.slots + self.collate + self.generators


def _changed(worker: int) -> None:
    dataset = get_worker_info().dataset  # type: ignore[union-attr]
    dataset.slots += 100 * dataset.collate + 1000 * dataset.dataset + 10_000 * dataset.generators


def test_a_function_for_the_start_of_a_worker_sees_the_attributes_of_the_data_set() -> None:
    train = load_data(DataLoader(Named(), 8, num_workers=1, worker_init_fn=_changed)).train
    assert torch.equal(torch.cat([batch.x for batch in epoch(train)]), Plain().x + 1.0 + 81_402.0 + 4.0 + 8.0)
