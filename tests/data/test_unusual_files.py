"""Values that are easily read wrong: large whole numbers, rows in another order, thousands, pictures of other kinds."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch
from PIL import Image
from scipy import sparse

from pvae.data import Splits, load_data
from pvae.errors import InputError

WHOLE: dict[str, Any] = {"validation": 0, "test": 0, "binarise": "none"}
LARGE = 2**53 + 1  # as float64 it is 2^53


def read(source: Any, **options: Any) -> Splits:
    return load_data(source, **{**WHOLE, **options})


def refused(source: Any, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        read(source, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def sources_of(name: str, values: list[int | None], folder: Path) -> list[Any]:
    """Return a column of whole numbers beside one of real numbers, in the containers that can hold missing ones."""
    columns = {name: values, "b": [0.5, 1.5, 2.5]}
    frame = pd.DataFrame({name: pd.array(values, dtype="Int64"), "b": columns["b"]})
    frame.to_csv(folder / f"{name}.csv", index=False)
    sources: list[Any] = [frame, frame.astype({name: object}), frame.astype({name: "category"}), folder / f"{name}.csv"]
    polars, arrow = (pytest.importorskip(package) for package in ("polars", "pyarrow"))
    pytest.importorskip("pyarrow.parquet").write_table(arrow.table(columns), folder / f"{name}.parquet")
    return [*sources, folder / f"{name}.parquet", polars.DataFrame(columns), polars.DataFrame(columns).lazy()]


def test_large_whole_numbers_beside_missing_ones_keep_their_values(tmp_path: Path) -> None:
    for source in sources_of("label", [LARGE, None, LARGE - 1], tmp_path):
        labelled = read(source, missing="mask")
        assert labelled.train.y.tolist() == [1, -1, 0] and labelled.schema.classes == (LARGE - 1, LARGE)
    for source in sources_of("a", [LARGE, None, 3], tmp_path):
        assert "'a' has whole numbers beyond 2^53" in refused(source, missing="mask")
    for source in sources_of("c", [LARGE - 2, None, 3], tmp_path):
        assert read(source, missing="mask").train.x[:, 0].tolist() == [LARGE - 2, 0, 3]
    hidden = np.ma.array([[1, LARGE], [3, 4]], mask=[[True, False], [False, False]])
    assert "beyond 2^53" in refused(hidden, missing="mask")
    assert "1 of its 4 values are masked" in refused(hidden)
    assert "has real numbers" in refused(pd.DataFrame({"label": [1e20, 3e20], "b": [1.0, 2.0]}), label="label")


def test_decimal_numbers_and_bytes_are_read() -> None:
    frame = pd.DataFrame({"a": [Decimal("1.1"), None], "b": [1, 2]})
    assert read(frame, missing="mask").train.x.tolist() == [[1.1, 1], [0, 2]]
    rows = np.array([(1.5, b"u"), (2.5, b"v")], dtype=[("a", "f8"), ("label", "S2")])
    assert read(rows).schema.classes == ("u", "v")


def test_structured_arrays_and_labels_of_matlab_are_read_from_files(tmp_path: Path) -> None:
    rows = np.array([(1, 2.5, "u"), (3, 4.5, "v")], dtype=[("a", "i4"), ("b", "f8"), ("label", "U3")])
    np.save(tmp_path / "rows.npy", rows)
    loaded = read(tmp_path / "rows.npy")
    assert loaded.train.x.tolist() == [[1, 2.5], [3, 4.5]] and loaded.schema.classes == ("u", "v")
    scipy.io.savemat(tmp_path / "row.mat", {"X": np.eye(3), "Y": np.array([[2, 1, 2]])})
    assert read(tmp_path / "row.mat").train.y.tolist() == [1, 0, 1]


def test_frames_with_their_rows_in_another_order_are_not_joined() -> None:
    x, y = pd.DataFrame({"a": [1.0, 2.0, 3.0]}), pd.Series(["u", "v", "w"], index=[2, 0, 1], name="y")
    for source in ((x, y), {"x": x, "y": y}, {"a": x["a"], "label": y}):
        assert "same names of rows in another order" in refused(source)
    for other in (y.sort_index(), y.reset_index(drop=True), y.to_numpy(), y.set_axis([5, 6, 7])):
        assert read((x, other)).train.size == 3


def test_lines_of_excel_names_with_line_ends_and_thousands(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("sep=;\na;b\n1,5;2\n4;5\n")
    assert read(path).train.x.tolist() == [[1.5, 2], [4, 5]]
    path.write_text('a,"b\nc"\n1,2\n3,4\n')
    splits = read(path)
    assert splits.train.x.tolist() == [[1, 2], [3, 4]] and splits.schema.columns == ("a", "b\nc")
    assert "\n" not in splits.schema.account
    for sign in ".,":
        path.write_text(f"a;b\n1{sign}000;2\n12{sign}500;3\n800;4\n")
        assert f"1{sign}000 is read as 1; remove the" in read(path).schema.account
        path.write_text(f"a;b\n1{sign}000;2\n12{sign}5;3\n800;4\n")
        assert "is read as" not in read(path).schema.account
    path.write_text("\n\n")
    assert "has none" in refused(path)


def test_pictures_of_other_kinds_are_said(tmp_path: Path) -> None:
    def folder(name: str, *pictures: Image.Image, **options: Any) -> Splits:
        for number, picture in enumerate(pictures):
            (tmp_path / name).mkdir(exist_ok=True)
            picture.save(tmp_path / name / f"{number}.png", **options)
        return read(tmp_path / name)

    deep = Image.fromarray(np.array([[0, 65535], [256, 32768]], dtype=np.uint16))
    grey = Image.fromarray(np.full((2, 2), 51, dtype=np.uint8))
    both = folder("deep", deep, grey)
    assert np.allclose(both.train.x[0].flatten(), [0, 1, 256 / 65535, 32768 / 65535]) and (both.train.x[1] == 0.2).all()
    assert "divided by 65535 in 1 pictures of 16 bits, by 255 in the others" in both.schema.account
    assert "divided by 65535;" in folder("all deep", deep).schema.account
    assert "1 pictures have a colour that means transparent" in folder("marked", grey, transparency=51).schema.account
    turned = Image.Exif()
    turned[0x0112] = 6
    assert (
        "1 pictures have an EXIF rotation, which is not applied" in folder("turned", grey, exif=turned).schema.account
    )
    grey.save(tmp_path / "turned" / "b.bmp")
    assert "1 pictures of other formats are left out, such as b.bmp" in read(tmp_path / "turned").schema.account
    plain = folder("plain", grey).schema.account
    assert "divided by 255;" in plain and not any(word in plain for word in ("turned", "transparent", "left out"))


COUNTS = np.array([[0, 2, 0], [1, 0, 0], [0, 0, 3], [0, 4, 0]], dtype=np.float32)


@pytest.mark.parametrize("kind", ["csr", "csc", "bsr", "coo", "dia"])
def test_a_file_of_a_sparse_matrix_is_read_as_its_array(tmp_path: Path, kind: str) -> None:
    sparse.save_npz(tmp_path / "counts.npz", getattr(sparse, f"{kind}_array")(COUNTS))
    data = load_data(tmp_path / "counts.npz", validation=0, test=0, binarise="none")
    assert torch.equal(data.train.x, torch.from_numpy(COUNTS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indices": np.array([0, 9])}, "does not hold a valid sparse matrix"),
        ({"indptr": np.array([0, 1])}, "does not hold a valid sparse matrix"),
        ({"shape": np.array([-2, 2])}, "does not hold a valid sparse matrix"),
        ({"format": np.array(b"zzz")}, "needs an array named x"),
        ({"shape": np.array([2, 10**14])}, "as an array needs"),
    ],
)
def test_a_damaged_file_of_a_sparse_matrix_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, np.ndarray], message: str
) -> None:
    arrays = {"format": np.array(b"csr"), "shape": np.array([2, 2]), "data": np.ones(2), "indices": np.array([0, 1])}
    np.savez(tmp_path / "counts.npz", **{**arrays, "indptr": np.array([0, 1, 2]), **changes})
    with pytest.raises(InputError, match=message) as caught:
        load_data(tmp_path / "counts.npz")
    assert "\n" not in str(caught.value)


def test_a_table_with_text_beside_x_is_refused_with_its_column() -> None:
    x, labels = np.ones((4, 2), dtype=np.float32), ["a", "b", "a", "b"]
    for table in (pd.DataFrame({"n": range(4), "kind": labels}), pd.Series(labels, name="kind")):
        with pytest.raises(InputError, match=r"the field 'w' needs numbers .* its column 'kind' has 'a'.*get_dummies"):
            load_data({"x": x, "w": table})
    numbers = pd.get_dummies(pd.DataFrame({"n": range(4), "kind": labels}), dtype=float)
    assert load_data({"x": x, "w": numbers}, validation=0, test=0).train["w"].shape == (4, 3)
