"""A run folder of somebody else, with correct checksums: impossible values are one line, and no other file changes."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from command_line import run as command
from safetensors.torch import load, save
from torture_jobs import RECIPE, data

import pvae
from pvae.errors import InputError
from pvae.train.encoding import canonical, digest
from pvae.train.run_record import config_hash

CHECKPOINTS = ("last", "last.previous", "best", "best.previous")


def train(out: Path, epochs: int) -> pvae.Run:
    options: dict[str, Any] = {"batch_size": 16, "validation_particles": 2, "step": "eager", "progress": False}
    return pvae.fit(RECIPE, data(), out=out, epochs=epochs, resume=out.exists(), **options)


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("foreign") / "run"
    train(out, 2)
    return out


@pytest.fixture
def out(right: Path, tmp_path: Path) -> Path:
    return shutil.copytree(right, tmp_path / "run")


def edit_state(out: Path, change: Callable[[dict[str, Any]], Any], names: Sequence[str] = CHECKPOINTS) -> None:
    """Change the state of checkpoints, with a correct checksum."""
    for path in [out / name / "state.json" for name in names if (out / name).exists()]:
        state = json.loads(path.read_text())["state"]
        change(state)
        path.write_text(json.dumps({"sha256": digest(canonical(state)), "state": state}))


def edit_config(out: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = tomllib.loads((out / "config.toml").read_text())
    change(config)
    (out / "config.toml").write_text(tomli_w.dumps(config))
    edit_state(out, lambda state: state.update(config=config_hash(config)))


def edit_records(out: Path, old: str, new: str) -> None:
    path = out / "metrics.jsonl"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    marks = {"metrics_bytes": path.stat().st_size, "metrics_sha256": digest(path.read_bytes())}
    edit_state(out, lambda state: state.update(marks))


def edit_tensors(
    out: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], file: str = "training.safetensors"
) -> None:
    """Change tensors in every checkpoint; by default those of the optimiser and of the random generators."""
    for name in [name for name in CHECKPOINTS if (out / name).exists()]:
        content = save(change(load((out / name / file).read_bytes())))
        (out / name / file).write_bytes(content)
        sums = {"files": {file: digest(content)}, "sizes": {file: len(content)}}
        edit_state(out, lambda state, sums=sums: [state[key].update(sums[key]) for key in sums], [name])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"epoch": 1', '"epoch": "1"', "record 1.epoch needs to be int"),
        ('"loss": ', '"loss": ' + "9" * 400 + ', "old": ', "0 of 2 records can be read"),
        ('"loss": ', '"loss": 1e999, "old": ', "record 1.loss is not finite"),
        ('"loss": ', '"loss": NaN, "old": ', "0 of 2 records can be read"),
        ('"loss": ', '"loss": ["\\u001b[31m"], "old": ', "record 1.loss needs to be int or float or NoneType"),
        ("{", "[", "0 of 2 records can be read"),
        ('{"epoch": 1', '{"epoch": 0}\n' * 500_001 + '{"epoch": 1', "at most 500000 records"),
    ],
)
def test_a_record_that_no_training_writes_is_refused(out: Path, old: str, new: str, said: str) -> None:
    edit_records(out, old, new)
    with pytest.raises(InputError, match=said):
        pvae.open_run(out)
    assert "damaged" in command("runs", str(out)).out


def _shrunk(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value[:1].clone() if name.endswith("exp_avg") else value for name, value in tensors.items()}


def _zeros(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(value) for name, value in tensors.items()}


def _without_a_moment(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    moments = [name for name in tensors if name.endswith("exp_avg")]
    return {name: value for name, value in tensors.items() if name not in moments[:1]}


STATES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "count": (lambda out: edit_state(out, lambda state: state.update(epoch=-1)), "epoch needs to be 0 or more"),
    "bytes": (lambda out: edit_state(out, lambda state: state.update(metrics_bytes=-9)), "metrics_bytes needs to be 0"),
    "kind": (lambda out: edit_state(out, lambda state: state.update(seconds="x")), "seconds needs to be int or float"),
    "files": (lambda out: edit_state(out, lambda state: state.update(sizes=[])), "sizes needs to be a table"),
    "sums": (lambda out: edit_state(out, lambda state: state.update(sums=[["x"]])), "no training writes"),
    "values": (
        lambda out: edit_state(out, lambda state: state["optimiser"].update(values={"x": {"y": 1}})),
        "no training writes .*'x'",
    ),
    "rate": (lambda out: edit_state(out, lambda state: state["optimiser"]["groups"][0].update(lr="x")), "text for lr"),
    "place": (lambda out: edit_state(out, lambda state: state.update(step_in_epoch=9)), "step 9 of an epoch of 4"),
    "moments": (lambda out: edit_tensors(out, _shrunk), "has shape"),
    "nothing": (lambda out: edit_tensors(out, lambda _: {"a": torch.zeros(1)}), "no training writes"),
    "zeros": (lambda out: edit_tensors(out, _zeros), "no training writes"),
    "a moment less": (lambda out: edit_tensors(out, _without_a_moment), "has no exp_avg"),
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_that_no_training_writes_is_refused_on_resume(out: Path, name: str) -> None:
    edit, said = STATES[name]
    edit(out)
    with pytest.raises(InputError, match=said) as error:
        train(out, 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (float("nan"), "needs parameters that are finite"),
        (1e30, r"a distribution of the model got an invalid value\. Expected parameter .*Normal"),
    ],
)
def test_parameters_that_no_training_writes_are_one_line(out: Path, factor: float, said: str) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value * factor if value.is_floating_point() else value for name, value in tensors.items()}

    edit_tensors(out, change, "parameters.safetensors")
    np.save(out / "x.npy", data().train.x.numpy())
    done = command("encode", str(out), "--data", str(out / "x.npy"), "--out", str(out / "x.csv"))
    assert done.code == 2 and re.search(said, done.err.splitlines()[-1]) and "Traceback" not in done.err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"latent": float("nan")}, "cannot be built|whole number|needs"),
        ({"latent": 2**62}, "vae cannot be built with .*latent=4611686018427387904"),
        ({"hidden": [1] * 100_000}, "its checkpoint has"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(out: Path, settings: dict[str, Any], said: str) -> None:
    edit_config(out, lambda config: config["model"]["settings"].update(settings))
    with pytest.raises(InputError, match=said):
        pvae.open_run(out)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fields": ["x", {"a": 1}]}, r"fields\[1\] needs to be str"),
        ({"fields": {"x": [1]}}, "fields.x needs to be str"),
        ({"data": {"schema": {"columns": 7}}}, "data.schema.columns needs to be a list"),
        ({"data": {"schema": {"scaling": {"kind": "standardise", "shift": ["x"], "scale": [1]}}}}, r"shift\[0\]"),
        ({"data": {"mask": [1]}}, "data.mask needs to be str or int or float"),
    ],
)
def test_a_value_of_another_kind_in_the_configuration_is_named(out: Path, change: dict[str, Any], said: str) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["data"] |= change.get("data", {})
        config.update({name: value for name, value in change.items() if name != "data"})

    edit_config(out, edit)
    with pytest.raises(InputError, match=said):
        pvae.open_run(out)


@pytest.mark.parametrize("name", ["a\0.py:M", "a\x1b[31m.py:M", "\u202e:M"])
def test_a_name_of_a_model_that_cannot_be_shown_needs_consent(out: Path, name: str) -> None:
    edit_config(out, lambda config: config["model"].update(name=name))
    done = command("show", str(out), "--out", str(out / "x.png"))
    assert done.code == 2 and "needs your consent" in done.err
    assert all(sign.isprintable() or sign == "\n" for sign in done.err)


@pytest.mark.parametrize("change", [{"class": "pvae.models.masked.MaskedVAE"}, {"name": "autoencoder"}])
def test_a_model_of_another_class_than_the_recorded_one_is_refused(out: Path, change: dict[str, str]) -> None:
    edit_config(out, lambda config: config["model"].update(change))
    with pytest.raises(InputError, match=r"config.toml is damaged: model.name is '\w+', and model.class is"):
        pvae.open_run(out)


def test_long_and_broken_names_are_one_short_line_of_a_table(out: Path) -> None:
    edit_config(out, lambda config: config["data"].update(name="a\nb" + "y" * 90_000))
    table = command("runs", str(out)).out.splitlines()
    assert len(table) == 2 and "a b" in table[1] and len(table[1]) < 400
    done = command("evaluate", str(out))
    assert done.code == 2 and len(done.err) < 3100


def test_a_missing_best_checkpoint_is_named(out: Path) -> None:
    for path in out.glob("best*"):
        shutil.rmtree(path)
    with pytest.raises(InputError, match=r"best is missing, but the best parameters are from epoch \d"):
        pvae.open_run(out)
    assert pvae.open_run(out, checkpoint="last").epoch == 2


def test_a_missing_checkpoint_is_named_before_the_previous_one_is_used(out: Path) -> None:
    shutil.rmtree(out / "last")
    with pytest.warns(UserWarning, match=r"last.* is missing .* The previous checkpoint"):
        pvae.open_run(out, checkpoint="last")


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_a_resumed_training_changes_no_file_that_a_link_leads_to(
    out: Path, tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    outside = {name: tmp_path / f"outside-{name.replace('/', '-')}" for name in ("metrics.jsonl", "config.toml.tmp")}
    (out / "metrics.jsonl").rename(outside["metrics.jsonl"])
    outside["config.toml.tmp"].write_text("of somebody else")
    before = {path: path.read_bytes() for path in outside.values()}
    for name, path in outside.items():
        link(out / name, path)
    assert train(out, 3).epoch == 3
    assert {path: path.read_bytes() for path in outside.values()} == before
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_resumed_training_removes_nothing_from_a_folder_that_a_link_leads_to(out: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("of somebody else")
    shutil.rmtree(out / "last.previous")
    for name in ("last.tmp", "last.previous"):
        (out / name).symlink_to(tmp_path / "outside")
    assert train(out, 3).epoch == 3
    assert (tmp_path / "outside" / "file").read_text() == "of somebody else"
    assert not (out / "last.previous").is_symlink()


def test_a_lock_that_is_a_link_is_refused(out: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("of somebody else")
    (out / ".lock").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="it is a link"):
        train(out, 3)
    assert (tmp_path / "outside").read_text() == "of somebody else"
