"""Checksums of the user's code that a latent model is made of, so that a resumed run notices a changed file."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import nn

from pvae.loaded_names import loaded_names
from pvae.user_code import is_user_file

__all__ = ["code_digests", "session_digests"]


def code_digests(*owners: Any) -> dict[str, str]:
    """Return the SHA-256 of each piece of user code that objects are made of, by the name of its file.

    A module counts as a whole, together with the modules of its own folder that it imports, and with their packages.
    In the script that runs, only the definitions that the objects use count, and the modules that these import; other
    lines may change between two runs. Installed packages do not count, since their versions are recorded.

    Args:
        owners: latent models, objectives, or parts of them.

    Returns:
        The checksums; empty for objects of pvae, torch and Pyro only.
    """
    digests: dict[str, str] = {}
    names_in_script: set[str] = set()
    for definition in {id(definition): definition for definition in _definitions(owners)}.values():
        module = sys.modules.get(getattr(definition, "__module__", None) or "")
        file = getattr(module, "__file__", None)
        if file is None or not is_user_file(file) or not Path(file).is_file():
            continue
        if module is sys.modules.get("__main__"):
            names_in_script.add(definition.__qualname__.partition(".")[0])
        else:
            path = Path(file).resolve()
            digests |= _file_digests(path, _import_folder(module, path))
    if names_in_script:
        digests |= _script_digests(Path(str(sys.modules["__main__"].__file__)).resolve(), names_in_script)
    return digests


def session_digests(*owners: Any) -> dict[str, str]:
    """Return the SHA-256 of the classes and functions of a notebook or a session that objects are made of, by name.

    There is no file that `code_digests` could read, so these are the checksums of their compiled code, defaults and
    constants, together with those of the functions, classes and constants of the session that they load.

    Args:
        owners: latent models, objectives, factories, or parts of them.

    Returns:
        The checksums; empty where Python runs a script or a command.
    """
    session = sys.modules["__main__"]
    file = getattr(session, "__file__", None)
    if file is not None and Path(file).is_file():  # it is "<stdin>" for code that Python reads from a pipe
        return {}
    own = [each for each in _definitions(owners) if getattr(each, "__module__", None) == "__main__"]
    texts = {name: text for each in own for name, text in _texts_of_attributes(each)}
    waiting = [function for each in own for function in _functions_of(each)]
    while waiting:
        function = waiting.pop()
        if function.__qualname__ not in texts:
            texts[function.__qualname__] = _text_of_code(function.__code__) + _text_of_defaults(function)
            for name in sorted(loaded_names(function.__code__).of_globals & vars(session).keys()):
                value = vars(session)[name]
                waiting += _functions_of(value)
                texts |= dict(_texts_of_attributes(value))
                texts |= {name: repr(value)} if _is_constant(value) else {}
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(texts.items())}


def _is_constant(value: Any) -> bool:
    """Return whether a value is a number, a text or a tuple of these, with the same text in every process."""
    if isinstance(value, tuple):
        return all(map(_is_constant, value))
    return value is None or isinstance(value, bool | int | float | complex | str | bytes)


def _texts_of_attributes(definition: Any) -> Iterator[tuple[str, str]]:
    """Yield the constants of a class of the session, by their names with the name of the class."""
    if isinstance(definition, type) and definition.__module__ == "__main__":
        for name, value in vars(definition).items():
            if not name.startswith("__") and _is_constant(value):
                yield f"{definition.__qualname__}.{name}", repr(value)


def _text_of_defaults(function: FunctionType) -> str:
    """Return the constants among the defaults of a function as text."""
    by_position = [(index, value) for index, value in enumerate(function.__defaults__ or ()) if _is_constant(value)]
    by_name = [(name, value) for name, value in (function.__kwdefaults__ or {}).items() if _is_constant(value)]
    return repr((by_position, by_name))


def _functions_of(definition: Any) -> list[FunctionType]:
    """Return a function of the session itself, or the methods of a class of the session; none for other objects."""
    if getattr(definition, "__module__", None) != "__main__":
        return []
    members = vars(definition).values() if isinstance(definition, type) else [definition]
    return [function for member in members if isinstance(function := inspect.unwrap(member), FunctionType)]


def _text_of_code(code: CodeType) -> str:
    """Return the instructions, names and constants of compiled code as text, the same in every process."""
    constants = [
        _text_of_code(constant)
        if isinstance(constant, CodeType)
        else repr(sorted(constant, key=repr) if isinstance(constant, frozenset) else constant)
        for constant in code.co_consts
    ]
    return repr((code.co_code.hex(), code.co_names, code.co_varnames, constants))


def _definitions(owners: Iterable[Any]) -> Iterator[Any]:
    """Yield the classes and functions that objects are made of."""
    for owner in owners:
        programs = (getattr(owner, name, None) for name in ("model", "guide"))
        for part in (owner, *getattr(owner, "__dict__", {}).values(), *programs):
            part = part.func if isinstance(part, functools.partial) else part
            part = getattr(part, "__self__", part)  # the object of a method
            if inspect.isfunction(part):
                yield inspect.unwrap(part)
            for piece in part.modules() if isinstance(part, nn.Module) else (part,):
                yield from type(piece).__mro__


def _import_folder(module: ModuleType | None, path: Path) -> Path:
    """Return the folder that absolute imports of a file start from: for a module of a package, the folder above it."""
    names = getattr(module, "__name__", "").split(".")
    place = path.parent if path.name == "__init__.py" else path.with_suffix("")
    return place.parents[len(names) - 1] if list(place.parts[-len(names) :]) == names else path.parent


def _file_digests(path: Path, folder: Path, seen: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the checksum of a file, and of the files of its folder that run with it.

    These are the files that it imports, directly or indirectly, and the ``__init__.py`` of each package.
    """
    content = path.read_bytes()
    digests = {**(seen or {}), path.relative_to(folder).as_posix(): hashlib.sha256(content).hexdigest()}
    for imported in (*_package_files(path, folder), *_imported_files(ast.parse(content), path.parent, folder)):
        if imported.relative_to(folder).as_posix() not in digests:
            digests = _file_digests(imported, folder, digests)
    return digests


