"""`TableOptions`: how to read a table, and which of its columns are features, labels and row names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pvae.checks import is_whole
from pvae.errors import InputError

__all__ = ["MISSING_WORDS", "TableOptions", "names_in"]

#: Words that mean a missing value, if missing values are allowed and no other words are given.
MISSING_WORDS = (
    "", "NA", "N/A", "n/a", "na", "#N/A", "#NA", "<NA>", "NaN", "nan", "NAN", "-NaN", "-nan", "NULL", "null", "None",
    "NaT",
)  # fmt: skip
_HEADERS = {"first": True, "none": False, "0": True, True: True, False: False}
_SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "bar": "|", "space": " ", "\\s+": " "}


def names_in(value: Any, option: str) -> tuple[str, ...]:
    """Return the names of columns in a text with commas, or in a sequence.

    Args:
        value: such as ``"height,weight"`` or ``["height", "weight"]``.
        option: name of the option, for messages.

    Raises:
        InputError: if it is neither, or names nothing.
    """
    if isinstance(value, str):
        names = tuple(name.strip() for name in value.split(","))
    elif isinstance(value, Iterable):
        names = tuple(str(name) for name in value)
    else:
        names = (str(value),)
    if not names or (len(names) == 1 and not names[0]):
        raise InputError(f"{option} needs names of columns, such as 'height,weight'; got {value!r}.")
    return names


@dataclass(frozen=True)
class TableOptions:
    """How to read a table.

    Attributes:
        separator: the character between cells, or its name; None finds it.
        header: whether the first line has the names of the columns; None examines the line.
        index: the columns that name the rows and are not features; () for none; None finds an unnamed one.
        columns: the columns that are features; None takes all others.
        label: the column of the label; ``"none"`` for none; None finds it by its name.
        categories: columns of text or whole numbers, each of which becomes one feature per value.
        words: the texts that mean a missing value; None takes `MISSING_WORDS`.
        missing: whether missing values are allowed.
        known_label: the label of earlier data, which may be missing in these data; None without earlier data.
        recorded: the names of options that come from earlier data, and so are allowed for data that are not a table.
        ignores_label: whether the label is not used, and may have missing values.
        known_values: the values of each category in earlier data.
    """

    separator: str | None = None
    header: bool | None = None
    index: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    label: str | None = None
    categories: tuple[str, ...] = ()
    words: tuple[str, ...] | None = None
    missing: bool = False
    known_label: str | None = None
    recorded: tuple[str, ...] = ()
    ignores_label: bool = False
    known_values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, missing: Any, given: Mapping[str, Any]) -> TableOptions:
        """Return the options that `load_data` got, checked.

        Args:
            missing: ``"error"``, ``"mask"``, or the texts that mean a missing value.
            given: the options separator, header, index, columns, label and categories of the user.

        Raises:
            InputError: if a value cannot be used.
        """
        words = None if missing in ("error", "mask") else names_in(missing, "missing")
        index, label = given.get("index"), given.get("label")
        return cls(
            separator=_separator(given.get("separator")),
            header=_header(given.get("header")),
            index=None if index is None else () if index in ("none", ()) else names_in(index, "index"),
            columns=None if given.get("columns") is None else names_in(given["columns"], "columns"),
            label=None if label is None else str(label),
            categories=() if not given.get("categories") else names_in(given["categories"], "categories"),
            words=words,
            missing=missing != "error",
        )

    @property
    def missing_words(self) -> tuple[str, ...]:
        """The texts that mean a missing value; an empty cell always does."""
        return MISSING_WORDS if self.words is None else ("", *self.words)

    def chosen(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, by name, without those of earlier data."""
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        default = TableOptions()
        return {
            name: value
            for name, value in values.items()
            if not name.startswith("known_")
            and name not in ("recorded", "ignores_label")
            and value != getattr(default, name)
        }

    def refuse_for(self, source: str) -> None:
        """Raise InputError for options of tables if the source is not a table.

        Args:
            source: the name of the source, for the message.

        Raises:
            InputError: if an option is given.
        """
        given = [name for name in self.chosen() if name not in ("missing", *self.recorded)]
        if "words" in given:
            raise InputError(
                f"missing needs 'error' or 'mask'; got {','.join(self.words or ())!r}. Words that mean a missing value "
                f"are for tables, but {source} is not a table."
            )
        if given:
            raise InputError(
                f"The option {given[0]!r} is for tables, but {source} is not a table. Leave the option out, or pass "
                "a text file or a data frame."
            )


def _separator(value: Any) -> str | None:
    if value is None:
        return None
    separator = _SEPARATORS.get(str(value), value)
    if not isinstance(separator, str) or len(separator) != 1 or separator.isalnum() or separator in "\"'.\n":
        raise InputError(f"separator needs one character, such as ';', or tab or space; got {value!r}.")
    return separator


def _header(value: Any) -> bool | None:
    if value is None:
        return None
    key = value.lower() if isinstance(value, str) else value
    key = str(key) if is_whole(key) else key
    if key not in _HEADERS:
        raise InputError(f"header needs 'first' (the first line has the names) or 'none' (it has data); got {value!r}.")
    return _HEADERS[key]
