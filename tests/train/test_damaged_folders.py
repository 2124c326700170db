"""A run folder whose files are damaged or replaced is refused in one line, at once and within limits."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pvae
from pvae.errors import InputError
from pvae.train.checkpoint import read_newest
from pvae.train.options import FREE
from pvae.train.run import read_config
from pvae.train.run_record import require_config_of_snapshot


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0)).round()
    recipe = pvae.ModelSpec("vae", {"latent": 2, "hidden": (5,)})
    options = {"epochs": 2, "batch_size": 16, "validation_particles": 5, "progress": False, "step": "eager"}
    pvae.fit(recipe, pvae.load_data(x, validation=8, test=0), out=out, **options)
    return out


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(20 * 2**30)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


REPLACEMENTS: dict[str, Callable[[Path], Any]] = {
    "a pipe": _pipe,
    "a folder": _folder,
    "20 GB of nothing": _sparse,
    "nothing": lambda path: path.write_bytes(b""),
    "another encoding": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "many brackets": lambda path: path.write_text("x = " + "[" * 100_000),
    "JSON brackets": lambda path: path.write_text("[" * 100_000),
    "a deep key": lambda path: path.write_text("a." * 200_000 + "a = 1"),
    "a long number": lambda path: path.write_text("x = " + "9" * 10_000),
    "a list": lambda path: path.write_text("[]"),
    "another table": lambda path: path.write_text("[model]\nname = 3\n"),
}


@pytest.mark.parametrize("file", ["config.toml", "best/state.json", "best/parameters.safetensors", "metrics.jsonl"])
@pytest.mark.parametrize("kind", REPLACEMENTS)
def test_a_file_of_another_kind_is_one_line_at_once(finished: Path, tmp_path: Path, file: str, kind: str) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "best.previous", ignore_errors=True)
    REPLACEMENTS[kind](out / file)
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError) as error:
        pvae.open_run(out)
    assert Path(file).name in str(error.value) and "\n" not in str(error.value)
    assert time.monotonic() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "kB of memory"


@pytest.mark.parametrize("file", ["config.toml", "best/state.json", "best/parameters.safetensors", "metrics.jsonl"])
def test_no_changed_bit_changes_a_number_without_a_word(finished: Path, tmp_path: Path, file: str) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "best.previous", ignore_errors=True)
    right = pvae.open_run(out)
    content = (out / file).read_bytes()
    draws = np.random.default_rng(0)
    opened = 0
    for place in draws.integers(len(content), size=40):
        changed = bytearray(content)
        changed[place] ^= 1 << draws.integers(8)
        (out / file).write_bytes(changed)
        try:
            run = pvae.open_run(out)
        except InputError:
            continue
        opened += 1
        assert run.history == right.history
        for name, tensor in right.model.state_dict().items():
            assert torch.equal(tensor, run.model.state_dict()[name])
        free = FREE
        for config in (run.config, right.config):
            config["training"] = {key: value for key, value in config["training"].items() if key not in free}
            config["data"].pop("notes", None)
        assert run.config["training"] == right.config["training"] and run.config["data"] == right.config["data"]
        right = pvae.open_run(finished)
    assert opened < 20


def _changes(value: Any) -> Iterator[Any]:
    """Yield copies of a value, each with another number or text changed."""
    if isinstance(value, dict):
        for name, inner in value.items():
            for changed in _changes(inner):
                yield {**value, name: changed}
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            for changed in _changes(inner):
                yield [*value[:place], changed, *value[place + 1 :]]
    else:
        yield value + "x" if isinstance(value, str) else value + 1


def test_every_value_that_describes_the_data_is_bound_to_the_checkpoint(tmp_path: Path) -> None:
    """The seed of the splits, the scale of a column and the name of a label change what a run gives for data."""
    (tmp_path / "t.csv").write_text("a,b,kind\n" + "".join(f"{n / 7},{n % 5},{'uv'[n % 2]}\n" for n in range(40)))
    splits = pvae.load_data(str(tmp_path / "t.csv"), label="kind", standardise=True)
    out = tmp_path / "run"
    recipe = pvae.ModelSpec("vae", {"latent": 1, "hidden": (3,), "likelihood": "gaussian"})
    pvae.fit(recipe, splits, epochs=1, out=out, progress=False, step="eager")
    snapshot, config = read_newest(out, "best"), read_config(out)
    require_config_of_snapshot(out, config, snapshot)
    for free in ("notes", "path"):  # the data may move
        config["data"].pop(free, None)
    changes = list(_changes(config["data"]))
    assert len(changes) > 20
    for data in changes:
        with pytest.raises(InputError, match=r"config.toml is damaged, or was changed"):
            require_config_of_snapshot(out, {**config, "data": data}, snapshot)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('precision = "float32"', "precision = 3", "training.precision"),
        ("data_shape = [", "data_shape = [ 1.5, ", r"data.data_shape\[0\]"),
        ('dtype = "float32"', 'dtype = "save"', "dtype of x"),
        ("[data.sizes]", "[data.size]", "data.sizes"),
        ("shape = [", "shape = [ 1000000000, ", "not a possible shape of x|shape"),
    ],
)
def test_a_wrong_key_of_the_configuration_is_named(
    finished: Path, tmp_path: Path, old: str, new: str, key: str
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    text = (out / "config.toml").read_text()
    assert old in text
    (out / "config.toml").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=key):
        pvae.open_run(out)
