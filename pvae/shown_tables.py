"""`ShownTable`: a table of text as HTML for notebooks, as Markdown and as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from pvae.names import printable

__all__ = ["ShownTable", "latex_text"]

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
_LATEX |= {letter: f"\\{letter}" for letter in "&%$#_{}"}
_CELL = "padding: 0.2em 0.8em; text-align: left"


def latex_text(text: str) -> str:
    r"""Return text without characters that LaTeX reads as commands.

    >>> print(latex_text("50% of x_1"))
    50\% of x\_1
    """
    return re.sub(r"[\\~^±&%$#_{}]", lambda match: _LATEX[match.group(0)], text)


@dataclass(frozen=True)
class ShownTable:
    """A table of text. Names that users chose are written literally in each format.

    Args:
        headings: the headings of the columns; none for a table of names and values.
        rows: the cells of each row, as many as there are columns.
        caption: the line above the table.
        lines: lines of text below the table.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    lines: Sequence[str] = ()

    def to_html(self) -> str:
        """Return the table in HTML, as notebooks show it; its first column has the names of the rows."""
        head = "".join(f'<th style="{_CELL}">{_html(heading)}</th>' for heading in self.headings)
        rows = "".join(f"<tr>{self._html_cells(row)}</tr>" for row in self.rows)
        caption = f'<caption style="text-align: left">{_html(self.caption)}</caption>' if self.caption else ""
        lines = "".join(f'<p style="white-space: pre-line">{_html(line)}</p>' for line in self.lines)
        thead = f"<thead><tr>{head}</tr></thead>" if head else ""
        return f"<div><table>{caption}{thead}<tbody>{rows}</tbody></table>{lines}</div>"

    def _html_cells(self, row: Sequence[str]) -> str:
        first, *others = row
        cells = "".join(f'<td style="{_CELL}">{_html(cell)}</td>' for cell in others)
        return f'<th style="{_CELL}">{_html(first)}</th>{cells}'

    def to_markdown(self) -> str:
        """Return the table in Markdown, with its lines below."""
        head, *body = ["| " + " | ".join(map(_markdown, row)) + " |" for row in (self.headings, *self.rows)]
        return "\n".join([head, "|" + "---|" * len(self.headings), *body, *self._paragraphs()]) + "\n"

    def _paragraphs(self) -> list[str]:
        """Return the lines in Markdown, each after an empty line."""
        return [text for line in self.lines for text in ("", _markdown(line))]

    def to_latex(self) -> str:
        """Return the table in LaTeX, for the package ``booktabs``; columns after the first are aligned right.

        The lines of text are comments above the table.
        """
        head, *body = [" & ".join(map(_latex, row)) + r" \\" for row in (self.headings, *self.rows)]
        form = "l" + "r" * (len(self.headings) - 1)
        comments = [f"% {_one_line(line)}" for line in self.lines]
        lines = [*comments, f"\\begin{{tabular}}{{{form}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
        return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def _html(text: str) -> str:
    return escape(printable(text))


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", _one_line(text))


def _latex(text: str) -> str:
    return latex_text(_one_line(text))
