"""Parts of a comparison's page, from made-up outcomes: questions with their statuses, keys, marks and downloads."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from comparison_outcomes import DATA, outcome, pointwise
from matplotlib.figure import Figure

import pvae
from pvae.batch import Batch
from pvae.comparison.base import Outcome
from pvae.comparison.cells.decoder_weights import decoder_arrays
from pvae.comparison.cells.model_card import describe_model
from pvae.comparison.cells.worst_data import worst_arrays
from pvae.comparison.page.curves_section import make_curves_section
from pvae.comparison.page.exports import make_downloads, make_methods_section
from pvae.comparison.page.questions_section import make_questions_section
from pvae.comparison.page.report_data import ReportData
from pvae.comparison.page.results_section import critical_values
from pvae.comparison.page.rows_section import make_rows_section
from pvae.comparison.rows import make_ranked_rows
from pvae.comparison.table import Table
from pvae.data.subset import draw_subset
from pvae.evaluate.all_checks.findings_file import write_findings
from pvae.evaluate.all_checks.model_findings import QUESTIONS, ModelFindings, QuestionAnswer
from pvae.evaluate.finding import EvaluationFinding

EVIDENCE = pointwise()
EVIDENCE_QUESTION, INFERENCE, WHERE, LATENTS, RESEMBLANCE, BEST = range(6)


class EvaluationResult(EvaluationFinding):
    """A finding without a figure."""

    def draw(self) -> Figure:
        raise NotImplementedError


def report_data(cells: list[Outcome]) -> ReportData:
    return ReportData(Table(make_ranked_rows(cells, 1000), DATA, 1000), cells, {"name": "made-up"}, {}, rerun="")


def row_of(name: str, shift: float = 0.0, seeds: int = 3, **changes: object) -> list[Outcome]:
    """The cells of one row; a change of ``khat`` is an array, and other changes are scores."""
    khat = changes.pop("khat", None)
    cells = [outcome(name, seed, EVIDENCE[seed] + shift, **changes) for seed in range(seeds)]
    if khat is None:
        return cells
    return [
        dataclasses.replace(cell, pointwise={**cell.pointwise, "khat": torch.as_tensor(khat, dtype=torch.float64)})
        for cell in cells
    ]


def statuses(cells: list[Outcome]) -> list[str]:
    return [question.status for question in make_questions_section(report_data(cells)).questions]


def test_good_weights_are_never_fine_for_evidence_and_inference() -> None:
    found = statuses(row_of("elbo"))
    assert found == ["look", "not run", "look", "fine", "not run", "not run"]


@pytest.mark.parametrize("bad", [1, 4, 5])
def test_data_with_a_large_khat_are_counted_against_a_tenth_of_the_data(bad: int) -> None:
    khat = np.full(DATA, 0.2)
    khat[:bad] = 0.69  # the limit of 1000 particles is 1 - 1/3
    found = make_questions_section(report_data(row_of("elbo", khat=khat))).questions
    assert f"A: {bad}." in found[WHERE].answer and "above 0.67" in found[WHERE].answer
    assert found[WHERE].status == ("look" if bad <= DATA // 10 else "bad")


def test_a_guide_far_from_the_posterior_is_bad() -> None:
    found = statuses(row_of("elbo", khat=np.full(DATA, 0.9)))
    assert found[EVIDENCE_QUESTION] == found[INFERENCE] == found[WHERE] == "bad"
    assert found[LATENTS] == "fine"


def test_an_unused_latent_is_bad_and_marks_its_row_alone() -> None:
    data = report_data([*row_of("elbo"), *row_of("beta", active_units=0)])
    assert make_questions_section(data).questions[LATENTS].status == "bad"
    marks = [row[4].text for row in make_rows_section(data).sheets[0].rows]
    assert marks[0] == "none" and "no latent unit is used" in marks[1]


def test_a_seed_without_active_units_is_shown_although_the_others_have_some() -> None:
    cells = [*row_of("elbo", seeds=2), *row_of("beta", seeds=1), *row_of("beta", seeds=2, active_units=0)[1:]]
    question = make_questions_section(report_data(cells)).questions[LATENTS]
    assert question.status == "look" and question.answer.startswith("Under B, a seed has no active unit.")


def test_the_verdict_of_the_page_names_rows_by_the_keys_of_the_figures() -> None:
    question = make_questions_section(report_data([*row_of("elbo"), *row_of("iwae:particles=8", 1.0)])).questions[BEST]
    assert "is above that of A under B (by 1.00" in question.answer and "iwae" not in question.answer


def test_one_seed_gives_no_fine_answer_on_the_best_run() -> None:
    assert statuses([*row_of("elbo"), *row_of("iwae", 1.0)])[BEST] == "fine"
    assert statuses([*row_of("elbo", seeds=1), *row_of("iwae", 1.0, seeds=1)])[BEST] == "look"


def test_findings_of_a_run_folder_answer_their_questions(tmp_path: Path) -> None:
    cells = row_of("elbo", seeds=2)
    for seed, cell in enumerate(cells):
        cells[seed] = dataclasses.replace(cell, cell=dataclasses.replace(cell.cell, folder=tmp_path / str(seed)))
    findings = [EvaluationResult(0.5, 0.1, 9, status, f"{status}.", 2000) for status in ("fine", "bad")]
    for seed, finding in enumerate(findings):
        (tmp_path / str(seed)).mkdir()
        answers = (QuestionAnswer(QUESTIONS[1], finding.status, f"reason {seed}.", (finding,)),)
        write_findings(tmp_path / str(seed), ModelFindings(answers, 1e6, 2000, 0, "test", 9))
    found = make_questions_section(report_data(cells)).questions
    assert found[INFERENCE].status == "bad"
    assert found[INFERENCE].answer == "A, seed 0: reason 0. A, seed 1: reason 1."
    assert (found[INFERENCE].value, found[INFERENCE].cost) == ("A: 0.5 ± 0.1 nats per datum", "4k decoder evaluations")
    assert found[RESEMBLANCE].status == "not run"
    (tmp_path / "1" / "findings.json").write_text("{damaged")
    damaged = make_questions_section(report_data(cells)).questions[INFERENCE]
    assert damaged.status == "not run" and "findings.json" in damaged.answer
    (tmp_path / "1" / "findings.json").unlink()
    missing = make_questions_section(report_data(cells)).questions[INFERENCE]
    assert missing.status == "not run" and missing.answer.endswith("Not run for 1 of 2 runs.")


def test_keys_are_letters() -> None:
    cells = [cell for index in range(28) for cell in row_of(f"o{index}", index, seeds=1)]
    data = report_data(cells)
    keys = [data.key(row) for row in data.table.rows]
    assert keys[:2] == ["A", "B"] and keys[25:] == ["Z", "AA", "AB"]


def test_rows_of_the_same_results_are_drawn_once() -> None:
    curve = {"curve": [[1, -3.0, 0.5], [2, -2.0, 1.0]], "curve_split": "validation", "curve_quantity": "bound"}
    data = report_data([*row_of("elbo", **curve), *row_of("iwae", 1.0, **curve), *row_of("iwae:particles=1", **curve)])
    assert [data.key(row) for row in data.distinct_rows()] == ["A", "B"]
    assert "same results as A" in make_rows_section(data).sheets[0].rows[2][4].text
    section = make_curves_section(data)
    assert section is not None and section.pictures[0].alt.endswith("for A, B.")


def test_curves_are_drawn_against_decoder_evaluations() -> None:
    curve = {"curve": [[1, -3.0, 0.5], [2, -2.0, 1.0], [5, -1.0, 2.0]], "curve_split": "validation"}
    section = make_curves_section(report_data(row_of("elbo", seeds=1, **curve)))
    assert section is not None
    line = section.pictures[2].figure.axes[0].lines[0]
    assert line.get_xdata().tolist() == [200, 400, 1000]  # 1000 evaluations in 5 epochs
    numbers = section.pictures[2].numbers
    assert numbers is not None and [row[2].text for row in numbers.rows] == ["-3.0000", "-2.0000", "-1.0000"]


def test_the_table_of_a_curve_has_the_mean_of_all_seeds_and_its_error() -> None:
    cells = [
        outcome("elbo", seed, EVIDENCE[seed], curve=curve, curve_split="validation", curve_quantity="bound")
        for seed, curve in enumerate(
            ([[1, -3.0, 0.5], [2, -2.0, 1.0]], [[1, -5.0, 1.5], [2, -2.5, 2.0], [3, -1.0, 3.0]], [[1, -7.0, 1.0]])
        )
    ]
    section = make_curves_section(report_data(cells))
    assert section is not None and section.pictures[1].numbers is not None
    rows = [[entry.text for entry in row] for row in section.pictures[1].numbers.rows]
    error = (4 + 0 + 4) ** 0.5 / 2**0.5 / 3**0.5
    assert rows == [
        ["A", "1", f"-5.0 ± {error:.1f}", "3"],
        ["A", "1.5", "-2.25 ± 0.25", "2"],
        ["A", "3", "-1.0000", "1"],
    ]


def test_downloads_have_all_numbers_and_escape_names() -> None:
    data = report_data([*row_of("elbo"), *row_of("a_b & 50% {x}", 1.0)])
    files = {download.file_name: download.text for download in make_downloads(data)}
    rows = list(csv.DictReader(io.StringIO(files["results.csv"])))
    first = data.table.rows[0].log_evidence
    assert first is not None and float(rows[0]["log_evidence.value"]) == first.value
    assert rows[1]["objective"] == "a_b & 50% {x}" and rows[1]["key"] == "B" and rows[1]["seeds"] == "0; 1; 2"
    content = json.loads(files["results.json"])
    assert [row["key"] for row in content["rows"]] == ["A", "B"]
    assert content["rows"][1]["difference"]["value"] == pytest.approx(1.0)
    assert r"B & a\_b \& 50\% \{x\} & " in files["results.tex"] and r"$\pm$" in files["results.tex"]
    assert files["results.tex"].count(r"\\") == 3


def test_methods_name_the_settings_and_cite_the_objectives() -> None:
    cells = [*row_of("elbo"), *row_of("dreg:particles=8", 1.0)]
    settings = {"Training": {"epochs": 7, "optimiser": "adam", "learning_rate": 0.001, "batch_size": 50}}
    section = make_methods_section(dataclasses.replace(report_data(cells), settings=settings))
    text = section.text[0]
    assert "We trained vae on made-up by elbo and dreg:particles=8, each from 3 random seeds" in text
    assert "at most 7 epochs with the optimiser adam, learning rate 0.001 and batches of 50 data" in text
    assert f"{DATA} test data" in text and "1000 draws from the guide" in text
    bibtex = section.listings[0].text
    assert "eprint = {1810.04152}" in bibtex and "eprint = {1312.6114}" in bibtex
    assert bibtex.count("@misc{burda2015importance,") == 1


def test_a_model_of_a_file_has_no_paper_of_its_own() -> None:
    cells = [
        dataclasses.replace(cell, cell=dataclasses.replace(cell.cell, model="my_model.py:Rings"))
        for cell in row_of("iwae:particles=8")
    ]
    files = {download.file_name: download.text for download in make_downloads(report_data(cells))}
    assert "burda2015importance" in files["references.bib"]


def test_critical_values_are_those_of_the_first_step_of_holm() -> None:
    data = report_data([*row_of("elbo"), *row_of("iwae", 1.0), *row_of("dreg", 2.0)])
    for row in data.table.rows[1:]:
        object.__setattr__(row, "difference_error", 0.5)
        object.__setattr__(row, "degrees", 2)
    critical = critical_values(data)
    assert critical == pytest.approx({"B": 0.5 * 6.205347, "C": 0.5 * 6.205347})  # t of 1 - 0.05 / 4, 2 degrees


def test_the_worst_data_are_those_of_the_lowest_evidence_in_the_evaluated_subset() -> None:
    x = torch.arange(60.0).reshape(60, 1).expand(60, 6) / 60
    splits = pvae.load_data(x, validation=0.1, test=0.5)
    assert splits.test is not None
    batch, subset = draw_subset(splits.test, 20, 0)
    evidence = torch.linspace(0, -19, 20)
    arrays = worst_arrays(pvae.VAE((6,), latent=2, hidden=4, likelihood="gaussian"), splits, evidence, 20, 0)
    assert arrays["worst_places"].tolist() == [19, 18, 17, 16, 15, 14, 13, 12]
    assert torch.equal(arrays["worst"], splits.test.x[arrays["worst_positions"]])
    assert torch.equal(arrays["worst"][0], batch.x[19]) and subset.count == 20
    assert arrays["worst_reconstructions"].shape == (8, 6)


def test_a_decoder_that_is_no_plain_network_gives_pictures_instead_of_weights() -> None:
    batch = Batch(x=torch.zeros(1, 20))
    arrays, texts = decoder_arrays(pvae.VAE((4, 5), latent=2, network="gated"), batch)
    assert texts == {} and arrays["traversals"].shape == (2, 13, 20)
    arrays, texts = decoder_arrays(pvae.VAE((4, 5), latent=2, hidden=4, likelihood="gaussian"), batch)
    assert texts == {"activations": ["tanh", "identity"]} and arrays["decoder.1.weight"].shape == (20, 4)


def test_a_model_card_has_the_text_of_both_programs() -> None:
    card = describe_model(pvae.VAE((6,), latent=2, hidden=4))
    assert "def model(self, x" in card["programs"]["model"] and "def guide(self, x" in card["programs"]["guide"]
    assert card["class"] == "pvae.models.vae.VAE" and "Linear(in_features=2, out_features=4" in card["networks"]
    assert card["parameters"] == (6 * 4 + 4) + 2 * (4 * 2 + 2) + (2 * 4 + 4) + (4 * 6 + 6)
