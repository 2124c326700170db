"""Files of figures, with title, date and origin in their metadata."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from matplotlib.figure import Figure

from pvae import __version__
from pvae.errors import InputError
from pvae.files import replace_file
from pvae.names import printable

__all__ = ["file_metadata", "save_figure", "title_of"]

_SOFTWARE = f"pvae {__version__}"


def save_figure(figure: Figure, path: str | Path, facts: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Write a figure to a file, or leave the file unchanged if the write fails.

    The title, the date and the facts are in the metadata of the file: text chunks of PNG, the metadata of SVG and PDF,
    the comment of JPEG.

    Args:
        figure: the figure.
        path: the file; its suffix decides the format.
        facts: the origin of the figure, such as its run and its seed.

    Raises:
        InputError: if the kind of the file is unknown, or the folder does not exist.

    Example:
        >>> import numpy as np
        >>> from pvae import plots
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "curve.svg"
        >>> plots.save_figure(plots.selection_curve([1, 2], {"bic": [3.0, 2.0]}), path, {"seed": 0})
        >>> path.exists()
        True
    """
    path = Path(path)
    suffix = path.suffix.lower().removeprefix(".")
    known = figure.canvas.get_supported_filetypes()
    if suffix not in known:
        raise InputError(
            f"A figure needs a file of a known kind; got {str(path)!r}. Known: {', '.join(sorted(known))}."
        )
    if not path.parent.is_dir():
        raise InputError(
            f"A figure needs an existing folder; {str(path.parent)!r} does not exist. Make it, or name another folder."
        )
    with replace_file(path) as unfinished:
        figure.savefig(unfinished, format=suffix, **file_metadata(figure, suffix, facts))


def file_metadata(figure: Figure, suffix: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Figure.savefig` that write title, date and facts into the metadata of a file.

    Args:
        figure: the figure.
        suffix: the format: ``png``, ``svg``, ``pdf`` or ``jpg``.
        facts: the origin of the figure, such as its run and its seed.
    """
    title, now = title_of(figure), datetime.now(UTC).replace(microsecond=0)
    description = "; ".join(f"{name}: {printable(str(value))}" for name, value in facts.items())
    if suffix == "pdf":
        metadata = {"Title": title, "Subject": description, "Creator": _SOFTWARE, "CreationDate": now}
    elif suffix == "svg":
        metadata = {"Title": title, "Description": description, "Creator": _SOFTWARE, "Date": now.isoformat()}
    elif suffix == "png":
        metadata = {"Title": title, "Description": description, "Software": _SOFTWARE, "Creation Time": now.isoformat()}
    else:  # JPEG has one comment
        comment = "; ".join(text for text in (title, description, now.isoformat(), _SOFTWARE) if text)
        return {"pil_kwargs": {"comment": comment}}
    return {"metadata": metadata}


def title_of(figure: Figure) -> str:
    """Return the title of a figure on one line."""
    return " ".join(figure.get_suptitle().replace(r"\$", "$").split())
