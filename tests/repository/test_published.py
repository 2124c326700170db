"""The rows of published results run at their smallest budget, continue, and give the verdicts that hand values have."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pyro
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def published():
    """The benchmark's module, which is no part of the package."""
    before = set(sys.modules)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import published

        yield published
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("published", "published_rows", "experiments", "environment"):
                del sys.modules[name]


@pytest.fixture
def lines(published):
    return sys.modules["published_rows.lines"]


def entries(text: str) -> list[dict[str, str]]:
    """Return the rows of the table in a text, by heading."""
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def test_the_page_is_written_from_what_was_measured(published):
    assert (ROOT / "docs" / "published.md").read_text() == published.page()


def test_records_have_the_settings_of_the_rows(published):
    for path in sorted(published.RESULTS.glob("*.json")):
        record, name = json.loads(path.read_text()), path.stem.rpartition("-")[0]
        row = published.ROWS[name]
        plan = row.budgets[record["budget"]]
        assert path.stem == f"{name}-{record['budget']}"
        assert record["settings"] == json.loads(json.dumps(plan.settings))
        assert set(record["cells"]) == {line.key for line in row.lines if record["budget"] in line.budgets}
        assert {len(cells) for cells in record["cells"].values()} == {record["seeds"]}


def test_every_row_has_all_budgets_and_figures_to_compare_with(published, lines):
    for row in published.ROWS.values():
        assert tuple(row.budgets) == lines.BUDGETS
        for line in row.lines:
            assert "full" in line.budgets
            assert line.targets[0].budget == "full"


@pytest.mark.filterwarnings("ignore:The log evidence is not reliable")
@pytest.mark.parametrize("name", ["burda", "vamp", "labels", "quadrants", "rainforth", "belief-net"])
def test_a_row_runs_at_the_smallest_budget(published, name, tmp_path, capsys):
    threads = torch.get_num_threads()
    published.main([name, "--budget", "smoke", "--out", str(tmp_path), "--results", str(tmp_path / "results")])
    assert torch.get_num_threads() == threads
    found = entries(capsys.readouterr().out)
    row = published.ROWS[name]
    labels = [line.label for line in row.lines if "smoke" in line.budgets for _ in line.targets if _.budget == "full"]
    assert [entry["line"] for entry in found] == labels
    for entry in found:
        value, error = (float(part) for part in entry["measured"].split(" ± "))
        assert value > 0 and error > 0
        assert entry["verdict"] == "not comparable at this budget" and entry["difference"] == "other data"
    assert not (tmp_path / "results").exists()


