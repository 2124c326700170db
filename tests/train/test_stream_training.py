"""Trainings on data that are read in parts: the same numbers as on data in memory, bit-equal resume, clear refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from streamed_data import Augmented, Plain, Readings
from torch import Tensor, nn
from torch.utils.data import DataLoader

import pvae
from pvae import evaluate
from pvae.data.streams.row_batch import RowBatch
from pvae.errors import InputError

X = Plain().x.numpy()
Y = np.arange(60) % 3


class Line(pvae.LatentModel):
    """x given one latent, or its sign if the likelihood is Bernoulli."""

    def __init__(self, likelihood: str = "normal") -> None:
        super().__init__()
        self.likelihood = likelihood
        self.encoder, self.decoder = nn.Linear(4, 2), nn.Linear(1, 4)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            mean = self.decoder(z)
            density = dist.Normal(mean, 1.0) if self.likelihood == "normal" else dist.Bernoulli(logits=mean)
            pyro.sample("x", density.to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        loc, log_scale = self.encoder(x).unsqueeze(-1).unbind(-2)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def trained(data: Any, likelihood: str = "normal", **options: Any) -> pvae.Run:
    torch.manual_seed(0)
    defaults = {"epochs": 3, "batch_size": 8, "progress": False, "fields": ("x",)}
    return pvae.fit(Line(likelihood), data, **{**defaults, **options})


def numbers(run: pvae.Run) -> list[Any]:
    return [[record["loss"], record.get("validation_bound")] for record in run.history]


def same(one: pvae.Run, other: pvae.Run) -> bool:
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return numbers(one) == numbers(other) and all(torch.equal(*pair) for pair in pairs)


def test_training_and_evaluation_have_the_numbers_of_data_in_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    expected = trained(pvae.load_data(X))
    assert same(trained(pvae.load_data(tmp_path / "x.npy", resident=False)), expected)
    assert same(trained(Plain()), expected)
    bound = evaluate.elbo(expected, X, 5, chunk=16).value
    for data in (Plain(), DataLoader(Plain(), batch_size=8, shuffle=True), np.load(tmp_path / "x.npy", mmap_mode="r")):
        assert evaluate.elbo(expected, data, 5, chunk=16).value == bound
    parts = {"train": DataLoader(Plain(), batch_size=8), "validation": X[:10], "test": Plain()}
    run = trained(parts)
    assert run.config["data"]["sizes"] == {"train": 60, "validation": 10, "test": 60}
    assert evaluate.elbo(run, pvae.load_data(parts), 5).count == 60


class Breaks(Augmented):
    """Items of which some reading fails, as if the process were killed there."""

    left = 10**9

    def __getitem__(self, number: int) -> Any:
        Breaks.left -= 1
        if Breaks.left == 0:
            raise KeyboardInterrupt
        return super().__getitem__(number)


@pytest.mark.parametrize("kind", ["data set", "loader", "file"])
def test_a_training_that_was_killed_resumes_bit_for_bit(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def data() -> Any:
        if kind == "file":
            np.save(tmp_path / "x.npy", X)
            return pvae.load_data(tmp_path / "x.npy", resident=False, validation=6, test=0)
        return Breaks() if kind == "data set" else DataLoader(Breaks(), batch_size=8, shuffle=True)

    options = {"checkpoint_seconds": 0.0, "step": "eager"}
    whole = trained(data(), **options)
    if kind == "file":
        trained(data(), out=tmp_path / "run", max_steps=11, **options)
    else:
        monkeypatch.setattr(Breaks, "left", 250)
        with pytest.raises(KeyboardInterrupt):
            trained(data(), out=tmp_path / "run", **options)
    monkeypatch.setattr(Breaks, "left", 10**9)
    state = pvae.open_run(tmp_path / "run", Line(), checkpoint="last")
    assert 0 < state.epoch < 3
    assert same(trained(data(), out=tmp_path / "run", resume=True, **options), whole)


def test_an_iterable_resumes_by_epoch_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"step": "eager", "progress": None}
    whole = trained(Readings(), **options)
    trained(Readings(), out=tmp_path / "a", **{**options, "epochs": 1})
    assert same(trained(Readings(), out=tmp_path / "a", resume=True, **options), whole)
    assert "start again" not in capsys.readouterr().err
    trained(Readings(), out=tmp_path / "b", max_steps=11, **options)
    resumed = trained(Readings(), out=tmp_path / "b", resume=True, **options)
    assert "epoch 2 reads them from the start again, after the 3 steps" in capsys.readouterr().err
    assert [record["step"] for record in resumed.history] == [8, 19, 27]  # 3 of the steps were taken twice


class Labelled(Plain):
    """Bits, of which one datum, and one label, is another value."""

    def __init__(self, value: float = 1.0, label: int = 1) -> None:
        super().__init__()
        self.value, self.label = value, label

    def __getitem__(self, number: int) -> Any:
        bits = (self.x[number] > 0).float()
        return (bits * self.value, self.label) if number == 50 else (bits, number % 2)


def test_each_batch_is_checked_also_where_the_step_is_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowBatch, "look_size", 20)  # every third datum is looked at before the training
    loader = DataLoader(Labelled(2.0), batch_size=20)
    with pytest.raises(InputError, match=r"Data 40 to 59: Bernoulli needs x in \{0, 1\}; got values from 0 to 2"):
        trained(loader, "bernoulli")
    model = pvae.models.ConditionalVAE(data_shape=(4,), classes=2, condition="y", hidden=(3,), latent=1)
    with pytest.raises(InputError, match=r"Data 40 to 59: y needs labels from 0 to 1 \(classes=2\)"):
        pvae.fit(model, DataLoader(Labelled(label=2), batch_size=20), epochs=1, progress=False)


def test_the_loader_decides_the_size_of_the_batches(capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(DataLoader(Plain(), batch_size=16), batch_size=7, epochs=1, progress=None)
    assert run.config["training"]["batch_size"] == 16 and run.history[0]["step"] == 4
    assert "batches have up to 16 data, as the loader makes them; batch_size=7 is not used" in capsys.readouterr().err


def test_a_comparison_takes_a_loader(tmp_path: Path) -> None:
    options: dict[str, Any] = {"seeds": 1, "workers": 0, "progress": False, "particles": 5, "step": "eager"}
    data = {"train": DataLoader(Plain(), batch_size=30), "test": Readings()}
    comparison = pvae.compare({"line": Line}, data, ["elbo"], epochs=1, out=tmp_path / "c", **options)
    assert comparison.cells[0].failure == "" and comparison.table.to_json()["data"] == 60
    with pytest.raises(InputError, match="number of epochs has no default"):
        pvae.compare({"line": Line}, {"train": Readings(), "test": X}, ["elbo"], **options)
