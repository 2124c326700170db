"""What a page holds. All text is plain: the template escapes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

__all__ = ["Column", "Entry", "Page", "Picture", "Section", "Settings", "Sheet"]


@dataclass(frozen=True)
class Column:
    """A column's heading and, in a sentence, what stands in it."""

    title: str
    meaning: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Entry:
    """One cell of a sheet: its text, a smaller second line, and the number that sorts it (else its text)."""

    text: str
    note: str = ""
    order: float | None = None


@dataclass(frozen=True)
class Sheet:
    """A table with a caption, sorted by a click on a heading where the page's script runs.

    Rows whose index is in ``faded`` are set apart, such as those of failed cells.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Entry, ...], ...]
    faded: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A figure with the text that stands for it where it cannot be seen, and the caption below it."""

    figure: Figure
    alt: str
    caption: str


@dataclass(frozen=True)
class Settings:
    """Names and values, folded up until a reader opens them."""

    title: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it, in this order."""

    title: str
    text: tuple[str, ...] = ()
    sheets: tuple[Sheet, ...] = ()
    pictures: tuple[Picture, ...] = ()
    settings: tuple[Settings, ...] = ()
    code: str = ""


@dataclass(frozen=True)
class Page:
    """A title, the lead (for a reader who reads no further), sections, and a line at the foot."""

    title: str
    lead: tuple[str, ...]
    sections: tuple[Section, ...]
    foot: str = ""
