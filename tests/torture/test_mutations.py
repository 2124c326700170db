"""No change of a file in a run folder or a comparison folder changes a number without a word.

`make torture` repeats this with many more changes.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import Done, run
from torture_jobs import TIMES, compare, contents_of_comparison, train

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


@pytest.fixture(autouse=True)
def memory() -> None:
    """No change takes more than 500 MB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def _evaluate(folder: Path, source: Path) -> Done:
    warnings.simplefilter("always")  # the command writes a warning to standard error
    words = ("--data", str(source), "--split", "train", "--particles", "3", "--limit", "5", "--json")
    return run("evaluate", str(folder), *words)


def test_a_changed_run_folder_is_refused_or_gives_the_same_numbers(tmp_path: Path) -> None:
    source = tmp_path / "data.npz"
    np.savez(source, x=np.random.default_rng(0).integers(2, size=(60, 6)).astype(np.float32))
    train(str(tmp_path / "right"))
    right = json.loads(_evaluate(tmp_path / "right", source).out)
    draws, noticed = np.random.default_rng(1), 0
    for turn in range(30 * TIMES):
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "right", folder)
        files = _files(folder)
        path = files[int(draws.integers(len(files)))]
        _change(path, draws)
        begin = time.monotonic()
        done = _evaluate(folder, source)
        assert time.monotonic() - begin < 60, (turn, path)
        if done.code:
            noticed += 1
            assert done.code == 2 and done.err.count("pvae: error:") == 1, (turn, path, done)
        elif path.name in done.err:
            noticed += 1
        else:
            found = json.loads(done.out)
            for name in ("log_evidence", "elbo"):
                assert found[name] == right[name], (turn, path)
    assert noticed >= 3 * TIMES


def _refusal_of_comparison(folder: Path) -> str:
    """Repeat a comparison; return the error, or "" if it ran."""
    try:
        compare(str(folder))
    except pvae.InputError as error:
        return str(error)
    return ""


def test_a_changed_comparison_is_refused_or_gives_the_same_numbers(tmp_path: Path) -> None:
    compare(str(tmp_path / "right"))
    right = contents_of_comparison(tmp_path / "right")
    draws = np.random.default_rng(2)
    for turn in range(5 * TIMES):
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "right", folder)
        files = [path for path in _files(folder) if path.name != "comparison.json"]
        path = files[int(draws.integers(len(files)))]
        _change(path, draws)
        (folder / "comparison.json").unlink()
        begin = time.monotonic()
        refused = _refusal_of_comparison(folder)
        assert time.monotonic() - begin < 60 and "\n" not in refused, (turn, path)
        if refused:
            continue
        found = contents_of_comparison(folder)
        if [cell["failure"] for cell in found["cells"]] == [None, None]:
            assert found["rows"] == right["rows"], (turn, path)
        else:
            assert path.name in json.dumps(found["cells"]) or "damaged" in json.dumps(found["cells"]), (turn, path)
