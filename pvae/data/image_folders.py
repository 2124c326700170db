"""Read a folder of pictures; if each class has a folder, the names of these folders are the labels."""

from __future__ import annotations

import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pvae.data.file_limits import require_content
from pvae.data.raw_data import RawData, require_memory
from pvae.data.schema import Schema
from pvae.errors import InputError
from pvae.outside_files import require_regular, walk_files

__all__ = ["read_image_folder"]

_SUFFIXES = (".png", ".jpg", ".jpeg")
_OTHER_SUFFIXES = (".bmp", ".gif", ".tif", ".tiff", ".webp")
_ORIENTATION = 0x0112  # the tag of the orientation in EXIF
_FORMATS = (
    "PNG",
    "JPEG",
)  # only these formats, because the content of a file may have another format, and some formats start other programs
# The errors of Pillow for a damaged file.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error)


def read_image_folder(folder: Path) -> RawData:
    """Return the pictures of a folder, with values from 0 to 1, in the order of their names.

    Args:
        folder: a folder of PNG or JPEG files, or of one folder of them for each class.

    Returns:
        ``x``, float32, shape (pictures, height, width) if all are grey, else (pictures, 3, height, width), or 4 if one
        has transparency; and ``y``, the names of the folders, if there are any.

    Raises:
        InputError: if there are no pictures, they differ in size, or one is damaged.
    """
    paths = sorted(path for path in walk_files(folder) if path.suffix.lower() in _SUFFIXES and not path.is_dir())
    if not paths:
        raise InputError(f"The folder {folder} has no pictures (.png, .jpg, .jpeg).")
    places = [path.relative_to(folder).parts for path in paths]
    deep = next((path for path, parts in zip(paths, places, strict=True) if len(parts) != len(places[0])), None)
    if deep is not None or len(places[0]) > 2:
        raise InputError(
            f"{folder} needs pictures, or one folder of pictures for each class; {deep or paths[0]} is in "
            "another place. Move it."
        )
    looks = [_look_at(path) for path in paths]
    sizes = [look.size for look in looks]
    other = next((number for number, size in enumerate(sizes) if size != sizes[0]), None)
    if other is not None:
        raise InputError(
            f"{paths[other]} has {sizes[other][0]} x {sizes[other][1]} pixels, but {paths[0]} has {sizes[0][0]} x "
            f"{sizes[0][1]}. All pictures need one size: resize or crop them."
        )
    mode = _common_mode([look.mode for look in looks])
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    size = 8 * len(paths) * channels * sizes[0][0] * sizes[0][1]
    require_memory(size, f"{len(paths)} pictures in {folder} as arrays", "Take fewer or smaller pictures.")
    x = np.stack([_pixels(path, mode) for path in paths])
    fields: dict[str, Any] = {"x": x}
    if len(places[0]) == 2:
        fields["y"] = np.array([parts[0] for parts in places])
    colour = {"L": "grey", "RGB": "colour", "RGBA": "colour with transparency"}[mode]
    classes = f"{len(set(fields['y']))} folders are the labels" if "y" in fields else "no label"
    account = f"{len(x)} pictures, {sizes[0][1]} x {sizes[0][0]} pixels, {colour}, {_divisors(looks)}; {classes}"
    notes = _notes(looks, colour, _left_out(folder))
    return RawData(folder.name, fields, Schema(account=account, label="folder" if "y" in fields else ""), notes)


def _divisors(looks: list[_Look]) -> str:
    """Return the divisor of the values of pictures, as text."""
    deep = sum(look.is_deep for look in looks)
    if not deep:
        return "values divided by 255"
    return f"values divided by 65535{f' in {deep} pictures of 16 bits, by 255 in the others' * (deep < len(looks))}"


def _left_out(folder: Path) -> list[str]:
    """Return the names of pictures of other formats, which are not read."""
    return sorted(path.name for path in walk_files(folder) if path.suffix.lower() in _OTHER_SUFFIXES)


def _notes(looks: list[_Look], colour: str, left_out: list[str]) -> tuple[str, ...]:
    """Return notes on properties of the pictures that a user may not expect."""
    notes = []
    if len({look.mode for look in looks}) > 1:
        notes.append(f"pictures of different kinds are all read as {colour}")
    marked = sum(look.marks_transparency for look in looks)
    if marked:
        notes.append(f"{marked} pictures have a colour that means transparent; it is read like any other colour")
    turned = sum(look.is_turned for look in looks)
    if turned:
        notes.append(f"{turned} pictures have an EXIF rotation, which is not applied")
    if left_out:
        notes.append(
            f"{len(left_out)} pictures of other formats are left out, such as {left_out[0]}; PNG and JPEG are read"
        )
    return tuple(notes)


@dataclass(frozen=True)
class _Look:
    """The properties in the header of a picture.

    Attributes:
        size: width and height.
        mode: the mode of Pillow.
        marks_transparency: whether a colour of the picture means transparent.
        is_turned: whether programs rotate the picture for display.
    """

    size: tuple[int, int]
    mode: str
    marks_transparency: bool
    is_turned: bool

    @property
    def is_deep(self) -> bool:
        """Whether the values have 16 bits."""
        return self.mode.startswith("I")


def _look_at(path: Path) -> _Look:
    """Return the properties in the header of a picture."""
    from PIL import Image

    require_regular(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # require_content checks the size
            with Image.open(path, formats=_FORMATS) as picture:
                turned = picture.getexif().get(_ORIENTATION, 1) != 1
                look = _Look(picture.size, picture.mode, "transparency" in picture.info, turned)
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is not a picture that can be read ({' '.join(str(error).split())[:120]}).") from error
    require_content(path, 4 * look.size[0] * look.size[1])
    return look


def _common_mode(modes: list[str]) -> str:
    """Return the mode that can represent all pictures: grey, colour, or colour with transparency."""
    if any(mode in ("RGBA", "LA", "PA") for mode in modes):
        return "RGBA"
    grey = {"1", "L", "I", "I;16", "I;16B", "F"}
    return "L" if set(modes) <= grey else "RGB"


def _pixels(path: Path, mode: str) -> np.ndarray:
    """Return a picture with values from 0 to 1: (height, width) if grey, else (channels, height, width)."""
    from PIL import Image

    try:
        with Image.open(path, formats=_FORMATS) as picture:
            if picture.mode.startswith("I"):  # 16 bits of grey
                deep = np.asarray(picture, dtype=np.float64) / 65535
                return _as_mode(deep.astype(np.float32), mode)
            array = np.asarray(picture.convert(mode), dtype=np.float32) / np.float32(255)
    except _DAMAGED as error:
        raise InputError(f"{path} is a damaged picture ({' '.join(str(error).split())[:120]}).") from error
    return array if mode == "L" else np.moveaxis(array, -1, 0)


def _as_mode(grey: np.ndarray, mode: str) -> np.ndarray:
    if mode == "L":
        return grey
    opaque = [np.ones_like(grey)] if mode == "RGBA" else []
    return np.stack([grey, grey, grey, *opaque])
