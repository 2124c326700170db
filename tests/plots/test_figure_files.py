"""Each figure has a title, and its file has title, origin and date in its metadata."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pvae import InputError, plots
from pvae.plots.figure_files import title_of

FACTS = {"run": "runs/a <b>", "seed": 3}
TITLE = "Means of p(x given z) for z drawn from the prior, in a line that is longer than the figure is wide"


@pytest.fixture
def figure():
    return plots.image_grid(np.zeros((2, 4, 4)), title=TITLE, note="Given: y.")


def test_the_title_is_broken_into_lines_and_makes_the_figure_higher(figure):
    plain = plots.image_grid(np.zeros((2, 4, 4)))
    lines = figure.get_suptitle().splitlines()
    assert len(lines) > 2 and lines[-1] == "Given: y." and title_of(figure) == f"{TITLE} Given: y."
    assert figure.get_figheight() == pytest.approx(plain.get_figheight() + 0.17 * len(lines))


def test_metadata_of_png(figure, tmp_path: Path):
    plots.save_figure(figure, tmp_path / "a.png", FACTS)
    with Image.open(tmp_path / "a.png") as image:
        assert image.text["Title"] == f"{TITLE} Given: y." and image.text["Description"] == "run: runs/a <b>; seed: 3"
        age = datetime.now(UTC) - datetime.fromisoformat(image.text["Creation Time"])
    assert timedelta(seconds=-1) < age < timedelta(minutes=1)


def test_a_path_may_be_a_text(figure, tmp_path: Path):
    plots.save_figure(figure, str(tmp_path / "a.png"))
    with Image.open(tmp_path / "a.png") as image:
        assert image.text["Title"] == f"{TITLE} Given: y."


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a", "needs a file of a known kind; got '.*a'. Known: .*png"),
        ("a.txt", "needs a file of a known kind; got '.*a.txt'. Known: .*png"),
        ("none/a.png", "needs an existing folder; '.*none' does not exist"),
    ],
)
def test_a_path_that_cannot_be_written_is_one_line(figure, tmp_path: Path, name: str, message: str):
    with pytest.raises(InputError, match=message):
        plots.save_figure(figure, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_metadata_of_svg_pdf_and_jpeg(figure, tmp_path: Path):
    for suffix in ("svg", "pdf", "jpg"):
        plots.save_figure(figure, tmp_path / f"a.{suffix}", FACTS)
    svg = (tmp_path / "a.svg").read_text()
    assert "run: runs/a &lt;b&gt;; seed: 3" in svg and re.search(r"<dc:date>20\d\d-", svg)
    assert b"/Subject (run: runs/a <b>; seed: 3)" in (tmp_path / "a.pdf").read_bytes()
    with Image.open(tmp_path / "a.jpg") as image:
        assert b"Means of p(x given z)" in image.info["comment"] and b"seed: 3" in image.info["comment"]


def test_each_figure_of_plots_has_a_title():
    x, table = np.random.default_rng(0).uniform(size=(3, 4, 4, 4)), np.random.default_rng(0).uniform(size=(3, 4, 5))
    figures = [
        plots.category_bars({"k": [0, 1]}),
        plots.component_strips(table[0], [0.2, 0.8, 0, 0]),
        plots.draws(table[0]),
        plots.evidence_intervals({"a": [1.0]}, {"a": 0.1}),
        plots.history([{"epoch": 1, "loss": 1.0}]),
        plots.inpainting(x[0], x[0] > 0.5, x[1]),
        plots.interpolations(x),
        plots.latent_scatter(table[0]),
        plots.learning_curves({"a": [([1], [1.0])]}),
        plots.mixture_ellipses(table[0], [0] * 4, [1.0], [[0.0] * 5], [np.eye(5)]),
        plots.mixture_pictures(x[0], [0.25] * 4),
        plots.plane(x[:, :3], np.zeros((2, 3))),
        plots.reconstructions(x[0], x[1]),
        plots.selection_curve([1], {"BIC": [1.0]}),
        plots.signal_to_noise([1, 2], {"a": [1.0, 2.0]}),
        plots.traversal(x, np.zeros(4)),
        plots.value_rows(x, ["a", "b", "c"], "y"),
    ]
    assert all(title_of(figure) for figure in figures)
