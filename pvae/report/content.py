"""The content of a page. All text is plain text; the template escapes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

__all__ = [
    "Column",
    "Download",
    "Entry",
    "Explorer",
    "Listing",
    "Page",
    "Picture",
    "Question",
    "Section",
    "Settings",
    "Sheet",
]


@dataclass(frozen=True)
class Column:
    """A column of a sheet.

    Attributes:
        title: heading of the column.
        meaning: a sentence about the content of the column; empty if the heading is clear enough.
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
        span: the number of columns that the cell covers, for example for the reason of a failure.
    """

    text: str
    note: str = ""
    order: float | None = None
    span: int = 1


@dataclass(frozen=True)
class Sheet:
    """A table with a caption. A click on a heading sorts it, if the browser runs the script of the page.

    Attributes:
        caption: the text below the table.
        columns: the columns.
        rows: for each row, one entry for each column.
        faded: indices of rows in grey, such as failed rows.
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
        reading: how to read the figure, in sentences; closed until the reader opens it.
        numbers: the numbers of the figure as a table; closed until the reader opens it.
        is_chart: whether the figure has only lines and text. It is then drawn as SVG, in the colours of the page.
    """

    figure: Figure
    alt: str
    caption: str
    reading: str = ""
    numbers: Sheet | None = None
    is_chart: bool = False


@dataclass(frozen=True)
class Question:
    """A question about the results, with its answer. The status is shown by word and by shape, not only by colour.

    Attributes:
        question: the question, as a plain sentence.
        status: ``"fine"``, ``"look"``, ``"bad"`` or ``"not run"``.
        answer: one or two sentences with the numbers.
        value: the main number with its error and unit; empty if there is none.
        limit: the limit by which the status was chosen, and its source.
        cost: the cost of the answer.
    """

    question: str
    status: str
    answer: str
    value: str = ""
    limit: str = ""
    cost: str = ""


@dataclass(frozen=True)
class Download:
    """A file that the page contains.

    Attributes:
        file_name: its name.
        media_type: its type, such as ``"text/csv"``.
        text: its content.
    """

    file_name: str
    media_type: str
    text: str


@dataclass(frozen=True)
class Listing:
    """The text of a program, or another text in lines, which is closed until the reader opens it.

    Attributes:
        title: heading of the text.
        text: the text.
    """

    title: str
    text: str


@dataclass(frozen=True)
class Explorer:
    """Controls that decode chosen latent values. They are absent if the browser does not run scripts.

    Attributes:
        title: heading of the controls.
        content: the input of the script of the page, as JSON values.
    """

    title: str
    content: Mapping[str, Any]


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
    """A part of the page: text, questions, tables, downloads, pictures, explorers, settings and texts of programs.

    Attributes:
        title: heading of the section.
        text: paragraphs.
        sheets: tables.
        pictures: figures, side by side if the window is wide enough.
        settings: lists of names and values.
        code: a command or a call, at the end of the section.
        questions: questions with their answers.
        downloads: files that the reader can keep.
        explorers: controls that decode latent values. A section with explorers is absent if the browser does not run
            scripts.
        listings: texts of programs.
    """

    title: str
    text: tuple[str, ...] = ()
    sheets: tuple[Sheet, ...] = ()
    pictures: tuple[Picture, ...] = ()
    settings: tuple[Settings, ...] = ()
    code: str = ""
    questions: tuple[Question, ...] = ()
    downloads: tuple[Download, ...] = ()
    explorers: tuple[Explorer, ...] = ()
    listings: tuple[Listing, ...] = ()


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
