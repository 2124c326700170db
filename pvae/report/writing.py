"""Write a page as one HTML file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from pvae.files import write_text
from pvae.names import printable
from pvae.report.content import Page, Picture
from pvae.report.data_uris import data_address

__all__ = ["write_page"]

# Readers send a page by mail and open it on a phone. The page states the limit as 3 MB.
_MOST_BYTES = 2_900_000
_RESOLUTIONS = (180, 120, 80)  # pixels per inch, tried in this order


def write_page(path: str | os.PathLike[str], page: Page) -> Path:
    """Write a page as one HTML file of less than 3 MB, which needs no other file and no network.

    If the page would be too large, its pictures get a lower resolution. A picture that still does not fit is left out,
    and the page says so in its place.

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


def _render(page: Page, addresses: Mapping[int, str]) -> str:
    """Return the HTML text of a page.

    Args:
        page: the content.
        addresses: the address of each picture by its `id`; a picture without address is left out.
    """
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_printable)
    template = environment.from_string(_read_resource("page.html.j2"))
    return template.render(
        page=page,
        style=Markup(_read_resource("page.css")),
        script=Markup(_read_resource("page.js")),
        address=lambda picture: addresses.get(id(picture)),
    )


def _printable(value: Any) -> Any:
    """Return a text of the page without marks that change the direction of writing and the like."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _read_resource(name: str) -> str:
    return files("pvae.report").joinpath(name).read_text(encoding="utf-8")


def _encode_pictures(page: Page) -> dict[int, str]:
    """Return the address of each picture by its `id`, at the highest resolution that fits into the page."""
    pictures = [picture for section in page.sections for picture in section.pictures]
    available = _MOST_BYTES - len(_render(page, {}).encode())
    for dpi in _RESOLUTIONS:
        addresses = {id(picture): data_address(picture.figure, dpi) for picture in pictures}
        if sum(map(len, addresses.values())) <= available:
            return addresses
    return _keep_what_fits(pictures, addresses, available)


def _keep_what_fits(pictures: Sequence[Picture], addresses: Mapping[int, str], available: int) -> dict[int, str]:
    """Return the addresses of the first pictures that fit into a number of bytes."""
    kept = {}
    for picture in pictures:
        address = addresses[id(picture)]
        if len(address) <= available:
            kept[id(picture)] = address
            available -= len(address)
    return kept
