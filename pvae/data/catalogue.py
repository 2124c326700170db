"""The data sets that have a name: a description, the files of each, and the functions that read the files."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from pvae.batch import Batch, as_batch
from pvae.data.data_digest import digest
from pvae.data.data_source import DataSource
from pvae.data.multi_digits import draw_multi_digits
from pvae.data.readers import parse_idx, read_bytes, read_npz
from pvae.data.sprites import draw_sprites
from pvae.errors import InputError
from pvae.outside_files import require_regular

__all__ = ["CATALOGUE", "Content", "DataFile", "DataSet", "content_digest", "read_content"]


Arrays: TypeAlias = dict[str, np.ndarray]
Content: TypeAlias = bytes | Arrays


@dataclass(frozen=True)
class DataFile:
    """One file of a data set.

    Attributes:
        name: name of the file; an IDX file may also be stored uncompressed, without ``.gz``.
        sha256: `content_digest` of the content, which does not change when a file is compressed again.
        size: the largest size of the file in bytes, compressed or not; a larger download is stopped.
        urls: public addresses, in order of preference; empty if no public copy has this content.
    """

    name: str
    sha256: str
    size: int
    urls: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataSet:
    """One data set that has a name.

    Attributes:
        line: a description in one line.
        files: the files that it needs.
        read: a function from the contents of the files, in order, to the data.
        origin: where the data come from if there are no files.
    """

    line: str
    files: tuple[DataFile, ...]
    read: Callable[..., DataSource]
    origin: str = ""


def read_content(path: Path, most: int) -> Content:
    """Return the arrays of an ``.npz`` file, or the decompressed bytes of any other file.

    Args:
        path: the file.
        most: the largest size of the file, in bytes.

    Raises:
        InputError: if the file is damaged or too large.
    """
    if require_regular(path) > most:
        raise InputError(f"{path} is damaged: it has more than {most} bytes. Fetch it again.")
    return read_npz(path) if path.suffix == ".npz" else read_bytes(path)


def content_digest(content: Content) -> str:
    """Return the SHA-256 of the content of a file; it does not depend on the compression of the file."""
    return digest(content) if isinstance(content, dict) else hashlib.sha256(content).hexdigest()


def _grey(images: np.ndarray, labels: np.ndarray | None = None, *, levels: float = 255.0) -> Batch:
    x = images.reshape(len(images), -1).astype(np.float32) / np.float32(levels)
    return as_batch({"x": x} if labels is None else {"x": x, "y": labels.astype(np.int64)})


def _digits() -> DataSource:
    images, labels = _digit_arrays()
    content = digest({"images": images, "target": labels})
    batch = _grey(images, labels, levels=16.0)
    return DataSource("digits", batch, (8, 8), content, defaults={"validation": 0.1, "test": 0.2})


def _digit_arrays() -> tuple[np.ndarray, np.ndarray]:
    """Return the images of the digits, (1797, 8, 8) float64, and their labels, (1797,) int64.

    They are read from the file of scikit-learn without importing it, because the import takes as long as that of torch.
    """
    found = importlib.util.find_spec("sklearn")
    folders = [] if found is None else list(found.submodule_search_locations or [])
    paths = [path for folder in folders if (path := Path(folder) / "datasets" / "data" / "digits.csv.gz").is_file()]
    table = np.loadtxt(paths[0], delimiter=",") if paths else np.empty((0, 0))
    if table.shape == (1797, 65):
        return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    bunch = load_digits()  # another version may have the file in another place
    return bunch.images, bunch.target


def _mnist(*contents: bytes) -> DataSource:
    arrays = [parse_idx(content, file.name) for content, file in zip(contents, _MNIST, strict=True)]
    train_images, train_labels, test_images, test_labels = arrays
    train, test = _grey(train_images, train_labels), _grey(test_images, test_labels)
    return DataSource("mnist", train, (28, 28), _joint_digest(_MNIST), {"test": test}, {"validation": 10_000})


def _mnist_static(arrays: Arrays) -> DataSource:
    parts = {name: _grey(np.unpackbits(packed, axis=1), levels=1.0) for name, packed in arrays.items()}
    train = parts.pop("train")
    return DataSource("mnist_static", train, (28, 28), _STATIC.sha256, parts)


def _freyfaces(arrays: Arrays) -> DataSource:
    return DataSource("freyfaces", _grey(arrays["images"]), (28, 20), _FREY.sha256)


def _sprites() -> DataSource:
    pictures, factors = draw_sprites()
    batch = as_batch({"x": pictures.reshape(len(pictures), -1), "factors": factors})
    content = digest({"pictures": pictures, "factors": factors})
    return DataSource("sprites", batch, pictures.shape[1:], content, defaults={"validation": 0.1, "test": 0.2})


def _multi_digits() -> DataSource:
    """Return pictures of 0 to 2 digits; the pictures of the test split have other digits."""
    images = _digit_arrays()[0] / 16.0
    parts: dict[str, Batch] = {}
    for part, digits, count in (("train", images[:1437], 5000), ("test", images[1437:], 1000)):
        pictures, counts = draw_multi_digits(digits, count, seed=len(parts))
        parts[part] = as_batch({"x": pictures.reshape(count, -1), "y": counts})
    content = digest(
        {f"{part}.{key}": tensor.numpy() for part, batch in parts.items() for key, tensor in batch.items()}
    )
    train = parts.pop("train")
    return DataSource("multi_digits", train, (24, 24), content, parts, {"validation": 0.1})


def _joint_digest(files: tuple[DataFile, ...]) -> str:
    # The contents were checked against these digests, so they are not hashed again.
    return hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest()


_OSSCI = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MNIST = tuple(
    DataFile(name, sha256, size, (_OSSCI + name,))
    for name, sha256, size in (
        (
            "train-images-idx3-ubyte.gz",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            48_000_000,
        ),
        ("train-labels-idx1-ubyte.gz", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5", 70_000),
        ("t10k-images-idx3-ubyte.gz", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7", 8_000_000),
        ("t10k-labels-idx1-ubyte.gz", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", 20_000),
    )
)
_STATIC = DataFile("mnist_static.npz", "880b0848c1e370ed312cfe14c7d32b3a5430aff7fce5acfea8b9dbbe9b3fda7d", 7_000_000)
_FREY = DataFile("freyfaces.npz", "c4aa53f55f81990ebe65b822e9cc30a65d61a9b41dedd215389dba0cb914f21c", 2_000_000)

CATALOGUE: dict[str, DataSet] = {
    "digits": DataSet(
        "1797 handwritten digits of 8 x 8 pixels, grey, labelled (with scikit-learn)", (), _digits, "scikit-learn"
    ),
    "mnist": DataSet(
        "70000 handwritten digits of 28 x 28 pixels, grey, labelled; with its own test split", _MNIST, _mnist
    ),
    "mnist_static": DataSet(
        "MNIST in a fixed binarisation, with its own three splits, without labels", (_STATIC,), _mnist_static
    ),
    "multi_digits": DataSet(
        "6000 generated pictures of 24 x 24 pixels, grey, with 0, 1 or 2 digits; labelled by their number",
        (),
        _multi_digits,
        "generated",
    ),
    "sprites": DataSet(
        "729 generated shapes of 16 x 16 pixels, binary, with the factors that made them", (), _sprites, "generated"
    ),
    "freyfaces": DataSet("1965 pictures of one face, 28 x 20 pixels, grey", (_FREY,), _freyfaces),
}
