"""Packed sequences and other values of a collate function reach the programs as they are, with a known number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset

import pvae
from pvae import evaluate
from pvae.errors import InputError
from pvae.programs.bound import BoundPrograms


class Sequences(Dataset):
    """Series of 2 to 5 numbers."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(number)
        return torch.randn(2 + number % 4, generator=generator) + number % 3


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return (Sequences()[number] for number in range(20))


def packed(items: list[Tensor]) -> Any:
    return {"x": pack_sequence(items, enforce_sorted=False), "titles": [f"item {len(item)}" for item in items]}


def padded(items: list[Tensor]) -> Any:
    seen = pad_sequence([torch.ones_like(item) for item in items], batch_first=True)
    return {"x": pad_sequence(items, batch_first=True), "mask": seen}


class Series(pvae.LatentModel):
    """Each series has one level; its numbers are independent given the level."""

    def __init__(self) -> None:
        super().__init__()
        self.slope, self.bias = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(0.0))
        self.kinds: set[type] = set()

    def values(self, x: Any, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        self.kinds.add(type(x))
        if mask is not None:
            return x, mask
        values, lengths = pad_packed_sequence(x, batch_first=True)
        return values, (torch.arange(values.shape[1]) < lengths.unsqueeze(-1)).float()

    def model(self, x: Any, mask: Any = None) -> None:
        values, seen = self.values(x, mask)
        with pyro.plate("data", len(values)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(values)), 1.0))
            noise = dist.Normal(z.unsqueeze(-1) + self.bias + torch.zeros_like(values), 1.0)
            pyro.sample("x", noise.mask(seen.bool()).to_event(1), obs=values)

    def guide(self, x: Any, mask: Any = None) -> None:
        values, seen = self.values(x, mask)
        mean = (values * seen).sum(-1) / seen.sum(-1)
        with pyro.plate("data", len(values)):
            pyro.sample("z", dist.Normal(self.slope * mean, 0.5))


def trained(collate: Any, dataset: Any = None, **options: Any) -> pvae.Run:
    dataset = Sequences() if dataset is None else dataset
    shuffle = {} if isinstance(dataset, IterableDataset) else {"shuffle": True}
    loader = DataLoader(dataset, batch_size=8, collate_fn=collate, **shuffle)
    fields = ("x",) if collate is packed else ("x", "mask")
    return pvae.fit(Series(), loader, epochs=2, fields=fields, progress=False, **options)


def test_packed_sequences_train_and_evaluate_as_padded_ones(tmp_path: Path) -> None:
    one, other = trained(packed, out=tmp_path / "run"), trained(padded, step="eager")
    assert one.model.kinds == {PackedSequence} and one.step == "eager" and other.model.kinds == {Tensor}
    assert [record["loss"] for record in one.history] == pytest.approx([record["loss"] for record in other.history])
    slopes = [run.model.slope.item() for run in (one, other)]
    assert slopes[0] == pytest.approx(slopes[1]) and slopes[0] != 0.5
    values = [
        evaluate.elbo(run, DataLoader(Sequences(), collate_fn=collate), 3, limit=12, chunk=5, fields=fields)
        for run, collate, fields in ((one, packed, ("x",)), (other, padded, ("x", "mask")))
    ]
    assert values[0].value == pytest.approx(values[1].value) and values[0].count == values[1].count == 12
    again = pvae.open_run(tmp_path / "run", Series())
    assert torch.equal(again.model.slope, one.model.slope)


def test_an_iterable_of_packed_sequences_trains() -> None:
    run = trained(packed, Stream())
    assert run.model.kinds == {PackedSequence} and run.history[-1]["step"] == 6


def test_the_number_of_data_of_packed_sequences_is_that_of_the_sequences() -> None:
    x = packed([Sequences()[number] for number in range(6)])["x"]
    assert BoundPrograms(Series().model, Series().guide, (x,)).size == 6


@pytest.mark.parametrize(
    ("collate", "words"),
    [
        (lambda items: {"x": packed(items)["x"], "time": torch.zeros(5)}, "not clear: x has [18], time has 5"),
        (lambda items: {"x": {"series": items}}, "not clear: no field shows one"),
        (lambda items: {"x": pack_sequence([item / 0 for item in items], False)}, "x needs finite values"),
    ],
)
def test_what_is_not_clear_is_refused(collate: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        trained(collate)
    assert "\n" not in str(error.value)


def test_a_field_index_gives_the_number_of_data() -> None:
    def by_time(items: list[Tensor]) -> Any:
        return {**packed(items), "time": torch.zeros(5), "index": torch.arange(len(items))}

    loader = DataLoader(Sequences(), batch_size=8, collate_fn=by_time)
    run = pvae.fit(Series(), loader, epochs=1, fields=("x",), progress=False)
    assert run.history[0]["step"] == 3
    with pytest.raises(InputError, match="x of all data is needed here"):
        pvae.load_data(loader).train.x.sum()
