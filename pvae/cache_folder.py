"""The folder in which pvae keeps downloaded data and measured choices of a user."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """Return the cache folder: the value of ``PVAE_CACHE`` if it is set, else the user's cache folder for pvae."""
    folder = os.environ.get("PVAE_CACHE")
    if folder:
        return Path(folder).expanduser()
    import pooch

    return Path(pooch.os_cache("pvae"))
