"""Files of MATLAB and HDF5: their arrays, and checks of their size before they are read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pvae.data.file_limits import require_content, size_of
from pvae.errors import InputError
from pvae.outside_files import read_start

__all__ = ["read_mat", "require_hdf5"]

# The bytes of an element of each class of MATLAB.
_BYTES = {"double": 8, "single": 4, "char": 4, "logical": 1, "sparse": 8}
_BYTES |= {f"{sign}int{bits}": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)}


def read_mat(path: Path) -> dict[str, Any]:
    """Return the arrays of a file of MATLAB before version 7.3, by name; cells, structures and objects are left out.

    Args:
        path: the file.

    Raises:
        InputError: if it is damaged, has more content than fits into memory, or no array.
    """
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError

    try:
        if not any(read_start(path, 128)):
            raise ValueError("it begins with zeros")
        contents = whosmat(path)
        arrays = [(name, shape, kind) for name, shape, kind in contents if kind in _BYTES]
        require_content(path, sum(_BYTES[kind] * math.prod(shape) for _, shape, kind in arrays))
        content = loadmat(path, variable_names=[name for name, _, _ in arrays])
    except InputError:
        raise
    except (MatReadError, ValueError, TypeError, NotImplementedError, OSError, MemoryError, RecursionError) as error:
        raise InputError(
            f"{path} is not a file of MATLAB, or is damaged ({' '.join(str(error).split())[:120]})."
        ) from error
    if not arrays and contents:
        name, _, kind = contents[0]
        raise InputError(f"{path} needs arrays of numbers; it has {name}, a {kind} of MATLAB. Save only the arrays.")
    return {name: value for name, value in content.items() if not name.startswith("__")}


def require_hdf5(h5py: Any, path: Path) -> None:
    """Raise InputError for an HDF5 file with more content than is likely, or with content in other files.

    Args:
        h5py: the package.
        path: the file.

    Raises:
        InputError: in these cases, or if the file is missing.
        OSError, RuntimeError: if it is damaged.
    """
    size_of(path)
    with h5py.File(path, "r") as file:
        require_content(path, sum(_claimed(path, data_set) for data_set in _data_sets(h5py, path, file)))


def _data_sets(h5py: Any, path: Path, group: Any) -> Iterator[Any]:
    """Yield the data sets of a group and of the groups in it, each group once."""
    waiting, seen = [group], set()
    while waiting:
        group = waiting.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        for name in group:
            if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
                raise InputError(
                    f"{path} needs all of its content in the file itself; {name} is in another file. Copy it into one "
                    "file."
                )
            item = group.get(name)  # None for a link without a target
            if isinstance(item, h5py.Group):
                waiting.append(item)
            elif isinstance(item, h5py.Dataset):
                yield item


def _claimed(path: Path, data_set: Any) -> int:
    """Return the bytes of the values of a data set of HDF5."""
    if data_set.is_virtual or data_set.external:
        raise InputError(
            f"{path} needs all of its content in the file itself; {data_set.name} is in another file. Copy it into one "
            "file."
        )
    return math.prod(data_set.shape or ()) * int(data_set.dtype.itemsize)
