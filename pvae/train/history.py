"""`History`: the records of a run, as a list in memory and as JSON lines on disk."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pvae.errors import InputError
from pvae.files import sync, write_bytes
from pvae.json_values import json_value
from pvae.outside_files import check_form, parse_whole, read_limited
from pvae.train.encoding import digest

__all__ = ["History", "read_history"]

_MOST_BYTES = 2**27
_MOST_RECORDS = 500_000
_FORM = {
    **{f"{name}?": int for name in ("epoch", "step")},
    **{f"{name}?": str for name in ("event", "culprit", "validation_of")},
    "learning_rate?": (int, float, dict),
    "*": (int, float, type(None)),
}


def read_history(path: Path, mark: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the records of a file ``metrics.jsonl``; an incomplete last line is left out.

    Args:
        path: the path of the file; there are no records if it does not exist.
        mark: a value that `History.mark` returned; the records before it must be as they were then.

    Raises:
        InputError: if these records have changed or cannot be read, or a record has values that no training writes.
    """
    content = read_limited(path, _MOST_BYTES) if path.exists() else b""
    if mark is not None and digest(content[: mark["metrics_bytes"]]) != mark["metrics_sha256"]:
        raise InputError(f"{path} is damaged: its records are not those of the checkpoint. Restore it from a copy.")
    if content.count(b"\n") > _MOST_RECORDS:
        raise InputError(
            f"{path} needs at most {_MOST_RECORDS} records, as many as fit into memory; it has more. Restore it from a "
            "copy."
        )
    records: list[dict[str, Any]] = []
    for line in content.splitlines():
        try:
            record = json.loads(line, parse_constant=_refuse_constant, parse_int=parse_whole)
        except (ValueError, RecursionError):
            break
        if not _is_usual(record):
            _check_record(path, record, f"record {len(records) + 1}")
        records.append(record)
    if mark is not None and len(records) < mark["records"]:
        raise InputError(
            f"{path} is damaged: {len(records)} of {mark['records']} records can be read. Restore the file from a "
            "copy, or train again with another out."
        )
    return records


def _is_usual(record: Any) -> bool:
    """Return whether a record has only numbers, as most records do; this is much faster than `check_form`."""
    return (
        type(record) is dict
        and not {type(record.get(name, 0)) for name in ("epoch", "step")} - {int}
        and all(type(value) in (int, float) and math.isfinite(value) for value in record.values())
    )


def _check_record(path: Path, record: Any, name: str) -> None:
    """Raise InputError if a record has a value that no training writes."""
    check_form(path, record, _FORM, name)
    infinite = next((key for key, value in record.items() if value in (math.inf, -math.inf)), None)
    if infinite is not None:
        raise InputError(f"{path} is damaged: {name}.{infinite} is not finite, and a training writes null for that.")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON, and no training writes it")


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
            try:
                with self.path.open("ab") as file:
                    file.write(line)
            except OSError as error:
                error.filename = str(self.path)  # the error of a failed write does not name the file
                raise
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
            content = read_limited(self.path, _MOST_BYTES) if self.path.exists() else b""
            self.records = read_history(self.path, mark)[: mark["records"]]
            content = content[: mark["metrics_bytes"]]
            if self.path.exists():
                # a new file, because the old one may be a link to a file outside the folder
                write_bytes(self.path, content)
            self._size, self._sha256 = len(content), hashlib.sha256(content)
        else:
            del self.records[mark["records"] :]
