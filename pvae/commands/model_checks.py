"""The option ``--checks`` of ``pvae evaluate``: findings about the model of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from pvae.commands.options.option_types import split_list
from pvae.commands.output import format_rows, print_json
from pvae.errors import InputError
from pvae.names import unknown

__all__ = ["BUDGET_HELP", "CHECKS", "CHECKS_HELP", "answer_rows", "parse_checks", "print_checks", "saved_answers"]

CHECKS = ("gaps", "calibrate", "resemblance", "reference", "all")
"""The names of checks: functions of `pvae.evaluate`."""

_CHECKS_WITH_PARTICLES = ("all", "gaps", "resemblance")

CHECKS_HELP = (
    "Checks of the model instead of --method, separated by commas. gaps: approximation and amortisation gap. "
    "calibrate: is the guide right on simulated data? resemblance: do the data resemble simulated data? reference: "
    "the guide against long chains, on a few data. all: answers to the main questions, which are saved in the run. "
    "Checks have their own numbers of particles, unless --particles is given."
)
BUDGET_HELP = "Largest number of decoder evaluations, for --checks all."


def parse_checks(text: str | None) -> tuple[str, ...]:
    """Return the names of the checks in a comma-separated list; none for None.

    Args:
        text: the value of the option.

    Raises:
        InputError: if a name is unknown, or the list is empty.
    """
    if text is None:
        return ()
    names = tuple(dict.fromkeys(split_list(text)))
    for name in names:
        if name not in CHECKS:
            raise unknown("check", name, CHECKS)
    if not names:
        raise InputError(f"--checks needs at least one of {', '.join(CHECKS)}; the list is empty.")
    return names


def print_checks(
    names: Sequence[str],
    run: Any,
    splits: Any,
    settings: Mapping[str, Any],
    budget: float,
    *,
    particles: int | None,
    as_json: bool,
) -> None:
    """Run checks and print their findings.

    Args:
        names: names of `CHECKS`.
        run: the opened run.
        splits: the data.
        settings: the arguments ``split``, ``limit``, ``seed`` and ``device``; without a limit each check has its own.
        budget: the largest number of decoder evaluations for the check "all".
        particles: the number of draws of z per datum of the checks that estimate log p(x); None for their own numbers.
        as_json: whether to print one JSON object in place of text.

    Raises:
        InputError: if particles are given, and no check uses them.
    """
    import pvae.evaluate

    chosen = {name: value for name, value in settings.items() if name != "limit" or value is not None}
    if particles is not None and not set(names) & set(_CHECKS_WITH_PARTICLES):
        raise InputError(
            f"--particles is used by the checks {', '.join(_CHECKS_WITH_PARTICLES)}; got {', '.join(names)}. Leave it "
            "out, or add one of these checks."
        )
    found: dict[str, Any] = {}
    for name in names:
        extra: dict[str, Any] = {"budget": budget} if name == "all" else {}
        if particles is not None and name in _CHECKS_WITH_PARTICLES:
            extra["particles"] = particles
        arguments = {key: value for key, value in chosen.items() if not (name == "gaps" and value == "test")}
        found[name] = getattr(pvae.evaluate, name)(run, splits, **arguments, **extra)
    if as_json:
        print_json({"checks": {name: finding.to_json() for name, finding in found.items()}})
        return
    for name, finding in found.items():
        click.echo(f"{name}:" if len(found) > 1 else "", nl=len(found) > 1)
        click.echo(format_rows(_rows(finding.table())))


def _rows(table: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the rows of a finding by name: ``quantity``, or ``question`` for all findings."""
    rows = {}
    for row in table:
        if "question" in row:
            rows[row["question"]] = f"{row['status']}: {row['reason']}"
        else:
            rows[row["quantity"]] = ": ".join(part for part in (row["value"], row["note"]) if part)
    return rows


def saved_answers(run: Any) -> list[dict[str, Any]]:
    """Return the answers that ``--checks all`` saved in the folder of a run, each with question, status and reason.

    The list is empty if there are none. A damaged file is one answer that was not run.

    Args:
        run: the opened run.
    """
    from pvae.evaluate import read_findings

    if run.folder is None:
        return []
    try:
        content = read_findings(run.folder, run.checkpoint)
    except InputError as error:
        return [{"question": "all checks", "status": "not run", "reason": str(error)}]
    names = ("question", "status", "reason")
    return [{name: answer.get(name) for name in names} for answer in (content or {}).get("questions", ())]


def answer_rows(answers: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return rows of text for the answers that are not "fine", by question. Without answers, one row says so.

    Args:
        answers: what `saved_answers` has returned.
    """
    from pvae.evaluate.all_checks.model_findings import BAD_ANSWERS

    if not answers:
        return {"not checked": "inference, use of the latents, data of the model; use --checks all"}
    rows = {}
    for answer in answers:
        if answer["status"] == "fine":
            continue
        words = f" ({BAD_ANSWERS.get(answer['question'], '')})" if answer["status"] == "bad" else ""
        rows[answer["question"]] = f"{answer['status']}{words}: {answer['reason']}"
    return rows
