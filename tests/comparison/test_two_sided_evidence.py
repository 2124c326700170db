"""Comparisons of two-sided evidences: the verdict by brackets, the cells, the table, the page, and refusals."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from command_line import run
from comparison_outcomes import DATA, SEEDS, outcome
from planted import Planted
from safetensors.torch import load_file
from scipy import stats

import pvae
from pvae import InputError
from pvae.comparison.base import Outcome
from pvae.comparison.cells.evidence_method import parse_evidence
from pvae.comparison.page.exports import make_downloads
from pvae.comparison.page.questions_section import make_questions_section
from pvae.comparison.page.report_data import ReportData
from pvae.comparison.page.results_section import critical_values
from pvae.comparison.page.rows_section import marks_of
from pvae.comparison.rows import make_ranked_rows, make_rows
from pvae.comparison.table import Table
from pvae.comparison.table.conclusions import ABOVE, BELOW, NOT_BRACKETED, NOT_SHOWN, NOT_TESTED

pytestmark = pytest.mark.usefixtures("own_store", "without_pictures")

NOISE = np.random.default_rng(0).normal(size=(3, SEEDS, DATA))


def row(name: str, number: int, lower: float, gap: float, status: str = "fine", **changes: Any) -> list[Outcome]:
    """Cells whose evidence is near `lower`, with an upper estimate that is `gap` above it."""
    finding = {
        "method": "sandwich:chains=4",
        "status": status,
        "cost": 1000,
        "on_simulated": {"gap": {"value": gap, "error": 0.1, "count": DATA}},
    }
    cells = []
    for seed in range(SEEDS):
        values = lower + 0.05 * NOISE[number, seed]
        cell = outcome(name, seed, values, annealing={**finding, **changes})
        cells.append(dataclasses.replace(cell, pointwise={**cell.pointwise, "upper": torch.as_tensor(values + gap)}))
    return cells


def table_of(*rows: list[Outcome]) -> tuple[Table, list[Outcome]]:
    cells = [cell for group in rows for cell in group]
    return Table(make_ranked_rows(cells, 100), DATA, 100), cells


def test_a_row_is_named_only_if_the_brackets_are_separated() -> None:
    first = row("elbo", 0, -10.0, 0.3)
    for lower, gap, expected in (
        (-9.0, 0.2, ABOVE),  # 0.7 above the upper estimate of the first row
        (-11.0, 0.2, BELOW),  # its upper estimate is 0.8 below the lower one of the first row
        (-9.8, 0.3, NOT_BRACKETED),  # the middles differ by 0.2, and the brackets overlap
        (-10.0, 0.3, NOT_SHOWN),
    ):
        table, _ = table_of(first, row("iwae", 1, lower, gap))
        second = table.rows[1]
        assert second.conclusion == expected
        assert second.difference.value == pytest.approx(lower + gap / 2 + 10.0 - 0.15, abs=0.02)
        assert second.difference_lower.value == pytest.approx(lower + 10.0 - 0.3, abs=0.02)
        assert second.difference_upper.value == pytest.approx(lower + gap + 10.0, abs=0.02)


def test_the_p_value_is_that_of_the_end_nearer_to_zero() -> None:
    table, _ = table_of(row("elbo", 0, -10.0, 0.3), row("iwae", 1, -9.6, 0.3), row("dreg", 2, -10.4, 0.3))
    for place, sign in ((1, 1.0), (2, -1.0)):
        second = table.rows[place]
        end = second.difference_lower if place == 1 else second.difference_upper
        assert end.value == pytest.approx(0.1 * sign, abs=0.02)
        assert second.p_value == pytest.approx(2 * stats.t.sf(sign * end.value / end.error, SEEDS - 1), rel=1e-9)
    assert table.rows[1].adjusted_p_value == pytest.approx(2 * min(entry.p_value for entry in table.rows[1:]), rel=0.3)


def test_a_bracket_that_is_turned_round_claims_no_more_than_its_lower_estimate() -> None:
    table, _ = table_of(row("elbo", 0, -10.0, -2.0, status="bad"), row("iwae", 1, -10.0, 0.0))
    second = table.rows[1]
    assert second.difference_lower.value == pytest.approx(0.0, abs=0.02)
    assert second.conclusion == NOT_SHOWN
    assert "The bracket of elbo is not reliable" in table.verdict()


def test_equal_rows_are_named_in_at_most_five_percent_of_the_studies() -> None:
    generator = np.random.default_rng(1)
    alarms, studies = 0, 150
    for _ in range(studies):
        luck = 0.5 * generator.normal(size=(3, SEEDS, 1)) + 0.1 * generator.normal(size=(3, SEEDS, DATA))
        cells = []
        for number in range(3):
            for seed in range(SEEDS):
                values = torch.as_tensor(luck[number, seed])
                cell = outcome(f"o{number}", seed, values)
                cells.append(dataclasses.replace(cell, pointwise={"log_evidence": values, "upper": values + 0.05}))
        alarms += any(entry.conclusion in (ABOVE, BELOW) for entry in make_rows(cells)[1:])
    assert alarms / studies <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / studies)


def test_one_datum_has_no_test() -> None:
    cells = [
        dataclasses.replace(cell, pointwise={name: values[:1] for name, values in cell.pointwise.items()})
        for cell in (*row("elbo", 0, -10.0, 0.1), *row("iwae", 1, -8.0, 0.1))
    ]
    assert make_rows(cells)[1].conclusion == NOT_TESTED


def test_importance_sampling_below_the_bracket_has_its_mark_and_sentence() -> None:
    first, second = row("elbo", 0, -10.0, 0.3), row("iwae", 1, -9.0, 0.2)
    for cells, shortfall in ((first, 0.05), (second, 0.4)):
        for cell in cells:
            cell.pointwise["importance_sampling"] = (
                cell.pointwise["log_evidence"] - shortfall - 0.1 * torch.as_tensor(NOISE[2, 0])
            )
    table, cells = table_of(first, second)
    shown = table.rows[1].additional["shortfall"]
    assert shown.value == pytest.approx(0.4 + 0.1 * NOISE[2, 0].mean())
    assert shown.error == pytest.approx(0.1 * NOISE[2, 0].std(ddof=1) / DATA**0.5)
    assert "importance sampling of iwae is 0.4" in table.verdict() and "so the guide misses" in table.verdict()
    data = ReportData(table, cells, {"name": "made-up"}, {}, rerun="")
    assert [marks_of(data, entry) for entry in table.rows] == [[], ["\u25b2 importance sampling is too low"]]


def test_table_verdict_page_and_downloads_show_the_brackets() -> None:
    table, cells = table_of(row("elbo", 0, -10.0, 0.3, "look"), row("iwae", 1, -9.0, 0.2))
    text = str(table)
    assert re.search(r" to -9\.[67]\d\d ± 0\.005 ", text) and "0.300 ± 0.058 (look)" in text
    verdict = table.verdict()
    assert re.match(r"The log evidence is above that of elbo under iwae \(by 0\.6\d+ ± 0\.008 to 1\.1\d+ ± ", verdict)
    assert "known from both sides (sandwich:chains=4)" in verdict and "the gap is 0.2 to 0.3 nats" in verdict
    assert "A gap of elbo is not shown to be below 0.1 nats" in verdict and "k-hat" not in verdict
    data = ReportData(table, cells, {"name": "made-up"}, {}, rerun="")
    question = make_questions_section(data).questions[0]
    assert question.status == "look" and question.value.startswith("B: -9.0")
    assert question.cost == "30k decoder evaluations (6 cells x 40 data x 100 particles, and 6k of the annealing)"
    low, high = critical_values(data)["B"]
    ends = table.rows[1].difference_lower, table.rows[1].difference_upper
    quantile = stats.t.ppf(0.975, SEEDS - 1)
    assert low == pytest.approx(ends[0].value - quantile * ends[0].error)
    assert high == pytest.approx(ends[1].value + quantile * ends[1].error)
    files = {download.file_name: download.text for download in make_downloads(data)}
    (_, second) = csv.DictReader(io.StringIO(files["results.csv"]))
    assert float(second["log_evidence_upper.value"]) == pytest.approx(-8.8, abs=0.02)
    assert float(second["difference_lower.value"]) == ends[0].value
    assert " to -8.8" in files["results.tex"] and "grosse2015sandwiching" in files["references.bib"]
    assert json.loads(files["results.json"])["rows"][0]["annealing_status"] == "look"


class Exact(Planted):
    """The exact guide, with a parameter that a training of one tiny step leaves at 0."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(scale=scale)
        del self.shift
        self.shift = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))


