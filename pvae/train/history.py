"""The records of a run: a list in memory, and one JSON line each on disk."""

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
    """Return the records of a ``metrics.jsonl``; a last line that was cut off is left out."""
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
    """Records of epochs and events; on disk where there is a folder, each line flushed.

    Args:
        path: of ``metrics.jsonl``, or None for memory alone.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = []

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record. What is not finite becomes None: JSON has no NaN."""
        held = json_value(record)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(held, allow_nan=False) + "\n")
                file.flush()
        self.records.append(held)

    def mark(self) -> dict[str, int]:
        """Return where the records end now, for `cut`; what is said so far is on the disk by then."""
        size = 0
        if self.path is not None and self.path.exists():
            sync(self.path)
            size = self.path.stat().st_size
        return {"records": len(self.records), "metrics_bytes": size}

    def cut(self, mark: Mapping[str, int]) -> None:
        """Forget the records after a mark: they will be made again.

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
                    f"{self.path} is damaged: {len(self.records)} of {mark['records']} records can be read."
                )
        else:
            del self.records[mark["records"] :]
