"""The answers about models in the run folders of a comparison, from `pvae evaluate --checks all`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pvae.comparison.base import Outcome
from pvae.errors import InputError
from pvae.evaluate.all_checks.findings_file import read_findings
from pvae.evaluate.finding import STATUSES

__all__ = ["answers_to"]


def answers_to(question: str, outcomes: Sequence[Outcome]) -> list[tuple[Outcome, Mapping[str, Any]]]:
    """Return the answers to a question, each with the outcome of its run; runs without an answer are left out.

    A damaged file of findings gives an answer that was not run, with the reason.

    Args:
        question: one of `pvae.evaluate.all_checks.model_findings.QUESTIONS`.
        outcomes: finished outcomes.
    """
    pairs = [(outcome, _answer_of(question, outcome)) for outcome in outcomes]
    return [(outcome, answer) for outcome, answer in pairs if answer is not None]


def _answer_of(question: str, outcome: Outcome) -> Mapping[str, Any] | None:
    try:
        content = read_findings(outcome.cell.folder, "best")
    except InputError as error:
        return {"status": "not run", "reason": str(error)}
    for answer in (content or {}).get("questions", ()):
        if answer.get("question") == question and answer.get("status") in STATUSES:
            return dict(answer)
    return None