def _package_files(path: Path, folder: Path) -> Iterator[Path]:
    """Yield the ``__init__.py`` of each package in a folder that contains a file."""
    for package in path.parents:
        if package == folder:
            return
        if (package / "__init__.py").is_file():
            yield package / "__init__.py"


def _imported_files(code: ast.AST, here: Path, folder: Path) -> Iterator[Path]:
    """Yield the files of a folder that code imports; `here` is the folder that relative imports start from."""
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            modules = [(folder, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here if node.level else folder
            for _ in range(max(node.level - 1, 0)):
                base = base.parent
            start = f"{node.module}." if node.module else ""
            modules = [(base, node.module)] if node.module else []
            modules += [(base, start + alias.name) for alias in node.names]
        else:
            continue
        for base, module in modules:
            place = base.joinpath(*module.split("."))
            for candidate in (place.with_suffix(".py"), place / "__init__.py"):
                if candidate.is_file() and candidate.is_relative_to(folder):
                    yield candidate


def _script_digests(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the checksum of some definitions of a script, and those of the files of its folder that they import.

    The first checksum includes the definitions and constants that they use.
    """
    statements: dict[str, list[ast.stmt]] = {}
    imports: dict[str, list[ast.stmt]] = {}
    for statement in ast.parse(path.read_bytes()).body:
        kind = imports if isinstance(statement, ast.Import | ast.ImportFrom) else statements
        for name in _names_defined(statement):
            kind.setdefault(name, []).append(statement)
    waiting, seen = list(names), {"*"}
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            inside = (node for statement in statements.get(name, ()) for node in ast.walk(statement))
            waiting += [node.id for node in inside if isinstance(node, ast.Name)]
    used = [statement for name in sorted(seen) for statement in statements.get(name, ())]
    text = "\n".join(map(ast.dump, used))
    digests = {path.name: hashlib.sha256(text.encode()).hexdigest()}
    code = ast.Module([*used, *(statement for name in sorted(seen) for statement in imports.get(name, ()))], [])
    for imported in _imported_files(code, path.parent, path.parent):
        digests = _file_digests(imported, path.parent, digests)
    return digests


def _names_defined(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return [
            node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        ]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.partition(".")[0] for alias in statement.names]
    return []
