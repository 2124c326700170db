"""A checkpoint comes back as it was, or is refused by name; nothing in a run folder is ever unpickled."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import pvae
from pvae.errors import InputError
from pvae.json_values import json_value
from pvae.models import ModelSpec
from pvae.train import checkpoint
from pvae.train.checkpoint import Snapshot, read, read_newest, write
from pvae.train.devices import capture_generators, isolated, restore_generators
from pvae.train.encoding import canonical, decode, digest, encode
from pvae.train.history import History
from pvae.train.progress_state import ProgressState
from pvae.train.run import read_config
from pvae.train.run_record import config_hash


def snapshot(value: float = 1.0) -> Snapshot:
    tensors = {"a": torch.full((2, 3), value), "b": torch.tensor(7)}
    state = {**dataclasses.asdict(ProgressState(epoch=3)), **History(None).mark(), "sums": [["loss", 0.1]]}
    state |= {"signature": {}, "optimiser": {"groups": [], "values": {}}, "schedule": {}}
    return Snapshot(tensors, {"random/torch": torch.get_rng_state()}, state)


def splits() -> Any:
    x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0)).round()
    return pvae.load_data(x, validation=8, test=0)


SPEC = ModelSpec("vae", {"latent": 2, "hidden": (5,)})


def trained(out: Path, **options: Any) -> pvae.Run:
    settings = {"epochs": 2, "batch_size": 16, "validation_particles": 5, "progress": False, "step": "eager"}
    return pvae.fit(SPEC, splits(), out=out, **{**settings, **options})


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    before = snapshot()
    write(tmp_path, "last", before)
    after = read(tmp_path / "last")
    for part in ("parameters", "training"):
        ours, theirs = getattr(before, part), getattr(after, part)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {name: after.state[name] for name in before.state} == before.state


def test_the_previous_checkpoint_is_kept_and_used_where_the_last_one_is_damaged(tmp_path: Path) -> None:
    write(tmp_path, "last", snapshot(1.0))
    write(tmp_path, "last", snapshot(2.0))
    assert read_newest(tmp_path, "last").parameters["a"][0, 0] == 2.0
    file = tmp_path / "last" / "parameters.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.warns(UserWarning, match=r"last.parameters\.safetensors is damaged.*last\.previous"):
        assert read_newest(tmp_path, "last").parameters["a"][0, 0] == 1.0


@pytest.mark.parametrize("file", ["parameters.safetensors", "training.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_damage_is_refused_by_name(tmp_path: Path, file: str, damage: str) -> None:
    write(tmp_path, "last", snapshot())
    path = tmp_path / "last" / file
    content = path.read_bytes()
    middle = content.index(b"0.1") if file == "state.json" else len(content) - 2
    if damage == "missing":
        path.unlink()
    else:
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes(content[:-5] if damage == "truncated" else flipped)
    with pytest.raises(InputError, match=f"{file}.*(damaged|missing)"):
        read_newest(tmp_path, "last")


def test_another_format_is_refused_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 0)
    write(tmp_path, "last", snapshot())
    monkeypatch.undo()
    with pytest.raises(InputError, match="format 0; this version reads format 1"):
        read(tmp_path / "last")


def test_a_failing_write_leaves_the_checkpoint_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "last", snapshot(1.0))

    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "_put", full)
    with pytest.raises(OSError, match=r"No space left on device.*previous one is intact") as caught:
        write(tmp_path, "last", snapshot(2.0))
    assert caught.value.errno == errno.ENOSPC
    assert [each.name for each in tmp_path.iterdir()] == ["last"]
    assert read(tmp_path / "last").parameters["a"][0, 0] == 1.0


def test_a_stop_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    write(tmp_path, "last", snapshot(1.0))
    (tmp_path / "last").rename(tmp_path / "last.previous")
    (tmp_path / "last.tmp").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_newest(tmp_path, "last").parameters["a"][0, 0] == 1.0


@pytest.mark.parametrize(
    "value",
    [1.5, math.inf, -math.inf, None, "x", True, [1, (2, 3.5)], {3: 1, "a": (0.9, 0.999)}, 0.1 + 0.2],
)
def test_encoded_values_come_back(value: Any) -> None:
    back = decode(json.loads(json.dumps(encode(value), allow_nan=False)))
    assert back == value and type(back) is type(value)


def test_records_hold_no_nan() -> None:
    held = json_value({"loss": math.nan, "of": [math.inf, 1.0], "tensor": torch.tensor([1.0, math.nan])})
    assert held == {"loss": None, "of": [None, 1.0], "tensor": [1.0, None]}
    json.dumps(held, allow_nan=False)


def test_every_generator_is_captured() -> None:
    import random

    def draw() -> list[float]:
        return [float(torch.randn(())), np.random.randn(), random.gauss(0, 1)]  # noqa: NPY002

    draw()  # leaves a normal kept in NumPy's and Python's generators
    state = capture_generators()
    expected = [draw() for _ in range(3)]
    restore_generators(state)
    assert [draw() for _ in range(3)] == expected


def test_isolated_seeds_and_puts_back() -> None:
    state = capture_generators()
    with isolated(5):
        first = torch.rand(2)
    with isolated(5):
        assert torch.equal(first, torch.rand(2))
    after = capture_generators()
    assert all(torch.equal(state[name], after[name]) for name in state)


class _Bomb:
    """Unpickling it touches a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_no_file_of_a_run_folder_is_unpickled(tmp_path: Path) -> None:
    """A malicious pickle under every name: refused or ignored, never run."""
    out, proof = tmp_path / "run", tmp_path / "ran"
    trained(out)
    trained(out, epochs=3, resume=True)
    pickle.loads(pickle.dumps(_Bomb(proof)))
    assert proof.exists(), "the bomb itself works"
    proof.unlink()
    files = [each for each in out.rglob("*") if each.is_file()]
    assert len(files) >= 11
    for file in files:
        content = file.read_bytes()
        file.write_bytes(pickle.dumps(_Bomb(proof)))
        for attempt in (lambda: pvae.open_run(out), lambda: trained(out, epochs=4, resume=True, max_steps=1)):
            with warnings.catch_warnings(), contextlib.suppress(InputError):
                warnings.simplefilter("ignore")
                attempt()
            assert not proof.exists(), file
        file.write_bytes(content)


