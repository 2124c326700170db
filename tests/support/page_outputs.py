"""Run the blocks of a page of the documentation and compare what they print with what the page shows.

``python tests/support/page_outputs.py docs/getting-started.md`` runs the page and writes the printed text into it: in a
block of kind ``output`` after each ``python`` block that prints, and below each command of a ``console`` block.
``make outputs`` does so for all pages.

The blocks of a page run in order and share one namespace: ``python`` blocks are executed, ``{code-block}``
with a ``:caption:`` is written to the file it names, as is the file of a ``{literalinclude}``, and each ``$ pvae``
line of a ``console`` block is run.
A comment ``<!-- not run: why -->`` before a block exempts it. ``<!-- output not shown: why -->`` leaves its output out,
and ``<!-- output not compared: why -->`` shows an output that differs each time, such as measured times.

A picture ``![caption](../figures/pages/data-plane.png)`` of the page ``data.md`` is the file ``plane.png`` that its
blocks write; ``data-run-plane.png`` is ``plane.png`` in a folder ``run``.
"""

from __future__ import annotations

import contextlib
import io
import linecache
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^(?P<fence>`{3,})(?P<kind>[^\n`]*)\n(?P<body>.*?)^(?P=fence)[ ]*$", flags=re.MULTILINE | re.DOTALL)
CAPTION = re.compile(r"\A:caption: (?P<file>\S+)\n\n?")
OUTPUT = re.compile(r"\s*\n```output\n(?P<text>.*?)^```[ ]*$", flags=re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"[-+]?(?<![\w.])(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
#: text that differs from run to run: durations, dates, digests
VARIABLE = re.compile(
    r"\b\d+(?:\.\d+)?(?: ?(?:s|ms|min|h|it/s)\b| (?:seconds|minutes)\b)"
    r"|seconds['\"]?:?\s+[\d.]+"
    r"|\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?)?\b"
    r"|\b[0-9a-f]{8,64}\b"
)
PICTURE = re.compile(r"!\[[^\]]*\]\((?P<path>[^)\s]*figures/pages/[^)\s]+\.png)\)")
RELATIVE, ABSOLUTE = 0.03, 0.01


class Block(NamedTuple):
    """One fenced block of a page that is to run.

    Attributes:
        kind: the text behind the fence, for instance ``python``.
        text: the lines of the block.
        line: the number of its first line in the page.
        file: the file that the block is written to, or None.
        shown: the output that the page shows; "" if it shows none. That of a ``console`` block has its commands too.
        place: where the output is in the page, or belongs if there is none.
        hides_output: whether a comment leaves the output out.
        is_compared: whether the output is compared with what is printed.
    """

    kind: str
    text: str
    line: int
    file: str | None
    shown: str
    place: slice
    hides_output: bool
    is_compared: bool

    @property
    def shows_output(self) -> bool:
        """Whether the page shows any output of this block."""
        lines = [line for line in self.shown.splitlines() if line]
        return bool(lines) and not all(line.startswith("$ ") for line in lines)


def pages() -> list[Path]:
    """Return the README and all pages of the documentation."""
    return [ROOT / "README.md", *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)]


def blocks(page: str) -> Iterator[Block]:
    """Yield the blocks of a page that are to run, in order."""
    for match in FENCE.finditer(page):
        comments = _comments_before(page[: match.start()])
        if any(comment.startswith("not run: ") for comment in comments):
            continue
        body, line = match["body"], page[: match.start("body")].count("\n") + 1
        caption = CAPTION.match(body)
        text = body[caption.end() :] if caption else body
        kind = match["kind"].strip()
        output = OUTPUT.match(page, match.end())
        shown, place = (output["text"], slice(*output.span())) if output else ("", slice(match.end(), match.end()))
        if kind == "console":
            shown, place = body, slice(*match.span("body"))
        hides_output, varies = (
            any(comment.startswith(f"output not {word}: ") for comment in comments) for word in ("shown", "compared")
        )
        file = caption["file"] if caption else None
        yield Block(kind, text, line, file, shown, place, hides_output, is_compared=not varies)


def _comments_before(text: str) -> list[str]:
    """Return the comments on the lines directly before a block."""
    comments = []
    for line in reversed(text.rstrip().splitlines()):
        if not line.startswith("<!-- "):
            break
        comments.append(line.removeprefix("<!-- "))
    return comments


def run_page(path: Path) -> Iterator[tuple[Block, str]]:
    """Run the blocks of a page in the working folder, from fixed seeds; yield each with what it printed."""
    pyro.set_rng_seed(0)
    namespace: dict[str, Any] = {"__name__": "__docs__"}
    for block in blocks(path.read_text()):
        printed = ""
        if block.file is not None:
            included = block.kind.partition("{literalinclude} ")[2]
            Path(block.file).write_text((path.parent / included).read_text() if included else block.text)
        elif block.kind == "python":
            name = f"{path}:{block.line}"
            linecache.cache[name] = (len(block.text), None, block.text.splitlines(keepends=True), name)
            with contextlib.redirect_stdout(io.StringIO()) as captured:
                exec(compile(block.text, name, "exec"), namespace)
            printed = _tidy(captured.getvalue())
        elif block.kind == "console":
            commands = [line for line in block.text.splitlines() if line.startswith("$ ")]
            printed = "\n".join(f"{command}\n{_run_command(command)}" for command in commands)
            if not any(map(str.strip, _outputs(printed))):
                printed = "".join(f"{command}\n" for command in commands)
        else:
            continue
        yield block, printed


def _outputs(console: str) -> list[str]:
    return [line for line in console.splitlines() if not line.startswith("$ ")]


