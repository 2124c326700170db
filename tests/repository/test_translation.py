"""The Chinese README has the commands, programs, links and numbers of the English one, in the same order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGLISH, CHINESE = (ROOT / name for name in ("README.md", "README.zh-CN.md"))
PARTS = {
    "blocks of code": re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL),
    "links": re.compile(r"\]\(([^)]+)\)"),
    "numbers in the table of measurements": re.compile(r"-?\d+(?:\.\d+)?"),
    "headings": re.compile(r"^##? ", re.MULTILINE),
}


def parts(path: Path, kind: str) -> list[str]:
    """Return the parts of one kind; links to the other language are left out."""
    text = path.read_text("utf-8")
    if kind.startswith("numbers"):
        text = "\n".join(line for line in text.splitlines() if line.startswith("|") and "benchmarks/" in line)
        # Small numbers are words in one language or the other.
        return sorted(number for number in PARTS[kind].findall(text) if "." in number)
    found = PARTS[kind].findall(text)
    return [part for part in found if part not in (ENGLISH.name, CHINESE.name)]


@pytest.mark.parametrize("kind", PARTS)
def test_both_languages_have_the_same(kind: str) -> None:
    ours, theirs = parts(ENGLISH, kind), parts(CHINESE, kind)
    assert ours, kind
    assert ours == theirs


def test_each_language_links_the_other_in_its_first_line() -> None:
    for path, other in ((ENGLISH, CHINESE), (CHINESE, ENGLISH)):
        assert f"]({other.name})" in path.read_text("utf-8").splitlines()[0]
