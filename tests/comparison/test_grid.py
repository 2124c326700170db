"""Rows that differ by settings: the rows of a grid, their names, and the options that each cell is trained with."""

from __future__ import annotations

import html
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import run
from models import Linear

import pvae
from pvae.comparison.cells.grid import check_training, checked_grid, expand_rows
from pvae.comparison.table.short_labels import short_labels
from pvae.errors import InputError
from pvae.models import ModelSpec

pytestmark = pytest.mark.usefixtures("without_pictures")


def test_rows_are_models_times_the_product_of_the_values() -> None:
    models = {"vae": ModelSpec("vae"), "vae:prior=vamp": ModelSpec("vae", {"prior": "vamp"})}
    made, training = expand_rows(models, {"learning_rate": [1e-3, 3e-4], "latent": [2]})
    assert [(name, spec.settings, training[name]) for name, spec in made.items()] == [
        ("vae:learning_rate=0.001:latent=2", {"latent": 2}, {"learning_rate": 1e-3}),
        ("vae:learning_rate=0.0003:latent=2", {"latent": 2}, {"learning_rate": 3e-4}),
        ("vae:prior=vamp:learning_rate=0.001:latent=2", {"prior": "vamp", "latent": 2}, {"learning_rate": 1e-3}),
        ("vae:prior=vamp:learning_rate=0.0003:latent=2", {"prior": "vamp", "latent": 2}, {"learning_rate": 3e-4}),
    ]


class Wide(Linear):
    """A model with a setting."""

    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.width = width


def test_settings_of_a_class_are_its_arguments() -> None:
    made, _ = expand_rows({"wide": Wide}, {"width": [2, 3]})
    assert [(name, factory().width) for name, factory in made.items()] == [("wide:width=2", 2), ("wide:width=3", 3)]


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"learnin_rate": [1e-3]}, "did you mean 'learning_rate'?"),
        ({"prior": ["vamp"]}, "has a value of prior already"),
        ({"seed": [1, 2]}, "the same in all rows"),
    ],
)
def test_settings_that_a_grid_cannot_vary_are_refused(grid: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words.replace("?", "[?]")):
        expand_rows({"vae:prior=flow": ModelSpec("vae", {"prior": "flow"})}, grid)


@pytest.mark.parametrize("grid", [{"latent": []}, {"latent": [2, 2]}, {"latent": 2}, {"prior": "vamp"}, [2]])
def test_a_grid_needs_different_values(grid: Any) -> None:
    with pytest.raises(InputError, match="grid"):
        checked_grid(grid, {})


def test_a_setting_is_given_for_all_rows_or_in_the_grid() -> None:
    with pytest.raises(InputError, match="for all rows and in the grid"):
        checked_grid({"learning_rate": [0.1]}, {"learning_rate": 0.2})


@pytest.mark.parametrize("options", [{"optimiser": "adm"}, {"schedule": "expo"}, {"epochs": -1}, {"precision": "half"}])
def test_options_are_refused_before_any_training(options: dict[str, Any]) -> None:
    check_training({"optimiser": "sgd:momentum=0.9", "schedule": "exponential:gamma=0.9"})
    with pytest.raises(InputError):
        check_training(options)


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        ([("vae:a=1:b=2", "elbo"), ("vae:b=2", "elbo")], ["vae:a=1:b=2", "vae:b=2"]),
        ([("vae:a=1", "elbo"), ("vae:a=2", "stl")], ["a=1 / elbo", "a=2 / stl"]),
        ([("vae:a=1", "elbo"), ("gmm:a=1", "elbo")], ["vae:a=1", "gmm:a=1"]),
        ([("vae:a=1:b=2", "elbo"), ("vae:b=2:a=1", "elbo")], ["vae:a=1:b=2", "vae:b=2:a=1"]),
        ([("m.py:A:a=1:b=2", "elbo"), ("m.py:A:a=1:b=3", "elbo")], ["b=2", "b=3"]),
    ],
)
def test_short_labels_say_what_differs(names: list[tuple[str, str]], labels: list[str]) -> None:
    assert short_labels(names) == labels


def test_each_cell_is_trained_with_the_options_of_its_row(tmp_path: Path) -> None:
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    compared = pvae.compare(
        {"linear": Linear},
        pvae.load_data(x, validation=0.2, test=0.25),
        "elbo",
        seeds=1,
        out=tmp_path,
        grid={"epochs": [1, 2], "learning_rate": [1e-2, 3e-4]},
        baseline="epochs=2:learning_rate=0.0003",
        particles=10,
        workers=0,
        progress=False,
        step="eager",
    )
    assert list(compared.table.to_pandas().index) == [
        f"epochs={epochs}:learning_rate={rate}" for epochs, rate in [(2, 3e-4), (1, 0.01), (1, 3e-4), (2, 0.01)]
    ]
    for outcome in compared.cells:
        trained = tomllib.loads((outcome.cell.folder / "config.toml").read_text())["training"]
        name = f"linear:epochs={trained['epochs']}:learning_rate={trained['learning_rate']}"
        assert (name, outcome.scores["epochs"]) == (outcome.cell.model, trained["epochs"])
    page = html.unescape(compared.report.read_text())
    assert "for at most 1 or 2, by row epochs" in page and "learning rate 0.01 or 0.0003, by row" in page


def test_rows_with_batches_of_two_sizes_have_the_same_number_of_epochs(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("pvae.comparison.planned_comparison._USUAL_STEPS", 12)
    monkeypatch.setattr("pvae.comparison.planned_comparison._USUAL_EPOCHS", 1)
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    data = pvae.load_data(x, validation=10, test=10)
    options: dict[str, Any] = {"seeds": 1, "out": tmp_path, "particles": 10, "workers": 0, "progress": False}
    compared = pvae.compare({"linear": Linear}, data, "elbo", grid={"batch_size": [5, 10]}, step="eager", **options)
    assert [outcome.scores["epochs"] for outcome in compared.cells] == [6, 6]
    assert [outcome.cell.config["fit"]["batch_size"] for outcome in compared.cells] == [5, 10]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--grid", "lerning_rate=1e-3,3e-4"], "did you mean 'learning_rate'?"),
        (["--grid", "lr=1e-3", "--grid", "learning_rate=3e-4"], "--grid learning_rate is given twice"),
        (["--grid", "lr=1e-3,3e-4", "--lr", "1"], "--learning-rate and --grid both"),
        (["--grid", "latent"], "--grid needs a setting and its values"),
        (["--grid", "hidden=8;8,4", "--grid", "precision=half"], "not one of 'float32', 'float64'"),
        (["--grid", "epochs=1,2", "--budget", "9s"], "budget sets epochs of every row"),
    ],
)
def test_the_command_line_refuses_a_bad_grid_in_one_line(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("compare", "vae", "vae:latent=3", *arguments, "--out", "unused")
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1
    assert not Path("unused").exists()


def test_values_with_commas_are_separated_by_semicolons() -> None:
    from pvae.commands.options.grid_type import GridType

    read = GridType().convert
    assert read("hidden=8;8,4", None, None) == ("hidden", [8, (8, 4)])
    assert read("--batch-size=5,10", None, None) == ("batch_size", [5, 10])
    assert read("clip=none,1", None, None) == ("clip", [None, 1.0])
    rates = [{"theta": 0.1, "phi": 0.2}, 0.3]
    assert read("lr=theta=0.1,phi=0.2;0.3", None, None) == ("learning_rate", rates)
