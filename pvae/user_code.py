"""Find the place in the user's code that an error comes from.

Code of the user is a file outside pvae, torch, Pyro, the standard library and installed packages. The directories of
these decide, resolved and compared as paths: a folder of the user may have any name, "pvae" and "torch" included.
"""

from __future__ import annotations

import site
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["CodePlace", "find_user_place", "is_user_file"]

_PACKAGES = ("pvae", "torch", "pyro")
_SCHEME_PATHS = ("stdlib", "platstdlib", "purelib", "platlib")
# The names that Python gives to code typed in at a prompt, the only code of the user without a file.
_TYPED_IN = ("<stdin>", "<python-input-", "<ipython-input-")


class CodePlace(NamedTuple):
    """A line of a file.

    Attributes:
        file: path of the file, as the traceback has it.
        line: number of the line, from 1.
    """

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def _library_folders() -> Iterator[Path]:
    """Yield the folders of code that is not the user's; torch and Pyro only where they are imported already."""
    for name in _PACKAGES:
        # a package that is installed from its sources lies outside site-packages
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None:
            yield Path(file).parent
    yield from (Path(sysconfig.get_path(name)) for name in _SCHEME_PATHS)
    yield from map(Path, site.getsitepackages())
    yield Path(site.getusersitepackages())


def is_user_file(filename: str) -> bool:
    """Return whether a file name of a traceback is one of the user's files.

    Args:
        filename: the name that the code object has. Names in angle brackets belong to code without a file, which is
            the user's if it was typed in at a prompt.
    """
    if filename.startswith("<"):
        return filename.startswith(_TYPED_IN)
    path = Path(filename).resolve()
    return not any(path.is_relative_to(folder.resolve()) for folder in _library_folders())


def find_user_place(error: BaseException) -> CodePlace | None:
    """Return the innermost line of the user's code that an error passed through, or None if there is none.

    For a syntax error in a file of the user, it is the line of the error.
    """
    if isinstance(error, SyntaxError) and error.filename and is_user_file(error.filename):
        return CodePlace(error.filename, error.lineno or 1)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if is_user_file(frame.filename):
            return CodePlace(frame.filename, frame.lineno or 1)
    return None
