"""Files on the command line: one line says how they were read, runs remember it, and bad ones end in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import run

RNG = np.random.default_rng(0)
TABLE = pd.DataFrame(
    {
        "a": RNG.normal(size=120),
        "b": RNG.normal(size=120) * 0.1 + 10,
        "colour": RNG.choice(["red", "blue"], 120),
        "kind": RNG.choice([101, 202], 120),
    }
)
TRAIN = ["--likelihood", "gaussian", "--hidden", "4", "--latent", "1", "--epochs", "1", "--no-progress"]
TRAIN += ["--step", "eager"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    TABLE.to_csv("t.csv", sep=";", decimal=",")
    return tmp_path


def test_describe_shows_what_is_in_a_file_and_what_was_inferred(folder: Path) -> None:
    done = run("data", "describe", "t.csv", "--label", "kind", "--categories", "colour")
    assert done.code == 0 and done.err == ""
    for fact in (
        "separated by semicolons, decimal commas, line 1 names the columns",
        "120 rows of 4 features (a, b, colour=blue, colour=red)",
        "has no name, counts the rows and is left out",
        "splits: 97 train, 11 validation, 12 test",
        f"label 'kind' of 2 classes: 101: {(TABLE.kind == 101).sum()}, 202: {(TABLE.kind == 202).sum()}",
        "missing values: 0",
    ):
        assert fact in done.out, done.out
    record = json.loads(run("data", "describe", "t.csv", "--columns", "a,b", "--json").out)
    assert [column["name"] for column in record["columns"]] == ["a", "b"] and record["rows"] == 120
    assert record["columns"][1]["largest"] == TABLE.b.max() and record["constant"] == []
    assert "8 x 8" in run("data", "describe", "digits").out
    Path("h.csv").write_text("a,b,c\n1,?,5\n2,3,5\n?,?,5\n4,5,5\n")
    holes = run("data", "describe", "h.csv", "--missing", "?").out
    assert "missing values: 3" in holes and "constant columns: c" in holes and "2 missing" in holes


def test_describe_shows_the_columns_of_a_table_that_needs_an_option(folder: Path) -> None:
    done = run("data", "describe", "t.csv")
    assert done.code == 2 and "'colour' has text" in done.err and done.err.count("\n") == 1
    assert "120 rows of 5 columns" in done.out and "colour    text, 2 different: blue, red" in done.out, done.out
    assert "kind      whole numbers, 101 to 202" in done.out
    record = json.loads(run("data", "describe", "t.csv", "--json").out)
    assert record["columns"][3]["values"] == ["blue", "red"] and "'colour' has text" in record["problem"]
    Path("bad.csv").write_text("a,b\n1,2\n3\n")
    assert run("data", "describe", "bad.csv").out == ""


@pytest.mark.parametrize("words", [["data", "describe"], ["em", "--components", "1", "--data"]])
@pytest.mark.parametrize("text", ["{0},b,c\n", "b,c,kind\n1,1,{0}\n"])
def test_names_with_control_characters_are_shown_and_do_nothing(folder: Path, words: list[str], text: str) -> None:
    rows = "".join(f"{number % 7},{number % 5},{number % 3}\n" for number in range(60))
    Path("names.csv").write_text(text.format("\x1b[31m\u202ered\x07") + rows)
    done = run(*words, "names.csv")
    assert all(sign.isprintable() or sign in "\n\r" for sign in done.out + done.err)
    assert r"\x1b[31m\u202ered" in done.out + done.err


def test_a_run_remembers_how_its_table_was_read(folder: Path) -> None:
    done = run(
        "train", "ssvae", "--data", "t.csv", "--label", "kind", "--categories", "colour", "--scale", "standardise",
        *TRAIN, "--out", "run",
    )  # fmt: skip
    assert done.code == 0, done.err
    lines = done.err.splitlines()
    assert sum(line.startswith("t.csv: separated by semicolons, decimal commas") for line in lines) == 1
    judge = ["--particles", "10", "--method", "elbo", "--json"]
    own = run("evaluate", "run", *judge)
    assert own.code == 0 and own.err.splitlines()[0].startswith("t.csv: separated by semicolons"), own.err
    expected = json.loads(own.out)["elbo"]
    TABLE[["kind", "colour", "b", "a"]].to_csv("other.csv", index=False)
    other = run("evaluate", "run", "--data", "other.csv", *judge)
    assert json.loads(other.out)["elbo"] == expected and "in the order of the training" in other.err
    assert run("show", "run", "--what", "latent", "--data", "other.csv").code == 0
    assert run("show", "run", "--what", "classes").code == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.rename(columns={"b": "c"}), "'b' is missing; 'c' was not in training"),
        (lambda table: table.assign(kind=303), "The label 303 is not one of the labels of the training: 101, 202"),
        (lambda table: table.assign(colour="green"), "'green' is not one of the values in the training: blue, red"),
        (lambda table: table.assign(a="x"), "'a' has text"),
    ],
)
def test_other_data_of_a_run_are_refused_in_one_line(folder: Path, change, words: str) -> None:
    trained = run(
        "train", "vae", "--data", "t.csv", "--label", "kind", "--categories", "colour", *TRAIN, "--out", "run"
    )
    assert trained.code == 0, trained.err
    change(TABLE).to_csv("other.csv", index=False)
    done = run("evaluate", "run", "--data", "other.csv")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1) and words in done.err, done.err


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("a;b\n1;2\n", ["--separator", ","], "would give 2"),
        ("a,b\n1,2\n3,x\n", [], "line 3, column 'b': a number is needed, got 'x'"),
        ("a,b\n1,2\n", ["--label", "c"], "'c'"),
        ("0,1\n1,0\n", [], "--header first"),
        ("a,b\n1,2\n3\n", [], "line 3: 2 columns needed, got 1"),
        ("a,b\n1,NA\n", [], "line 2, column 'b': a number is needed, got 'NA'"),
        ("a,b\n5400000.01,1\n5400000.02,2\n5400000.03,3\n5400000.04,4\n", ["--validation", "0"], "'a' of x"),
    ],
)
def test_bad_tables_end_with_one_line_and_code_2(folder: Path, text: str, options: list[str], words: str) -> None:
    Path("bad.csv").write_text(text)
    done = run("train", "vae", "--data", "bad.csv", *options, *TRAIN, "--out", "run")
    assert (done.code, done.out) == (2, "") and words in done.err, done.err
    assert done.err.splitlines()[-1].startswith("pvae: error: ") and not Path("run").exists()


def test_em_marginalises_the_words_of_a_table(folder: Path) -> None:
    holes = TABLE[["a", "b"]].mask(RNG.random((120, 2)) < 0.2)
    holes.to_csv("q.csv", index=False, na_rep="?")
    holes.to_csv("n.csv", index=False)
    values = [
        json.loads(run("em", "--data", name, "--components", "2", "--missing", words, "--json", "--no-progress").out)
        for name, words in (("q.csv", "?"), ("n.csv", "marginalise"))
    ]
    assert values[0]["log_likelihood"] == values[1]["log_likelihood"] and values[0]["missing"] == "marginalise"
    refused = run("em", "--data", "q.csv", "--no-progress")
    assert refused.code == 2 and "got '?'" in refused.err
