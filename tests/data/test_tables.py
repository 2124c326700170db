"""Text tables and data frames: what is read, what is inferred and said, what is asked, and what is refused."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pvae.data import Splits, load_data
from pvae.data.tables import number_tables, text_tables
from pvae.data.tables.table_options import TableOptions
from pvae.errors import InputError

ROWS = np.random.default_rng(0).normal(size=(12, 2)).round(3)
WHOLE = {"validation": 0, "test": 0, "binarise": "none"}


def read(folder: Path, text: str | bytes, name: str = "table.csv", **options: Any) -> Splits:
    """The data in a file with this content, in one split."""
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_data(folder / name, **{**WHOLE, **options})


def refused(folder: Path, text: str | bytes, **options: Any) -> str:
    """The one line that refuses a file with this content."""
    with pytest.raises(InputError) as error:
        read(folder, text, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def written(separator: str = ",", header: str | None = "a,b", decimal: str = ".", end: str = "\n") -> str:
    """`ROWS` as text."""
    lines = [separator.join(str(value).replace(".", decimal) for value in row) for row in ROWS]
    head = [] if header is None else [header.replace(",", separator)]
    return end.join([*head, *lines]) + end


# --- dialects


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", written(), "commas"),
        ("t.csv", written(";"), "semicolons"),
        ("t.csv", written(";", decimal=","), "semicolons, decimal commas"),
        ("t.tsv", written("\t"), "tabs"),
        ("t.tsv", written("\t", decimal=","), "tabs, decimal commas"),
        ("t.txt", written("|"), "bars"),
        ("t.txt", written("  "), "blanks"),
        ("t.csv", written(end="\r\n"), "commas"),
        ("t.csv", written(end="\r"), "commas"),
        ("t.csv", "\ufeff" + written(), "commas"),
        ("t.csv", written().encode("utf-16"), "UTF-16"),
        ("t.csv", "# in May; a first, b second\n\n" + written(), "1 comment lines left out, line 3 names"),
        ("t.csv.gz", gzip.compress(written().encode()), "commas"),
        ("t.csv", written().replace("\n", ",\n"), "commas"),
        ("t.csv", written().replace("\n", ",\n").replace("a,b,\n", "a,b\n"), "commas"),
        ("t.csv", '"a","b"\n' + written(header=None), "commas"),
    ],
)
def test_a_dialect_is_found_and_said(tmp_path: Path, name: str, text: str | bytes, said: str) -> None:
    splits = read(tmp_path, text, name)
    assert splits.train.x.tolist() == ROWS.tolist() and splits.train.x.dtype == torch.float64
    assert splits.schema.columns == ("a", "b") and said in splits.schema.account, splits.schema.account


def test_names_in_latin_1_and_in_a_comment_of_numpy(tmp_path: Path) -> None:
    assert read(tmp_path, written(header="größe,b").encode("latin-1")).schema.columns == ("größe", "b")
    np.savetxt(tmp_path / "n.txt", np.c_[ROWS, np.arange(12) % 2], header="a b label")
    splits = load_data(tmp_path / "n.txt", **WHOLE)
    assert splits.schema.columns == ("a", "b") and splits.train.y.tolist() == [0, 1] * 6


def test_options_overrule_what_would_be_found(tmp_path: Path) -> None:
    assert read(tmp_path, "1;2\n3;4\n", separator=";").train.x.tolist() == [[1, 2], [3, 4]]
    assert read(tmp_path, "1,2\n3,4\n", header="first").train.x.tolist() == [[3, 4]]
    assert read(tmp_path, "0,1\n0,1\n", header="none").train.x.tolist() == [[0, 1], [0, 1]]
    picked = read(tmp_path, "id,a,b,c\n7,1,2,3\n8,4,5,6\n", columns="c,a", index="id")
    assert picked.train.x.tolist() == [[3, 1], [6, 4]] and picked.schema.columns == ("c", "a")
    assert "left out: b" in picked.schema.account
    assert "the separator ',' gives one column, but ';' would give 2" in refused(tmp_path, "a;b\n1;2\n", separator=",")


def test_text_in_quotes_may_hold_separators_and_ends_of_lines(tmp_path: Path) -> None:
    text = 'a,label\n1.5,"x, y"\n2.5,"two\nlines"\n3.5,"say ""x"""\n'
    assert read(tmp_path, text).schema.classes == ('say "x"', "two\nlines", "x, y")
    assert "line 4, column 'a': a number is needed, got 'z'" in refused(tmp_path, 'a,label\n1,"p\nq"\nz,r\n')


