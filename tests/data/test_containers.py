"""The objects and files in which people hold data: each gives the same values, or one clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse
import torch
import xarray
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pvae.batch import Batch
from pvae.data import load_data
from pvae.errors import InputError
from pvae.networks import image_shape

X = np.random.default_rng(0).random((10, 4)).astype(np.float32)
Y = np.array([0, 1] * 5)
WHOLE = {"validation": 0, "test": 0, "binarise": "none"}


class Pairs(Dataset):
    """Items (x, y) by number."""

    def __init__(self, x: Any = X) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, number: int) -> Any:
        return self.x[number], int(Y[number])


class Stream(IterableDataset):
    """Items by name, in their order."""

    def __iter__(self) -> Any:
        return ({"x": torch.from_numpy(x), "y": int(y)} for x, y in zip(X, Y, strict=True))


STRUCTURED = np.array([tuple(row) for row in X], dtype=[(name, "f4") for name in "abcd"])


@pytest.mark.parametrize(
    "source",
    [
        X.tolist(),
        list(torch.from_numpy(X)),
        pd.DataFrame(X, columns=list("abcd")),
        {name: X[:, column] for column, name in enumerate("abcd")},
        [dict(zip("abcd", row, strict=True)) for row in X.tolist()],
        STRUCTURED,
        np.ma.masked_array(X),
        scipy.sparse.csr_matrix(X),
        scipy.sparse.coo_array(X),
        xarray.DataArray(X, dims=("row", "gene"), coords={"gene": list("abcd")}),
        TensorDataset(torch.from_numpy(X)),
        DataLoader(TensorDataset(torch.from_numpy(X)), batch_size=4),
        DataLoader(Pairs(), batch_size=3),
        Pairs(),
        Stream(),
        DataLoader(Stream(), batch_size=4),
        (pd.DataFrame(X, columns=list("abcd")), pd.Series(Y, name="kind")),
        {"x": pd.DataFrame(X, columns=list("abcd")), "y": Y.tolist()},
    ],
    ids=lambda source: type(source).__name__,
)
def test_every_container_gives_the_same_x(source: Any) -> None:
    splits = load_data(source, **WHOLE)
    assert np.array_equal(splits.train.x.numpy().astype(np.float32), X)
    assert "y" not in splits.train or splits.train.y.tolist() == Y.tolist()
    if isinstance(source, pd.DataFrame | dict | xarray.DataArray) or source is STRUCTURED:
        assert splits.schema.columns == tuple("abcd")
    if isinstance(source, Pairs | DataLoader):  # these stay where they are, unless all data are asked for
        read = load_data(source, resident=True, **WHOLE)
        assert torch.equal(read.train.x, splits.train.x) and type(read.train) is Batch
        assert any("was read once" in note for note in read.notes)


def test_files_of_other_programs(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"X": X.astype(float), "Y": Y[:, None] + 1.0})
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["x"], file["y"] = X, [b"even", b"odd"] * 5
    with h5py.File(tmp_path / "v73.mat", "w", userblock_size=512) as file:  # MATLAB stores the transpose
        file["x"], file["y"] = X.T, (Y[None] + 1.0)
    (tmp_path / "v73.mat").open("r+b").write(b"MATLAB 7.3 MAT-file")
    for name in ("a.mat", "b.h5", "v73.mat"):
        splits = load_data(tmp_path / name, **WHOLE)
        assert np.array_equal(splits.train.x.numpy().astype(np.float32), X), name
        assert splits.train.y.tolist() == Y.tolist() and splits.classes == 2
    with h5py.File(tmp_path / "b.h5") as file:
        assert np.array_equal(load_data(file["x"], **WHOLE).train.x, X)
        assert load_data(file, **WHOLE).schema.classes == ("even", "odd")


def test_parquet_and_polars_and_what_is_not_installed(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, None], "label": ["u", "v"]})
    (tmp_path / "x.h5ad").write_bytes(b"")
    for package, extra, name in (("anndata", "anndata", "x.h5ad"), ("pyarrow", "parquet", "x.parquet")):
        try:
            __import__(package)
        except ImportError:
            (tmp_path / name).write_bytes(b"")
            with pytest.raises(InputError, match=rf'needs the package {package}: pip install "pvae\[{extra}\]"'):
                load_data(tmp_path / name)
    pytest.importorskip("pyarrow", reason="needs pyarrow (the extra parquet)")
    frame.to_parquet(tmp_path / "x.parquet")
    splits = load_data(tmp_path / "x.parquet", missing="mask", **WHOLE)
    assert splits.train.x.tolist() == [[1, 0.5], [2, 0]] and splits.schema.classes == ("u", "v")


def test_a_frame_of_polars_is_read_as_one_of_pandas() -> None:
    polars = pytest.importorskip("polars", reason="needs polars")
    splits = load_data(polars.DataFrame({"a": [1, None], "label": ["v", "u"]}), missing="mask", **WHOLE)
    assert splits.train.x.tolist() == [[1], [0]] and splits.train.y.tolist() == [1, 0]


def test_folders_of_pictures(tmp_path: Path) -> None:
    levels = np.arange(2 * 5 * 7 * 3, dtype=np.uint8).reshape(2, 5, 7, 3)
    for kind, picture in zip(("cat", "dog"), levels, strict=True):
        (tmp_path / "colour" / kind).mkdir(parents=True)
        (tmp_path / "grey").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "colour" / kind / "a.png")
        Image.fromarray(picture[..., 0]).save(tmp_path / "grey" / f"{kind}.png")
    splits = load_data(tmp_path / "colour", **WHOLE)
    assert splits.data_shape == (3, 5, 7) and splits.schema.classes == ("cat", "dog")
    assert torch.equal(splits.train.x * 255, torch.from_numpy(levels).permute(0, 3, 1, 2).float())
    grey = load_data(tmp_path / "grey", **WHOLE)
    assert torch.equal(grey.train.x * 255, torch.from_numpy(levels[..., 0].copy()).float()) and "y" not in grey.train
    Image.new("L", (3, 3)).save(tmp_path / "grey" / "z.png")
    with pytest.raises(InputError, match=r"z.png has 3 x 3 pixels, but .*cat.png has 7 x 5"):
        load_data(tmp_path / "grey")
    (tmp_path / "grey" / "z.png").write_bytes(b"\x89PNG no")
    with pytest.raises(InputError, match=r"z\.png is not a picture"):
        load_data(tmp_path / "grey")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no pictures"):
        load_data(tmp_path / "empty")


# --- channels


def test_channels_are_first_everywhere() -> None:
    pictures = np.random.default_rng(1).random((6, 8, 8, 3))
    seen = np.ones_like(pictures)
    seen[:, 0] = 0
    splits = load_data({"x": pictures, "mask": seen}, **WHOLE)
    assert splits.data_shape == (3, 8, 8) and torch.equal(splits.train.x, torch.from_numpy(pictures).movedim(-1, 1))
    assert splits.train["mask"][:, :, 0].sum() == 0 and "channels last" in splits.notes[0]
    rows = load_data(pictures, mask="rows:count=2", validation=0, test=3, binarise="none")
    gone = rows.test["mask"][0] == 0
    assert int(gone.all(2).all(0).sum()) == 2 and image_shape(splits.data_shape) == (3, 8, 8)
    for x in (pictures.transpose(0, 3, 1, 2), pictures[..., :2], pictures[..., 0]):
        assert load_data(x, **WHOLE).data_shape == x.shape[1:]
    assert load_data(pictures, channels="first", **WHOLE).data_shape == (8, 8, 3)
    assert load_data(pictures[..., :2], channels="last", **WHOLE).data_shape == (2, 8, 8)
    with pytest.raises(InputError, match="channels='last' needs pictures"):
        load_data(X, channels="last")


# --- what is masked is missing


def test_masked_entries_are_missing() -> None:
    masked = np.ma.masked_array(np.where(X > 0.5, -9999, X), mask=X > 0.5)
    found = load_data(masked, missing="mask", **WHOLE).train
    assert np.array_equal(found["mask"].numpy() == 0, X > 0.5) and float(found.x.min()) >= 0
    with pytest.raises(InputError, match="masked array, and 24 of its 40"):
        load_data(masked, **WHOLE)
    columns = {"a": np.ma.masked_array([1, 2], mask=[False, True]), "b": np.array([3, 4])}
    records = np.ma.array([(1.0, 2), (3.0, 4)], mask=[(False, True), (False, False)], dtype=[("a", "f8"), ("b", "i4")])
    assert load_data(columns, missing="mask", **WHOLE).train["mask"].tolist() == [[1, 1], [0, 1]]
    assert load_data(records, missing="mask", **WHOLE).train["mask"].tolist() == [[1, 0], [1, 1]]


# --- what is refused


class Uneven(Pairs):
    def __getitem__(self, number: int) -> Any:
        return torch.zeros(3 + (number == 4))


class Triples(Pairs):
    def __getitem__(self, number: int) -> Any:
        return X[number], 1, 2


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (DataLoader(TensorDataset(torch.zeros(0, 3)), batch_size=4), "has no data"),
        (Uneven(), r"x of item 4 has shape \(4,\), the first one \(3,\)"),
        (Triples(), r"needs to be x, \(x, y\) or a mapping with x; got 3 values"),
        ([[1, 2], [3]], r"row 0 has shape \(2,\), row 1 has \(1,\)"),
        (pd.DataFrame({"a": ["u", "v"]}), "'a' has text"),
        (torch.eye(3).to_sparse(), r"x needs a dense tensor; got a sparse one\. Use to_dense"),
        ({"x": torch.eye(3), "c": torch.eye(3).to_sparse()}, "c needs a dense tensor"),
        ((torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged), [0, 1]), "got a nested one"),
        (scipy.sparse.csr_matrix((10**7, 10**6)), "of memory, and .* are free"),
        (3.5, "got float"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unfit_containers_give_one_line(source: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        load_data(source, resident=True, **WHOLE)
    assert "\n" not in str(error.value)


def test_options_of_tables_are_refused_elsewhere(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    for source in (X, "digits", tmp_path / "a.npy", Pairs()):
        with pytest.raises(InputError, match="option 'columns' is for tables"):
            load_data(source, columns="a")
    for name, words in (("a.xlsx", "Save the sheet as CSV"), ("none.csv", "no file"), ("a.pt", "suffix")):
        if name != "none.csv":
            (tmp_path / name).write_bytes(b"PK")
        with pytest.raises(InputError, match=words):
            load_data(tmp_path / name)