class Narrow(Exact):
    """A guide whose standard deviations are half of those of the posterior."""

    def __init__(self) -> None:
        super().__init__(scale=0.5)


def compare(folder: Path, evidence: str, **changes: Any) -> pvae.Comparison:
    x = Planted().draw(48)
    data = pvae.load_data({"x": x[:24], "x_test": x[24:]}, validation=0)
    options = {"seeds": 1, "epochs": 1, "learning_rate": 1e-12, "precision": "float64", "step": "eager"}
    options |= {"workers": 0, "progress": False, "particles": 30, "limit": 12, "batch_size": 24}
    models = {"exact": Exact, "narrow": Narrow}
    return pvae.compare(models, data, ["elbo"], out=folder, evidence=evidence, **{**options, **changes})


def test_cells_are_judged_by_the_sandwich_and_hold_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = "temperatures=8:chains=2:leapfrog_steps=2"
    found = compare(tmp_path / "c", f"sandwich:{settings}", progress=True)
    assert "about 21.5k decoder evaluations for each of 2 cells, for 12 test data" in capfd.readouterr().err
    for entry in found.table.rows:
        folder = tmp_path / "c" / "cells" / entry.model / "elbo" / "seed-0"
        scores = json.loads((folder / "evaluation.json").read_text())
        assert scores["annealing"]["method"] == f"sandwich:{settings}"
        assert abs(scores["annealing"]["cost"] - 21_500) < 100
        values = load_file(folder / "evaluation.safetensors")
        assert entry.log_evidence.value == pytest.approx(float(values["log_evidence"].mean()))
        assert entry.log_evidence_upper.value == pytest.approx(float(values["upper"].mean()))
        if entry.model == "exact":
            options = {"temperatures": 8, "chains": 2, "leapfrog_steps": 2, "limit": 12, "progress": False}
            again = pvae.evaluate.sandwich(pvae.open_run(folder, Exact()), Planted().draw(48)[24:], **options)
            torch.testing.assert_close(values["log_evidence"], again.lower.pointwise)
            torch.testing.assert_close(values["upper"], again.upper.pointwise)
    path = tmp_path / "c" / "cells" / "exact" / "elbo" / "seed-0" / "evaluation.safetensors"
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    kept = compare(tmp_path / "c", f"sandwich:{settings}", progress=True)
    assert "Evaluated again from its run" in capfd.readouterr().err
    assert kept.table.to_json()["rows"][0]["log_evidence"] == found.table.to_json()["rows"][0]["log_evidence"]
    with pytest.raises(InputError, match="judging evidence was 'sandwich:temperatures=8"):
        compare(tmp_path / "c", "is")


