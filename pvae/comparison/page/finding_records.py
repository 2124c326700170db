"""The findings of evaluations that the run folders of a comparison hold, as their JSON records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pvae.comparison.base import Outcome
from pvae.errors import InputError
from pvae.evaluate.finding import STATUSES
from pvae.outside_files import read_json

__all__ = ["find_records", "read_findings"]

_FILE, _KEY = "findings.json", "findings"
_MOST_BYTES = 50_000_000


def read_findings(folder: Path) -> list[Mapping[str, Any]]:
    """Return the records of the evaluations of a run; empty if there is no file of them, or none that can be read.

    Args:
        folder: the run folder.
    """
    path = folder / _FILE
    if not path.is_file():
        return []
    try:
        content = read_json(path, _MOST_BYTES)
    except InputError:
        return []
    found = content.get(_KEY, list(content.values())) if isinstance(content, Mapping) else content
    records = found if isinstance(found, Sequence) else []
    return [record for record in records if isinstance(record, Mapping) and record.get("status") in STATUSES]


def find_records(outcomes: Iterable[Outcome], names: Iterable[str]) -> list[tuple[Outcome, Mapping[str, Any]]]:
    """Return the records with these names of evaluations, each with the outcome of its run.

    Args:
        outcomes: finished outcomes.
        names: names of evaluations, such as ``"calibrate"``.
    """
    wanted = set(names)
    return [
        (outcome, record)
        for outcome in outcomes
        for record in [*read_findings(outcome.cell.folder), *outcome.scores.get(_KEY, ())]
        if record.get("name") in wanted
    ]
