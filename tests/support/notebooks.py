"""Run the notebooks of the documentation without a kernel, and compare what their cells show with what is stored.

``python tests/support/notebooks.py``, a part of ``make outputs``, runs all notebooks and stores their outputs in them.
A cell shows what it prints, and the value of its last line: as HTML or as a picture if it has one, else as text.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import html
import io
import json
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from page_outputs import DOCS, difference
from PIL import Image

__all__ = ["NOTEBOOKS", "read", "run_cells", "shown_text", "unlike", "write_outputs"]

#: The notebooks of the documentation; a build of the pages has copies.
NOTEBOOKS = sorted(path for path in DOCS.rglob("[!.]*.ipynb") if "_build" not in path.parts)
#: The ranking of a comparison at an equal time depends on the machine.
AT_EQUAL_TIME = re.compile(r"Validation bound at \S+ \w+ of training[:, ]")


def read(path: Path) -> dict[str, Any]:
    """Return the content of a notebook."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def run_cells(notebook: dict[str, Any]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Run the cells of code in order in one namespace, and yield each with its outputs."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, 1):
        yield cell, _run("".join(cell["source"]), f"<cell {number}>", number, names)


def _run(source: str, name: str, number: int, names: dict[str, Any]) -> list[dict[str, Any]]:
    tree = ast.parse(source, name)
    *body, last = tree.body
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a kernel prints warnings on standard error, which is not stored
        if isinstance(last, ast.Expr):
            exec(compile(ast.Module(body, []), name, "exec"), names)
            value = eval(compile(ast.Expression(last.value), name, "eval"), names)
        else:
            exec(compile(tree, name, "exec"), names)
    text = printed.getvalue().splitlines(keepends=True)
    outputs: list[dict[str, Any]] = [{"name": "stdout", "output_type": "stream", "text": text}] if text else []
    if value is not None:
        data = _as_data(value)
        outputs.append({"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"})
    return outputs


def _as_data(value: Any) -> dict[str, Any]:
    if hasattr(value, "_repr_png_"):
        return {"image/png": base64.b64encode(_small(value._repr_png_())).decode()}
    if hasattr(value, "_repr_html_"):
        return {"text/html": value._repr_html_().splitlines(keepends=True)}
    return {"text/plain": repr(value).splitlines(keepends=True)}


def _small(picture: bytes) -> bytes:
    """Return a picture in 64 colours, which are enough."""
    written = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").quantize(64).save(written, "png", optimize=True)
    return written.getvalue()


def shown_text(outputs: list[dict[str, Any]]) -> str:
    """Return what the outputs of a cell show as text, without tags, pictures and what depends on the machine."""
    parts = []
    for output in outputs:
        data = output.get("data", {"text/plain": output.get("text", [])})
        page = "".join(data.get("text/html", []))
        page = re.sub(r"<style.*?</style>", "", page, flags=re.DOTALL)
        plain = "" if "image/png" in data else "".join(data.get("text/plain", []))
        words = html.unescape(re.sub(r"<[^>]+>", " ", page)) if page else plain
        lines = (" ".join(line.split()) for line in words.splitlines())
        parts.append("\n".join(line for line in lines if line and not AT_EQUAL_TIME.match(line)))
    return "\n".join(filter(None, parts))


def _pictures(outputs: list[dict[str, Any]]) -> list[np.ndarray]:
    pictures = []
    for output in outputs:
        content = "".join(output.get("data", {}).get("image/png", ""))
        if content:
            with Image.open(io.BytesIO(base64.b64decode(content))) as image:
                grey = image.convert("L").resize((32, 32), Image.Resampling.BOX)
                pictures.append(np.asarray(grey, dtype=float) / 255)
    return pictures


def unlike(stored: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> str:
    """Return how outputs differ from the stored ones beyond times and the rounding of processors; "" if they do not."""
    text = difference(shown_text(stored), shown_text(outputs))
    if text:
        return text
    wanted, found = _pictures(stored), _pictures(outputs)
    if len(wanted) != len(found):
        return f"{len(wanted)} pictures are stored, and {len(found)} are shown"
    far = [
        number for number, (one, two) in enumerate(zip(wanted, found, strict=True)) if np.abs(one - two).mean() > 0.03
    ]
    return f"picture {far[0] + 1} differs" if far else ""


def write_outputs(path: Path) -> None:
    """Run a notebook in an empty folder, and store its outputs; outputs that are right stay as they are."""
    notebook = read(path)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for number, (cell, outputs) in enumerate(run_cells(notebook), 1):
            cell["execution_count"] = number
            if unlike(cell["outputs"], outputs):
                cell["outputs"] = outputs
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    for named in [Path(name).resolve() for name in sys.argv[1:]] or NOTEBOOKS:
        write_outputs(named)
