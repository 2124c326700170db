"""Text in CSV files is no formula of a spreadsheet, and numbers stay numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import run

from pvae.commands.csv_text import write_csv
from pvae.commands.written_tables import write_table

FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1", "=x,y", '="a"']
PLAIN = ["name", "a=b", "-1.5", "+3e4", "-inf", "1-2", "", "'=1"]


@pytest.mark.parametrize("keep", [False, True])
def test_text_that_begins_as_a_formula_gets_an_apostrophe(tmp_path: Path, keep: bool) -> None:
    texts = [*FORMULAS, *PLAIN]
    numbers = -np.arange(len(texts)) / 3
    frame = pd.DataFrame({"=head": texts, "number": numbers, "count": -np.arange(len(texts))})
    frame["kind"] = pd.Categorical(texts)
    write_csv(tmp_path / "x.csv", frame, keep_formulas=keep)
    found = pd.read_csv(tmp_path / "x.csv", keep_default_na=False, dtype={"count": int}, lineterminator="\n")
    wanted = texts if keep else [f"'{text}" for text in FORMULAS] + PLAIN
    assert list(found.columns) == ["=head" if keep else "'=head", "number", "count", "kind"]
    assert found.iloc[:, 0].tolist() == wanted and found["kind"].tolist() == wanted
    assert found["number"].tolist() == numbers.tolist() and found["count"].tolist() == frame["count"].tolist()


def test_a_table_of_numbers_is_written_as_before(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [-1.25, np.nan], "b": [-1, 2]})
    write_table(tmp_path / "x.csv", "x", frame)
    assert (tmp_path / "x.csv").read_text() == "a,b\n-1.25,-1\n,2\n"


def test_two_columns_of_one_name_are_both_written(tmp_path: Path) -> None:
    frame = pd.DataFrame([["=1", 2.0, "x"]], columns=["a", "a", "b"])
    write_csv(tmp_path / "x.csv", frame, keep_formulas=False)
    assert (tmp_path / "x.csv").read_text() == "a,a,b\n'=1,2.0,x\n"


def test_the_names_of_rows_are_no_formulas_unless_the_user_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"=f{number},{number % 2 * 9 + number / 50},{number / 9}" for number in range(30)]
    Path("t.csv").write_text("id,a,b\n" + "\n".join(rows) + "\n")
    words = ["em", "--data", "t.csv", "--index", "id", "--components", "2", "--no-progress"]
    for option, name in ([], "'=f0"), (["--keep-formulas"], "=f0"):
        done = run(*words, "--assign", f"{len(option)}.csv", *option)
        assert done.code == 0, done.err
        assert pd.read_csv(f"{len(option)}.csv")["id"].iloc[0] == name
