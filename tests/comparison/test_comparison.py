"""Whole comparisons of small models: failures, cells that are done already, options, and the page."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections import Counter

import numpy as np
import pyro
import pytest
import torch
from models import Failing, Killed, Linear, Mixture, TutorialVAE, build_linear
from pyro.infer import Trace_ELBO
from safetensors.torch import load, load_file, save

import pvae
from pvae.comparison.cells.cell_files import read_outcome
from pvae.errors import InputError
from pvae.evaluate import judge
from pvae.outside_files import read_limited
from pvae.train.encoding import canonical, digest

FAST = {"epochs": 2, "batch_size": 20, "particles": 30, "limit": None, "workers": 0, "progress": False, "step": "eager"}


@pytest.fixture(autouse=True)
def coarse_pictures(monkeypatch):
    """Replace the pictures, which take most of the time of a small comparison; `linear` has real ones."""
    monkeypatch.setattr("pvae.report.writing.data_address", lambda figure, dpi: "data:image/png;base64,")


@pytest.fixture(scope="module")
def data():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    return pvae.load_data(x, validation=0.2, test=0.25)


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(0)
    x = torch.bernoulli(torch.full((60, 4, 4), 0.4), generator=generator)
    return pvae.load_data((x, torch.arange(60) % 3), validation=0.2, test=0.25)


@pytest.fixture(scope="module")
def linear(data, tmp_path_factory):
    """A comparison of two objectives and two seeds, which several tests read."""
    folder = tmp_path_factory.mktemp("comparison") / "linear"
    objectives = {"elbo": Trace_ELBO, "iwae-3": "iwae:particles=3"}
    return pvae.compare({"linear": Linear}, data, objectives, 2, out=folder, **FAST)


def test_table_equals_a_judgement_of_the_runs_themselves(linear, data):
    points = {}
    for row in linear.table.rows:
        folder = linear.folder / "cells" / "linear" / row.objective
        judged = [judge(pvae.open_run(folder / f"seed-{s}", Linear()), data, 30) for s in (0, 1)]
        evidence = np.stack([each.log_evidence.pointwise.numpy() for each in judged])
        bias = np.stack([each.bias.pointwise.numpy() for each in judged])
        points[row.objective] = evidence - bias
        assert row.log_evidence.value == pytest.approx(evidence.mean(), rel=1e-6)
        assert row.bias.value == pytest.approx(bias.mean(), rel=1e-5)
        assert row.bias_margin == pytest.approx(np.mean([each.bias.margin for each in judged]), rel=1e-4)
        assert row.elbo.value == pytest.approx(np.mean([each.elbo.value for each in judged]), rel=1e-6)
    delta = points["iwae-3"] - points["elbo"]
    difference = linear.table.rows[1].difference
    assert difference.value == pytest.approx(delta.mean(), rel=1e-5)
    assert difference.error == pytest.approx(delta.mean(0).std(ddof=1) / np.sqrt(delta.shape[1]), rel=1e-5)


def test_decoder_evaluations_are_particles_times_data_times_epochs(linear, data):
    counts = [row.decoder_evaluations.value for row in linear.table.rows]
    assert counts == [2 * data.train.size, 3 * 2 * data.train.size]


def test_cells_of_one_seed_start_from_the_same_parameters(data, tmp_path):
    folder = tmp_path / "still"
    pvae.compare({"m": Linear}, data, ["elbo", "iwae:particles=3"], 1, out=folder, **FAST, learning_rate=1e-12)
    tables = [load_file(each) for each in sorted(folder.glob("cells/m/*/seed-0/last/parameters.safetensors"))]
    assert len(tables) == 2 and tables[0].keys() == tables[1].keys()
    for name, each in tables[0].items():
        assert torch.allclose(each, tables[1][name], atol=1e-6)


def test_comparison_leaves_random_state_and_parameter_store_alone(data, tmp_path):
    before = torch.get_rng_state()
    pvae.compare({"m": Linear}, data, "elbo", 1, out=tmp_path / "x", **FAST)
    assert torch.equal(before, torch.get_rng_state()) and len(pyro.get_param_store()) == 0


def test_page_has_all_sections_and_needs_no_other_file(linear):
    html = linear.report.read_text()
    for heading in ("Results", "Learning curves", "Samples and reconstructions", "Latent space", "Cells", "Settings"):
        assert f"<h2>{heading}</h2>" in html
    assert linear.report == linear.folder / "index.html" and linear.report.stat().st_size < 3_000_000
    assert not re.search(r"(src|href)=.?https?:", html) and html.count("<img") == html.count("<img alt=")
    assert "iwae-3" in html and "seeds=[0, 1], epochs=2" in html


def test_json_equals_the_table(linear):
    found = json.loads((linear.folder / "comparison.json").read_text())
    assert found["rows"] == json.loads(json.dumps(linear.table.to_json()["rows"]))
    assert [each["failure"] for each in found["cells"]] == [None] * 4
    assert (linear.folder / found["cells"][0]["folder"] / "evaluation.json").exists()


def test_done_cells_are_kept_and_new_ones_added(linear, data, capsys):
    files = sorted(linear.folder.glob("cells/*/*/*/last/*"))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
    objectives = {"elbo": Trace_ELBO, "iwae-3": "iwae:particles=3"}
    again = pvae.compare({"linear": Linear}, data, objectives, 2, out=linear.folder, **{**FAST, "progress": True})
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files} == before
    assert again.table.to_json() == linear.table.to_json()
    assert "4 of 4 cells were done before" in capsys.readouterr().err
    more = pvae.compare({"linear": Linear}, data, objectives, 3, out=linear.folder, **FAST)
    assert more.table.rows[0].seeds == (0, 1, 2)
    assert {path: path.read_bytes() for path in files} == {path: each[1] for path, each in before.items()}


def test_the_files_of_a_finished_cell_are_read_once(linear, data, monkeypatch):
    counts = Counter()

    def count(path, most):
        counts[path.name] += 1
        return read_limited(path, most)

    monkeypatch.setattr("pvae.comparison.cells.cell_files.read_limited", count)
    objectives = {"elbo": Trace_ELBO, "iwae-3": "iwae:particles=3"}
    again = pvae.compare({"linear": Linear}, data, objectives, 2, out=linear.folder, **FAST)
    assert counts == {"evaluation.safetensors": len(again.cells), "drawings.safetensors": len(again.cells)}


@pytest.mark.usefixtures("without_pictures")
def test_a_cell_without_a_record_of_its_options_is_left_out_and_named(linear, data, tmp_path):
    folder = shutil.copytree(linear.folder, tmp_path / "x")
    record = folder / linear.cells[0].cell.record.relative_to(linear.folder)
    record.write_text("{")
    objectives = {"elbo": Trace_ELBO, "iwae-3": "iwae:particles=3"}
    again = pvae.compare({"linear": Linear}, data, objectives, 2, out=folder, **FAST)
    assert [f"{record} is damaged" in cell.failure for cell in again.cells] == [True, False, False, False]
    assert again.table.rows[1].log_evidence == linear.table.rows[1].log_evidence
    assert "Left out: " in again.report.read_text()


def test_the_evaluation_of_another_cell_is_damaged(linear):
    first, other = linear.cells[0].cell, linear.cells[1].cell
    assert not read_outcome(first).failure
    moved = dataclasses.replace(first, folder=other.folder)
    assert "it is the evaluation of another cell" in read_outcome(moved).failure


def test_a_cell_that_was_cut_off_goes_on(data, tmp_path):
    folder, wanted = tmp_path / "x", "cells/m/elbo/seed-0"
    whole = pvae.compare({"m": Linear}, data, "elbo", 1, out=folder, **FAST)
    (folder / wanted / "evaluation.json").unlink()
    again = pvae.compare({"m": Linear}, data, "elbo", 1, out=folder, **FAST)
    assert again.table.rows[0].log_evidence == whole.table.rows[0].log_evidence


def test_a_changed_bit_of_an_evaluation_is_seen_and_the_run_is_judged_again(data, tmp_path):
    folder = tmp_path / "x"
    whole = pvae.compare({"m": Linear}, data, "elbo", 1, out=folder, **FAST)
    cell = whole.cells[0].cell
    for name in ("evaluation.safetensors", "evaluation.json", "drawings.safetensors"):
        path = cell.folder / name
        content = bytearray(path.read_bytes())
        for place in (len(content) // 3, len(content) // 2, len(content) - 3):
            changed = content.copy()
            changed[place] ^= 0x08
            path.write_bytes(changed)
            assert name in read_outcome(cell).failure, (name, place)
        if name != "drawings.safetensors":
            path.write_bytes(content)
    again = pvae.compare({"m": Linear}, data, "elbo", 1, out=folder, **FAST)
    assert again.table.rows[0].log_evidence == whole.table.rows[0].log_evidence
    assert "Evaluated again from its run" in again.report.read_text()
    assert not read_outcome(cell).failure


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, '{"sha256": 3}', '{"files": {}, "sha256": null}', "\xff"])
def test_an_evaluation_that_is_no_evaluation_is_damaged(linear, content, tmp_path):
    cell = dataclasses.replace(linear.cells[0].cell, folder=tmp_path)
    cell.evaluation.write_text(content, encoding="latin-1")
    assert "is damaged" in read_outcome(cell).failure


def _foreign_cell(cell, folder, scores=None, **tensors):
    """Return a copy of a cell in which scores or tensors differ, with correct checksums."""
    shutil.copytree(cell.folder, folder / "cell")
    copied = dataclasses.replace(cell, folder=folder / "cell")
    content = json.loads(copied.evaluation.read_text())
    del content["sha256"]
    content |= scores or {}
    for name, change in tensors.items():
        path = copied.folder / f"{name}.safetensors"
        path.write_bytes(save(change(load(path.read_bytes()))))
        content["files"][path.name], content["sizes"][path.name] = digest(path.read_bytes()), path.stat().st_size
    copied.evaluation.write_text(json.dumps({**content, "sha256": digest(canonical(content))}))
    return copied


@pytest.mark.parametrize(
    ("scores", "tensors", "said"),
    [
        ({"epochs": "x"}, {}, "epochs needs to be int"),
        ({"notes": [3]}, {}, r"notes\[0\] needs to be str"),
        ({"curve": [["x"]]}, {}, r"curve\[0\]\[0\] needs to be int"),
        ({"curve": [[1]]}, {}, "points of 3 or 4 numbers"),
        ({"log_likelihood_curve": "x"}, {}, "log_likelihood_curve needs to be a list"),
        ({"files": {"../../x": ""}}, {}, r"it names \.\./\.\./x as a file"),
        ({}, {"evaluation": lambda values: {"z": torch.zeros(1)}}, "has no log_evidence"),
        ({}, {"evaluation": lambda values: {n: v[:3].clone() for n, v in values.items()}}, r"it has \[3\] values"),
        ({}, {"evaluation": lambda values: {n: v[:, None] for n, v in values.items()}}, "one number of 64 bits"),
        ({}, {"evaluation": lambda values: {n: v.half() for n, v in values.items()}}, "one number of 64 bits"),
        ({}, {"drawings": lambda arrays: {n: v.to(torch.complex64) for n, v in arrays.items()}}, "can be drawn"),
        ({}, {"drawings": lambda arrays: {n: v[None, None, None, None] for n, v in arrays.items()}}, "can be drawn"),
        ({}, {"drawings": lambda arrays: {**arrays, "worst_places": torch.tensor([10**6])}}, "worst_places"),
    ],
)
def test_a_result_with_right_checksums_that_no_evaluation_writes_is_damaged(linear, tmp_path, scores, tensors, said):
    cell = _foreign_cell(linear.cells[0].cell, tmp_path, scores, **tensors)
    failure = read_outcome(cell).failure
    assert "is damaged" in failure and re.search(said, failure)


def test_other_options_in_the_same_folder_are_refused(linear, data):
    before = {path: path.stat().st_mtime_ns for path in linear.folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"fit learning_rate was 0.001, now 0.5"):
        pvae.compare({"linear": Linear}, data, {"elbo": Trace_ELBO}, 1, out=linear.folder, learning_rate=0.5, **FAST)
    with pytest.raises(InputError, match=r"judging particles was 30, now 40"):
        pvae.compare({"linear": Linear}, data, {"elbo": Trace_ELBO}, 1, out=linear.folder, **{**FAST, "particles": 40})
    assert {path: path.stat().st_mtime_ns for path in linear.folder.rglob("*") if path.is_file()} == before


def test_names_are_text_on_the_page_in_figures_and_on_the_terminal(data, tmp_path):
    names = ["$x^{$", "<script>alert(1)</script>", "\x1b[31mred", "two\nlines", "\u202eback", "_hidden", "n" * 300]
    done = pvae.compare({"m": Linear}, data, dict.fromkeys(names, "elbo"), 1, out=tmp_path / "x", **FAST)
    page, text = done.report.read_text(), str(done)
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    for written in (page, text):
        assert "\x1b" not in written and "\u202e" not in written and r"\x1b[31mred" in written
    assert [cell["objective"] for cell in json.loads((tmp_path / "x/comparison.json").read_text())["cells"]] == names


def test_unknown_options_name_the_nearest(data, tmp_path):
    with pytest.raises(InputError, match="did you mean 'learning_rate'"):
        pvae.compare({"m": Linear}, data, "elbo", 1, out=tmp_path / "x", learning_rat=0.1, **FAST)
    assert not (tmp_path / "x").exists()


def test_failed_and_killed_cells_leave_the_others_alone(data, tmp_path):
    """They run in a worker process, which is replaced after the killed cell."""
    models = {"killed": Killed, "failing": Failing, "good": build_linear}
    found = pvae.compare(models, data, "elbo", 1, out=tmp_path / "x", **{**FAST, "workers": 1})
    killed, failing, good = found.cells
    assert "SIGKILL" in killed.failure and "this guide has a bug" in failing.failure and not good.failure
    assert found.table.rows[2].log_evidence is not None
    html = found.report.read_text()
    assert "SIGKILL" in html and "this guide has a bug" in html and "2 of 3 cells failed" in html
    assert "this guide has a bug" in found.table.to_text()


def test_a_factory_that_cannot_be_pickled_runs_here_and_says_so(data, tmp_path, capsys):
    found = pvae.compare(
        {"m": lambda: Linear()}, data, "elbo", 1, out=tmp_path / "x", **{**FAST, "workers": 1, "progress": True}
    )
    said = capsys.readouterr().err
    assert "Ran in one process" in said and "m under elbo" in said and not found.cells[0].failure
    assert "Ran in one process" in found.report.read_text()
    assert re.search(r"\[1/1\] m, elbo, seed 0: log evidence -\d", said)


def test_where_every_cell_fails_the_error_says_why(data, tmp_path):
    with pytest.raises(InputError, match=r"Every cell failed; the first: .*this guide has a bug"):
        pvae.compare({"m": Failing}, data, "elbo", 1, out=tmp_path / "x", **FAST)


def test_tutorial_class_on_labelled_pictures(pictures, tmp_path):
    found = pvae.compare({"tutorial": TutorialVAE}, pictures, "elbo", 1, out=tmp_path / "x", **FAST)
    drawn = load_file(found.cells[0].cell.folder / "drawings.safetensors")
    assert drawn["samples"].shape[1:] == (4, 4) and drawn["originals"].shape == drawn["reconstructions"].shape
    assert set(drawn["labels"].tolist()) <= {0, 1, 2} and drawn["codes"].shape[1] == 2
    assert "coloured by label" in found.report.read_text()


def test_model_without_continuous_latents_has_bars_and_no_scatter(data, tmp_path):
    found = pvae.compare({"mixture": Mixture}, data, "elbo", 1, out=tmp_path / "x", **FAST)
    html = found.report.read_text()
    assert not found.cells[0].failure and found.table.rows[0].active_units is None
    assert "Inferred values of k" in html and "Scatter plot" not in html and "Samples and reconstructions" in html


def test_names_with_markup_are_escaped(data, tmp_path):
    found = pvae.compare({"<script>": Linear}, data, {"a/b <i>": Trace_ELBO}, 1, out=tmp_path / "x", **FAST)
    html = found.report.read_text()
    assert "<i>" not in html and html.count("<script>") == 1 and "a/b &lt;i&gt;" in html


def test_baseline_stands_first(linear, data):
    objectives = {"elbo": Trace_ELBO, "iwae-3": "iwae:particles=3"}
    found = pvae.compare({"linear": Linear}, data, objectives, 2, out=linear.folder, baseline="iwae-3", **FAST)
    assert [row.objective for row in found.table.rows] == ["iwae-3", "elbo"]
    assert found.table.rows[1].difference.value == pytest.approx(-linear.table.rows[1].difference.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": []}, "seeds needs one seed or several different ones"),
        ({"seeds": [1, 1]}, "seeds needs one seed or several different ones"),
        ({"baseline": "iwea"}, "did you mean 'iwae'"),
        ({"particles": 0}, "particles"),
        ({"limit": 0}, "limit"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(data, tmp_path, changes, words):
    options = {**FAST, "seeds": 1, **changes}
    with pytest.raises(InputError, match=words):
        pvae.compare({"m": Linear}, data, ["elbo", "iwae"], out=tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()
