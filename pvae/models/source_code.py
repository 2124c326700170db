"""Checksums of the user's code that a latent model is made of, so that a resumed run notices a changed file."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pvae.user_code import is_user_file

__all__ = ["code_digests"]


def code_digests(*owners: Any) -> dict[str, str]:
    """Return the SHA-256 of each piece of a user's code that objects are made of, by the name of its file.

    A module counts as a whole, together with the modules of its own folder that it imports. Of the script that runs,
    only the definitions that the objects use count: other lines may change between two runs. Installed packages
    do not count, since their versions are recorded.

    Args:
        owners: latent models, objectives, or parts of them.

    Returns:
        The checksums; empty for objects of pvae, torch and Pyro alone.
    """
    digests: dict[str, str] = {}
    names_in_script: set[str] = set()
    for definition in _definitions(owners):
        module = sys.modules.get(getattr(definition, "__module__", None) or "")
        file = getattr(module, "__file__", None)
        if file is None or not is_user_file(file) or not Path(file).is_file():
            continue
        if module is sys.modules.get("__main__"):
            names_in_script.add(definition.__qualname__.partition(".")[0])
        else:
            path = Path(file).resolve()
            digests |= _file_digests(path, path.parent)
    if names_in_script:
        path = Path(str(sys.modules["__main__"].__file__))
        digests[path.name] = _script_digest(path, names_in_script)
    return digests


def _definitions(owners: Iterable[Any]) -> Iterator[Any]:
    """Yield the classes and functions that objects are made of."""
    for owner in owners:
        programs = (getattr(owner, name, None) for name in ("model", "guide"))
        for part in (owner, *getattr(owner, "__dict__", {}).values(), *programs):
            part = part.func if isinstance(part, functools.partial) else part
            part = getattr(part, "__self__", part)  # of a method, what it belongs to
            if inspect.isfunction(part):
                yield inspect.unwrap(part)
            for piece in part.modules() if isinstance(part, nn.Module) else (part,):
                yield from type(piece).__mro__


def _file_digests(path: Path, folder: Path, seen: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the checksum of a file, and of the files of its folder that it imports, directly or by others."""
    content = path.read_bytes()
    digests = {**(seen or {}), path.relative_to(folder).as_posix(): hashlib.sha256(content).hexdigest()}
    for imported in _imported_files(content, path.parent, folder):
        if imported.relative_to(folder).as_posix() not in digests:
            digests = _file_digests(imported, folder, digests)
    return digests


def _imported_files(content: bytes, here: Path, folder: Path) -> Iterator[Path]:
    """Yield the files of a folder that a module imports; `here` is the folder that relative imports start from."""
    for node in ast.walk(ast.parse(content)):
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


def _script_digest(path: Path, names: Iterable[str]) -> str:
    """Return the checksum of some definitions of a script, and of the definitions and constants that they use."""
    statements: dict[str, list[ast.stmt]] = {}
    for statement in ast.parse(path.read_bytes()).body:
        for name in _names_defined(statement):
            statements.setdefault(name, []).append(statement)
    waiting, used = list(names), set()
    while waiting:
        name = waiting.pop()
        if name in statements and name not in used:
            used.add(name)
            inside = (node for statement in statements[name] for node in ast.walk(statement))
            waiting += [node.id for node in inside if isinstance(node, ast.Name)]
    texts = [ast.dump(statement) for name in sorted(used) for statement in statements[name]]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _names_defined(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return [
            node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        ]
    return []
