"""The content of a page. All text is plain text; the template escapes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

__all__ = ["Column", "Entry", "Page", "Picture", "Section", "Settings", "Sheet"]


@dataclass(frozen=True)
class Column:
    """A column of a sheet.

    Attributes:
        title: heading of the column.
        meaning: what the column shows, in a sentence; empty if the heading says enough.
        numeric: whether the column has numbers, which are aligned to the right.
    """

    title: str
    meaning: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Entry:
    """One cell of a sheet.

    Attributes:
        text: the text.
        note: a second line in smaller letters.
        order: the number that sorts the cell; None to sort it by its text.
    """

    text: str
    note: str = ""
    order: float | None = None


@dataclass(frozen=True)
class Sheet:
    """A table with a caption. A click on a heading sorts it, if the browser runs the script of the page.

    Attributes:
        caption: the text below the table.
        columns: the columns.
        rows: for each row, one entry for each column.
        faded: indices of rows in grey, such as those that failed.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Entry, ...], ...]
    faded: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A figure with its texts.

    Attributes:
        figure: the figure.
        alt: the text for readers who cannot see the figure.
        caption: the text below the figure.
    """

    figure: Figure
    alt: str
    caption: str


@dataclass(frozen=True)
class Settings:
    """A list of names and values, which is closed until the reader opens it.

    Attributes:
        title: heading of the list.
        values: values by name.
    """

    title: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Section:
    """A part of the page. Its contents are shown in the order of the attributes.

    Attributes:
        title: heading of the section.
        text: paragraphs.
        sheets: tables.
        pictures: figures, side by side if the window is wide enough.
        settings: lists of names and values.
        code: a command or a call.
    """

    title: str
    text: tuple[str, ...] = ()
    sheets: tuple[Sheet, ...] = ()
    pictures: tuple[Picture, ...] = ()
    settings: tuple[Settings, ...] = ()
    code: str = ""


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        title: title of the page.
        lead: first paragraphs, which summarise the page.
        sections: the sections.
        foot: a line at the end.
    """

    title: str
    lead: tuple[str, ...]
    sections: tuple[Section, ...]
    foot: str = ""
