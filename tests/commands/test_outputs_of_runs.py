"""The commands that write codes, samples, imputed data and labels, against the methods of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import run

import pvae

RNG = np.random.default_rng(0)
TABLE = pd.DataFrame({"a": RNG.normal(size=80), "b": RNG.normal(size=80) + 10, "kind": RNG.choice(["u", "v"], 80)})
TRAIN = ["--likelihood", "gaussian", "--hidden", "4", "--latent", "1", "--epochs", "1", "--no-progress"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with a table, a run of a semi-supervised model on it, and one of a model for missing values."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        TABLE.to_csv("t.csv", index=False)
        labelled = ["--data", "t.csv", "--label", "kind", "--scale", "standardise"]
        assert run("train", "ssvae", *labelled, *TRAIN, "--out", "labels").code == 0
        holes = TABLE.drop(columns="kind")
        holes.iloc[2, 1] = np.nan
        holes.to_csv("holes.csv", index=False)
        assert (
            run("train", "masked-vae", "--data", "holes.csv", "--missing", "mask", *TRAIN, "--out", "holes").code == 0
        )
        yield folder


@pytest.fixture
def folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


def test_codes_of_all_rows_of_another_file_are_written_in_order(folder: Path) -> None:
    TABLE[["b", "a"]].to_csv("other.csv", index=False, sep=";")
    done = run("encode", "labels", "--data", "other.csv", "--site", "z", "--out", "codes.csv")
    assert done.code == 0 and done.out == "codes.csv\n", done.err
    assert done.err.splitlines()[0].startswith("other.csv: separated by semicolons")
    assert "in the order of the training" in done.err and done.err.splitlines()[-1] == "Writing codes of 80 data ..."
    expected = pvae.open_run("labels").encode(TABLE[["a", "b"]], site="z")
    np.testing.assert_allclose(pd.read_csv("codes.csv")["z"], expected["z"], atol=1e-6)
    assert run("encode", "labels", "--data", "other.csv", "--out", "codes.npz").code == 0
    arrays = np.load("codes.npz")
    assert list(arrays["columns"]) == ["y", "z"] and arrays["codes"].shape == (80, 2)
    np.testing.assert_allclose(arrays["codes"][:, 1], expected["z"], atol=1e-6)
    assert run("encode", "labels", "--out", "split.csv").code == 0
    assert len(pd.read_csv("split.csv")) == 8


def test_labels_are_written_by_name_and_their_probabilities(folder: Path) -> None:
    assert run("predict", "labels", "--data", "t.csv", "--out", "labels.csv").code == 0
    assert run("predict", "labels", "--data", "t.csv", "--probabilities", "--out", "p.csv").code == 0
    labels, table = pd.read_csv("labels.csv"), pd.read_csv("p.csv")
    assert list(labels.columns) == ["kind"] and list(table.columns) == ["u", "v"]
    assert (labels["kind"] == table.idxmax(axis=1)).all()
    expected = pvae.open_run("labels").predict(TABLE, probabilities=True)
    np.testing.assert_allclose(table, expected, atol=1e-6)
    assert run("predict", "labels", "--data", "t.csv", "--out", "labels.npz").code == 0
    assert list(np.load("labels.npz")["labels"]) == list(labels["kind"])


def test_samples_and_imputed_data_have_the_names_and_values_of_the_run(folder: Path) -> None:
    assert run("sample", "labels", "--count", "5", "--seed", "3", "--out", "x.csv").code == 0
    pd.testing.assert_frame_equal(pd.read_csv("x.csv"), pvae.open_run("labels").sample(5, seed=3))
    assert run("impute", "holes", "--data", "holes.csv", "--out", "full.csv").code == 0
    full = pd.read_csv("full.csv")
    assert list(full.columns) == ["a", "b"] and full.notna().all().all()
    expected = TABLE[["a", "b"]].drop(index=2)
    np.testing.assert_allclose(full.drop(index=2), expected, rtol=1e-14)
    assert full.loc[2, "b"] == pytest.approx(pvae.open_run("holes").impute("holes.csv").loc[2, "b"])


def test_a_file_is_replaced_only_with_force_and_bad_input_ends_in_one_line(folder: Path) -> None:
    Path("mine.csv").write_text("old")
    refused = run("sample", "labels", "--out", "mine.csv")
    assert refused.code == 2 and "--force" in refused.err and Path("mine.csv").read_text() == "old"
    assert run("sample", "labels", "--out", "mine.csv", "--force").code == 0
    Path("short.csv").write_text("a,c\n1,2\n3,5\n")
    for words, reason in {
        ("encode", "labels", "--data", "short.csv", "--out", "no.csv"): "other columns",
        ("encode", "labels", "--out", "no.txt"): "ends in .csv",
        ("sample", "labels", "--out", "no/where.csv"): "does not exist",
        ("predict", "holes", "--out", "no.csv"): "q(y given x)",
        ("impute", "labels", "--out", "no.csv"): "take no mask",
    }.items():
        done = run(*words)
        assert done.code == 2 and reason in done.err.splitlines()[-1], done.err
    assert not Path("no.csv").exists()
