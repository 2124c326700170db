"""Every snippet of the documentation runs, page by page, in an empty folder.

The blocks of a page run in order and share one namespace: ``python`` blocks are executed, ``{code-block}``
with a ``:caption:`` is written to the file it names, as is the file of a ``{literalinclude}``, and each ``$ pvae``
line of a ``console`` block is run.
A comment ``<!-- not run: why -->`` before a block exempts it.
"""

from __future__ import annotations

import linecache
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from public_names import public_homes

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)]
FENCE = re.compile(r"^(?P<fence>`{3,})(?P<kind>[^\n`]*)\n(?P<body>.*?)^(?P=fence)[ ]*$", flags=re.MULTILINE | re.DOTALL)
CAPTION = re.compile(r"\A:caption: (?P<file>\S+)\n\n?")


class Block(NamedTuple):
    """One fenced block of a page: its kind, its text, the number of its first line, its file."""

    kind: str
    text: str
    line: int
    file: str | None


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page that are to run, in order."""
    for match in FENCE.finditer(page):
        before = page[: match.start()].rstrip().splitlines()
        if before and before[-1].startswith("<!-- not run: "):
            continue
        body, line = match["body"], page[: match.start("body")].count("\n") + 1
        caption = CAPTION.match(body)
        text = body[caption.end() :] if caption else body
        yield Block(match["kind"].strip(), text, line, caption["file"] if caption else None)


def run_page(path: Path) -> int:
    """Run the blocks of a page in the working folder; return how many there were."""
    namespace: dict[str, Any] = {"__name__": "__docs__"}
    count = 0
    for block in blocks(path.read_text()):
        if block.file is not None:
            included = block.kind.partition("{literalinclude} ")[2]
            Path(block.file).write_text((path.parent / included).read_text() if included else block.text)
        elif block.kind == "python":
            name = f"{path}:{block.line}"
            linecache.cache[name] = (len(block.text), None, block.text.splitlines(keepends=True), name)
            exec(compile(block.text, name, "exec"), namespace)
        elif block.kind == "console":
            run_console(block.text)
        else:
            continue
        count += 1
    return count


def run_console(text: str) -> None:
    """Run each ``$ pvae`` line in this process: starting workers would take longer than these comparisons."""
    from pvae.cli import cli

    for line in text.splitlines():
        if line.startswith("$ pvae "):
            arguments = shlex.split(line.removeprefix("$ pvae "))
            with pytest.raises(SystemExit) as ended:
                cli.main([*arguments, "--workers", "0"] if arguments[0] == "compare" else arguments)
            assert ended.value.code == 0, f"{line} ended with {ended.value.code}"


@pytest.mark.keeps_params
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
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
    assert run_page(path) > 0
    for name in set(sys.modules) - modules:
        if Path(getattr(sys.modules[name], "__file__", None) or "").is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.mark.paths
def test_a_planted_error_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n<!-- not run: no -->\n```python\n1 / 0\n```\n")
    assert run_page(page) == 1
    page.write_text("```python\nx = 0\n```\ntext\n```python\n1 / x\n```\n")
    with pytest.raises(ZeroDivisionError):
        run_page(page)


def test_every_page_is_reached_from_the_index() -> None:
    listed = set(re.findall(r"^([a-z][a-z/-]+)$", (DOCS / "index.md").read_text(), flags=re.MULTILINE))
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in PAGES[1:]}
    pages = {page for page in pages if not page.startswith("reference/generated")}
    assert listed == pages - {"index"}


@pytest.mark.paths
def test_links_between_pages_lead_somewhere() -> None:
    missing = []
    for path in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", path.read_text()):
            if not (path.parent / target).exists():
                missing.append(f"{path.name}: {target}")
    assert missing == []


def test_the_changelog_has_one_bullet_for_each_subject() -> None:
    for section in (ROOT / "CHANGELOG.md").read_text().split("\n##"):
        subjects = re.findall(r"^- \*\*(.+?)\*\*", section, flags=re.MULTILINE)
        assert sorted(subjects) == sorted(set(subjects)), section.splitlines()[0]


def test_the_reference_lists_every_public_name() -> None:
    listed = set(re.findall(r"^   (\w+)$", (DOCS / "reference.md").read_text(), flags=re.MULTILINE))
    assert listed == set(public_homes())
