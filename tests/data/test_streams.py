"""Data that are read in parts have the values, checksums and splits of the same data in memory, or one clear line."""

from __future__ import annotations

import pickle
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from streamed_data import Augmented, Plain, Readings
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)

from pvae.batch import Batch
from pvae.data import load_data, minibatches, steps_of_epoch
from pvae.data.item_data import fields_of_item
from pvae.data.streams.loader_batch import seeded_order
from pvae.data.streams.prefetch import read_ahead
from pvae.data.streams.stored_batch import StoredBatch
from pvae.data.streams.stored_rows import ItemRows
from pvae.data.streams.worker_batches import SeededItems, _Group
from pvae.errors import InputError
from pvae.randomness import seeded

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = np.array(["b", "a", "c"] * 20)
WHOLE: dict[str, Any] = {"validation": 0, "test": 0, "binarise": "none"}


def epoch(batch: Batch, size: int = 8, number: int = 0, start: int = 0) -> list[Batch]:
    return list(minibatches(batch, size, seed=3, epoch=number, start=start))


def same(one: Batch, other: Batch) -> bool:
    return one.names == other.names and all(torch.equal(one[name], other[name]) for name in one.names)


def write_shards(folder: Path, suffix: str) -> Path:
    folder.mkdir(parents=True)
    for number, rows in enumerate(np.split(np.arange(60), [10, 35])):
        if suffix == ".npz":
            np.savez(folder / f"{number}.npz", x=X[rows], y=Y[rows])
        else:
            np.save(folder / f"{number}.npy", X[rows])
    return folder


# --- files


