"""A page as one HTML file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from pvae.report.content import Page, Picture
from pvae.report.data_uris import data_address

__all__ = ["write_page"]

# A page is sent by mail and opened on a phone.
_LIMIT = 2_900_000


def write_page(path: str | os.PathLike[str], page: Page) -> Path:
    """Write a page as one HTML file below 3 MB, that needs no other file and no network, and return its path.

    Pictures are drawn coarser where the page would be too large; what still does not fit is left out, and the
    page says so in its place.

    Args:
        path: the file; its folder is made, and a file of that name is replaced in one step.
        page: what to write; its text is escaped.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    html = _render(page, _addresses(page))
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(html, encoding="utf-8")
    temporary.replace(path)
    return path


def _render(page: Page, addresses: Mapping[int, str]) -> str:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_part("page.html.j2"))
    return template.render(
        page=page,
        style=Markup(_part("page.css")),
        script=Markup(_part("page.js")),
        address=lambda picture: addresses.get(id(picture)),
    )


def _part(name: str) -> str:
    return files("pvae.report").joinpath(name).read_text(encoding="utf-8")


def _addresses(page: Page) -> dict[int, str]:
    """Return the pictures' addresses by identity, as fine as the page's size allows."""
    pictures = [picture for section in page.sections for picture in section.pictures]
    room = _LIMIT - len(_render(page, {}).encode())
    for dpi in (180, 120, 80):
        found = {id(picture): data_address(picture.figure, dpi) for picture in pictures}
        if sum(map(len, found.values())) <= room:
            return found
    return _that_fit(pictures, found, room)


def _that_fit(pictures: list[Picture], addresses: Mapping[int, str], room: int) -> dict[int, str]:
    kept = {}
    for picture in pictures:
        address = addresses[id(picture)]
        if len(address) <= room:
            kept[id(picture)] = address
            room -= len(address)
    return kept
