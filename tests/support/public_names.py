"""List every public name of pvae with its signature: ``python tests/support/public_names.py``.

With ``--add`` the new ones are added to ``tests/repository/public_names.txt``; none is changed or taken out.

A public name is a name in ``__all__`` of the package or of one of its folders, or a public attribute that such a
class defines. Signatures hold parameter names, kinds and defaults; annotations are left out, because a private type may
be renamed without any effect on a caller.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pvae

GOLDEN = Path(__file__).parents[1] / "repository" / "public_names.txt"


def folders() -> Iterator[str]:
    """Yield the dotted names of the package and of its folders."""
    yield "pvae"
    yield from (found.name for found in pkgutil.iter_modules(pvae.__path__, "pvae.") if found.ispkg)


def public_homes() -> dict[str, str]:
    """Return the module that each name of ``pvae/__init__.pyi`` comes from; folders are left out."""
    stub = ast.parse(Path(pvae.__file__).with_suffix(".pyi").read_text())
    sources = [node for node in stub.body if isinstance(node, ast.ImportFrom) and node.module]
    return {alias.name: f"pvae.{node.module}" for node in sources for alias in node.names}


def signature(value: Any) -> str:
    """Return parameter names, kinds and defaults of a callable, without annotations."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in found.parameters.values()]
    text = str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    return re.sub(r"<function [^>]*>", "<function>", text)


def attributes(owner: type, listed: set[type]) -> Iterator[tuple[str, str]]:
    """Yield name and signature of each public attribute of a class; a base class that is public lists its own."""
    homes = [owner, *(base for base in owner.__mro__ if base.__module__.startswith("pvae.") and base not in listed)]
    for name in sorted({name for base in homes for name in vars(base) if not name.startswith("_")}):
        value = inspect.getattr_static(owner, name)
        bound = getattr(value, "__func__", value)
        yield name, signature(bound) if callable(bound) else ""


def lines() -> Iterator[str]:
    """Yield one line for each public name."""
    modules = {folder: importlib.import_module(folder) for folder in folders()}
    values = [getattr(module, name) for module in modules.values() for name in getattr(module, "__all__", [])]
    public = {value for value in values if isinstance(value, type)}
    listed: set[type] = set()
    for folder, module in modules.items():
        for name in sorted(getattr(module, "__all__", [])):
            value = getattr(module, name)
            yield f"{folder}.{name}{signature(value) if callable(value) else ''}"
            if isinstance(value, type) and value not in listed:
                listed.add(value)
                yield from (f"{folder}.{name}.{each}{found}" for each, found in attributes(value, public))


def add_new_names() -> list[str]:
    """Add the names that the golden file lacks, each after the name before it in the list; return them."""
    known = GOLDEN.read_text().splitlines()
    added, position = [], 0
    for line in lines():
        if line in known:
            position = known.index(line) + 1
        else:
            known.insert(position, line)
            added.append(line)
            position += 1
    GOLDEN.write_text("\n".join(known) + "\n")
    return added


if __name__ == "__main__":
    print("\n".join(add_new_names() if "--add" in sys.argv else lines()))
