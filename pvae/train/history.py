"""`History`: the records of a run, as a list in memory and as JSON lines on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pvae.errors import InputError
from pvae.files import sync
from pvae.json_values import json_value

__all__ = ["History", "read_history"]


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file ``metrics.jsonl``; an incomplete last line is left out.

    Args:
        path: the path of the file; there are no records if it does not exist.
    """
    if not path.exists():
        return []
    records = []
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not isinstance(record, dict):
            break
        records.append(record)
    return records


class History:
    """The records of epochs and events. On disk, each line is flushed.

    Args:
        path: the path of ``metrics.jsonl``; None keeps the records in memory.

    Attributes:
        records: the records so far, as JSON values.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = []

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record. Numbers that are not finite become None, because JSON has no NaN."""
        json_record = json_value(record)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(json_record, allow_nan=False) + "\n")
                file.flush()
        self.records.append(json_record)

    def mark(self) -> dict[str, int]:
        """Return the present number of records and bytes, for `cut`. All records so far are then on the disk."""
        size = 0
        if self.path is not None and self.path.exists():
            sync(self.path)
            size = self.path.stat().st_size
        return {"records": len(self.records), "metrics_bytes": size}

    def cut(self, mark: Mapping[str, int]) -> None:
        """Remove the records after a mark, because training continues from there.

        Args:
            mark: a value that `mark` returned.

        Raises:
            InputError: if the file no longer holds the records before the mark.
        """
        if self.path is not None:
            if self.path.exists():
                with self.path.open("rb+") as file:
                    file.truncate(mark["metrics_bytes"])
            self.records = read_history(self.path)
            if len(self.records) != mark["records"]:
                raise InputError(
                    f"{self.path} is damaged: {len(self.records)} of {mark['records']} records can be read. Restore "
                    "the file from a copy, or train again with another out."
                )
        else:
            del self.records[mark["records"] :]
