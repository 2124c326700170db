"""Every snippet of the documentation runs, page by page, in an empty folder, and prints what the page shows."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from page_outputs import DOCS, FENCE, ROOT, blocks, pages, problems, run_page, write_outputs
from PIL import Image
from public_names import public_homes

import pvae

PAGES = pages()
# `make test` runs the README, and `make check` the other pages.
MARKED_PAGES = [
    pytest.param(path, marks=() if path.parent == ROOT else pytest.mark.pages, id=path.relative_to(ROOT).as_posix())
    for path in PAGES
]
#: Pages that lead from a question to its result, and how many of their blocks run at least.
JOURNEYS = {"tutorials/own-model": 3, "tutorials/counts": 5, "how-to/notebooks": 8}


@pytest.mark.keeps_params
@pytest.mark.parametrize("path", MARKED_PAGES)
def test_snippets_of_the_page_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if not any(block.kind in ("python", "console") for block in blocks(path.read_text())):
        assert "```python" not in path.read_text()
        return
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    if path.stem not in ("comparison", "report"):  # these pages draw the pictures of their reports
        request.getfixturevalue("without_pictures")
    modules = set(sys.modules)
    assert list(problems(path)) == []
    for name in set(sys.modules) - modules:
        if Path(getattr(sys.modules[name], "__file__", None) or "").is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.mark.paths
@pytest.mark.parametrize(("page", "least"), JOURNEYS.items(), ids=JOURNEYS)
def test_the_blocks_of_a_journey_are_run(page: str, least: int) -> None:
    path = DOCS / f"{page}.md"
    assert path in PAGES
    assert sum(block.kind in ("python", "console") for block in blocks(path.read_text())) >= least


def test_a_planted_error_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n<!-- not run: no -->\n```python\n1 / 0\n```\n")
    assert [block.text for block, _ in run_page(page)] == ["x = 1\n"]
    page.write_text("```python\nx = 0\n```\ntext\n```python\n1 / x\n```\n")
    with pytest.raises(ZeroDivisionError):
        list(run_page(page))


@pytest.mark.parametrize(
    ("shown", "problem"),
    [
        ("", "does not show"),
        ("```output\nmean 3.14 in 9 s\n```\n", ""),
        ("```output\nmean 4.1 in 2 s\n```\n", "'mean 4.1 in 2 s', and 'mean 3.141 in 2 s' is printed"),
        ("```output\nmean 3.14 in 9 s\nend\n```\n", "'end', and nothing is printed"),
        ("```output\n...\n```\n", ""),
        ("text\n```output\nmean 3.14 in 9 s\n```\n", "does not show"),
    ],
)
def test_a_page_shows_what_its_blocks_print(shown: str, problem: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"```python\nprint('mean 3.141 in 2 s')\n```\n\n{shown}")
    found = list(problems(page))
    assert len(found) == bool(problem) and problem in "".join(found)
    write_outputs(page)
    assert list(problems(page)) == []


def test_a_page_shows_what_its_commands_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("```console\n$ pvae --version\n```\n")
    assert "does not show" in "".join(problems(page))
    write_outputs(page)
    assert page.read_text() == f"```console\n$ pvae --version\npvae {pvae.__version__}\n```\n"
    page.write_text("```console\n$ pvae --version\nanother\n```\n")
    assert "'another'" in "".join(problems(page))


def test_a_page_shows_the_pictures_that_it_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    page, shown = tmp_path / "page.md", tmp_path / "figures" / "pages" / "page-plane.png"
    draw = "from PIL import Image\nImage.new('L', (40, 40), 200).save('plane.png')"
    page.write_text(f"```python\n{draw}\n```\n\n![A plane](figures/pages/page-plane.png)\n")
    assert "page-plane.png" in "".join(problems(page))
    write_outputs(page)
    assert shown.exists() and list(problems(page)) == []
    Image.new("L", (40, 40), 100).save(shown)
    assert "page-plane.png" in "".join(problems(page))


def test_every_page_is_reached_from_the_index() -> None:
    listed = set(re.findall(r"^([a-z][a-z/-]+)$", (DOCS / "index.md").read_text(), flags=re.MULTILINE))
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in PAGES[1:]}
    pages = {page for page in pages if not page.startswith("reference/generated")}
    assert listed == pages - {"index"}


def test_the_start_page_shows_every_picture() -> None:
    shown = set(re.findall(r"\]\((figures/[^)]+\.png)\)\]", (DOCS / "index.md").read_text()))
    pictures = {path.relative_to(DOCS).as_posix() for path in (DOCS / "figures").rglob("*.png")}
    assert pictures - shown == set(), "add these to the gallery of docs/index.md, each with a link to its page"
    assert shown - pictures == set()


def _anchors(page: Path) -> set[str]:
    """Return the names by which links lead to the headings of a page, as GitHub and MyST make them."""
    headings = re.findall(r"^#{1,3} (.+)$", FENCE.sub("", page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.paths
def test_links_between_pages_lead_somewhere() -> None:
    missing = []
    for path in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for target, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)", path.read_text()):
            page = path.parent / target if target else path
            if not page.exists() or (anchor and anchor not in _anchors(page)):
                missing.append(f"{path.name}: {target}#{anchor}")
    assert missing == []


def test_the_changelog_has_one_bullet_for_each_subject() -> None:
    for section in (ROOT / "CHANGELOG.md").read_text().split("\n##"):
        subjects = re.findall(r"^- \*\*(.+?)\*\*", section, flags=re.MULTILINE)
        assert sorted(subjects) == sorted(set(subjects)), section.splitlines()[0]


def test_the_reference_lists_every_public_name() -> None:
    listed = set(re.findall(r"^   (\w+)$", (DOCS / "reference.md").read_text(), flags=re.MULTILINE))
    assert listed == set(public_homes())
