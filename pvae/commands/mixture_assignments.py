"""The component of each row of the data, as a table in the order of the rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvae.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from pvae.data import Splits
    from pvae.em import GaussianMixture

__all__ = ["check_assign_path", "row_chunks", "write_assignments"]

#: Rows that are read and scored at a time.
_ROWS = 1 << 15


def row_chunks(x: Any) -> list[slice]:
    """Return slices of the rows of x, (data, features), of which each needs little memory."""
    return [slice(start, start + _ROWS) for start in range(0, len(x), _ROWS)]


def check_assign_path(path: Path | None) -> None:
    """Check, before anything is computed, that a table of assignments can be written.

    Args:
        path: the file, or None for no table.

    Raises:
        InputError: otherwise.
    """
    if path is None:
        return
    if path.suffix.lower() != ".csv":
        raise InputError(f"--assign needs a path that ends in .csv; got {str(path)!r}.")
    if not path.resolve().parent.is_dir():
        raise InputError(f"--assign needs a path in an existing folder; the folder {path.parent} does not exist.")
    if path.exists():
        raise InputError(f"{path} exists already, and was not changed. Name another file with --assign.")


def write_assignments(
    path: Path, mixture: GaussianMixture, splits: Splits, tables: dict[str, Any], *, keep_formulas: bool = False
) -> None:
    """Write the component of all rows as CSV, in the order in which the source has them.

    The columns are the number of the row from 0 on (or the name of the row, under the name of that column), its split,
    the most probable component, the probability of this component, and log p(x) in nats. Splits that the source
    contains follow the rows of its main table, and are numbered by themselves.

    Args:
        path: the file; a file of that name is replaced.
        mixture: the fitted mixture.
        splits: the data.
        tables: x of each split, shape (data, features).
        keep_formulas: whether names of rows that a spreadsheet would run as a formula are written as they are.
    """
    import numpy as np
    import pandas as pd

    from pvae.commands.csv_text import write_csv
    from pvae.files import replace_file

    parts = [_assigned(mixture, name, x, splits) for name, x in tables.items()]
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    order = np.lexsort((columns["row"], columns.pop("own")))
    columns = {key: values[order] for key, values in columns.items()}
    if splits.row_names is not None and set(tables) <= set(splits.positions):
        label, names = splits.row_names
        columns = {label: names[columns.pop("row")], **columns}
    with replace_file(path) as unfinished:
        write_csv(unfinished, pd.DataFrame(columns), keep_formulas=keep_formulas)


def _assigned(mixture: GaussianMixture, name: str, x: Any, splits: Splits) -> dict[str, np.ndarray]:
    """Return the columns of the table for one split."""
    import numpy as np

    positions = splits.positions.get(name)
    own = ("train", "validation", "test").index(name) if positions is None else 0
    components, probabilities, log_p = [], [], []
    for rows in row_chunks(x):
        chunk = np.asarray(x[rows], dtype=np.float64)
        shares = mixture.predict_proba(chunk)
        components.append(shares.argmax(1))
        probabilities.append(shares.max(1))
        log_p.append(mixture.score_samples(chunk))
    return {
        "own": np.full(len(x), own),
        "row": np.arange(len(x)) if positions is None else positions.numpy(),
        "split": np.full(len(x), name),
        "component": np.concatenate(components),
        "probability": np.concatenate(probabilities),
        "log_p": np.concatenate(log_p),
    }
