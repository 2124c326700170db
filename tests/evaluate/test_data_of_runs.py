"""Evaluations of a run without data, or with the name or the path of data: they use the splits of its training."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import pvae
from pvae import evaluate

OPTIONS = {"epochs": 1, "progress": False, "step": "eager", "matmul": "aten"}
#: Functions of data that are no data of a model.
NOT_OF_A_MODEL = {"compare_evidence", "gradients", "search_gradients"}


@pytest.fixture
def run(tmp_path: Path) -> pvae.Run:
    """A run on a table, with splits of chosen sizes."""
    x = np.random.default_rng(0).normal(size=(40, 3))
    np.savetxt(tmp_path / "rows.csv", x, delimiter=",", header="a,b,c", comments="")
    data = pvae.load_data(tmp_path / "rows.csv", test=0.4, validation=0.25, seed=3, scale="standardise")
    model = pvae.VAE(data.data_shape, latent=1, hidden=3, likelihood="gaussian")
    return pvae.fit(model, data, out=tmp_path / "run", **OPTIONS)


def test_a_run_is_evaluated_on_its_own_test_split(run: pvae.Run, tmp_path: Path) -> None:
    data = pvae.load_data(tmp_path / "rows.csv", test=0.4, validation=0.25, seed=3, scale="standardise")
    expected = evaluate.elbo(run, data, particles=3).pointwise
    assert expected is not None and len(expected) == 16
    opened = pvae.open_run(tmp_path / "run")
    for given in (None, "rows.csv"):  # the name in the record of the run
        torch.testing.assert_close(evaluate.elbo(opened, given, particles=3).pointwise, expected, rtol=0, atol=0)
    train = evaluate.elbo(opened, split="train", particles=3)
    assert train.pointwise is not None and train.count == 18
    torch.testing.assert_close(train.pointwise, evaluate.elbo(run, data.train, particles=3).pointwise)


def test_other_data_by_their_path_are_read_like_those_of_the_training(run: pvae.Run, tmp_path: Path) -> None:
    other = np.random.default_rng(1).normal(size=(30, 3))[:, [2, 0, 1]]
    np.savetxt(tmp_path / "other.csv", other, delimiter=",", header="c,a,b", comments="")
    found = evaluate.elbo(run, tmp_path / "other.csv", particles=3)
    splits = pvae.load_data(
        tmp_path / "other.csv", seed=3, like=pvae.data.Schema.from_record(run.config["data"]["schema"])
    )
    expected = evaluate.elbo(run, splits, particles=3)
    assert found.count == expected.count == 3 and found.value == expected.value


def test_data_that_have_moved_changed_or_were_never_on_the_disk(
    run: pvae.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.csv"
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.move(rows, moved)
    with pytest.raises(pvae.InputError, match=r"was trained on 'rows.csv'.*Give the data as an argument\."):
        evaluate.log_evidence(run)
    monkeypatch.chdir(moved)
    assert evaluate.elbo(run, particles=3).count == 16
    (moved / "rows.csv").write_text((moved / "rows.csv").read_text() + "1,2,3\n")
    with pytest.raises(pvae.InputError, match="have changed since the run was trained"):
        evaluate.log_evidence(run)
    with pytest.raises(pvae.InputError, match="have changed since the run was trained"):
        evaluate.log_evidence(run, "rows.csv")
    with pytest.raises(pvae.InputError, match=r"VAE is not a run.*Give the data too\."):
        evaluate.log_evidence(run.model)
    in_memory = pvae.fit(pvae.VAE((3,), latent=1, hidden=3, likelihood="gaussian"), torch.randn(20, 3), **OPTIONS)
    with pytest.raises(pvae.InputError, match=r"data in memory, which its folder does not hold\. Give the data"):
        evaluate.diagnose(in_memory)


def test_every_evaluation_takes_a_run_alone() -> None:
    functions = [getattr(evaluate, name) for name in evaluate.__all__ if name not in NOT_OF_A_MODEL]
    taking = {
        function.__name__: inspect.signature(function).parameters
        for function in functions
        if inspect.isfunction(function)
    }
    of_models = {name: parameters for name, parameters in taking.items() if {"model", "data"} <= parameters.keys()}
    assert len(of_models) >= 17
    assert [name for name, parameters in of_models.items() if parameters["data"].default is not None] == []
