"""Files: what is read from each kind, and one clear line for each way in which a file can be unfit."""

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from pvae.data import load_data
from pvae.data.file_data import read_path
from pvae.data.readers import read_idx
from pvae.data.tables.table_options import TableOptions
from pvae.errors import InputError

X = np.arange(24, dtype=np.float32).reshape(12, 2)


def _idx(array: np.ndarray, code: int = 0x08) -> bytes:
    header = bytes([0, 0, code, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    return read_path(path, TableOptions()).fields


def _refused(path, **settings) -> str:
    with pytest.raises(InputError) as error:
        load_data(path, **settings)
    text = str(error.value)
    assert "\n" not in text
    return text


# --- what is read ---


def test_npz_arrays_are_batch_fields_and_splits(tmp_path):
    np.savez_compressed(tmp_path / "my.npz", x=X, y=np.arange(12), x_test=X[:3], x_validation=X[:2])
    splits = load_data(tmp_path / "my.npz")
    assert splits.name == "my.npz" and splits.train.names == ("x", "y") and splits.data_shape == (2,)
    assert torch.equal(splits.train.x, torch.from_numpy(X)) and splits.train.y.tolist() == list(range(12))
    assert torch.equal(splits.test.x, torch.from_numpy(X[:3])) and splits.validation.size == 2


def test_the_same_data_have_one_checksum_as_file_and_as_arrays(tmp_path):
    np.savez(tmp_path / "my.npz", x=X)
    np.save(tmp_path / "my.npy", X)
    (tmp_path / "my.csv").write_text("\n".join(",".join(str(v) for v in row) for row in X))
    sums = {load_data(each).checksum for each in (X, *(tmp_path / f"my.{s}" for s in ("npz", "npy")))}
    assert len(sums) == 1
    # the numbers of a text file are read as float64
    assert load_data(tmp_path / "my.csv").checksum == load_data(X.astype(np.float64)).checksum


def test_csv_with_and_without_a_header(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('\ufeffLabel, "a" ,b\r\n7,1,2.5\r\n\r\n8,-3e1,4\r\n', encoding="utf-8")
    arrays = read_arrays(path)
    assert arrays["x"].tolist() == [[1, 2.5], [-30, 4]] and arrays["y"].tolist() == [7, 8]
    assert (arrays["x"].dtype, arrays["y"].dtype) == (np.float64, np.int64)
    path.write_text("1,2\n3,4")
    assert read_arrays(path).keys() == {"x"} and read_arrays(path)["x"].tolist() == [[1, 2], [3, 4]]
    path.write_text("y,a\n0.5,1\n")  # a label is never a real number
    assert read_arrays(path).keys() == {"x"} and read_arrays(path)["x"].tolist() == [[0.5, 1]]


@pytest.mark.parametrize(
    ("code", "dtype"), [(8, ">u1"), (9, ">i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")]
)
def test_idx_of_every_type_gzip_or_raw(tmp_path, code, dtype):
    array = np.arange(24).reshape(4, 3, 2).astype(dtype)
    for name, content in {
        "a-ubyte": _idx(array, code),
        "a-ubyte.gz": gzip.compress(_idx(array, code)),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(read_idx(tmp_path / name), array)
    assert load_data(tmp_path / name, validation=0, test=0).train.x.tolist() == array.tolist()
    (tmp_path / "b-ubyte").write_bytes(gzip.compress(_idx(array, code)))  # the content decides, not the name
    (tmp_path / "b-ubyte.gz").write_bytes(_idx(array, code))
    assert all(np.array_equal(read_idx(tmp_path / each), array) for each in ("b-ubyte", "b-ubyte.gz"))


def test_a_path_is_told_from_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("digits.npy", X)
    for source in ("digits.npy", "./digits.npy", Path("digits.npy")):
        assert load_data(source).data_shape == (2,)
    assert load_data("digits.npy", folder=tmp_path).data_shape == (2,)
    assert "no file folder/digits" in _refused("folder/digits")


# --- what is refused ---


def test_missing_files_and_folders(tmp_path):
    for name in ("no.npz", "no.npy", "no.csv", "no-ubyte"):
        assert f"no file {tmp_path / name}" in _refused(tmp_path / name)
    (tmp_path / "folder.npz").mkdir()
    assert "it is a folder" in _refused(tmp_path / "folder.npz")
    (tmp_path / "weights.pt").touch()
    refusal = _refused(tmp_path / "weights.pt")
    assert "has a suffix that cannot be read. Give a file with one of .npz, .npy, .csv" in refusal


@pytest.mark.parametrize(
    ("name", "content", "fact"),
    [
        ("a.npz", b"x,y\n1,2", "no NumPy archive (.npz): it needs to begin with b'PK', got 78 2c 79 0a"),
        ("a.npy", b"PK\3\4", "no NumPy array file (.npy)"),
        ("a.npy", b"", "and it is empty"),
        ("a-ubyte", b"\x89PNG1234", "it needs to begin with bytes such as 00 00 08 03, got 89 50 4e 47"),
        ("a-ubyte", b"\0\0\x08\x03\0\0", "truncated or damaged: its header needs"),
        ("a-ubyte", _idx(np.ones((3, 4), np.uint8))[:-1], "its header needs 24 bytes; it has 23"),
        ("a-ubyte", _idx(np.ones((3, 4), np.uint8)) + b"1", "its header needs 24 bytes; it has 25"),
        ("a-ubyte.gz", gzip.compress(_idx(np.ones((3, 4), np.uint8)), mtime=0)[:-9], "damaged or truncated gzip"),
        ("a-ubyte.gz", b"\x1f\x8b\x08" + bytes(40), "damaged or truncated gzip"),
        ("a.csv", b"", "needs rows of numbers; it has none"),
        ("a.csv", b"a,b\n", "needs rows of numbers; it has none"),
        ("a.csv", b"a,b\n1,2\n3,four\n", "line 3, column 'b': a number is needed, got 'four'"),
        ("a.csv", b"1,2\n3,\n", "line 2, column 'column 2': a number is needed, got an empty cell"),
        ("a.csv", b"a,b\n1,2\n\n3,4,5\n", "line 4: 2 columns needed, got 3"),
        ("a.csv", b"a,b\n1;2\n", "line 2: 2 columns needed, got 1"),
        ("a.csv", b"a,b\n1,nan\n2,inf\n3,3\n", "2 of 6 are not (1 NaN, 1 infinite), the first at [0, 1]"),
        ("a.csv", b"y,label,a\n1,2,3\n", "2 columns that could be the label: y, label. Name one with label="),
        ("a.csv", b"y\n1\n", "no other column for x"),
        ("a.csv", b"\xff\xfe\x80", "not a text in UTF-8, UTF-16 or Latin-1"),
    ],
)  # fmt: skip
def test_damaged_files_give_one_line(tmp_path, name, content, fact):
    (tmp_path / name).write_bytes(content)
    text = _refused(tmp_path / name, validation=0, test=0)
    assert fact in text and "a" in text


@pytest.mark.parametrize("kept", [10, 100, 200, -1, -30])
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_truncated_numpy_files_give_one_line(tmp_path, suffix, kept):
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    np.savez_compressed(whole, x=X) if suffix == "npz" else np.save(whole, X)
    path.write_bytes(whole.read_bytes()[:kept])
    assert "truncated or damaged" in _refused(path)


def _flips(whole: bytes, positions: range, path: Path):
    """Yield what is read of a file with one byte changed, or the line that refuses it."""
    for position in positions:
        for bits in (0xFF, 0x10):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ bits]) + whole[position + 1 :])
            try:
                yield read_arrays(path)
            except InputError as error:
                yield str(error)


def test_every_flipped_byte_of_an_archive_is_read_right_or_refused(tmp_path):
    np.savez_compressed(tmp_path / "whole.npz", x=X)
    whole = (tmp_path / "whole.npz").read_bytes()
    for read in _flips(whole, range(len(whole)), tmp_path / "flipped.npz"):
        if isinstance(read, str):
            assert "\n" not in read
        else:
            assert all(np.array_equal(array, X) for array in read.values())


def test_a_flipped_byte_in_a_header_is_one_line_at_most(tmp_path):
    np.save(tmp_path / "whole.npy", X)
    (tmp_path / "whole-ubyte").write_bytes(_idx(X.astype(np.uint8)))
    for name, header in {"whole.npy": 128, "whole-ubyte": 12}.items():
        whole = (tmp_path / name).read_bytes()
        reads = list(_flips(whole, range(header), tmp_path / f"flipped-{name}"))
        assert all("\n" not in read for read in reads if isinstance(read, str))
        assert any(isinstance(read, str) for read in reads)


class _Trap:
    def __reduce__(self):
        return Path.touch, (Path(_Trap.path),)


def test_objects_are_never_unpickled(tmp_path):
    _Trap.path = str(tmp_path / "sprung")
    trap = np.array([_Trap(), None], dtype=object)
    np.savez(tmp_path / "a.npz", x=trap)
    np.save(tmp_path / "a.npy", trap)
    (tmp_path / "b.npz").write_bytes(pickle.dumps(_Trap()))
    (tmp_path / "b.npy").write_bytes(pickle.dumps(_Trap()))
    assert "x in" in _refused(tmp_path / "a.npz") and "Python objects" in _refused(tmp_path / "a.npz")
    assert "Python objects" in _refused(tmp_path / "a.npy")
    assert "no NumPy archive" in _refused(tmp_path / "b.npz") and "no NumPy array" in _refused(tmp_path / "b.npy")
    assert not (tmp_path / "sprung").exists()


def test_archives_whose_arrays_do_not_fit_say_which(tmp_path):
    def refused(**arrays) -> str:
        np.savez(tmp_path / "my.npz", **arrays)
        return _refused(tmp_path / "my.npz")

    assert "my.npz needs an array named x (the data); it has images, labels" in refused(images=X, labels=X)
    assert "x has 12 data and y has 11" in refused(x=X, y=np.arange(11))
    assert "x needs numbers; got an array of <U1 values" in refused(x=np.array(["a", "b"]))
    assert "level needs the data as its first dimension; got the single value 3" in refused(x=X, level=3)
    assert "test split" in refused(x=X, x_test=X[:0])


# ---- missing values


HOLES = np.array([[1.0, np.nan], [2.0, 3.0], [np.nan, 4.0], [5.0, 6.0]], dtype=np.float32)


@pytest.mark.parametrize("kind", ["array", "tensor", "pair", "mapping", "npy", "npz", "csv"])
def test_missing_values_become_zeros_and_a_mask(tmp_path, kind):
    np.save(tmp_path / "a.npy", HOLES)
    np.savez(tmp_path / "a.npz", x=HOLES)
    (tmp_path / "a.csv").write_text("a,b\n1,\n2,3\nnan,4\n5,6\n")
    pair, mapping = (HOLES, np.arange(4)), {"x": HOLES}
    given = {"array": HOLES, "tensor": torch.as_tensor(HOLES), "pair": pair, "mapping": mapping}
    source = given.get(kind, tmp_path / f"a.{kind}")
    found = load_data(source, validation=0, test=0, missing="mask").train
    assert found.x.tolist() == [[1, 0], [2, 3], [0, 4], [5, 6]]
    assert found.mask.tolist() == [[1, 0], [1, 1], [0, 1], [1, 1]]
    with pytest.raises(InputError):
        load_data(source, validation=0, test=0)


def test_masks_that_are_there_stay_and_every_split_gets_one():
    given = {
        "x": HOLES,
        "mask": np.array([[1, 1], [0, 1], [1, 1], [1, 1]]),
        "x_test": HOLES[1:2],
        "x_validation": HOLES[3:],
    }
    found = load_data(given, missing="mask")
    assert found.train.mask.tolist() == [[1, 0], [0, 1], [0, 1], [1, 1]]
    assert found.test.mask.tolist() == found.validation.mask.tolist() == [[1, 1]]
    whole = load_data(HOLES[1::2], validation=0, test=0, missing="mask").train
    assert "mask" not in whole


def test_infinity_is_not_missing_and_other_words_are_told():
    with pytest.raises(InputError, match="1 infinite"):
        load_data(np.array([[1.0, np.inf], [np.nan, 1.0]]), validation=0, test=0, missing="mask")
    with pytest.raises(InputError, match="'error' or 'mask'; got 'drop'"):
        load_data(HOLES, missing="drop")
