"""Every notebook of the documentation runs in an empty folder, and shows what is stored in it."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from notebooks import NOTEBOOKS, read, run_cells, shown_text, unlike, write_outputs
from page_outputs import DOCS, ROOT


def _notebook(*sources: str) -> dict[str, Any]:
    cells = [{"cell_type": "code", "source": [source], "outputs": [], "execution_count": None} for source in sources]
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def test_there_is_a_notebook_and_a_page_leads_to_each() -> None:
    assert NOTEBOOKS
    pages = "".join(page.read_text() for page in DOCS.rglob("*.md"))
    assert [path.name for path in NOTEBOOKS if path.name not in pages] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_complete(path: Path) -> None:
    notebook = read(path)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert sum(bool(cell["outputs"]) for cell in code) >= 5
    kinds = {kind for cell in code for output in cell["outputs"] for kind in output.get("data", {})}
    assert {"text/html", "image/png"} <= kinds
    assert path.stat().st_size < 200_000


@pytest.mark.pages
@pytest.mark.keeps_params
@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_is_stored(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for cell, outputs in run_cells(read(path)):
        assert unlike(cell["outputs"], outputs) == "", "".join(cell["source"])


@pytest.mark.pages
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_a_kernel(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install 'pvae[notebook]'")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    stored = read(path)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for cell, ran in zip(stored["cells"], notebook.cells, strict=True):
        if cell["cell_type"] == "code":
            outputs = [output for output in ran.outputs if output.get("name") != "stderr"]
            assert unlike(cell["outputs"], outputs) == "", ran.source


def test_a_changed_number_or_picture_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw = "from pvae import plots\nplots.image_grid({values}.reshape(1, 4, 4))"
    start = "import numpy as np\nprint('sum', 2.5)\nnp.arange(3)"
    path = tmp_path / "small.ipynb"
    path.write_text(json.dumps(_notebook(start, draw.format(values="np.arange(16.0)"), "x = 1")))
    write_outputs(path)
    stored = read(path)
    outputs = [cell["outputs"] for cell in stored["cells"]]
    assert shown_text(outputs[0]) == "sum 2.5\narray([0, 1, 2])" and outputs[2] == []
    assert [unlike(cell["outputs"], fresh) for cell, fresh in run_cells(stored)] == ["", "", ""]
    changed = copy.deepcopy(stored)
    changed["cells"][0]["source"] = [start.replace("2.5", "2.7")]
    changed["cells"][1]["source"] = [draw.format(values="-np.arange(16.0)")]
    changed["cells"][2]["source"] = ["print('more')"]
    seen = [unlike(cell["outputs"], fresh) for cell, fresh in run_cells(changed)]
    assert "'sum 2.5'" in seen[0] and seen[1] == "picture 1 differs" and "'more' is printed" in seen[2]