# --- the first line, and row numbers


@pytest.mark.parametrize("header", ["0,1", "1,2"])
def test_a_first_line_that_counts_above_decimal_numbers_has_names(tmp_path: Path, header: str) -> None:
    splits = read(tmp_path, written(header=header))
    assert len(splits.train.x) == 12 and splits.schema.columns == tuple(header.split(","))
    assert "counts the columns and is read as their names" in splits.notes[0]


@pytest.mark.parametrize(
    "text",
    [
        "0,1\n2,3\n",
        "0,1,2\n3,4,5\n6,7,8\n",
        "2019,2020\n0.5,0.25\n",
        "0\n1.5\n2.5\n",
        "5.1,3.5,setosa\n4.9,3.0,setosa\n",
    ],
)
def test_a_first_line_that_may_be_both_is_asked_about(tmp_path: Path, text: str) -> None:
    line = refused(tmp_path, text, label="none")
    assert "line 1" in line and "header='first'" in line and "header='none'" in line
    rows = len(text.splitlines())
    if "setosa" not in text:
        assert len(read(tmp_path, text, header="none").train.x) == rows
        assert len(read(tmp_path, text, header="first").train.x) == rows - 1


def test_lines_of_plain_numbers_are_all_data(tmp_path: Path) -> None:
    assert read(tmp_path, "1,2\n3,4\n").train.x.tolist() == [[1, 2], [3, 4]]
    assert read(tmp_path, "0.0,1.0\n2.0,3.0\n").train.x.tolist() == [[0, 1], [2, 3]]
    assert read(tmp_path, "5\n7\n").train.x.tolist() == [[5], [7]]
    assert read(tmp_path, "True,0.5\nFalse,2\n").train.x.tolist() == [[1, 0.5], [0, 2]]
    assert read(tmp_path, "a\nTrue\nFalse\n").train.x.tolist() == [[1], [0]]


@pytest.mark.parametrize("index", ["0,1,2", "1,2,3", "9,4,6", "p,q,r"])
def test_a_first_column_without_a_name_that_names_the_rows_is_left_out(tmp_path: Path, index: str) -> None:
    lines = [f"{name},{a},{b}" for name, (a, b) in zip(index.split(","), ROWS, strict=False)]
    splits = read(tmp_path, "\n".join(['"",a,b', *lines]))
    assert splits.train.x.tolist() == ROWS[:3].tolist() and "the first column has no name, " in splits.notes[0]
    with_index = read(tmp_path, "\n".join(['"",a,b', *lines]), index="none") if index != "p,q,r" else None
    assert with_index is None or with_index.train.x.shape[1] == 3
    r = [" ".join([f'"{line.split(",")[0]}"', *line.split(",")[1:]]) for line in lines]
    assert read(tmp_path, "\n".join(['"a" "b"', *r]), "r.txt").train.x.tolist() == ROWS[:3].tolist()


def test_one_name_above_numbers_with_decimal_commas_is_asked_about(tmp_path: Path) -> None:
    assert "line 2: 1 columns needed, got 2" in refused(tmp_path, "a\n0,5\n1,5\n")
    assert read(tmp_path, "a\n0,5\n1,5\n", separator=";").train.x.tolist() == [[0.5], [1.5]]


def test_other_columns_without_a_name_are_asked_about(tmp_path: Path) -> None:
    assert "'column 1' has no name" in refused(tmp_path, ",a\n0.5,1\n0.5,2\n")
    assert "'column 2' has no name" in refused(tmp_path, "a,,b\n1,2,3\n")
    assert "2 columns are named 'a'" in refused(tmp_path, "a,a\n1,2\n")


def test_a_named_column_that_counts_the_rows_is_a_feature_and_said(tmp_path: Path) -> None:
    splits = read(tmp_path, "id,a\n0,5\n1,7\n2,9\n")
    assert splits.train.x.shape == (3, 2) and "'id' counts the rows" in splits.schema.account


# --- labels


def test_y_beside_x_is_a_coordinate_by_every_door(tmp_path: Path) -> None:
    for table in (pd.DataFrame(ROWS, columns=["x", "y"]), pd.DataFrame({"x": [1, 2, 3], "y": [0, 1, 0]})):
        table.to_csv(tmp_path / "p.csv", index=False)
        for source in (tmp_path / "p.csv", table, table.to_records(index=False)):
            splits = load_data(source, **WHOLE)
            assert splits.train.names == ("x",) and splits.train.x.tolist() == table.to_numpy().tolist()