@pytest.mark.parametrize("kind", ["npy", "npy shards", "npz shards", "memory map", "mapped fields"])
def test_files_in_parts_are_the_same_data_as_in_memory(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pvae.data.streams.mapped_rows._KEPT", 3 * 2**20)  # so that rows are read in blocks of 5
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    sources: dict[str, tuple[Any, Any]] = {
        "npy": (tmp_path / "x.npy", X),
        "npy shards": (write_shards(tmp_path / "npy", ".npy"), X),
        "npz shards": (write_shards(tmp_path / "npz", ".npz"), (X, Y)),
        "memory map": (mapped, X),
        "mapped fields": ({"x": mapped, "y": Y}, (X, Y)),
    }
    source, arrays = sources[kind]
    stored, expected = load_data(source, resident=False, seed=2), load_data(arrays, seed=2)
    assert isinstance(stored.train, StoredBatch) and stored.checksum == expected.checksum
    assert stored.classes == expected.classes and stored.schema.classes == expected.schema.classes
    for part, batch in expected.parts.items():
        assert batch is not None and same(stored.parts[part].take(slice(None)), batch)  # type: ignore[union-attr]
    if "npz" not in kind:  # files that are read whole are taken one after another
        assert all(map(same, epoch(stored.train), epoch(expected.train)))
    loaded = load_data(source, seed=2)
    assert not isinstance(loaded.train, StoredBatch) and loaded.checksum == stored.checksum
    copy = pickle.loads(pickle.dumps(stored.train))
    assert len(pickle.dumps(stored.train)) < 20_000 and same(copy.take([3, 1]), stored.train.take([3, 1]))


def test_files_that_are_read_whole_are_taken_one_after_another(tmp_path: Path) -> None:
    train = load_data(write_shards(tmp_path / "a", ".npz"), resident=False, **WHOLE).train
    orders = [torch.cat([batch.x for batch in epoch(train, number=number)]) for number in (0, 1)]
    rows = [[int((torch.from_numpy(X) == x).all(1).nonzero()) for x in order] for order in orders]
    assert rows[0] != rows[1] and all(sorted(row) == list(range(60)) for row in rows)
    files = [[int(np.searchsorted([10, 35], row, side="right")) for row in order] for order in rows]
    assert all(sum(one != other for one, other in pairwise(file)) == 2 for file in files)
    assert same(epoch(train, start=5)[0], epoch(train)[5])


def test_folders_of_files_can_be_split_already(tmp_path: Path) -> None:
    for part, rows in (("train", slice(0, 40)), ("test", slice(40, 60))):
        (tmp_path / part).mkdir()
        np.savez(tmp_path / part / "0.npz", x=X[rows], y=Y[rows])
    splits = load_data(tmp_path, resident=False)
    assert splits.summary()["sizes"] == {"train": 36, "validation": 4, "test": 20}
    assert torch.equal(splits.test.take(slice(None)).x, torch.from_numpy(X[40:]))  # type: ignore[union-attr]
    assert splits.schema.classes == ("a", "b", "c")


@pytest.mark.parametrize("scale", ["standardise", "minmax"])
def test_scaling_in_parts_is_that_of_data_in_memory(
    scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pvae.data.streams.stored_batch._CHUNK", 7 * 16)  # so that these data have several parts
    np.save(tmp_path / "x.npy", X)
    stored, expected = (load_data(tmp_path / "x.npy", scale=scale, resident=each) for each in (False, True))
    assert stored.schema.scaling.shift == pytest.approx(expected.schema.scaling.shift, rel=1e-12)  # type: ignore[union-attr]
    assert stored.schema.scaling.scale == pytest.approx(expected.schema.scaling.scale, rel=1e-12)  # type: ignore[union-attr]
    assert torch.allclose(stored.train.x, expected.train.x, atol=1e-12)
    like = load_data(tmp_path / "x.npy", like=expected, resident=False)
    assert torch.equal(like.train.x, expected.train.x)
    assert like.describe().splitlines()[1:] == expected.describe().splitlines()[1:]


def test_missing_values_and_draws_of_data_in_parts(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.where(X > 1, np.nan, X))
    holes = load_data(tmp_path / "x.npy", missing="mask", resident=False, **WHOLE).train
    assert torch.equal(holes["mask"] == 0, torch.from_numpy(X > 1)) and float(holes.x.max()) <= 1
    with pytest.raises(InputError, match="x needs finite values"):
        load_data(tmp_path / "x.npy", resident=False)
    np.save(tmp_path / "grey.npy", np.linspace(0, 1, 240, dtype=np.float32).reshape(60, 4))
    grey = load_data(tmp_path / "grey.npy", resident=False, test=10)
    dynamic = grey.for_likelihood(True)
    assert dynamic.binarise == "dynamic" and "at every use" in dynamic.notes[-1]
    assert torch.equal(dynamic.test.x, load_data(tmp_path / "grey.npy", test=10).binarised("static").test.x)  # type: ignore[union-attr]
    drawn = [batch.x for batch in minibatches(dynamic.train, 60, seed=0, epoch=0, dynamic=True)]
    assert set(torch.cat(drawn).unique().tolist()) == {0.0, 1.0}
    masked = next(
        iter(minibatches(grey.masked("pixels").train, 60, seed=0, epoch=0, mask=grey.masked("pixels").train_mask))
    )
    assert 0 < float(masked["mask"].mean()) < 1
    for bad in (lambda: grey.binarised("static"), lambda: load_data((X, Y)).with_labels(3) and grey.with_labels(3)):
        with pytest.raises(InputError, match="resident=True"):
            bad()


def test_large_files_stay_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", X)
    for module in ("opening", "stored_batch"):
        monkeypatch.setattr(f"pvae.data.streams.{module}.free_bytes", lambda device: X.nbytes)
    train = load_data(tmp_path / "x.npy", **WHOLE).train
    assert isinstance(train, StoredBatch)
    monkeypatch.setattr("pvae.data.streams.stored_batch.free_bytes", lambda device: X.nbytes - 1)
    assert [batch.size for batch in epoch(train)] == 7 * [8] + [4]
    with pytest.raises(InputError, match="x of all 60 data needs 960 bytes of memory, and 959 bytes are free on cpu"):
        train.x.sum()


def test_data_that_do_not_fit_on_a_device_are_copied_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = load_data({"x": np.random.default_rng(0).random((60, 8, 8, 3)), "y": Y}, channels="first", **WHOLE)
    monkeypatch.setattr("pvae.data.streams.placement.free_bytes", lambda device: 2 * 60 * (8 * 8 * 8 * 3 + 8))
    assert not isinstance(pictures.to("meta").train, StoredBatch)
    monkeypatch.setattr("pvae.data.streams.placement.free_bytes", lambda device: 2 * 60 * (8 * 8 * 8 * 3 + 8) - 1)
    placed = pictures.to("meta").train
    assert isinstance(placed, StoredBatch) and next(iter(epoch(placed))).x.is_meta
    assert all(map(same, epoch(placed.to("cpu")), epoch(pictures.train)))


# --- data sets and loaders


def test_items_are_drawn_anew_in_each_epoch_and_the_same_at_each_reading() -> None:
    train = load_data(Augmented(), **WHOLE).train
    before = torch.get_rng_state()
    first, again, second = epoch(train), epoch(train), epoch(train, number=1)
    assert torch.equal(before, torch.get_rng_state())
    assert all(map(same, first, again)) and not any(map(same, first, second))
    assert same(epoch(train, start=6)[0], first[6])
    ordered = [next(minibatches(train, 60, seed=3, epoch=number, keeps_order=True)) for number in (0, 1)]
    assert not torch.equal(ordered[0].x, ordered[1].x) and torch.allclose(ordered[0].x, ordered[1].x, atol=1.0)
    noise = torch.cat([batch.x for batch in first]).std() ** 2 - Plain().x.std() ** 2
    assert 0 < float(noise) < 0.05  # the variance of the noise is 0.01


# A worker sends batches one by one where there are few of them, and up to sixteen at once where there are many.
@pytest.mark.parametrize(("workers", "size"), [(0, 8), (2, 8), (1, 1)])
def test_a_loader_has_the_same_batches_from_any_start_and_with_any_number_of_workers(workers: int, size: int) -> None:
    loader = DataLoader(Augmented(), batch_size=size, shuffle=True, num_workers=workers, drop_last=True)
    train = load_data(loader).train
    here = load_data(DataLoader(Augmented(), batch_size=size, shuffle=True, drop_last=True)).train
    assert steps_of_epoch(train, 100) == len(loader) == 60 // size
    assert all(map(same, epoch(train, start=4), epoch(here)[4:]))
    assert not same(epoch(here)[0], epoch(here, number=1)[0])


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("sampler", [None, WeightedRandomSampler([1.0, 2.0] * 30, 17), range(0, 60, 4)])
def test_the_items_of_a_batch_are_those_of_the_sampler_of_pytorch(sampler: Any, drop_last: bool) -> None:
    loader = DataLoader(Plain(), 7, shuffle=sampler is None, sampler=sampler, drop_last=drop_last)
    with seeded_order(loader, 3, 2):
        expected = [Plain().x[batch] for batch in loader.batch_sampler]
    batches = minibatches(load_data(loader).train, 7, seed=3, epoch=2)
    for batch, x in zip(batches, expected, strict=True):
        assert torch.equal(batch.x, x)


class Mixed(Plain):
    """Items of two types."""

    def __getitem__(self, number: int) -> Any:
        return {"x": self.x[number].to(torch.float64 if number > 3 else torch.float32), "name": str(number)}


def test_batches_that_a_worker_sends_together_are_those_that_it_sends_alone() -> None:
    for dataset, fields in ((Augmented(), ("x", "y")), (Mixed(), ("x", "name"))):
        items = SeededItems(dataset, None, None)
        rows = ItemRows(dataset)
        keys = [(5, [3, 1]), (6, [0, 2]), (7, [59])]
        with seeded(0):
            together = pickle.loads(pickle.dumps(items[_Group(None, keys)])).contents
        for batch, key in zip(together, keys, strict=True):
            with rows.seeded(key[0]):
                alone, content = rows.read(torch.tensor(key[1])), fields_of_item(batch, "A batch")
            assert list(alone) == list(content) == list(fields)
            assert alone["x"].dtype == content["x"].dtype and torch.equal(alone["x"], content["x"])
            assert list(alone[fields[1]]) == list(content[fields[1]])


class Noisy(Plain):
    """Items with noise from a generator that a transform holds."""

    def __init__(self, draw: Any) -> None:
        super().__init__()
        self.transform = {"steps": [draw]}

    def __getitem__(self, number: int) -> Any:
        return self.x[number] + self.transform["steps"][0]()


class Draw:
    """A transform that draws from a generator of its own."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    def __call__(self) -> float:
        kind = type(self.generator)
        if kind is torch.Generator:
            return float(torch.rand((), generator=self.generator))
        return float(self.generator.random() if kind is not np.random.RandomState else self.generator.random_sample())


class Sequential(IterableDataset):
    """The items of a data set one after another."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __iter__(self) -> Any:
        return (self.dataset[number] for number in range(len(self.dataset)))


def state_of(generator: Any) -> str:
    if isinstance(generator, np.random.Generator):
        return str(generator.bit_generator.state)
    if isinstance(generator, random.Random):
        return str(generator.getstate())
    state = generator.get_state()
    return str((state if isinstance(state, Tensor) else state[1]).tolist())


GENERATORS = (np.random.default_rng(0), np.random.RandomState(0), torch.Generator(), random.Random(0))
HIDDEN = np.random.default_rng(0)


@pytest.mark.parametrize("generator", GENERATORS, ids=lambda generator: type(generator).__module__)
def test_draws_from_a_generator_of_the_data_set_are_repeated(generator: Any) -> None:
    dataset = Noisy(Draw(generator))
    before = state_of(generator)
    rows, loader = (load_data(each).train for each in (dataset, DataLoader(dataset, batch_size=2)))
    for train in (rows, loader, load_data(Sequential(dataset)).train):
        first = epoch(train, 2)
        assert all(map(same, first, epoch(train, 2))) and not same(first[0], epoch(train, 2, number=1)[0])
        assert train is rows or not torch.allclose(first[0].x - Plain().x[:2], first[1].x - Plain().x[2:4])
        assert not train.notes  # type: ignore[attr-defined]
    for train in (rows, loader):
        assert all(map(same, epoch(train, 2, start=9), epoch(train, 2)[9:]))
    assert state_of(generator) == before


def _new_generator(worker: int) -> None:
    dataset = get_worker_info().dataset  # type: ignore[union-attr]
    dataset.transform = {"steps": [Draw(np.random.default_rng())]}
    dataset.x = dataset.x + 100


def test_workers_repeat_the_draws_of_their_own_generators() -> None:
    dataset = Noisy(Draw(np.random.default_rng(0)))
    here = load_data(DataLoader(dataset, batch_size=2)).train
    workers = load_data(DataLoader(dataset, batch_size=2, num_workers=1, worker_init_fn=_new_generator)).train
    expected, found = (torch.cat([batch.x for batch in epoch(train, 2)]) for train in (here, workers))
    torch.testing.assert_close(found, expected + 100, atol=1e-4, rtol=0)


def test_draws_that_cannot_be_repeated_are_said() -> None:
    for source in (DataLoader(Noisy(lambda: HIDDEN.random()), batch_size=8), Noisy(lambda: HIDDEN.random())):
        assert any("cannot seed" in note for note in load_data(source, validation=0, test=0).notes)
    for source in (Augmented(), Noisy(HIDDEN.random)):
        assert not load_data(source, **WHOLE).notes


class Own:
    """A sampler that draws from a generator of its own."""

    def __init__(self) -> None:
        self.generator_of_numpy = np.random.default_rng(0)

    def __iter__(self) -> Any:
        return iter(self.generator_of_numpy.permutation(60).tolist())

    def __len__(self) -> int:
        return 60


def test_samplers_decide_which_data_there_are() -> None:
    subset = load_data(DataLoader(Plain(), batch_size=8, sampler=SubsetRandomSampler(range(20, 40))))
    assert torch.equal(subset.train.x, Plain().x[20:40]) and subset.train.size == 20
    assert sorted(torch.cat([batch.x for batch in epoch(subset.train)])[:, 0].tolist()) == sorted(
        Plain().x[20:40, 0].tolist()
    )
    weighted = DataLoader(Plain(), sampler=WeightedRandomSampler([1.0] + 59 * [0.0], 16), batch_size=8)
    assert all(torch.equal(batch.x, Plain().x[:1].expand(8, 4)) for batch in epoch(load_data(weighted).train))
    generator = torch.Generator().manual_seed(5)
    given = load_data(DataLoader(Plain(), batch_size=8, shuffle=True, generator=generator))
    state = generator.get_state()
    assert all(map(same, epoch(given.train), epoch(given.train))) and torch.equal(state, generator.get_state())
    own = load_data(DataLoader(Plain(), batch_size=8, sampler=Own()))  # type: ignore[arg-type]
    assert any("own generator" in note for note in own.notes)
    batches = load_data(DataLoader(Plain(), batch_sampler=BatchSampler(range(10), 4, False)))  # type: ignore[arg-type]
    assert [batch.size for batch in epoch(batches.train)] == [4, 4, 2]


def test_an_iterable_is_read_from_its_start() -> None:
    for source in (Readings(), DataLoader(Readings(), batch_size=8)):
        splits = load_data(source)
        first = epoch(splits.train)
        assert all(map(same, first, epoch(splits.train))) and not same(first[0], epoch(splits.train, number=1)[0])
        assert [batch.size for batch in first] == 7 * [8] + [4] and steps_of_epoch(splits.train, 8) is None
        assert splits.train.take(slice(0, 70)).size == 60 and splits.train.resident().size == 60  # type: ignore[attr-defined]
        assert splits.summary()["sizes"] == {"validation": 0, "test": 0}
        with pytest.raises(InputError, match="Only the first data of a"):
            splits.train.take([3])
        with pytest.raises(InputError, match=r"number of data in a \w+ is not known"):
            len(splits.train.x), splits.train.size
        with pytest.raises(InputError, match="No validation split can be drawn"):
            load_data(source, validation=0.1)


def test_splits_of_several_sources() -> None:
    splits = load_data({"train": DataLoader(Augmented(), batch_size=8), "test": (X, np.zeros(60, dtype=int))})
    assert not splits.notes
    assert splits.validation is None and torch.equal(splits.test.x, torch.from_numpy(X))  # type: ignore[union-attr]
    with pytest.raises(InputError, match=r"validation=0\.1 cannot be used"):
        load_data({"train": X, "test": X}, validation=0.1)
    with pytest.raises(InputError, match=r"test data have shape \(3,\) per datum, but the training data have \(4,\)"):
        load_data({"train": X, "test": X[:, :3]})
    with pytest.raises(InputError, match="all parts must have the same numbers"):
        load_data({"train": (X, Y), "test": (X[:2], Y[:2])})


class Bad(Plain):
    """Items of which number 7 is another one."""

    def __init__(self, item: Any) -> None:
        super().__init__()
        self.item = item

    def __getitem__(self, number: int) -> Any:
        return self.item if number == 7 else super().__getitem__(number)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ((torch.zeros(5), 0), r"x of item 7 has shape \(5,\); x of item 0 has \(4,\)"),
        ({"x": torch.zeros(4)}, "Item 0 of the data has the fields x, y; item 7 has x"),
        ((torch.full((4,), torch.nan), 0), "Data 0 to 59: x needs finite values; 4 of 240 are not"),
        ((torch.zeros(4), -2), "Labels y need to be 0, 1, ...; got -2"),
    ],
)
def test_a_datum_that_differs_is_named(item: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        load_data(Bad(item), **WHOLE).train.x.sum()
    assert "\n" not in str(error.value)


class NoLength(Dataset):
    def __getitem__(self, number: int) -> Any:
        return X[number]


def test_what_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", X[:0])
    (tmp_path / "bad.npy").write_bytes(
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (9, 4)}"
    )
    mixed = write_shards(tmp_path / "mixed", ".npz")
    np.save(mixed / "x.npy", X)
    other = write_shards(tmp_path / "other", ".npy")
    np.save(other / "9.npy", X[:, :3])
    for source, words in (
        (tmp_path / "none.npy", "has no data"),
        (tmp_path / "bad.npy", "truncated or damaged"),
        (mixed, "files of several kinds, .npy and .npz"),
        (other, r"9.npy has shape \(3,\) per datum and type float32, but in .*0.npy it has \(4,\)"),
        (NoLength(), "NoLength needs __len__"),
        (DataLoader(Plain(0), batch_size=4), "The DataLoader has no data"),
        (Readings(0), "The Readings has no data"),
        (Plain(0), "The Plain has no data"),
    ):
        with pytest.raises(InputError, match=words) as error:
            load_data(source, resident=False)
        assert "\n" not in str(error.value)


