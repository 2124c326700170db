"""The lines of a text table: decoded, without comments and blank lines, each with its number in the file."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pvae.errors import InputError

__all__ = ["TextLines", "find_sign", "require_text", "split_cells", "text_lines"]

_BLOCK = 1 << 18

#: The prefix of a first line that only Excel uses.
_NAMES_SEPARATOR = re.compile(rb'"?sep=.?"?', re.IGNORECASE)
_BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True, eq=False)
class TextLines:
    """The lines of a table that have cells.

    Attributes:
        name: the file, for messages.
        content: the lines in UTF-8, each ended by a newline.
        numbers: the number of each line in the file, from 1 on, (lines,).
        starts: the position in `content` where each line begins, (lines,).
        encoding: the encoding of the file.
        comments: the comment lines before the first line, without the sign.
        comment_count: the number of all comment lines.
    """

    name: str
    content: bytes
    numbers: np.ndarray
    starts: np.ndarray
    encoding: str
    comments: tuple[str, ...]
    comment_count: int

    @cached_property
    def has_quotes(self) -> bool:
        """Whether a cell may be in quotes, and therefore may contain separators and ends of lines."""
        return b'"' in self.content

    def from_line(self, first: int) -> io.BytesIO:
        """Return the content from a line on, counted from 0, as a stream that shares its memory."""
        stream = io.BytesIO(self.content)
        stream.seek(int(self.starts[first]) if first < len(self) else len(self.content))
        return stream

    def __len__(self) -> int:
        return len(self.starts)

    def records(self, separator: str, limit: int | None = None) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows of cells, each with the number of its first line in the file.

        Args:
            separator: the separator; a space means any white space, and "" none.
            limit: the largest number of rows; None for all.

        Raises:
            InputError: if a quote is not closed.
        """
        content = self.content
        if limit is not None and limit + 1 < len(self) and not self.has_quotes:
            content = content[: int(self.starts[limit + 1])]
        lines = io.StringIO(content.decode("utf-8"), newline="\n")
        for position, cells in itertools.islice(split_cells(self.name, lines, separator), limit):
            yield int(self.numbers[position]), cells


def split_cells(name: str, lines: Iterator[str] | io.StringIO, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row, with the position of its first line.

    Args:
        name: the file, for messages.
        lines: the lines.
        separator: as for `TextLines.records`.

    Raises:
        InputError: if the lines are not a table.
    """
    if separator == " ":
        yield from ((position, _on_white_space(line)) for position, line in enumerate(lines))
        return
    reader = csv.reader(lines, delimiter=separator or "\x1f", skipinitialspace=True, strict=False)
    before = 0
    try:
        for row in reader:
            yield before, [cell.strip() for cell in row]
            before = reader.line_num
    except csv.Error as error:
        raise InputError(f"{name} is not a text table ({error}).") from error


def _on_white_space(line: str) -> list[str]:
    if '"' not in line:
        return line.split()
    return next(csv.reader([" ".join(line.split())], delimiter=" ", skipinitialspace=True))


def text_lines(name: str, raw: bytes) -> TextLines:
    """Return the lines of a text table.

    Args:
        name: the file, for messages.
        raw: the content of the file, decompressed.

    Raises:
        InputError: if it is not a text file.
    """
    content, encoding = (raw, "utf-8") if raw.isascii() else _in_utf_8(name, raw)
    _refuse_zeros(name, content)
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if content and not content.endswith(b"\n"):
        content += b"\n"
    ends = find_sign(content, "\n")
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else np.zeros(0, np.int64)
    kinds = _kinds(content, starts, ends)
    if len(starts) and _NAMES_SEPARATOR.fullmatch(content[: ends[0]]):
        kinds[0] = 2
    comments = _comments(content, starts, ends, kinds)
    numbers = np.arange(1, len(starts) + 1)
    count = int((kinds == 2).sum())
    if count or (kinds == 1).any():
        kept = kinds == 0
        content = b"".join(content[s : e + 1] for s, e in zip(starts[kept], ends[kept], strict=True))
        lengths = (ends - starts + 1)[kept]
        starts, numbers = np.cumsum(lengths) - lengths, numbers[kept]
    return TextLines(name, content, numbers, starts, encoding, comments, count)


def require_text(name: str, start: bytes) -> None:
    """Raise InputError for a file that is not text, before all of it is read.

    Args:
        name: the file, for messages.
        start: its first bytes; the bytes of a gzip file, and of a text in UTF-16, are accepted.

    Raises:
        InputError: if it is not a text file.
    """
    if not start.startswith((*_BOMS, b"\x1f\x8b")):
        _refuse_zeros(name, start)


def _refuse_zeros(name: str, content: bytes) -> None:
    if b"\0" in content:
        raise InputError(f"{name} is not a text file: it has bytes of value 0. Check the name of the file.")


def find_sign(content: bytes, sign: str) -> np.ndarray:
    """Return the positions of a sign of ASCII in a text, (times,), found block by block in the cache of a core."""
    signs = np.frombuffer(content, np.uint8)
    starts = range(0, len(signs), _BLOCK)
    found = [np.flatnonzero(signs[start : start + _BLOCK] == ord(sign)) + start for start in starts]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _in_utf_8(name: str, raw: bytes) -> tuple[bytes, str]:
    """Return the text in UTF-8, and its encoding: UTF-8, UTF-16 if it is marked, else Latin-1."""
    encoding = next((encoding for bom, encoding in _BOMS.items() if raw.startswith(bom)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise InputError(f"{name} is not a text in UTF-8, UTF-16 or Latin-1 ({error}).") from error
        text, encoding = raw.decode("latin-1"), "latin-1"
    return text.encode("utf-8"), encoding.removesuffix("-sig")


def _kinds(content: bytes, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return 0 for a line with cells, 1 for a blank one, 2 for a comment."""
    signs = np.frombuffer(content, np.uint8)
    kinds = np.zeros(len(starts), np.int8)
    kinds[starts == ends] = 1
    first = signs[starts] if len(starts) else signs
    kinds[(first == ord("#")) & (kinds == 0)] = 2
    # Tabs at the beginning are empty cells; only a line with nothing except blanks is blank.
    for index in np.flatnonzero((first == ord(" ")) & (kinds == 0)):
        line = content[starts[index] : ends[index]].strip()
        kinds[index] = 1 if not line else 2 if line.startswith(b"#") else 0
    return kinds


def _comments(content: bytes, starts: np.ndarray, ends: np.ndarray, kinds: np.ndarray) -> tuple[str, ...]:
    """Return the comments before the first line with cells."""
    with_cells = np.flatnonzero(kinds == 0)
    before = range(int(with_cells[0]) if len(with_cells) else 0)
    lines = [content[starts[index] : ends[index]].decode("utf-8") for index in before if kinds[index] == 2]
    return tuple(line.strip().lstrip("#").strip() for line in lines)