@pytest.mark.parametrize("name", ["label", "Target", "class", "y"])
def test_a_column_of_a_usual_name_with_few_values_is_the_label(tmp_path: Path, name: str) -> None:
    words = read(tmp_path, f"a,{name}\n1,dog\n2,cat\n3,dog\n")
    assert words.train.y.tolist() == [1, 0, 1] and words.schema.classes == ("cat", "dog") and words.classes == 2
    assert words.schema.label == name and f"label {name!r}" in words.schema.account
    whole = read(tmp_path, f"a,{name}\n1,1.0\n2,2.0\n3,1.0\n")
    assert whole.train.y.tolist() == [0, 1, 0] and whole.schema.classes == (1, 2)
    real = read(tmp_path, f"a,{name}\n1,0.5\n2,2.0\n3,1.0\n")
    assert real.train.names == ("x",) and real.train.x.shape == (3, 2) and "no label" in real.schema.account
    many = "".join(f"0.5,{number}\n" for number in range(5, 105))
    assert "has 100 different values and is read as a feature" in read(tmp_path, f"a,{name}\n{many}").schema.account


def test_the_label_is_the_one_that_is_asked_for(tmp_path: Path) -> None:
    text = "a,label,kind\n1,0,u\n2,1,v\n"
    assert read(tmp_path, text, label="kind").train.x.tolist() == [[1, 0], [2, 1]]
    assert read(tmp_path, text, label="none", columns="a,label").train.names == ("x",)
    assert "'kindd'" in refused(tmp_path, text, label="kindd") and "'kind'" in refused(tmp_path, text, label="kindd")
    assert "'a' has real numbers" in refused(tmp_path, "a,b\n1.5,2\n", label="a")
    assert "2 columns that could be the label" in refused(tmp_path, "a,label,class\n1,0,1\n")


# --- text, types and missing values


def test_text_becomes_categories_only_on_request(tmp_path: Path) -> None:
    text = "a,colour,size\n1,red,10\n2,blue,9\n3,red,10\n"
    assert "'colour' has text" in refused(tmp_path, text) and "categories=" in refused(tmp_path, text)
    splits = read(tmp_path, text, categories=["colour", "size"])
    assert splits.schema.columns == ("a", "colour=blue", "colour=red", "size=9", "size=10")
    assert splits.train.x.tolist() == [[1, 0, 1, 0, 1], [2, 1, 0, 1, 0], [3, 0, 1, 0, 1]]


@pytest.mark.parametrize("cell", ["2019_01", "1,5e", "12 kg", "0x10", "1.234,5", "1_000", "--1"])
def test_what_is_no_number_is_refused_with_its_place(tmp_path: Path, cell: str) -> None:
    assert f"line 3, column 'b': a number is needed, got {cell!r}" in refused(tmp_path, f'a,b\n1,2\n3,"{cell}"\n')


def test_truth_values_are_ones_and_zeros(tmp_path: Path) -> None:
    splits = read(tmp_path, "a,b\nTrue,TRUE\nFalse,\n", missing="mask")
    assert splits.train.x.tolist() == [[1, 1], [0, 0]] and splits.train["mask"].tolist() == [[1, 1], [1, 0]]


def test_missing_cells_are_refused_or_masked_by_their_words(tmp_path: Path) -> None:
    text = "a,b\nNA,1\n2,\n-9,nan\n4,2\n"
    assert "line 2, column 'a': a number is needed, got 'NA'. With missing='mask'" in refused(tmp_path, text)
    masked = read(tmp_path, text, missing="mask")
    assert masked.train.x.tolist() == [[0, 1], [2, 0], [-9, 0], [4, 2]]
    assert masked.train["mask"].tolist() == [[0, 1], [1, 0], [1, 0], [1, 1]]
    assert masked.schema.missing == {"a": 1, "b": 2}
    words = read(tmp_path, text.replace("nan", "?"), missing="NA,?,-9")
    assert words.train["mask"].tolist() == [[0, 1], [1, 0], [0, 0], [1, 1]]
    assert "got 'NA'" in refused(tmp_path, text.replace("nan", "?"), missing="?")


def test_numbers_beside_words_with_blanks_are_read_to_the_last_bit(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=20)
    text = "a;b\n" + "".join(f"{value!r};1\n" for value in values.tolist()) + "NA ;2\n"
    for cells in (text, text.replace(".", ",")):
        found = read(tmp_path, cells, missing="mask").train
        assert found.x[:, 0].tolist() == [*values.tolist(), 0.0] and found["mask"][:, 0].tolist() == [*[1] * 20, 0]


