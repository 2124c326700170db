"""Find or download the files of named data sets: in $PVAE_DATA, in the cache, or at a public address."""

from __future__ import annotations

import contextlib
import gzip
import logging
import os
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from pvae.cache_folder import cache_folder
from pvae.data.catalogue import CATALOGUE, Content, DataFile, DataSet, content_digest, read_content
from pvae.errors import InputError
from pvae.files import move_into_place
from pvae.logs import is_hidden
from pvae.names import unknown

__all__ = ["data_names", "data_set", "describe_data", "fetch", "fetch_contents", "verify"]


_LOG = logging.getLogger(__name__)


def data_names() -> list[str]:
    """Return the names of data sets that `load_data` accepts."""
    return sorted(CATALOGUE)


def data_set(name: str) -> DataSet:
    """Return a named data set.

    Raises:
        InputError: if there is no data set of this name; the message gives the nearest name.
    """
    if name not in CATALOGUE:
        error = unknown("data set", name, CATALOGUE)
        raise InputError(f"{error} A file is given by its path, such as ./{name or 'data'}.npz.")
    return CATALOGUE[name]


def describe_data() -> list[tuple[str, str, bool, str]]:
    """Return for each data set its name, a description, whether its files are on this machine, and where they are.

    The content of the files is not checked; see `verify`.
    """
    result = []
    for name in data_names():
        paths = [_find(name, file, None) for file in CATALOGUE[name].files]
        where = str(paths[0].parent) if paths and paths[0] else CATALOGUE[name].origin
        result.append((name, CATALOGUE[name].line, None not in paths, where))
    return result


def verify(name: str) -> list[str]:
    """Check the files of a data set, and return a line for each.

    Raises:
        InputError: if a file is missing or damaged, or its content has another SHA-256 than in the catalogue.
    """
    lines = []
    for file in data_set(name).files:
        path = _find(name, file, None)
        if path is None:
            raise _missing(name, file, None, [])
        checked_content(path, file)
        lines.append(f"{path}: right (SHA-256 {file.sha256[:12]}... of the decompressed content)")
    return lines or [f"{name}: {data_set(name).origin}, no file to check"]


def fetch(name: str) -> Path:
    """Download the files of a data set that are missing, or damaged in the cache, and return their folder.

    Raises:
        InputError: if a file cannot be downloaded, or the downloaded content has a wrong SHA-256.
    """
    for file in data_set(name).files:
        path = cache_folder() / name / file.name
        if path.exists() and _find(name, file, None) == path and not _is_right(path, file):
            path.unlink()
    fetch_contents(name)
    paths = [_find(name, file, None) for file in data_set(name).files]
    return paths[0].parent if paths and paths[0] else cache_folder() / name


def fetch_contents(name: str, folder: str | os.PathLike[str] | None = None) -> list[Content]:
    """Return the contents of a data set's files, in order, each checked; missing files are downloaded to the cache.

    Args:
        name: name of the data set.
        folder: the first place to look, before ``$PVAE_DATA`` and the cache; the files are in ``<folder>/<name>/``.

    Raises:
        InputError: as `fetch`.
    """
    contents = []
    for file in data_set(name).files:
        path = _find(name, file, folder)
        _LOG.debug("%s: %s", name, f"{file.name} is downloaded" if path is None else f"{path} is read")
        contents.append(_download(name, file, folder) if path is None else checked_content(path, file))
    return contents


def checked_content(path: Path, file: DataFile) -> Content:
    """Return the content of a file.

    Args:
        path: the file on disk, compressed or not.
        file: its entry in the catalogue.

    Raises:
        InputError: if the file is damaged, or its content has another SHA-256 than in the catalogue.
    """
    content = read_content(path, file.size)
    came = content_digest(content)
    if came != file.sha256:
        raise InputError(
            f"{path} has the wrong content: SHA-256 {file.sha256[:16]}... is needed (decompressed); got "
            f"{came[:16]}.... Replace it, or delete it and run `pvae data fetch`."
        )
    return content


