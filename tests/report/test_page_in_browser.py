"""The page of a comparison in a browser: no text is clipped, it is accessible, and it works without a script.

The tests need Chromium. They are skipped where there is none.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browsers import open_browser, open_offline, violations
from comparison_outcomes import DATA, SEEDS, outcome, pointwise

from pvae.batch import Batch
from pvae.comparison.cells.decoder_weights import decoder_arrays
from pvae.comparison.page.make_page import make_page
from pvae.comparison.page.report_data import ReportData
from pvae.comparison.rows import make_ranked_rows
from pvae.comparison.table import Table
from pvae.models import VAE
from pvae.report import Explorer, Page, Section, write_page
from pvae.train.devices import isolated

LONG = "a" * 60 + "-model_" + "$<b>&" + "w" * 48  # 120 letters, some of which are markup

PROBLEMS = (Path(__file__).parents[1] / "support" / "text_problems.js").read_text()


def small_vae() -> VAE:
    """A decoder that is the same in each call; it was not trained."""
    with isolated(0):
        vae = VAE((4, 5), latent=3, hidden=8)
        for parameter in vae.parameters():  # biases start at 0
            torch.nn.init.normal_(parameter)
        return vae


def drawn_arrays() -> dict[str, torch.Tensor]:
    """The decoder of the explorer, and data with a low log evidence."""
    decoder, texts = decoder_arrays(small_vae(), Batch(x=torch.zeros(1, 20)))
    assert texts == {"activations": ["tanh", "sigmoid"]}
    worst = {"worst": torch.rand(2, 4, 5), "worst_reconstructions": torch.rand(2, 4, 5)}
    places = {"worst_places": torch.tensor([3, 1]), "worst_positions": torch.tensor([30, 10])}
    return {**decoder, **worst, **places}


def make_report(folder: Path) -> Path:
    """Write the page of made-up results with names of 3 and of 120 letters, a failed row and learning curves."""
    curve = [[epoch, -30.0 + epoch, 0.5 * epoch] for epoch in range(1, 11)]
    scores = {"curve": curve, "curve_quantity": "validation bound, 25 particles", "curve_split": "validation"}
    scores |= {"drawings": {}, "card": {"class": LONG, "parameters": 12, "programs": {"model": "def model(x): ..."}}}
    names = ("vae", LONG, f"{LONG[:-1]}x")
    cells = [
        outcome(name, seed, values, **scores)
        for shift, name in enumerate(names)
        for seed, values in enumerate(pointwise(float(shift)))
    ]
    cells += [outcome("bad", 0, None, failure="RuntimeError: " + "the decoder is too narrow " * 8)]
    arrays = {cells[0].cell.label: drawn_arrays()}
    cells[0].scores["drawings"]["activations"] = ["tanh", "sigmoid"]
    table = Table(make_ranked_rows(cells, 100), DATA, 100)
    settings = {"Training": {"epochs": 10, "note": "n" * 120}, "Software": {"pvae": "0.1.0"}}
    data = ReportData(
        table,
        cells,
        {"name": LONG, "binarise": "none", "data_shape": [4, 5]},
        settings,
        rerun="pvae compare " + LONG,
        arrays=arrays,
    )
    return write_page(folder / "index.html", make_page(data))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_report(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for all tests of this file."""
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def page(browser: Any, report: Path) -> Any:
    """The page in an offline browser, with everything that it requests or complains of in ``page.said``."""
    opened = open_offline(browser)
    opened.goto(report.as_uri())
    return opened