def test_a_missing_label_is_hidden_and_a_class_may_be_called_na(tmp_path: Path) -> None:
    text = "a,label\n1,cat\n2,\n3,NA\n"
    assert "1 missing labels" in refused(tmp_path, text) or "got an empty cell" in refused(tmp_path, text)
    splits = read(tmp_path, text, missing="mask")
    assert splits.train.y.tolist() == [1, -1, 0] and splits.schema.classes == ("NA", "cat")
    assert "1 missing labels are hidden" in splits.schema.account


def test_a_frame_is_read_by_its_types() -> None:
    frame = pd.DataFrame(
        {
            "whole": pd.array([1, None, 3], dtype="Int64"),
            "truth": pd.array([True, False, None], dtype="boolean"),
            "real": [0.5, np.nan, 2.5],
            "label": pd.Categorical(["u", "v", "u"]),
        }
    )
    splits = load_data(frame, missing="mask", **WHOLE)
    assert splits.train.x.tolist() == [[1, 1, 0.5], [0, 0, 0], [3, 0, 2.5]] and splits.train.y.tolist() == [0, 1, 0]
    assert splits.train["mask"].tolist() == [[1, 1, 1], [0, 1, 0], [1, 0, 1]]
    with pytest.raises(InputError, match=r"row 1, column 'whole': a number is needed"):
        load_data(frame, **WHOLE)
    with pytest.raises(InputError, match=r"row 1, column 'a': a number is needed, got 'two'"):
        load_data(pd.DataFrame({"a": [1, "two"]}), **WHOLE)
    with pytest.raises(InputError, match="'when' has Timestamp"):
        load_data(pd.DataFrame({"a": [1.0], "when": pd.to_datetime(["2024-01-01"])}), **WHOLE)
    with pytest.raises(InputError, match=r"'id' has whole numbers beyond 2\^53"):
        load_data(pd.DataFrame({"id": [2**53 + 1, 5], "b": [1, 2]}), **WHOLE)


def test_a_frame_of_sparse_columns_is_read_as_its_dense_values() -> None:
    dense = pd.DataFrame({"a": [0, 3, 0], "b": [0.5, np.nan, 0.0], "label": ["u", "v", "u"]})
    sparse = dense.astype({"a": pd.SparseDtype("int64", 0), "b": pd.SparseDtype("float64", 0.0)})
    splits = load_data(sparse, missing="mask", **WHOLE)
    assert splits.train.x.tolist() == [[0, 0.5], [3, 0], [0, 0]]
    assert splits.train["mask"].tolist() == [[1, 1], [1, 0], [1, 1]] and splits.train.y.tolist() == [0, 1, 0]


# --- what pandas writes is what is read

NAMES = st.lists(st.from_regex(r"[a-w][a-w0-9_ ]{0,6}[a-w]", fullmatch=True), min_size=1, max_size=5, unique=True)
NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-1e3, 1e3).map(lambda value: round(value, 2)),
)
WORDS = st.sampled_from(["cat", "dog", 'say "hi"', "a, b", "x;y", "über", "two words", "NA"])


