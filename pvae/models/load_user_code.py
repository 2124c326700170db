"""Load a user's Python file or module, and report errors of its code in one line with the file and line."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from pvae.errors import InputError
from pvae.outside_files import read_limited
from pvae.programs.model_traits import is_latent_model

__all__ = ["candidates", "load_file", "load_module", "user_errors"]

_MOST_BYTES = 20_000_000  # of a file of code


def load_module(name: str) -> ModuleType:
    """Return an installed module by its dotted name.

    Raises:
        InputError: if it cannot be imported.
    """
    with user_errors(None, name):
        return importlib.import_module(name)


def load_file(path: Path) -> ModuleType:
    """Return a file as a module. The same path and text give the same module, so its classes stay the same objects.

    Raises:
        InputError: if there is no such file, or its code fails; the message has the line.
    """
    if not path.is_file():
        raise InputError(
            f"There is no file {str(path)!r}. Write your own model as my_model.py:MyModel, with the right path before "
            "the colon."
        )
    text = read_limited(path, _MOST_BYTES)
    digest = hashlib.sha256(str(path.resolve()).encode() + b"\0" + text).hexdigest()[:12]
    name = f"{path.stem}_{digest}"
    return sys.modules[name] if name in sys.modules else _run_file(path, name)


def _run_file(path: Path, name: str) -> ModuleType:
    """Run a file as the module of this name, and enter it in `sys.modules`."""
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise InputError(f"A model of your own needs a Python file; {path} cannot be loaded as one.")
    module = importlib.util.module_from_spec(spec)
    # The module is entered before it runs, like in Python's import, because dataclasses and pickle find classes by
    # module name.
    sys.modules[name] = module
    try:
        with user_errors(path, path.name), _importable_folder(path.resolve().parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _importable_folder(folder: Path) -> Iterator[None]:
    """Let a user's file import files in the same folder, as a script can."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


@contextmanager
def user_errors(path: Path | None, label: str) -> Iterator[None]:
    """Turn an error of a user's code into an InputError of one line, with file and line if they are known.

    Args:
        path: the user's file; None for an installed module.
        label: the name of the code, for the message if no line of the file is known.

    Raises:
        InputError: in place of any error of the block; an InputError passes unchanged.
    """
    try:
        yield
    except InputError:
        raise
    except SyntaxError as error:
        place = f"{error.filename}, line {error.lineno}" if error.filename else label
        raise InputError(f"{place}: {type(error).__name__}: {error.msg}") from error
    except (Exception, SystemExit) as error:  # a user's code may raise any error
        message = " ".join(str(error).split()) or "no message"
        raise InputError(f"{_innermost_line(path, error) or label}: {type(error).__name__}: {message}") from error


def _innermost_line(path: Path | None, error: BaseException) -> str:
    """Return file and line of the innermost frame in the user's file; "" if no frame is in it."""
    file = "" if path is None else str(path.resolve())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{path}, line {lines[-1]}" if lines else ""


def candidates(module: ModuleType) -> list[str]:
    """Return the names to suggest: a module's own classes and functions, and its latent models.

    Args:
        module: a user's module.
    """
    return [name for name, value in vars(module).items() if not name.startswith("_") and _is_candidate(module, value)]


def _is_candidate(module: ModuleType, value: Any) -> bool:
    is_own_callable = callable(value) and getattr(value, "__module__", None) == module.__name__
    return is_own_callable or is_latent_model(value)
