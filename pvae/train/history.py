"""`History`: the records of a run, as a list in memory and as JSON lines on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pvae.errors import InputError
from pvae.files import sync
from pvae.json_values import json_value
from pvae.outside_files import read_limited, require_regular
from pvae.train.encoding import digest

__all__ = ["History", "read_history"]

_MOST_BYTES = 2**27


def read_history(path: Path, mark: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return the records of a file ``metrics.jsonl``; an incomplete last line is left out.

    Args:
        path: the path of the file; there are no records if it does not exist.
        mark: a value that `History.mark` returned; the records before it must be as they were then.

    Raises:
        InputError: if these records have changed.
    """
    content = read_limited(path, _MOST_BYTES) if path.exists() else b""
    if mark is not None and digest(content[: mark["metrics_bytes"]]) != mark["metrics_sha256"]:
        raise InputError(f"{path} is damaged: its records are not those of the checkpoint. Restore it from a copy.")
    records = []
    for line in content.splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
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
        self._size, self._sha256 = 0, hashlib.sha256()

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record. Numbers that are not finite become None, because JSON has no NaN."""
        json_record = json_value(record)
        if self.path is not None:
            line = json.dumps(json_record, allow_nan=False).encode() + b"\n"
            with self.path.open("ab") as file:
                file.write(line)
            self._size += len(line)
            self._sha256.update(line)
        self.records.append(json_record)

    def mark(self) -> dict[str, Any]:
        """Return the present number of records and bytes, and their checksum. All records are then on the disk."""
        if self.path is not None and self.path.exists():
            sync(self.path)
        return {
            "records": len(self.records),
            "metrics_bytes": self._size,
            "metrics_sha256": self._sha256.hexdigest(),
        }

    def cut(self, mark: Mapping[str, Any]) -> None:
        """Remove the records after a mark, because training continues from there.

        Args:
            mark: a value that `mark` returned.

        Raises:
            InputError: if the file no longer holds the records before the mark.
        """
        if self.path is not None:
            if self.path.exists():
                require_regular(self.path)
                with self.path.open("rb+") as file:
                    file.truncate(mark["metrics_bytes"])
            self.records = read_history(self.path, mark)
            content = self.path.read_bytes() if self.path.exists() else b""
            self._size, self._sha256 = len(content), hashlib.sha256(content)
            if len(self.records) != mark["records"]:
                raise InputError(
                    f"{self.path} is damaged: {len(self.records)} of {mark['records']} records can be read. Restore "
                    "the file from a copy, or train again with another out."
                )
        else:
            del self.records[mark["records"] :]