@st.composite
def tables(draw: st.DrawFn) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A frame of numbers with a label of words or none, and how it is written."""
    names, rows = draw(NAMES), draw(st.integers(2, 8))
    kinds = [draw(st.sampled_from(["real", "whole", "truth"])) for _ in names]
    values = {"real": NUMBERS, "whole": st.integers(-(2**53), 2**53), "truth": st.booleans()}
    columns = {
        name: draw(st.lists(values[kind], min_size=rows, max_size=rows))
        for name, kind in zip(names, kinds, strict=True)
    }
    frame = pd.DataFrame(columns)
    real = [name for name, kind in zip(names, kinds, strict=True) if kind == "real"]
    if real and draw(st.booleans()):
        frame.loc[0, real[0]] = np.nan
    if draw(st.booleans()):
        # a column with no word but "NA" holds missing values only, and is not known as labels
        frame["label"] = draw(st.lists(WORDS, min_size=rows, max_size=rows).filter(lambda words: set(words) != {"NA"}))
    separator = draw(st.sampled_from([",", ";", "\t", "|"]))
    decimal = draw(st.sampled_from([".", ","])) if separator != "," else "."
    style = {"sep": separator, "decimal": decimal, "index": draw(st.booleans())}
    return frame, {
        **style,
        "na_rep": draw(st.sampled_from(["", "NA", "nan"])),
        "quoting": draw(st.sampled_from([0, 1])),
    }


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(tables())
def test_what_pandas_writes_is_read_to_the_last_bit(tmp_path: Path, table: tuple[pd.DataFrame, dict[str, Any]]) -> None:
    frame, style = table
    text = io.StringIO()
    frame.to_csv(text, quoting={0: csv.QUOTE_MINIMAL, 1: csv.QUOTE_NONNUMERIC}[style.pop("quoting")], **style)
    known = frame.columns.drop("label", errors="ignore")
    splits = read(tmp_path, text.getvalue(), missing="mask", separator=style["sep"], header="first")
    assert splits.schema.columns == tuple(known)
    expected = frame[known].to_numpy(dtype=np.float64)
    assert np.array_equal(splits.train.x.numpy(), np.nan_to_num(expected))
    observed = splits.train["mask"].numpy() if "mask" in splits.train else np.ones_like(expected)
    assert np.array_equal(observed == 0, np.isnan(expected))
    if "label" in frame:
        assert [splits.schema.classes[label] for label in splits.train.y] == frame["label"].tolist()
    if len(known) + ("label" in frame) + style["index"] > 1:  # and the separator is found
        found = read(tmp_path, text.getvalue(), missing="mask", header="first")
        assert torch.equal(found.train.x, splits.train.x)


def test_a_control_character_in_a_table_of_one_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("# note\na\n" + "1\n" * 30 + "\x1f2\n3\n")
    with pytest.raises(InputError, match=r"t\.csv, line 33: numbers or text needed; .* 0x1f\. Remove it\.$"):
        load_data(path)


HEAD = "a,b,c\n" + "".join(f"{row}.5,{-row},{row}e-3\n" for row in range(40))
LATE_LINES = {
    "plain": "1,2,3\n",
    "no newline at the end": "1,2,3",
    "cell too many, then one too few": "1,2,3,4\n5,6\n",
    "cell too few, then one too many": "5,6\n1,2,3,4\n",
    "blank line": "1,2,3\n\n4,5,6\n",
    "line of blanks": "1,2,3\n \t \n4,5,6\n",
    "comment": "# note\n1,2,3\n",
    "comment of three cells": "#1,2,3\n1,2,3\n",
    "quoted line end": '"1\n",2,3\n',
    "blanks": "1, 2 ,3\n  4,5,6\n",
    "quotes": '"1",2,"3"\n',
    "returns": "1,2,3\r\n4,5,6\r\n",
    "missing at the end": "1,2,\n",
    "missing at the start": ",2,3\n",
    "word for missing": "1,NA,3\n",
    "word that only pandas calls missing": "1,#N/A,3\n",
    "text": "1,two,3\n",
    "truth": "1,True,3\n",
    "beyond 64 bits": "1,123456789012345678901234567890,3\n",
    "zero": "1,2\0,3\n",
    "Latin-1": "1,\xe9,3\n",
    "infinite": "1,inf,3\n",
    "separator at the end": "1,2,3,\n",
}


CONTENTS = {name: HEAD + late for name, late in LATE_LINES.items()} | {
    "numbers without a name over the names of the rows": "a,b\n" + "".join(f"{row},{row}.5,2\n" for row in range(40)),
    "a name too many": "a,b,c\n" + "".join(f"{row},{row}.5\n" for row in range(40)),
}
QUICKLY_READ = ("plain", "no newline at the end", "blank line", "infinite")


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("block", [700, 771, 1 << 20])
def test_a_table_of_numbers_is_read_in_one_pass_as_it_is_line_by_line(
    name: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(CONTENTS[name].encode("latin-1"))
    monkeypatch.setattr(number_tables, "_BLOCK", block)
    monkeypatch.setattr(number_tables, "_FIRST_LINES", 20)
    if name in QUICKLY_READ:
        assert number_tables.read_number_table(path, TableOptions()) is not None
    for missing in ("error", "mask"):
        outcome = _outcome(path, missing)
        with monkeypatch.context() as patch:
            patch.setattr(text_tables, "read_number_table", lambda *_: None)
            assert outcome == _outcome(path, missing)


def _outcome(path: Path, missing: str) -> Any:
    """Return the bytes, notes and schema of a table, or the line of its refusal."""
    try:
        splits = load_data(path, missing=missing, validation=0, test=0, binarise="none")
    except InputError as error:
        return str(error)
    return [tensor.numpy().tobytes() for tensor in splits.train.values()], splits.notes, splits.schema