def test_reading_ahead_keeps_the_order_and_raises_at_its_place() -> None:
    assert list(read_ahead(lambda key: key * key, iter(range(20)))) == [key * key for key in range(20)]
    results = read_ahead(lambda key: 1 // (3 - key), iter(range(9)))
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    unfinished = read_ahead(lambda key: key, iter(range(10**9)))
    assert next(unfinished) == 0
    unfinished.close()  # type: ignore[attr-defined]


def test_data_in_parts_are_described_by_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holes = np.where(X > 1, np.nan, X)
    np.savez(tmp_path / "x.npz", x=holes, y=Y)
    monkeypatch.setattr("pvae.data.streams.stored_batch._CHUNK", 7 * 40)
    stored, expected = (
        load_data(source, missing="mask", resident=False, **WHOLE).describe().splitlines()[1:]
        for source in (tmp_path, (holes, Y))
    )
    assert stored == expected and "label of 3 classes: a: 20, b: 20, c: 20" in stored
    described = load_data(Readings()).describe().splitlines()
    assert described[1] == "60 data, each 4; splits: 60 train" and len(described) == 9
    assert described[-1].startswith("note: a loader or an iterable gives no validation and no test split, so the")
    assert not load_data(Readings(), validation=0, test=0).notes
    assert "gives no test split; give" in load_data(DataLoader(Plain()), validation=0).notes[0]
