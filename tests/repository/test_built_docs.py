"""The built documentation: no broken link, no request to another machine, formulas, search and accessibility offline.

`make check` builds the pages and runs these tests. They are skipped where the pages are not built from these sources.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from browsers import open_browser, open_offline, violations
from page_outputs import DOCS, pages

BUILT = DOCS / "_build" / "html"
SOURCES = [DOCS / "conf.py", *pages()[1:]]
IS_BUILT = (BUILT / "searchindex.js").exists() and all(
    source.stat().st_mtime <= (BUILT / "searchindex.js").stat().st_mtime for source in SOURCES
)
pytestmark = pytest.mark.skipif(not IS_BUILT, reason="the documentation is not built from these sources: make docs")
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src"}


class Links(HTMLParser):
    """The links of a page, what it loads, and the names that links may lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.names |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag in LOADED and LOADED[tag] in values:
            self.loaded.append(values[LOADED[tag]])
        if tag == "link" and values.get("rel") not in ("canonical", "next", "prev", "search", "index", "genindex"):
            self.loaded.append(values["href"])


@cache
def read(path: Path) -> Links:
    found = Links()
    found.feed(path.read_text())
    return found


def built_pages() -> list[Path]:
    return sorted(BUILT.rglob("*.html"))


def problems_of(path: Path) -> Iterator[str]:
    """Yield each link of a page that leads nowhere, and each thing that it loads from another machine.

    The pages of source code link to the place of a class under the module that defines it, not under its public name.
    """
    page = read(path)
    for address in page.loaded:
        if urlsplit(address).scheme not in ("", "data") or address.startswith("//"):
            yield f"loads {address}"
        elif not urlsplit(address).scheme and not (path.parent / unquote(urlsplit(address).path)).exists():
            yield f"loads {address}, which is not there"
    for address in page.links:
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if not target.exists():
            yield f"links to {address}, which is not there"
        elif (
            parts.fragment
            and "_modules" not in path.parts
            and target.suffix == ".html"
            and unquote(parts.fragment) not in read(target).names
        ):
            yield f"links to {address}, which has no such place"


def test_no_link_is_broken_and_nothing_comes_from_another_machine() -> None:
    found = {path.relative_to(BUILT).as_posix(): list(problems_of(path)) for path in built_pages()}
    assert {name: problems for name, problems in found.items() if problems} == {}


def test_planted_problems_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        '<h1 id="here"></h1><a href="#here"></a><a href="#away"></a><a href="gone.html"></a>'
        '<script src="https://cdn.org/x.js"></script><img src="//cdn.org/x.png"><img src="gone.png">'
    )
    assert len(list(problems_of(page))) == 5


def test_each_formula_is_mathml_without_a_command_of_tex() -> None:
    formulas = [
        formula for path in built_pages() for formula in re.findall(r"<math.*?</math>", path.read_text(), re.DOTALL)
    ]
    assert len(formulas) > 600
    assert [formula for formula in formulas if re.search(r"\\[a-zA-Z]", formula)] == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for all tests of this file."""
    with open_browser() as opened:
        yield opened


def test_pages_work_without_a_network(browser: Any) -> None:
    page = open_offline(browser)
    for name in ("index", "derivations/bounds", "how-to/pictures"):
        page.goto((BUILT / f"{name}.html").as_uri())
    assert [line for line in page.said if not line.startswith("file:")] == []
    page.goto((BUILT / "derivations/bounds.html").as_uri())
    boxes = page.evaluate(
        "[...document.querySelectorAll('math')].map((formula) => formula.getBoundingClientRect().width)"
    )
    assert len(boxes) > 20 and min(boxes) > 3


#: Words that readers search for, and the page that is among the first five results.
WANTED = {
    "GPU": "how-to/gpu",
    "missing": "how-to/missing-values",
    "resume": "how-to/resume",
    "seed": "how-to/seeds",
    "speed": "how-to/speed",
    "CSV": "tutorials/counts",
    "tables": "how-to/tables",
    "notebook": "how-to/notebooks",
    "pythae": "how-to/migrate-pythae",
    "augmentation": "how-to/loaders",
    "NaN": "how-to/reading-diagnostics",
}


@pytest.mark.parametrize(("word", "wanted"), WANTED.items(), ids=WANTED)
def test_search_finds_the_page(browser: Any, word: str, wanted: str) -> None:
    page = open_offline(browser)
    page.goto(f"{(BUILT / 'search.html').as_uri()}?q={word}")
    page.wait_for_selector("#search-results li a", timeout=10_000)
    page.wait_for_function(
        "!document.querySelector('#search-results .search-summary')?.textContent.includes('Searching')"
    )
    found = page.evaluate("[...document.querySelectorAll('#search-results li > a')].map((link) => link.href)")
    first = [address.split("/html/")[1].split(".html")[0] for address in found[:5]]
    assert wanted in first


@pytest.mark.parametrize(
    "name", ["index", "derivations/bounds", "how-to/pictures", "tutorials/comparison", "reference"]
)
def test_pages_are_accessible(browser: Any, name: str) -> None:
    page = open_offline(browser)
    page.goto((BUILT / f"{name}.html").as_uri())
    assert violations(page, "critical") == []
