"""The title of a figure."""

from __future__ import annotations

import textwrap

from matplotlib.figure import Figure

from pvae.names import printable
from pvae.plots.base import INK

__all__ = ["add_title"]

_CHARACTERS_PER_INCH = 12.5
_LINE_HEIGHT = 0.17  # inches


def add_title(figure: Figure, title: str, note: str = "") -> Figure:
    """Write a title above a figure, which becomes higher by the lines of the title, and return the figure.

    Args:
        figure: the figure.
        title: the content of the figure.
        note: a second sentence below the title, on given, inferred or omitted values.
    """
    most = max(20, int(figure.get_figwidth() * _CHARACTERS_PER_INCH))
    texts = [printable(text).replace("$", r"\$") for text in (title, note) if text]
    lines = [line for text in texts for line in textwrap.wrap(text, most)]
    figure.suptitle("\n".join(lines), fontsize=9.5, color=INK)
    figure.set_figheight(figure.get_figheight() + _LINE_HEIGHT * len(lines))
    return figure
