"""Where the files of named sets are: $PVAE_DATA, the cache, or a download that is checked first."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pvae.data.catalogue import CATALOGUE, Content, DataFile, DataSet, content_digest, read_content
from pvae.errors import InputError
from pvae.files import move_into_place
from pvae.names import unknown

__all__ = ["data_names", "data_set", "describe_data", "fetch", "fetch_contents", "verify"]


def data_names() -> list[str]:
    """Return the names that ``load_data`` knows."""
    return sorted(CATALOGUE)


def data_set(name: str) -> DataSet:
    """Return a named set.

    Raises:
        InputError: if there is none of the name; the nearest is named.
    """
    if name not in CATALOGUE:
        error = unknown("data set", name, CATALOGUE)
        raise InputError(f"{error} A file is given by its path, such as ./{name or 'data'}.npz.")
    return CATALOGUE[name]


def describe_data() -> list[tuple[str, str, bool, str]]:
    """Return (name, one line, whether it is on this machine, where) for each named set, unchecked."""
    result = []
    for name in data_names():
        found = [_find(name, file, None) for file in CATALOGUE[name].files]
        where = str(found[0].parent) if found and found[0] else CATALOGUE[name].origin
        result.append((name, CATALOGUE[name].line, None not in found, where))
    return result


def verify(name: str) -> list[str]:
    """Return a line for each file of a set, all of them there and with the right content.

    Raises:
        InputError: if a file is missing, damaged, or has another SHA-256 than the catalogue says.
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
    """Return the folder of a set's files, downloaded where they were not there or a cached one was damaged.

    Raises:
        InputError: if a file can be had from nowhere, or what came has another SHA-256 than it needs.
    """
    for file in data_set(name).files:
        path = _cache() / name / file.name
        if path.exists() and _find(name, file, None) == path and not _is_right(path, file):
            path.unlink()
    fetch_contents(name)
    paths = [_find(name, file, None) for file in data_set(name).files]
    return paths[0].parent if paths and paths[0] else _cache() / name


def fetch_contents(name: str, folder: str | os.PathLike[str] | None = None) -> list[Content]:
    """Return what a set's files hold, in order, each checked; downloaded into the cache where it is nowhere.

    Args:
        name: a named set.
        folder: looked into before ``$PVAE_DATA`` and the cache; files lie in ``<folder>/<name>/``.

    Raises:
        InputError: as for ``fetch``.
    """
    contents = []
    for file in data_set(name).files:
        path = _find(name, file, folder)
        contents.append(_download(name, file, folder) if path is None else checked_content(path, file))
    return contents


def checked_content(path: Path, file: DataFile) -> Content:
    """Return what a file holds, or raise InputError where it is not what the catalogue says."""
    content = read_content(path)
    came = content_digest(content)
    if came != file.sha256:
        raise InputError(
            f"{path} has the wrong content: SHA-256 {file.sha256[:16]}... is needed (decompressed), "
            f"{came[:16]}... came. Replace it, or delete it and run `pvae data fetch`."
        )
    return content


def _is_right(path: Path, file: DataFile) -> bool:
    try:
        checked_content(path, file)
    except InputError:
        return False
    return True


def _cache() -> Path:
    given = os.environ.get("PVAE_CACHE")
    if given:
        return Path(given).expanduser()
    import pooch

    return Path(pooch.os_cache("pvae"))


def _places(folder: str | os.PathLike[str] | None) -> Iterator[Path]:
    if folder is not None:
        yield Path(folder).expanduser()
    if os.environ.get("PVAE_DATA"):
        yield Path(os.environ["PVAE_DATA"]).expanduser()
    yield _cache()


def _find(name: str, file: DataFile, folder: str | os.PathLike[str] | None) -> Path | None:
    for place in _places(folder):
        for spelling in dict.fromkeys((file.name, file.name.removesuffix(".gz"))):
            if (place / name / spelling).is_file():
                return place / name / spelling
    return None


def _download(name: str, file: DataFile, folder: str | os.PathLike[str] | None) -> Content:
    mirror = os.environ.get("PVAE_MIRROR", "").rstrip("/")
    urls = [f"{mirror}/{name}/{file.name}"] * bool(mirror) + list(file.urls)
    failures = []
    for url in urls:
        try:
            return _download_one(url, _cache() / name / file.name, file)
        except InputError:
            failures.append(f"{url}: what came is damaged or has another SHA-256 than {file.sha256[:16]}...")
        except (OSError, ValueError) as error:
            failures.append(f"{url}: {' '.join(str(error).split())[:160]}")
    raise _missing(name, file, folder, failures)


def _download_one(url: str, target: Path, file: DataFile) -> Content:
    import pooch

    target.parent.mkdir(parents=True, exist_ok=True)
    # A folder of its own beside the target: several processes may fetch at once, and what is not
    # checked never bears the right name. The suffix stays, for the content is read by it.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetching-") as aside:
        part = Path(aside) / file.name
        download = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=30)
        download(url, str(part), None)
        content = checked_content(part, file)
        move_into_place(part, target)
    return content


def _missing(name: str, file: DataFile, folder: str | os.PathLike[str] | None, failures: list[str]) -> InputError:
    looked = ", ".join(str(place / name) for place in _places(folder))
    came = f" Downloads failed: {'; '.join(failures)}." if failures else ""
    public = "" if file.urls else " It has no public address."
    return InputError(
        f"The set {name} needs {file.name}, which is not in {looked}.{came}{public} "
        f"Put it at $PVAE_DATA/{name}/{file.name}, or set PVAE_MIRROR to the address "
        f"of a folder with {name}/ in it."
    )
