"""No change of a file in a run folder or a comparison folder changes a number without a word.

`make torture` repeats this with many more changes.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Done, run
from torture_jobs import TIMES, compare, contents_of_comparison, contents_of_run, contents_of_table, train

import pvae


def _flip(content: bytes, draws: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for place in draws.integers(len(content), size=draws.integers(1, 4)):
        changed[place] ^= 1 << int(draws.integers(8))
    return bytes(changed)


def _cut(content: bytes, draws: np.random.Generator) -> bytes:
    return content[: int(draws.integers(len(content)))]


def _insert(content: bytes, draws: np.random.Generator) -> bytes:
    place = int(draws.integers(len(content)))
    return content[:place] + draws.bytes(int(draws.integers(1, 40))) + content[place:]


def _swap_digits(content: bytes, draws: np.random.Generator) -> bytes:
    places = [place for place, byte in enumerate(content) if chr(byte).isdigit()] or [0]
    changed = bytearray(content)
    changed[int(draws.choice(places))] = ord(str(int(draws.integers(10))))
    return bytes(changed)


CHANGES: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (_flip, _cut, _insert, _swap_digits)


def _change(path: Path, draws: np.random.Generator) -> None:
    kind = int(draws.integers(len(CHANGES) + 2))
    if kind < len(CHANGES):
        path.write_bytes(CHANGES[kind](path.read_bytes(), draws))
        return
    path.unlink()
    if kind == len(CHANGES):
        os.mkfifo(path)


def _files(folder: Path) -> list[Path]:
    suffixes = (".toml", ".json", ".jsonl", ".safetensors")
    return sorted(path for path in folder.rglob("*") if path.suffix in suffixes and path.stat().st_size)


MOST_SECONDS, MOST_KILOBYTES = 10.0, 500_000


class Watch:
    """Counts changes, and the time that each command took; each takes less than 10 s and 500 MB.

    Args:
        record: `record_property` of pytest.
        kind: the kind of folder that is changed.
    """

    def __init__(self, record: Callable[[str, float], None], kind: str) -> None:
        self._record, self._kind = record, kind
        self._counts = {"changes of": 0, "most seconds after a change of": 0.0}
        self._memory = self._peak()

    @staticmethod
    def _peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @contextmanager
    def command(self, where: Any) -> Iterator[None]:
        """Measure a block, and record the result."""
        begin, begin_cpu = time.monotonic(), time.process_time()
        yield
        seconds = time.monotonic() - begin
        # other processes may hold the cores
        assert time.process_time() - begin_cpu < MOST_SECONDS and seconds < 6 * MOST_SECONDS, where
        assert self._peak() - self._memory < MOST_KILOBYTES, where
        self._counts["changes of"] += 1
        self._counts["most seconds after a change of"] = max(seconds, self._counts["most seconds after a change of"])

    def count(self, outcome: str) -> None:
        """Count an outcome."""
        self._counts[outcome] = self._counts.get(outcome, 0) + 1

    def end(self) -> None:
        """Record the counts."""
        self._counts["most MB above the start, changes of"] = round((self._peak() - self._memory) / 1000)
        for name, value in self._counts.items():
            self._record(f"{name} {self._kind}", value)


def _changed_copy(right: Path, draws: np.random.Generator, *, without: str = "") -> tuple[Path, Path]:
    """Copy a folder, change one of its files, and return the copy and the file."""
    folder = right.with_name("changed")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(right, folder)
    files = [path for path in _files(folder) if path.name != without]
    # these are read by every command, and there are many others
    files += 4 * [path for path in files if path.parent.name == "best" and path.name == "parameters.safetensors"]
    path = files[int(draws.integers(len(files)))]
    _change(path, draws)
    return folder, path


def _evaluate(folder: Path, source: Path) -> Done:
    warnings.simplefilter("always")  # the command writes a warning to standard error
    words = ("--data", str(source), "--split", "train", "--particles", "3", "--limit", "5", "--json")
    return run("evaluate", str(folder), *words)


def test_a_changed_run_folder_is_refused_or_gives_the_same_numbers(
    tmp_path: Path, record_property: Callable[[str, float], None]
) -> None:
    source = tmp_path / "data.npz"
    np.savez(source, x=np.random.default_rng(0).integers(2, size=(60, 6)).astype(np.float32))
    train(str(tmp_path / "right"))
    right = json.loads(_evaluate(tmp_path / "right", source).out)
    draws, watch, noticed = np.random.default_rng(1), Watch(record_property, "runs, then evaluated"), 0
    for turn in range(30 * TIMES):
        folder, path = _changed_copy(tmp_path / "right", draws)
        with watch.command((turn, path)):
            done = _evaluate(folder, source)
        if done.code:
            watch.count("refused:")
            noticed += 1
            assert done.code == 2 and done.err.count("pvae: error:") == 1, (turn, path, done)
        elif path.name in done.err:
            watch.count("warned of:")
            noticed += 1
        else:
            found = json.loads(done.out)
            for name in ("log_evidence", "elbo"):
                assert found[name] == right[name], (turn, path)
    assert noticed >= 3 * TIMES
    watch.end()


def test_a_changed_run_folder_is_refused_or_goes_on_to_the_same_bits(
    tmp_path: Path, record_property: Callable[[str, float], None]
) -> None:
    train(str(tmp_path / "right"), epochs=2)
    shutil.copytree(tmp_path / "right", tmp_path / "whole")
    train(str(tmp_path / "whole"), epochs=3)
    right = contents_of_run(tmp_path / "whole")
    draws, watch, refused = np.random.default_rng(4), Watch(record_property, "runs, then resumed"), 0
    for turn in range(5 * TIMES):
        folder, path = _changed_copy(tmp_path / "right", draws)
        error = ""
        with watch.command((turn, path)):
            try:
                train(str(folder), epochs=3)
            except pvae.InputError as raised:
                error = str(raised)
        if error:
            watch.count("refused:")
            refused += 1
            assert "\n" not in error, (turn, path)
        else:
            assert contents_of_run(folder) == right, (turn, path)
    assert 0 < refused < 5 * TIMES
    watch.end()


def _flip_exponent(content: bytes) -> bytes:
    """Change the last number of a file of tensors, by a bit of its exponent."""
    return content[:-1] + bytes([content[-1] ^ 0x40])


def _add_one(pattern: str) -> Callable[[bytes], bytes]:
    """Return a change of the first digit after a pattern."""

    def change(content: bytes) -> bytes:
        found = re.search(pattern.encode() + rb"\D{0,20}?(\d)", content)
        assert found is not None
        return content[: found.start(1)] + b"%d" % ((int(found[1]) + 1) % 10) + content[found.end(1) :]

    return change


Changes = dict[str, Callable[[bytes], bytes]]
OF_EVALUATE: Changes = {
    "best/parameters.safetensors": _flip_exponent,
    "best/state.json": _add_one('"best_epoch"'),
    "config.toml": _add_one("data_shape"),
    "metrics.jsonl": _add_one('"loss"'),
}
OF_RESUME: Changes = {
    "last/parameters.safetensors": _flip_exponent,
    "last/training.safetensors": _flip_exponent,
    "last/state.json": _add_one('"step"'),
    "config.toml": _add_one("data_shape"),
    "metrics.jsonl": _add_one('"loss"'),
}
OF_CELL: Changes = {
    "evaluation.json": _add_one('"log_evidence"'),
    "evaluation.safetensors": _flip_exponent,
    "drawings.safetensors": _flip_exponent,
}


def _copy_with(right: Path, place: Path | str, change: Callable[[bytes], bytes]) -> Path:
    """Return a copy of a folder in which one file is changed."""
    folder = right.with_name("changed")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(right, folder)
    content = (folder / place).read_bytes()
    (folder / place).write_bytes(change(content))
    assert (folder / place).read_bytes() != content
    return folder


@pytest.fixture(scope="module")
def right_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "right"
    train(str(folder), epochs=2)
    return folder


@pytest.mark.parametrize("place", OF_EVALUATE)
def test_one_changed_number_of_a_run_is_named_by_evaluate(right_run: Path, place: str) -> None:
    source = right_run.with_name("data.npz")
    np.savez(source, x=np.random.default_rng(0).integers(2, size=(60, 6)).astype(np.float32))
    done = _evaluate(_copy_with(right_run, place, OF_EVALUATE[place]), source)
    assert f"{place} is damaged" in done.err, done


@pytest.mark.parametrize("place", OF_RESUME)
def test_one_changed_number_of_a_run_is_named_by_a_resumed_training(
    right_run: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _copy_with(right_run, place, OF_RESUME[place])
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            monkeypatch.setattr(warnings, "simplefilter", lambda *_: None)  # the job ignores warnings
            train(str(folder), epochs=3)
        said = " ".join(str(warning.message) for warning in caught)
    except pvae.InputError as error:
        said = str(error)
    assert f"{place} is damaged" in said


@pytest.mark.usefixtures("without_pictures")
def test_one_changed_number_of_a_comparison_is_named_on_its_page(tmp_path: Path) -> None:
    compare(str(tmp_path / "right"))
    cells = sorted(path.parent.relative_to(tmp_path / "right") for path in tmp_path.rglob("evaluation.json"))
    for name, change in OF_CELL.items():
        folder = _copy_with(tmp_path / "right", cells[0] / name, change)
        compare(str(folder))
        assert f"{name} is damaged" in (folder / "index.html").read_text(), name
        assert contents_of_comparison(folder) == contents_of_comparison(tmp_path / "right"), name


def _refusal_of_comparison(folder: Path) -> str:
    """Repeat a comparison; return the error, or "" if it ran."""
    try:
        compare(str(folder))
    except pvae.InputError as error:
        return str(error)
    return ""


@pytest.mark.usefixtures("without_pictures")
def test_a_changed_comparison_is_refused_or_gives_the_same_numbers(
    tmp_path: Path, record_property: Callable[[str, float], None]
) -> None:
    compare(str(tmp_path / "right"))
    right = contents_of_comparison(tmp_path / "right")
    draws, watch = np.random.default_rng(2), Watch(record_property, "comparisons, then repeated")
    for turn in range(5 * TIMES):
        folder, path = _changed_copy(tmp_path / "right", draws, without="comparison.json")
        (folder / "comparison.json").unlink()
        with watch.command((turn, path)):
            refused = _refusal_of_comparison(folder)
        assert "\n" not in refused, (turn, path)
        if refused:
            watch.count("refused:")
            continue
        found = contents_of_table(folder)
        if [cell["failure"] for cell in found["cells"]] == [None, None]:
            assert found["rows"] == right["rows"], (turn, path)
        else:
            watch.count("damage named:")
            assert path.name in json.dumps(found["cells"]) or "damaged" in json.dumps(found["cells"]), (turn, path)
    watch.end()