def test_opening_gives_the_trained_parameters(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    again = pvae.open_run(tmp_path / "run")
    assert again.history == run.history and again.config == run.config
    for name, each in run.model.state_dict().items():
        assert torch.equal(each, again.model.state_dict()[name]), name
    last = again.load("last").model.state_dict()
    for name, each in run.load("last").model.state_dict().items():
        assert torch.equal(each, last[name]), name


def test_opening_into_another_model_says_what_differs(tmp_path: Path) -> None:
    trained(tmp_path / "run")
    other = ModelSpec("vae", {"latent": 3, "hidden": (5,)}).build(splits())
    with pytest.raises(InputError, match=r"another model.*is \[\[.*3.*\], 'float32'\] here and \[\[.*2"):
        pvae.open_run(tmp_path / "run", model=other)


def test_code_inside_a_run_folder_is_not_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    trained(out)
    proof = tmp_path / "ran"
    (out / "evil.py").write_text(f"open({str(proof)!r}, 'w')\nclass M: pass\n")
    config = (out / "config.toml").read_text().replace('name = "vae"', f'name = "{out}/evil.py:M"')
    (out / "config.toml").write_text(config)
    with pytest.raises(InputError, match="inside the run folder"):
        pvae.open_run(out)
    assert not proof.exists()


def forge(out: Path, config: str) -> None:
    """Change the configuration of a run as somebody does who also writes the checksums anew."""
    (out / "config.toml").write_text(config)
    for path in out.glob("*/state.json"):
        state = json.loads(path.read_text())["state"] | {"config": config_hash(read_config(out))}
        path.write_text(json.dumps({"sha256": digest(canonical(state)), "state": state}))


CODE_IN_CONFIG = ("os:mkdir", "subprocess:run", "builtins:eval", "{file}:Model", "{file}:make")


def name_code(tmp_path: Path, name: str, code: str) -> tuple[Path, Path]:
    """A run whose configuration names code, with a path as the setting, and that path; `code` is in a file outside."""
    out, proof, file = tmp_path / "run", tmp_path / "ran", tmp_path / "outside.py"
    trained(out)
    file.write_text(code.format(proof=str(proof)))
    config = (out / "config.toml").read_text().replace('name = "vae"', f'name = "{name.format(file=file)}"')
    settings = f'[model.settings]\npath = "{proof}"\n'
    forge(out, re.sub(r"\[model.settings\]\n(.+\n)*", settings, config))
    return out, proof


@pytest.mark.parametrize("name", CODE_IN_CONFIG)
def test_code_that_a_run_folder_names_is_neither_run_nor_imported(tmp_path: Path, name: str) -> None:
    out, proof = name_code(tmp_path, name, "open({proof!r}, 'w')\nclass Model: pass\ndef make(): pass\n")
    with pytest.raises(InputError, match="needs your consent"):
        pvae.open_run(out)
    assert not proof.exists()


@pytest.mark.parametrize("name", CODE_IN_CONFIG)
def test_with_trust_only_a_class_with_both_programs_is_called(tmp_path: Path, name: str) -> None:
    out, proof = name_code(tmp_path, name, "class Model: pass\ndef make(path): open({proof!r}, 'w')\n")
    with pytest.raises(InputError, match="a class with model and guide"):
        pvae.open_run(out, trust=True)
    assert not proof.exists()


def test_a_named_model_gets_the_recorded_settings(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    again = pvae.open_run(tmp_path / "run", "vae")
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        pvae.open_run(tmp_path)
    with pytest.raises(InputError, match="did you mean 'last'"):
        pvae.open_run(tmp_path, checkpoint="lats")
    (tmp_path / "config.toml").write_text("a = ")
    with pytest.raises(InputError, match="damaged"):
        pvae.open_run(tmp_path)


def test_a_planted_checkpoint_with_another_checksum_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "last", snapshot())
    save_file({"a": torch.zeros(2, 3), "b": torch.tensor(7)}, tmp_path / "last" / "parameters.safetensors")
    with pytest.raises(InputError, match="checksum"):
        read(tmp_path / "last")