def test_the_lower_estimate_of_ais_has_no_bias_and_no_upper_estimate(tmp_path: Path) -> None:
    found = compare(tmp_path / "c", "ais:temperatures=8:chains=2:leapfrog_steps=2:start=guide")
    first = found.table.rows[0]
    assert first.log_evidence_upper is first.bias is first.difference_lower is None
    assert first.additional["importance_sampling"].value == pytest.approx(first.elbo.value)  # the guide is exact
    assert "lower estimates by annealed importance sampling" in found.table.verdict()


class Points(pvae.LatentModel):
    """A latent site that all data share."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def model(self, x: torch.Tensor) -> None:
        w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0).expand([len(x), 3]).to_event(1), obs=x)

    def guide(self, x: torch.Tensor) -> None:
        pyro.sample("w", dist.Normal(self.loc, 1.0))


def test_models_that_cannot_be_annealed_are_refused_before_any_training(tmp_path: Path) -> None:
    data = pvae.load_data({"x": Planted().draw(20)}, validation=0, test=10)
    with pytest.raises(InputError, match=r"'shared' cannot be estimated by ais\. .* all data share site 'w'"):
        pvae.compare({"exact": Planted, "shared": Points}, data, ["elbo"], 1, 1, tmp_path / "c", evidence="ais")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("evidence", "message"),
    [
        ("sandwhich", "did you mean 'sandwich'"),
        ("sandwich:temperature=5", "did you mean 'temperatures'"),
        ("ais:chains=0", "chains"),
        ("ais:start=middle", "start must be one of prior, guide"),
        ("is:chains=3", "Unknown setting 'chains'"),
    ],
)
def test_bad_methods_are_refused_in_one_line(evidence: str, message: str, tmp_path: Path) -> None:
    done = run("compare", "vae", "--evidence", evidence, "--out", str(tmp_path / "c"))
    assert (done.code, done.out) == (2, "") and message in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "c").exists()


def test_a_method_is_a_text_with_the_settings_that_differ_from_their_defaults() -> None:
    assert parse_evidence("sandwich:chains=16:temperatures=50").text == "sandwich:temperatures=50"
    assert (parse_evidence("is").default_limit, parse_evidence("ais").default_limit) == (1000, 100)
    with pytest.raises(InputError, match="evidence needs a text"):
        parse_evidence(3)