def test_the_page_requests_nothing_and_its_script_has_no_error(page: Any, report: Path) -> None:
    assert [line for line in page.said if not line.startswith(("data:", report.as_uri()[:80]))] == []


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_no_text_is_clipped_or_overlaps(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate(PROBLEMS) == []


def test_the_check_of_overlaps_sees_planted_ones(page: Any) -> None:
    planted = (
        "<div id=planted style='position:relative'><p style='width:2em;white-space:nowrap;margin-left:-9em'>"
        "clipped text</p><p style='position:absolute;top:0;left:9em'>first text</p>"
        "<b style='position:absolute;top:4px;left:9em'>second</b></div>"
    )
    page.evaluate("html => document.querySelector('h1').insertAdjacentHTML('afterend', html)", planted)
    found = " ".join(page.evaluate(PROBLEMS))
    page.evaluate("document.getElementById('planted').remove()")
    assert "outside: clipped text" in found and "overlap: first text | second" in found


def test_the_page_is_accessible(page: Any) -> None:
    assert violations(page) == []


def test_statuses_differ_in_word_and_shape(page: Any) -> None:
    statuses = page.evaluate(
        """() => [...document.querySelectorAll(".status")].map((status) => {
          const style = getComputedStyle(status.querySelector(".shape"));
          const shape = [style.borderRadius, style.clipPath, style.borderTopWidth].join();
          return [status.textContent.trim(), shape];
        })"""
    )
    shapes = dict(statuses)
    assert len(statuses) == 6 and "not run" in shapes
    assert len(set(shapes.values())) == len(shapes) > 1


def test_headings_sort_by_keyboard(page: Any) -> None:
    table = page.locator("table").nth(1)
    table.locator("thead th button").nth(1).press("Enter")
    rows = table.locator("tbody tr")
    orders = [rows.nth(place).locator("td").first.get_attribute("data-order") for place in range(rows.count())]
    assert orders[-1] is None  # the row that failed
    assert [float(order) for order in orders[:-1]] == sorted(float(order) for order in orders[:-1])
    assert orders[0] != orders[1]


def test_the_explorer_decodes_as_torch_does(page: Any) -> None:
    z = [[0.0, 0.0, 0.0], [1.5, -2.0, 0.3], [-3.0, 3.0, 2.9]]
    found = page.evaluate("z => z.map((values) => document.querySelector('.explorer').decode(values))", z)
    with torch.no_grad():
        expected = small_vae().decode(torch.tensor(z)).mean.reshape(3, 20)
    assert np.allclose(found, expected.numpy(), rtol=0, atol=1e-4)


def test_the_explorer_is_moved_by_the_keyboard(page: Any) -> None:
    explorer = page.locator(".explorer").first
    explorer.locator(".plane").press("ArrowRight")
    explorer.locator(".plane").press("ArrowDown")
    assert [explorer.locator("output").nth(unit).inner_text() for unit in (0, 1, 2)] == ["0.10", "-0.10", "0.00"]
    explorer.locator("input").nth(2).press("End")
    assert explorer.locator("canvas").get_attribute("aria-label").startswith("Mean of x at z = 0.10, -0.10, 3.00,")


def test_pictures_that_were_decoded_before_have_one_unit_away_from_0(browser: Any, tmp_path: Path) -> None:
    levels = np.arange(2 * 13 * 6, dtype="u1")
    content = {"kind": "pictures", "range": 3.0, "size": [2, 13, 2, 3], "levels": b64encode(levels.tobytes()).decode()}
    section = Section("Explorer", explorers=(Explorer("A", content),))
    opened = browser.new_context(offline=True).new_page()
    opened.goto(write_page(tmp_path / "index.html", Page("A page", (), (section,))).as_uri())
    opened.locator("input").nth(0).press("End")
    opened.locator("input").nth(1).press("Home")
    assert opened.locator("output").all_inner_texts() == ["0.00", "-3.00"]
    shown = opened.evaluate("document.querySelector('.explorer').decode([0, -3])")
    assert np.allclose(shown, levels.reshape(2, 13, 6)[1, 0] / 255)


def test_charts_follow_dark_mode(page: Any) -> None:
    colour = "() => getComputedStyle(document.querySelector('.chart text')).fill"
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(colour)
    page.emulate_media(color_scheme="light")
    assert page.evaluate("() => document.querySelector('picture img').currentSrc.length") > 100
    assert (light, dark) == ("rgb(31, 35, 40)", "rgb(232, 232, 230)")


def test_print_fits_the_width_of_a4(page: Any) -> None:
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 688, "height": 1000})  # A4 less margins of 14 mm, at 96 pixels per inch
    rights = "() => [...document.querySelectorAll('main *')].map((element) => element.getBoundingClientRect().right)"
    widest = max(page.evaluate(rights))
    page.emulate_media(media="screen")
    assert widest <= 689


def test_without_a_script_all_numbers_figures_and_downloads_are_there(browser: Any, report: Path) -> None:
    plain = browser.new_context(java_script_enabled=False, offline=True).new_page()
    plain.goto(report.as_uri())
    text = plain.locator("main").inner_text()
    assert f"of {SEEDS}" in text and "the decoder is too narrow" in text
    assert plain.locator(".chart svg").count() == 5 and "Latent explorer" not in text
    with plain.expect_download() as saved:
        plain.get_by_role("link", name="results.csv").click()
    lines = Path(saved.value.path()).read_bytes().decode().split("\r\n")
    assert lines[0].startswith("key,model,objective,seeds") and len(lines) == 6
    evidence = lines[0].split(",").index("log_evidence.value")
    assert np.isfinite(float(lines[1].split(",")[evidence]))
