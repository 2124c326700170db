"""The linter takes data by the same door as `fit`, and finds in their first batch what it finds in a batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import pvae
from pvae.errors import InputError

pytestmark = pytest.mark.usefixtures("own_store")
X = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand([len(x), 2]).to_event(1), obs=x)


def guide(x: Tensor) -> None:
    """Draw z by parameters that belong to positions of the batch."""
    location = pyro.param("location", torch.zeros(4))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(location + 0.0 * x.sum(-1), 1.0))


class Readings(IterableDataset):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.from_numpy(X))


def sources(folder: Path) -> dict[str, Any]:
    frame = pd.DataFrame(X, columns=["a", "b"])
    frame.to_csv(folder / "x.csv", index=False)
    np.save(folder / "x.npy", X)
    return {
        "tensor": torch.from_numpy(X),
        "fields": {"x": X},
        "frame": frame,
        "path": str(folder / "x.csv"),
        "memory map": np.load(folder / "x.npy", mmap_mode="r"),
        "splits": pvae.load_data(X),
        "stored split": pvae.load_data(folder / "x.npy", resident=False).train,
        "loader": DataLoader(list(torch.from_numpy(X)), batch_size=4),  # type: ignore[arg-type]
        "data set": TensorDataset(torch.from_numpy(X)),
        "parts": {"train": X, "test": X},
    }


def test_a_fault_is_found_in_all_data_that_fit_takes(tmp_path: Path) -> None:
    pair = pvae.pair(model, guide)
    (expected,) = pvae.check(pair, {"x": torch.from_numpy(X[:4])}, data_size=12).fatal
    for name, source in sources(tmp_path).items():
        options = {} if name == "loader" else {"batch_size": 4}
        (finding,) = pvae.check(pair, source, **options).fatal
        assert (finding.kind, finding.subject) == (expected.kind, expected.subject), name
    # how many data an iterable has is not known, so that the parameters may be right
    assert not pvae.check(pair, DataLoader(Readings(), batch_size=4)).fatal
    assert not pvae.check(pair, pvae.load_data(X[:4], validation=0, test=0)).fatal


def test_grey_data_are_binarised_as_before_a_training() -> None:
    def bits(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Bernoulli(logits=z.unsqueeze(-1).expand(-1, 2)).to_event(1), obs=x)

    def free(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.5)), 1.0).expand([len(x)]))

    grey = torch.rand(8, 2)
    assert pvae.check(pvae.pair(bits, free), {"x": grey}).fatal
    for source in (grey, DataLoader(list(grey), batch_size=4), pvae.load_data(grey, binarise="dynamic")):  # type: ignore[arg-type]
        assert not pvae.check(pvae.pair(bits, free), source).fatal


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no-such-file.csv", "no file"),
        (3.5, "got float"),
        (DataLoader(TensorDataset(torch.zeros(0, 2))), "has no data"),
        ([[1, 2], [3]], "list with different rows"),
        (pd.DataFrame({"a": ["u", "v"]}), "'a' has text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_data_that_cannot_be_read_are_one_line(source: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        pvae.check(pvae.pair(model, guide), source)
    assert "\n" not in str(error.value)
