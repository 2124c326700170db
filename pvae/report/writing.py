"""Write a page as one HTML file."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape

from pvae.files import write_text
from pvae.names import printable
from pvae.report.content import Download, Page, Picture
from pvae.report.data_uris import data_address
from pvae.report.figure_colours import chart_svg, dark_colours

__all__ = ["write_page"]

# Readers send a page by mail and open it on a phone. The page states the limit as 3 MB.
_MOST_BYTES = 2_900_000
_RESOLUTIONS = (180, 120, 80)  # pixels per inch, tried in this order
_MOST_SVG = 200_000  # characters; a larger chart becomes a picture
#: A word that may not fit into a narrow column, and its parts, each with the separators after it.
_LONG_WORD = re.compile(r"\S{12,}")
_SEPARATED = re.compile(r"[^:/_=,-]*[:/_=,-]+|[^:/_=,-]+")
_SCRIPTS = ("page.js", "explorer.js")


@dataclass(frozen=True)
class EncodedPicture:
    """A picture as the page contains it.

    Attributes:
        light: ``data:`` address of the picture in light colours; "" for a chart.
        dark: the same in dark colours; "" if it does not fit into the page.
        svg: the element of a chart; "" for a picture.
    """

    light: str = ""
    dark: str = ""
    svg: str = ""

    @property
    def size(self) -> int:
        """Number of characters."""
        return len(self.light) + len(self.dark) + len(self.svg)


def write_page(path: str | os.PathLike[str], page: Page) -> Path:
    """Write a page as one HTML file of less than 3 MB, which needs no other file and no network.

    If the page would be too large, its pictures get a lower resolution. A picture that still does not fit is left out,
    and a sentence replaces it.

    Args:
        path: the file. Its folder is made if it does not exist; an existing file is replaced in one step.
        page: the content. Its text is escaped.

    Returns:
        The path of the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, _render(page, _encode_pictures(page)))
    return path


def _render(page: Page, images: Mapping[int, EncodedPicture]) -> str:
    """Return the HTML text of a page.

    Args:
        page: the content.
        images: each picture by its `id`; missing pictures are left out.
    """
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_printable)
    environment.filters["with_breaks"] = _with_breaks
    environment.filters["with_code"] = _with_code
    template = environment.from_string(_read_resource("page.html.j2"))
    return template.render(
        page=page,
        style=Markup(_read_resource("page.css")),
        script=Markup("\n".join(map(_read_resource, _SCRIPTS))),
        images=lambda picture: _marked_up(images.get(id(picture))),
        data_link=_data_link,
    )


def _marked_up(image: EncodedPicture | None) -> Any:
    """Return a picture with its SVG marked as safe: pvae made it, and matplotlib escapes the names in it."""
    if image is None:
        return None
    return EncodedPicture(image.light, image.dark, Markup(image.svg))


def _data_link(download: Download) -> str:
    """Return a ``data:`` address with the text of a download."""
    content = base64.b64encode(download.text.encode()).decode("ascii")
    return f"data:{download.media_type};charset=utf-8;base64,{content}"


def _with_breaks(text: object) -> Markup:
    """Return escaped text in which a long word may be broken after a separator, so that names are not broken."""

    def broken(word: re.Match[str]) -> str:
        return "\0".join(_SEPARATED.findall(word.group(0)))

    escaped = escape(_LONG_WORD.sub(broken, str(_printable(text))))
    return Markup(str(escaped).replace("\0", "<wbr>"))


def _with_code(text: object) -> Markup:
    """Return escaped text like `_with_breaks`; text between two backquotes becomes code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(_with_breaks(text))))


def _printable(value: Any) -> Any:
    """Return a text of the page without invisible characters such as marks of the direction of writing."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _read_resource(name: str) -> str:
    return files("pvae.report").joinpath(name).read_text(encoding="utf-8")


def _encode_pictures(page: Page) -> dict[int, EncodedPicture]:
    """Return each picture by its `id`, at the highest resolution that fits into the page."""
    pictures = [picture for section in page.sections for picture in section.pictures]
    charts = _encode_charts(pictures)
    others = [picture for picture in pictures if id(picture) not in charts]
    used = sum(chart.size for chart in charts.values())
    available = _MOST_BYTES - len(_render(page, {}).encode()) - used
    light: dict[int, str] = {}
    for dpi in _RESOLUTIONS:
        light = {id(picture): data_address(picture.figure, dpi) for picture in others}
        left = available - sum(map(len, light.values()))
        if left >= 0:
            dark = _encode_dark(others, dpi, left)
            return charts | {key: EncodedPicture(address, dark.get(key, "")) for key, address in light.items()}
    return charts | _keep_what_fits(others, light, available)


def _encode_charts(pictures: Sequence[Picture]) -> dict[int, EncodedPicture]:
    """Return the charts among pictures as SVG, by their `id`; a chart of too many lines becomes a picture."""
    charts = {}
    for number, picture in enumerate(pictures):
        if picture.is_chart:
            svg = chart_svg(picture.figure, f"chart{number}")
            if len(svg) <= _MOST_SVG:
                charts[id(picture)] = EncodedPicture(svg=svg)
    return charts


def _encode_dark(pictures: Sequence[Picture], dpi: int, available: int) -> dict[int, str]:
    """Return the pictures in dark colours by their `id`, as long as they fit into a number of bytes."""
    kept = {}
    for picture in pictures:
        with dark_colours(picture.figure):
            address = data_address(picture.figure, dpi)
        available -= len(address)
        if available < 0:
            break
        kept[id(picture)] = address
    return kept


def _keep_what_fits(
    pictures: Sequence[Picture], addresses: Mapping[int, str], available: int
) -> dict[int, EncodedPicture]:
    """Return the addresses of the first pictures that fit into a number of bytes."""
    kept = {}
    for picture in pictures:
        address = addresses[id(picture)]
        if len(address) <= available:
            kept[id(picture)] = EncodedPicture(address)
            available -= len(address)
    return kept
