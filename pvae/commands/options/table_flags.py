"""The flags that say how a file is read: separator, names, label, missing values, channels and scaling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from pvae.commands.options.help_sections import apply_options, make_option

__all__ = ["reading_options", "table_options"]

Command = TypeVar("Command", bound=Callable[..., Any])
_FLAGS = {
    "separator": "Character between the cells of a text table, or comma, semicolon, tab, space. [default: inferred]",
    "header": "first: the first line of a text table names the columns. none: the first line has data. [default: "
    "inferred]",
    "index": "Columns that name the rows and are left out, with commas between them, or none. [default: inferred]",
    "columns": "Columns that are features, separated by commas. [default: all but label and names of the rows]",
    "label": "Column that is the label y; none for no label. [default: inferred from name and values]",
    "categories": "Columns that become one feature of 0 and 1 for each of their values.",
}
MISSING_HELP = (
    "error: do not accept missing values. mask: read empty cells, NaN and words such as NA as missing. Any other text, "
    "such as NA,?, lists the words that mean a missing value."
)
CHANNELS_HELP = "Position of the channels of pictures: first, last, or auto (last if only the last size is 1, 3 or 4)."
SCALE_HELP = "standardise: each feature gets mean 0 and standard deviation 1; minmax: it is scaled to [0, 1]."
RESIDENT_HELP = (
    "yes: read all data into memory. no: read each batch of a .npy file, or of a folder of .npy or .npz files, when it "
    "is needed. auto: no for data of more than half of the free memory."
)
_MORE = ("missing", "channels", "scale")
_RESIDENT = {"auto": None, "yes": True, "no": False}


def table_options(*, missing: bool = True, scaled: bool = True) -> Callable[[Command], Command]:
    """Return the decorator that adds the flags of tables.

    Args:
        missing: whether to add ``--missing``; a command may have one of its own.
        scaled: whether to add ``--channels``, ``--scale`` and ``--resident``; data for a run take those of the run.
    """
    options = [make_option("Data", f"--{name}", str, None, text) for name, text in _FLAGS.items()]
    if missing:
        options.append(make_option("Data", "--missing", str, "error", MISSING_HELP))
    if scaled:
        options.append(make_option("Data", "--channels", str, "auto", CHANNELS_HELP))
        options.append(make_option("Data", "--scale", str, "none", SCALE_HELP))
        options.append(make_option("Data", "--resident", click.Choice(list(_RESIDENT)), "auto", RESIDENT_HELP))
    return lambda command: apply_options(command, options)


def reading_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a command that `load_data` takes to read a file.

    Args:
        options: all options of the command by name.
    """
    resident = {"resident": _RESIDENT[options["resident"]]} if "resident" in options else {}
    return {**{name: options[name] for name in (*_FLAGS, *_MORE) if name in options}, **resident}
