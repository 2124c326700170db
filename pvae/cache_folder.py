"""The folder in which pvae keeps downloaded data and measured choices of a user."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """Return the cache folder: that of the environment variable ``PVAE_CACHE``, else the one of the system for pvae."""
    folder = os.environ.get("PVAE_CACHE")
    if folder:
        return Path(folder).expanduser()
    import pooch

    return Path(pooch.os_cache("pvae"))
