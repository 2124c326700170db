"""What every finding of an evaluation has: JSON, rows of text, a status, and an announced cost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from matplotlib.figure import Figure

from pvae import InputError
from pvae.evaluate import EvaluationFinding, ModelFindings, NotRun, QuestionAnswer
from pvae.evaluate.all_checks.model_findings import QUESTIONS
from pvae.evaluate.finding import announce_cost, evaluation_steps, worst_status
from pvae.plots.base import new_figure


@dataclass(frozen=True)
class Example(EvaluationFinding):
    question: ClassVar[str] = "Is it an example?"
    name: ClassVar[str] = "example"

    def draw(self) -> Figure:
        return new_figure(1.0)


FOUND = Example(1.2345, 0.0123, 7, "look", "1.23 is above 1.", 1250, limit="1", source="the test")


def test_a_finding_says_its_numbers_in_json_and_in_rows() -> None:
    record = json.loads(json.dumps(FOUND.to_json()))
    assert (record["value"], record["error"], record["count"], record["cost"]) == (1.2345, 0.0123, 7, 1250)
    assert (record["name"], record["question"], record["status"]) == ("example", "Is it an example?", "look")
    assert FOUND.table()[0] == {"quantity": "status", "value": "look", "note": "1.23 is above 1."}
    assert FOUND.table()[1]["value"] == "1.234 ± 0.012 nats per datum"


def test_what_was_not_run_keeps_its_question_and_is_never_fine() -> None:
    skipped = NotRun.of(Example, "The budget allows 10 decoder evaluations.")
    record = skipped.to_json()
    assert (record["name"], record["question"], record["status"]) == ("example", "Is it an example?", "not run")
    assert record["value"] is None
    assert skipped.table()[1]["value"] == "not run"
    with pytest.raises(InputError, match="was not run"):
        skipped.plot()


@pytest.mark.parametrize(
    ("statuses", "worst"),
    [
        (["fine", "fine"], "fine"),
        (["fine", "not run"], "not run"),
        (["look", "not run"], "look"),
        (["look", "bad", "fine"], "bad"),
        ([], "not run"),
    ],
)
def test_the_worst_status_decides(statuses: list[str], worst: str) -> None:
    assert worst_status(statuses) == worst


def test_an_interrupted_evaluation_says_what_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(**options: bool) -> None:
        with evaluation_steps("sandwich", 4e6, **options) as steps:
            steps.advance(1_500_000)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "sandwich: interrupted after 1.5 million of about 4 million decoder evaluations" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        interrupted(progress=False)
    assert capsys.readouterr().err == ""


def test_another_status_is_refused() -> None:
    with pytest.raises(InputError, match="green"):
        Example(0.0, 0.0, 1, "green", "", 0)


def test_a_figure_is_written_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "example.svg"
    FOUND.plot(path)
    assert "<svg" in path.read_text()


def test_the_cost_is_announced_before_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with evaluation_steps("example", 1_250_000) as steps:
        assert capsys.readouterr().err == "example: about 1.25 million decoder evaluations\n"
        steps.advance(10)
        steps.advance(5)
    assert steps.done == 15
    announce_cost(1e9, "example", progress=False)
    assert capsys.readouterr().err == ""


def test_an_unknown_question_names_the_nearest_one() -> None:
    answers = tuple(QuestionAnswer(question, "fine", "", ()) for question in QUESTIONS)
    findings = ModelFindings(answers, budget=1.0, cost=0, seed=0, split="test", count=1)
    assert findings["Are the latents used?"].question == "Are the latents used?"
    with pytest.raises(
        InputError, match=r"Unknown question 'Are latents used\?'; did you mean 'Are the latents used\?'"
    ):
        findings["Are latents used?"]
