"""The commands that write codes, samples, imputed data and labels, against the methods of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import run

import pvae

RNG = np.random.default_rng(0)
TABLE = pd.DataFrame({"a": RNG.normal(size=80), "b": RNG.normal(size=80) + 10, "kind": RNG.choice(["u", "v"], 80)})
TRAIN = ["--likelihood", "gaussian", "--hidden", "4", "--latent", "1", "--epochs", "1", "--no-progress"]
TRAIN += ["--step", "eager"]


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


def test_completed_data_sets_and_quantiles_are_those_of_the_draws_of_the_run(folder: Path) -> None:
    opened = pvae.open_run("holes")
    assert run("impute", "holes", "--data", "holes.csv", "--draws", "2", "--seed", "1", "--out", "two.csv").code == 0
    two = pd.read_csv("two.csv")
    assert list(two.columns) == ["draw", "a", "b"] and list(two["draw"]) == [0] * 80 + [1] * 80
    drawn = opened.impute("holes.csv", n=2, seed=1)
    np.testing.assert_allclose(two[["a", "b"]], np.concatenate(drawn), rtol=1e-12)
    words = ["--quantiles", "0.1,0.5", "--particles", "500", "--out", "q.csv"]
    assert run("impute", "holes", "--data", "holes.csv", *words).code == 0
    table = pd.read_csv("q.csv")
    assert list(table.columns) == ["a", "a_q0.1", "a_q0.5", "b", "b_q0.1", "b_q0.5"]
    draws = np.stack(opened.impute("holes.csv", n=1000, particles=500))
    np.testing.assert_allclose(table[["b_q0.1", "b_q0.5"]].loc[2], np.quantile(draws[:, 2, 1], [0.1, 0.5]), rtol=1e-6)
    assert (table["a_q0.1"] == table["a"]).all()


def test_samples_are_conditional_on_a_label_by_its_name(folder: Path) -> None:
    labelled = ["--data", "t.csv", "--label", "kind", "--condition", "y"]
    assert run("train", "cvae", *labelled, *TRAIN, "--out", "given").code == 0
    opened = pvae.open_run("given")
    for words, labels in {"kind=v": [1] * 3, "y=v,u,v": [1, 0, 1]}.items():
        done = run("sample", "given", "--count", "3", "--mean", "--condition", words, "--out", "g.csv", "--force")
        assert done.code == 0, done.err
        batch = pvae.Batch(x=torch.zeros(3, 2), y=torch.tensor(labels))
        torch.manual_seed(0)
        expected = pvae.models.sample(opened.model, batch)
        np.testing.assert_allclose(pd.read_csv("g.csv"), expected, rtol=1e-5)
    for words, reason in {
        "kind=w": "'w' is not one of the labels of the training: u, v",
        "y=u,v": "or 3 of them",
        "y": "needs NAME=VALUE",
        "c=1": "conditional on y",
    }.items():
        done = run("sample", "given", "--count", "3", "--condition", words, "--out", "no.csv")
        assert done.code == 2 and reason in done.err.splitlines()[-1], done.err


def test_an_encoder_is_exported_once_and_replaced_only_with_force(folder: Path) -> None:
    assert run("export", "labels", "--out", "w.safetensors").out == "w.safetensors\n"
    assert run("export", "labels", "--out", "w.safetensors").code == 2
    assert run("export", "labels", "--out", "w.safetensors", "--force").code == 0
    done = run("export", "labels", "--out", "e.pt2")
    assert done.code == 2 and "needs the part" in done.err and not Path("e.pt2").exists()


@pytest.mark.parametrize(
    ("words", "text", "reason"),
    [
        ([], "a,c\n1,2\n3,5\n", "'b' is missing; 'c' was not in training"),
        ([], "a,b\n1,2\n3,x\n4,5\n", "line 3, column 'b': a number is needed, got 'x'"),
        ([], "a,b,kind\n1,2,u\n3,5,w\n", "The label 'w' is not one of the labels of the training: u, v"),
        (["--separator", ";"], "a,b\n1,2\n3,5\n", "the separator ';' gives one column, but ',' would give 2"),
        ([], "a,b\n1,2\n3,5,7\n", "line 3: 2 columns needed, got 3"),
    ],
)
def test_a_bad_table_ends_every_command_in_one_line(folder: Path, words: list[str], text: str, reason: str) -> None:
    Path("bad.csv").write_text(text)
    data = ["--data", "bad.csv", *words]
    commands = [[command, "labels", *data, "--out", "no.csv"] for command in ("encode", "predict")]
    if "label 'w'" in reason:
        done = run(*commands.pop())
        assert done.code == 0 and "the labels of these data are not used" in done.err.splitlines()[0]
        Path("no.csv").unlink()
    commands += [
        ["evaluate", "labels", *data],
        ["show", "labels", "--what", "reconstructions", *data, "--out", "no.png"],
    ]
    for command in commands:
        done = run(*command)
        line = done.err.splitlines()[-1]
        assert done.code == 2 and line.startswith("pvae: error: ") and reason in line, done.err
        assert "Name the data with --data" not in line
    assert not Path("no.csv").exists() and not Path("no.png").exists()


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
        ("impute", "labels", "--out", "no.csv"): "do not take a mask",
        ("impute", "holes", "--quantiles", "0.5,2", "--out", "no.csv"): "between 0 and 1",
        ("impute", "holes", "--quantiles", "0.5", "--draws", "2", "--out", "no.csv"): "cannot be written into one file",
    }.items():
        done = run(*words)
        assert done.code == 2 and reason in done.err.splitlines()[-1], done.err
    assert not Path("no.csv").exists()


@pytest.mark.parametrize("command", ["encode", "sample", "impute", "predict", "export"])
def test_a_missing_out_is_one_line(command: str, tmp_path: Path) -> None:
    done = run(command, str(tmp_path))
    assert done.code == 2 and "Missing option '--out'." in done.err.splitlines()[-1], done.err
