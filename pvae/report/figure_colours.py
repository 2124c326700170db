"""The colours of figures on a dark page, and charts as SVG in the colours of the page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import is_color_like, to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.spines import Spine
from matplotlib.text import Text

__all__ = ["chart_svg", "dark_colours"]

# Colours of figures, the variables of the style sheet for them, and their values on a dark page.
_VARIABLES = {"#ffffff": "--card", "#333333": "--ink", "#1b1b1b": "--ink", "#000000": "--ink", "#e4e4e4": "--line"}
_VARIABLES |= {"#999999": "--soft", "#7f7f7f": "--soft", "#a8a8a8": "--soft", "#b0b0b0": "--soft"}
_DARK = {"#ffffff": "#1f2227", "#333333": "#e8e8e6", "#1b1b1b": "#e8e8e7", "#000000": "#e8e8e5", "#e4e4e4": "#3a3f47"}


@contextmanager
def dark_colours(figure: Figure) -> Iterator[None]:
    """Give a figure the colours of a dark page while the block runs; pictures of data do not change.

    Args:
        figure: the figure; its own colours are restored after the block.
    """
    _recolour(figure, _DARK)
    try:
        yield
    finally:
        _recolour(figure, {dark: light for light, dark in _DARK.items()})


def _recolour(figure: Figure, colours: Mapping[str, str]) -> None:
    """Replace colours of texts, lines, frames and backgrounds of a figure by others."""

    def replaced(colour: Any) -> Any:
        is_shown = is_color_like(colour) and to_rgba(colour)[3] > 0  # a transparent colour stays transparent
        return colours.get(to_hex(colour), colour) if is_shown else colour

    for axes in figure.findobj(Axes):
        for which in ("x", "y"):
            axes.tick_params(axis=which, which="both", colors=replaced(_tick_colour(axes, which)))
    for artist in figure.findobj():
        if isinstance(artist, Text | Line2D):
            artist.set_color(replaced(artist.get_color()))
        elif isinstance(artist, Spine):
            artist.set_edgecolor(replaced(artist.get_edgecolor()))
        elif isinstance(artist, Patch):
            artist.set_facecolor(replaced(artist.get_facecolor()))
            artist.set_edgecolor(replaced(artist.get_edgecolor()))


def _tick_colour(axes: Axes, which: str) -> Any:
    axis = axes.xaxis if which == "x" else axes.yaxis
    return axis.get_tick_params().get("labelcolor", "#333333")


def chart_svg(figure: Figure, prefix: str) -> str:
    """Return a chart as the text of an SVG element, with its letters as text and the colours of the page.

    A colour of the figure becomes a variable of the style sheet, or stays the colour itself if there is no such
    variable. The names of elements begin with the prefix, so that several charts have different names.

    Args:
        figure: the figure, without pictures of data.
        prefix: the beginning of every name.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(xmlns(:\w+)?|version)="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(
        r'<svg[^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true" focusable="false">', text, count=1
    )
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    return re.sub(r"#[0-9a-f]{6}\b", _as_variable, text)


def _as_variable(match: re.Match[str]) -> str:
    colour = match.group(0)
    return f"var({_VARIABLES[colour]}, {colour})" if colour in _VARIABLES else colour