@pytest.mark.filterwarnings("ignore:The log evidence is not reliable")
def test_a_command_that_was_killed_continues(published, tmp_path, capsys, monkeypatch):
    vamp, calls = sys.modules["published_rows.vamp_prior"], []
    evaluate = vamp.minus_log_evidence

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*arguments)

    monkeypatch.setattr(vamp, "minus_log_evidence", killed)
    command = ["vamp", "--budget", "smoke", "--out", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        published.main(command)
    cells = tmp_path / "smoke" / "vamp"
    trained = {path: path.stat().st_mtime_ns for path in cells.rglob("parameters.safetensors")}
    assert (cells / "standard-seed0.json").exists() and not (cells / "vamp-seed0.json").exists()
    assert any("vamp-seed0" in str(path) for path in trained)
    published.main(command)
    assert len(calls) == 3  # only the cell that was not finished is evaluated
    assert {path: path.stat().st_mtime_ns for path in cells.rglob("parameters.safetensors")} == trained
    first = entries(capsys.readouterr().out)
    published.main(command)
    assert entries(capsys.readouterr().out) == first and len(calls) == 3


def test_other_settings_in_a_folder_are_refused(published, tmp_path):
    published.check_folder(tmp_path, {"epochs": 1})
    published.check_folder(tmp_path, {"epochs": 1})
    with pytest.raises(published.InputError, match="other settings"):
        published.check_folder(tmp_path, {"epochs": 2})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name a row"),
        (["bruda"], "invalid choice"),
        (["burda", "--budget", "long"], "invalid choice"),
        (["burda", "--seeds", "0"], "--seeds needs a whole number of at least 1; got 0"),
        (["burda", "--threads", "-1"], "--threads needs a whole number of at least 1; got -1"),
        (["burda", "--budget", "smoke", "--out", __file__], "published.py: "),
        (["--write", f"{__file__}/page.md"], "published.py: "),
    ],
)
def test_bad_commands_are_refused_in_one_line(published, arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        published.main(arguments)
    assert ended.value.code == 2 and words in capsys.readouterr().err


def test_verdicts_by_hand(lines):
    target = lines.Target("a paper", 85.0, tolerance=0.5)
    for value, error, expected in [
        (85.3, 0.05, "within"),  # 0.2 from the tolerance, and two errors are 0.1
        (84.7, 0.05, "within"),
        (85.45, 0.05, "undecided: the error is too large"),
        (85.55, 0.05, "undecided: the error is too large"),
        (85.7, 0.05, "not within"),
        (84.3, 0.05, "not within"),
        (85.45, math.nan, "within (one seed)"),
        (85.55, math.nan, "not within (one seed)"),
    ]:
        assert lines.verdict(value, error, target, "full") == expected, value
    assert lines.verdict(85.0, 0.05, target, "short") == "not comparable at this budget"
    # The errors of both figures count: two times the root of 0.03^2 + 0.04^2 is 0.1, and the distance 0.09 or 0.11.
    target = lines.Target("a rerun", 85.0, tolerance=0.5, error=0.04, budget="short")
    assert lines.verdict(85.41, 0.03, target, "short") == "undecided: the error is too large"
    assert lines.verdict(85.39, 0.03, target, "short") == "within"


def test_a_table_by_hand(published, lines):
    targets = (lines.Target("a paper", 85.0, 0.5, 0.1), lines.Target("by hand", 94.0, 1.0, None, "short"))
    budgets = dict.fromkeys(lines.BUDGETS, lines.Budget(2, {}, "A recipe."))
    row = lines.PublishedRow(
        "Title", "Source.", "Nats.", (lines.Line("a", "VAE", targets),), budgets, dict, "Too short.", "None.", "None."
    )
    numbers = [(93.0, 0.8, 0.1), (95.0, 0.6, 0.3)]
    cells = {
        "a": [{"value": value, "error": error, "bias": bias, "cpu_seconds": 21.0} for value, error, bias in numbers]
    }
    paper, by_hand = entries(lines.table_of(row, cells, "short"))
    assert list(paper) == list(lines.HEADING)
    assert list(paper.values()) == [
        "VAE", "94.00 ± 0.70", "93.00, 95.00 (error 1.00)", "+0.20", "a paper", "85.00 ± 0.10", "+9.00", "0.5",
        "not comparable at this budget",
    ]  # fmt: skip
    assert by_hand["difference"] == "+0.00" and by_hand["verdict"] == "undecided: the error is too large"
    assert len(entries(lines.table_of(row, cells, "full"))) == 1
    record = {"budget": "short", "command": "python x", "date": "2026-01-01", "machine": "a CPU", "seeds": 2}
    text = published.text_of(row, {**record, "seconds": 90.0, "cells": cells})
    assert "Seeds: 0, 1." in text and "Too short." in text and "2026-01-01 on a CPU" in text
    assert "0.7 minutes of CPU time in this process, and 1.5 minutes of wall time" in text


def test_the_schedule_of_burda_is_that_of_the_paper(published):
    settings = published.ROWS["burda"].budgets["full"].settings
    name, _, options = settings["schedule"].partition(":")
    milestones, gamma = (part.partition("=")[2] for part in options.split(":"))
    assert name == "multistep" and [int(part) for part in milestones.split(",")] == [
        sum(3**i for i in range(stage)) for stage in range(1, 8)
    ]
    assert settings["epochs"] == sum(3**i for i in range(8))
    for i in range(8):
        assert settings["learning_rate"] * float(gamma) ** i == pytest.approx(0.001 * 10 ** (-i / 7), rel=1e-5)


def test_quadrants_are_those_of_the_tutorial(published):
    quadrants = sys.modules["published_rows.pyro_quadrants"]
    expected = {1: ["11", "01"], 2: ["01", "01"], 3: ["00", "01"]}  # 1: missing; a quadrant for each digit
    for observed, quarters in expected.items():
        wanted = torch.tensor([[int(digit) for digit in quarter] for quarter in quarters], dtype=torch.bool)
        found = quadrants.missing_pixels((4, 4), observed).reshape(4, 4)
        assert torch.equal(found, wanted.repeat_interleave(2, 0).repeat_interleave(2, 1))


@pytest.mark.usefixtures("own_store")
def test_grey_pixels_are_scored_as_in_the_tutorial(published):
    quadrants = sys.modules["published_rows.pyro_quadrants"]
    torch.manual_seed(0)
    model, x = quadrants.Baseline((2, 2), 1, 4), torch.tensor([[0.0, 0.25, 0.5, 1.0]])
    found = pyro.poutine.trace(model.model).get_trace(x).log_prob_sum()
    p = model(x).sigmoid()[0, [0, 1, 3]].tolist()  # the lower left pixel is observed
    by_hand = sum(g * math.log(q) + (1 - g) * math.log(1 - q) for g, q in zip([0.0, 0.25, 1.0], p, strict=True))
    assert found.item() == pytest.approx(by_hand, rel=1e-5)
    other = x.clone()
    other[0, [0, 1, 3]] = 0.7
    assert torch.equal(model(x), model(other))  # missing pixels do not reach the network


def test_adam_by_epochs_by_hand(published):
    # Gradients 2 and -1, one step per epoch: m = 0.05 * 2, v = 0.001 * 4; then m = 0.095 - 0.05, v = 0.003996 + 0.001.
    parameter = torch.nn.Parameter(torch.tensor([[3.0]], dtype=torch.float64))
    optimiser = sys.modules["published_rows.belief_net"].AdamByEpochs([parameter], lr=0.1, steps=1, decay=0.5)
    parameter.grad = torch.full_like(parameter, 2.0)
    optimiser.step()
    first = 3.0 - 0.1 * math.sqrt(0.001) / 0.05 * 0.1 / math.sqrt(0.004 + 1e-6) - 0.1 * 0.5 * 3.0
    assert parameter.item() == pytest.approx(first, rel=1e-9)
    parameter.grad = torch.full_like(parameter, -1.0)
    optimiser.step()
    rate = 0.1 * math.sqrt(1 - 0.999**2) / (1 - 0.95**2)
    second = first - rate * 0.045 / math.sqrt(0.004996 + 1e-6) - 0.1 * 0.5 * first
    assert parameter.item() == pytest.approx(second, rel=1e-9)
