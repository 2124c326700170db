"""Imports of large libraries without garbage collection, which would search them for garbage again and again."""

from __future__ import annotations

import gc
import importlib
import sys

__all__ = ["import_quickly"]


def import_quickly(*names: str) -> None:
    """Import modules without garbage collection, and leave their objects out of later collections.

    The collector would search the objects of torch several times while torch is imported, and again when the process
    ends. Modules that have been imported are not imported again; then collections stay as they are.

    Args:
        names: the modules, in order.
    """
    if names[0] in sys.modules:
        return
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for name in names:
            importlib.import_module(name)
    finally:
        if was_enabled:
            gc.enable()
    gc.freeze()