def _is_right(path: Path, file: DataFile) -> bool:
    try:
        checked_content(path, file)
    except InputError:
        return False
    return True


def _folders(folder: str | os.PathLike[str] | None) -> Iterator[Path]:
    if folder is not None:
        yield Path(folder).expanduser()
    if os.environ.get("PVAE_DATA"):
        yield Path(os.environ["PVAE_DATA"]).expanduser()
    yield cache_folder()


def _find(name: str, file: DataFile, folder: str | os.PathLike[str] | None) -> Path | None:
    for parent in _folders(folder):
        for file_name in dict.fromkeys((file.name, file.name.removesuffix(".gz"))):
            if (parent / name / file_name).is_file():
                return parent / name / file_name
    return None


class _LimitedFile:
    """A file that is written up to a size.

    Args:
        path: the file.
        most: the largest size in bytes.
    """

    def __init__(self, path: Path, most: int) -> None:
        self._file, self._left, self._most = path.open("wb"), most, most

    def __enter__(self) -> _LimitedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, content: bytes) -> None:
        """Write bytes; raise OSError if the file would become too large."""
        self._left -= len(content)
        if self._left < 0:
            raise OSError(f"it has more than {self._most} bytes, the size in the catalogue")
        self._file.write(content)

    def flush(self) -> None:
        """Pass the bytes on to the operating system."""
        self._file.flush()


def _require_size(path: Path, most: int) -> None:
    """Raise OSError if the decompressed content of a file is larger than `most` bytes."""
    size = 0
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    elif path.read_bytes()[:2] == b"\x1f\x8b":
        with contextlib.suppress(EOFError, gzip.BadGzipFile, zlib.error), gzip.open(path) as content:
            while size <= most and (part := content.read(1 << 20)):
                size += len(part)
    if size > most:
        raise OSError(f"its decompressed content has more than {most} bytes")


def _download(name: str, file: DataFile, folder: str | os.PathLike[str] | None) -> Content:
    mirror = os.environ.get("PVAE_MIRROR", "").rstrip("/")
    urls = [f"{mirror}/{name}/{file.name}"] * bool(mirror) + list(file.urls)
    failures = []
    for url in urls:
        try:
            # only the mirror, which the user has named, may redirect to another address
            redirects = bool(mirror) and url.startswith(f"{mirror}/")
            return _download_one(url, cache_folder() / name / file.name, file, redirects=redirects)
        except InputError:
            failures.append(f"{url}: the content is damaged or has another SHA-256 than {file.sha256[:16]}...")
        except (OSError, ValueError) as error:
            failures.append(f"{url}: {' '.join(str(error).split())[:160]}")
    raise _missing(name, file, folder, failures)


def _download_one(url: str, target: Path, file: DataFile, *, redirects: bool) -> Content:
    import pooch

    target.parent.mkdir(parents=True, exist_ok=True)
    # Each process downloads into its own temporary folder, because several may download the same file at the same time.
    # The file gets its final name only after the check. It keeps its suffix, which decides how it is read.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetching-") as temporary:
        downloaded = Path(temporary) / file.name
        download = pooch.HTTPDownloader(
            progressbar=sys.stderr.isatty() and not is_hidden(), timeout=30, allow_redirects=redirects
        )
        with _LimitedFile(downloaded, file.size) as output:
            download(url, output, None)
        _require_size(downloaded, file.size)
        content = checked_content(downloaded, file)
        move_into_place(downloaded, target)
    return content


def _missing(name: str, file: DataFile, folder: str | os.PathLike[str] | None, failures: list[str]) -> InputError:
    searched = ", ".join(str(parent / name) for parent in _folders(folder))
    failed = f" Downloads failed: {'; '.join(failures)}." if failures else ""
    public = "" if file.urls else " It has no public address."
    return InputError(
        f"The data set {name} needs {file.name}, which is not in {searched}.{failed}{public} "
        f"Put it at $PVAE_DATA/{name}/{file.name}, or set PVAE_MIRROR to the address "
        f"of a folder with {name}/ in it."
    )