def _tidy(printed: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in printed.strip("\n").splitlines())


def _run_command(line: str) -> str:
    """Run a ``$ pvae`` line in this process: starting workers would take longer than these comparisons."""
    from pvae.cli import cli

    arguments = shlex.split(line.removeprefix("$ "))
    assert arguments.pop(0) == "pvae", f"{line}: only pvae is run"
    if arguments[0] == "compare" and not {"--plan", "--cell", "--executor"} & set(arguments):
        arguments += ["--workers", "0"]
    code: Any = 0
    with contextlib.redirect_stdout(io.StringIO()) as captured:
        try:
            cli.main(arguments)
        except SystemExit as ended:
            code = ended.code
    assert code == 0, f"{line} ended with {code}"
    return _tidy(captured.getvalue())


def difference(shown: str, printed: str) -> str:
    """Return the first line of the page that differs from what was printed; "" if there is none.

    Durations, dates and digests may differ, and numbers by 3 % or 0.01, since processors round differently. A line
    ``...`` of the page covers any lines.
    """
    wanted, found = shown.rstrip().splitlines(), printed.rstrip().splitlines()
    for number, line in enumerate(wanted):
        if line.strip() == "...":
            rest = wanted[number + 1 :]
            return difference("\n".join(rest), "\n".join(found[len(found) - len(rest) :])) if rest else ""
        if number >= len(found):
            return f"the page shows {line!r}, and nothing is printed"
        if not _is_same(line, found[number]):
            return f"the page shows {line!r}, and {found[number]!r} is printed"
    if len(found) > len(wanted):
        return f"{found[len(wanted)]!r} is printed, and the page does not show it"
    return ""


def _is_same(line: str, other: str) -> bool:
    line, other = VARIABLE.sub("~", line), VARIABLE.sub("~", other)
    words = ["".join(NUMBER.sub("#", text).split()) for text in (line, other)]
    if words[0] != words[1]:
        return False
    numbers = [[float(number.replace(",", "")) for number in NUMBER.findall(text)] for text in (line, other)]
    return all(
        abs(one - two) <= ABSOLUTE + RELATIVE * max(abs(one), abs(two)) for one, two in zip(*numbers, strict=True)
    )


def problems(path: Path) -> Iterator[str]:
    """Run a page, and yield each output that the page does not show or shows differently.

    A page of the documentation shows what its blocks print; the README shows some of it.
    """
    for block, printed in run_page(path):
        place = f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}, line {block.line}"
        if block.hides_output or (not block.shows_output and path.parent == ROOT):
            continue
        if not block.shows_output and any(map(str.strip, _outputs(printed))):
            yield f"{place}: the page does not show what the block prints; `make outputs` adds it"
        elif block.is_compared and (found := difference(block.shown, printed)):
            yield f"{place}: {found}; `make outputs` writes it anew"
    for shown, written in pictures(path):
        if not shown.exists() or not is_same_picture(shown, written):
            yield f"{shown.name} is not the picture that the page draws; `make outputs` writes it anew"


def pictures(path: Path) -> Iterator[tuple[Path, Path]]:
    """Yield each picture of a page that its blocks write: the file of the page, and the file in the working folder."""
    for match in PICTURE.finditer(path.read_text()):
        shown = (path.parent / match["path"]).resolve()
        assert shown.name.startswith(f"{path.stem}-"), f"{shown.name} must start with the name of its page"
        name = shown.name.removeprefix(path.stem)
        written = [file for file in Path().rglob("*.png") if f"-{file.as_posix()}".replace("/", "-").endswith(name)]
        assert len(written) == 1, f"the page must write the picture {shown.name} once, not {len(written)} times"
        yield shown, written[0]


def _thumbnail(path: Path) -> np.ndarray:
    """Return grey levels of a picture in 32 by 32 squares, from 0 to 1: small differences of fonts do not count."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.BOX), dtype=float) / 255


def is_same_picture(one: Path, other: Path) -> bool:
    """Return whether two pictures differ by less than 3 % of the grey levels on average, at the same shape."""
    with Image.open(one) as first, Image.open(other) as second:
        shapes = [picture.height / picture.width for picture in (first, second)]
    return abs(shapes[0] - shapes[1]) < 0.05 and float(abs(_thumbnail(one) - _thumbnail(other)).mean()) < 0.03


def _copy_pictures(path: Path) -> None:
    for shown, written in pictures(path):
        shown.parent.mkdir(parents=True, exist_ok=True)
        if shown.exists() and is_same_picture(shown, written):
            continue
        with Image.open(written) as picture:  # 64 colours are enough, and make the file a third as large
            picture.convert("RGB").quantize(64).save(shown, optimize=True)


def write_outputs(path: Path) -> None:
    """Run a page in an empty folder, and write what its blocks print into it; right outputs stay as they are."""
    page = path.read_text()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        sys.path.insert(0, folder)
        ran = list(run_page(path))
        sys.path.remove(folder)
        _copy_pictures(path)
    for block, printed in reversed(ran):
        is_fresh = block.shows_output and not (block.is_compared and difference(block.shown, printed))
        if block.hides_output or is_fresh:
            continue
        text = printed if block.kind == "console" else f"\n\n```output\n{printed}```" if printed else ""
        page = page[: block.place.start] + text + page[block.place.stop :]
    path.write_text(page)


if __name__ == "__main__":
    named = [Path(name).resolve() for name in sys.argv[1:]] or pages()
    if len(named) == 1:  # each page has a process of its own
        write_outputs(named[0])
    else:
        for page_path in named:
            print(page_path.relative_to(ROOT), flush=True)
            subprocess.run([sys.executable, __file__, str(page_path)], check=True)
