"""Describe a table as it is in its file, even if it cannot be loaded without a further option."""

from __future__ import annotations

from typing import Any

import numpy as np

from pvae.data.tables.frame_arrays import FrameSource
from pvae.data.tables.frame_columns import column_values, type_name

__all__ = ["describe_table", "table_text"]


def describe_table(source: FrameSource) -> dict[str, Any]:
    """Return rows, and for each column its name, type, range or values, and number of missing cells.

    Args:
        source: the table, with its values from the file.
    """
    columns = {str(name): column_values(source.frame[name]) for name in source.frame.columns}
    return {
        "name": source.name,
        "read": "; ".join([source.account, *source.notes]),
        "rows": len(source.frame),
        "columns": [_describe_column(name, values) for name, values in columns.items()],
    }


def _describe_column(name: str, values: np.ndarray) -> dict[str, Any]:
    record: dict[str, Any] = {"name": name, "type": type_name(values)}
    if values.dtype == object:
        known = sorted({str(value) for value in values if value is not None})
        missing = sum(value is None for value in values)
        return {**record, "different": len(known), "values": known[:8], "missing": int(missing)}
    known_numbers = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    extent = [known_numbers.min().item(), known_numbers.max().item()] if len(known_numbers) else [None, None]
    missing = len(values) - len(known_numbers)
    return {**record, "smallest": extent[0], "largest": extent[1], "missing": int(missing)}


def table_text(record: dict[str, Any]) -> str:
    """Return a description as lines of text.

    Args:
        record: the result of `describe_table`.
    """
    width = max(len(column["name"]) for column in record["columns"])
    lines = [f"{record['name']}: {record['read']}", f"{record['rows']} rows of {len(record['columns'])} columns"]
    for column in record["columns"][:30]:
        if "values" in column:
            more = ", ..." if column["different"] > len(column["values"]) else ""
            what = f"{column['different']} different: {', '.join(column['values'])}{more}"
        else:
            what = "no value" if column["smallest"] is None else f"{column['smallest']} to {column['largest']}"
        missing = f", {column['missing']} missing" if column["missing"] else ""
        lines.append(f"  {column['name']:<{width}}  {column['type']}, {what}{missing}")
    return "\n".join(lines)
