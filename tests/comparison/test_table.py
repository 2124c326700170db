"""The table of a comparison: statistics of a row, columns, text, JSON and verdict."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from comparison_outcomes import DATA, RNG, SEEDS, outcome, outcomes, pointwise

from pvae.comparison import rows as making
from pvae.comparison.cells.training_summary import read_curve
from pvae.comparison.page.make_page import make_page
from pvae.comparison.page.report_data import ReportData
from pvae.comparison.rows import make_ranked_rows, make_rows
from pvae.comparison.table import columns
from pvae.comparison.table.comparison_table import Table
from pvae.comparison.table.row import Row, row_label


def test_evidence_has_its_error_over_data_and_its_spread_over_seeds():
    a, b = pointwise(), pointwise()
    row = make_rows(outcomes(a, b))[0]
    assert row.log_evidence.value == pytest.approx(a.mean(), rel=1e-12)
    assert row.log_evidence.error == pytest.approx(a.mean(0).std(ddof=1) / math.sqrt(DATA), rel=1e-12)
    assert row.spread == pytest.approx(a.mean(1).std(ddof=1), rel=1e-12)
    assert row.gap.value == pytest.approx(1.5, rel=1e-12) and row.elbo.value == pytest.approx(a.mean() - 1.5)


def test_difference_is_paired_by_datum_and_by_seed():
    a, b = pointwise(), pointwise(0.4)
    first, second = make_rows(outcomes(a, b))
    delta = b - a
    assert first.difference is None
    assert second.difference.value == pytest.approx(delta.mean(), rel=1e-12)
    assert second.difference.error == pytest.approx(delta.mean(0).std(ddof=1) / math.sqrt(DATA), rel=1e-12)
    assert second.difference_over_seeds.error == pytest.approx(delta.mean(1).std(ddof=1) / math.sqrt(SEEDS), rel=1e-12)
    residuals = delta - delta.mean(0) - delta.mean(1, keepdims=True) + delta.mean()
    over_data, over_seeds = second.difference.error**2, second.difference_over_seeds.error**2
    in_both = (residuals**2).sum() / ((SEEDS - 1) * (DATA - 1)) / (SEEDS * DATA)
    expected = max(over_data, over_seeds, over_data + over_seeds - in_both)
    assert second.difference_error**2 == pytest.approx(expected, rel=1e-12)
    # Pairing is the point: unpaired, the same difference would be lost in the spread of the data.
    assert second.difference.error < 0.2 * math.hypot(first.log_evidence.error, second.log_evidence.error)


def test_difference_uses_only_the_seeds_that_both_rows_have():
    a, b = pointwise(), pointwise(0.4)
    found = outcomes(a, b)
    found[0] = outcome("elbo", 0, None, failure="broke")
    first, second = make_rows(found)
    assert first.seeds == (1, 2) and first.failures == ("seed 0: broke",) and second.seeds == (0, 1, 2)
    assert second.difference.value == pytest.approx((b[1:] - a[1:]).mean(), rel=1e-12)
    found = outcomes(a, b)
    found[SEEDS] = outcome("iwae", 0, None, failure="broke")
    assert make_rows(found)[1].difference.value == pytest.approx((b[1:] - a[1:]).mean(), rel=1e-12)


def test_row_without_a_finished_seed_has_no_numbers():
    rows = make_rows([outcome("elbo", 0, pointwise()[0]), outcome("iwae", 0, None, failure="broke")])
    assert rows[1].log_evidence is None and rows[1].difference is None and rows[1].failures == ("seed 0: broke",)


def test_shares_of_bad_khat_and_of_effective_samples():
    base = outcome("elbo", 0, pointwise()[0])
    khat, ess = torch.linspace(0.0, 1.0, DATA, dtype=torch.float64), torch.linspace(0.1, 0.9, DATA).double()
    row = make_rows([replace(base, pointwise={**base.pointwise, "khat": khat, "ess": ess})])[0]
    assert row.bad_khat.value == pytest.approx(float((khat > 0.5).double().mean()))
    assert row.ess_median.value == pytest.approx(float(ess.median()))
    assert row.ess_low.value == pytest.approx(np.quantile(ess.numpy(), 0.05))


def test_rank_is_the_order_of_log_evidence():
    a = pointwise()
    found = [*outcomes(a, a + 0.3), *(outcome("renyi", seed, each - 0.3) for seed, each in enumerate(a))]
    assert [row.rank for row in make_ranked_rows(found, 100)] == [2, 1, 3]


def table(shift, seeds=SEEDS):
    a, b = pointwise()[:seeds], pointwise(shift)[:seeds]
    return Table(make_ranked_rows(outcomes(a, b), 100), DATA, 100)


def test_verdict_tells_apart_what_differs_and_what_does_not():
    for shift, side in ((5.0, "above"), (-5.0, "below")):
        found = table(shift)
        size = f"{abs(found.rows[1].difference.value):.2f} ± {found.rows[1].total_error:.2f}"
        assert f"The log evidence is {side} that of elbo under iwae (by {size})." in found.verdict()
        assert "t test with 2 degrees of freedom, Holm over one comparison" in found.verdict()
        assert "must exceed 4.3 standard errors" in found.verdict()
    base = pointwise()
    same = Table(make_rows(outcomes(base, base + RNG.normal(size=base.shape) * 0.01)), DATA, 100)
    assert re.search(r"Under iwae \([+-]0.00\d ± 0.00\d\), no difference from elbo is shown.", same.verdict())


def test_one_seed_gives_a_verdict_about_trained_models_alone():
    verdict = table(5.0, seeds=1).verdict()
    assert "no verdict about the objectives, only about these two trained models." in verdict
    assert "The log evidence is higher than that of the trained model of elbo for that of iwae (by" in verdict
    assert " above " not in verdict
    assert "For iwae (" in (same := table(0.0, seeds=1).verdict()) and "no difference from that of elbo" in same


def test_json_holds_every_estimate_with_error_and_count():
    found = json.loads(json.dumps(table(1.0).to_json()))
    for row in found["rows"]:
        for name in (
            "log_evidence",
            "elbo",
            "gap",
            "bad_khat",
            "ess_median",
            "active_units",
            "training_seconds",
        ):
            assert set(row[name]) == {"value", "error", "count"}
    assert found["rows"][1]["difference"]["count"] == DATA and found["rows"][1]["difference_over_seeds"]["count"] == 3
    assert found["particles"] == 100 and found["data"] == DATA and found["verdict"]


def test_verdict_says_whether_the_rows_had_the_same_number_of_epochs():
    a, b = pointwise(), pointwise(5.0)
    assert "All rows were trained for the same number of epochs" in table(5.0).verdict()
    rows = [outcome("elbo", seed, values) for seed, values in enumerate(a)]
    rows += [outcome("em", seed, values, epochs=40) for seed, values in enumerate(b)]
    verdict = Table(make_rows(rows), DATA, 100).verdict()
    assert "The rows were trained for different numbers of epochs" in verdict and "same number" not in verdict


def results_sheet(page):
    """The table of the rows on a page."""
    return next(section for section in page.sections if section.title == "Results").sheets[0]


def test_a_new_column_is_one_entry_of_the_list(monkeypatch):
    """It then appears in the text, in the JSON and on the page, without any other change."""
    statistic = columns.mean_over_seeds("steps")
    steps = columns.TableColumn(
        "steps",
        "Steps of a training.",
        {"steps": statistic},
        columns.show_estimate("steps", lambda e: f"{e.value:.0f}!"),
    )
    for module in (columns, making):
        monkeypatch.setattr(module, "COLUMNS", (*columns.COLUMNS, steps))
    found = [outcome(name, 0, pointwise()[0], steps=number) for name, number in (("elbo", 700), ("iwae", 800))]
    made = Table(make_ranked_rows(found, 100), DATA, 100)
    lines = made.to_text().splitlines()
    assert lines[0].endswith("steps") and lines[1].endswith("700!") and lines[2].endswith("800!")
    assert made.to_json()["rows"][1]["steps"] == {"value": 800.0, "error": None, "count": 1}
    sheet = results_sheet(make_page(ReportData(made, found, {}, {}, "again")))
    assert sheet.columns[-1].title == "steps" and sheet.columns[-1].meaning == "Steps of a training."
    assert sheet.rows[1][-1].text == "800!" and sheet.rows[1][-1].order == 800.0


def test_the_bound_with_enumerated_guide_sites_summed_out_stands_beside_the_elbo_of_the_rows_that_have_one():
    made = outcomes(pointwise(), pointwise())
    assert "summed-out ELBO" not in Table(make_rows(made), DATA, 100).to_text()
    for cell in made[SEEDS:]:
        cell.pointwise["summed_out_elbo"] = cell.pointwise["elbo"] + 1.0
    table = Table(make_rows(made), DATA, 100)
    for row, expected in zip(table.rows, (None, table.rows[1].elbo.value + 1.0), strict=True):
        found = row.additional["summed_out_elbo"]
        assert found is None if expected is None else found.value == pytest.approx(expected, rel=1e-12)
    headings = [column.name for column in columns.shown_columns(table.rows)]
    assert headings[headings.index("ELBO") : headings.index("gap") + 1] == ["ELBO", "summed-out ELBO", "gap"]
    assert "summed-out ELBO" in table.to_text()
    sheet = results_sheet(make_page(ReportData(table, made, {}, {}, "again")))
    place = [column.title for column in sheet.columns].index("summed-out ELBO")
    assert sheet.rows[1][place].order == pytest.approx(expected, rel=1e-12)
    assert {len(row) for row in sheet.rows} == {len(sheet.columns)}


def test_scores_of_earlier_versions_are_read():
    scores = {"seconds": 3.0, "curve": [[1, -2.0, 0.5]], "curve is": "validation bound, 25 particles"}
    old = outcome("elbo", 0, pointwise()[0])
    old = replace(old, scores={**scores, "epochs": 5, "decoder_evaluations": 10})
    row = make_rows([old])[0]
    assert row.training_seconds.value == 3.0 and row.active_units is None
    with pytest.warns(DeprecationWarning, match="now called training_seconds"):
        assert row.seconds.value == 3.0
    curve = read_curve(old.scores)
    assert curve.split == "validation" and curve.points[0].seconds == 0.5 and "25 particles" in curve.quantity


def test_text_is_aligned_and_has_a_line_per_row_and_failure():
    rows = make_rows([*outcomes(pointwise(), pointwise()), outcome("renyi", 0, None, failure="out of [memory]")])
    lines = Table(rows, DATA, 100).to_text().splitlines()
    assert len(lines) == 6 and lines[-1] == "failed: renyi, seed 0: out of [memory]"
    assert lines[-2].startswith("Log evidences and bounds in nats per datum: means over 3 seeds")
    assert lines[-2].endswith(f"with 100 particles on {DATA} test data.")
    assert len({line.index("±") for line in lines[1:3]}) == 1
    for word in ("log evidence (sd)", "difference to first", "ELBO", "gap", "bad k-hat", "ESS (5%)", "evaluations"):
        assert word in lines[0]
    assert "1.500 ± 0.000" in lines[1]


def test_text_for_a_narrow_terminal_stays_within_it():
    text = table(1.0).to_text(80)
    lines = [line for line in text.splitlines() if line != table(1.0).caption()]
    assert max(map(len, lines)) <= 80 and "evaluations" in text and "difference" in text


def test_a_biased_objective_carries_the_word() -> None:
    rows = [
        Row("vae", "stl:particles=4", (0,), (), biased="the score is left out"),
        Row("vae", "iwae:particles=4", (0,), ()),
    ]
    assert [row_label(row, rows) for row in rows] == ["stl:particles=4 (biased)", "iwae:particles=4"]


def test_a_table_in_a_notebook_and_in_a_paper():
    found = [
        replace(one, cell=replace(one.cell, objective="<b>_1|" + one.cell.objective))
        for one in outcomes(pointwise(), pointwise(0.4))
    ]
    rows = make_rows(found)
    table = Table(tuple(rows), DATA, 100)
    frame = table.to_pandas()
    assert list(frame["log_evidence.value"]) == [row.log_evidence.value for row in rows]
    assert list(frame["seeds"]) == ["0; 1; 2"] * 2
    label = row_label(rows[0], rows)
    shown, head = table._repr_html_(), table.to_markdown().splitlines()[0]
    assert "<b>" not in shown and shown.count("<tr>") == 1 + len(rows)
    cells = [column[1] for column in table._text_columns()]
    assert cells[0] == label and all(cell in shown for cell in cells[1:])
    assert head.count("|") == 1 + len(cells)
    assert "elbo" in label and all("<b>" not in text for text in (table.to_markdown(), shown))
    part = replace(table, subset="40 of 1,000, drawn with seed 0").caption()
    assert part.endswith("with 100 particles on 40 of 1,000 test data, drawn with seed 0.")
    assert table.to_latex().count(r" \\") == 1 + len(rows)
    assert table.to_latex().startswith(f"% {table.caption()}\n") and table.to_markdown().endswith(
        table.caption() + "\n"
    )
