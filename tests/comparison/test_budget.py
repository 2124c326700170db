"""Comparisons in which each training has an equal budget."""

from __future__ import annotations

import pytest
import torch

import pvae
from pvae.comparison.cells.budget import Budget, parse_budget
from pvae.comparison.cells.training_summary import read_curve
from pvae.errors import InputError
from pvae.models.build import ModelSpec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("60s", Budget("60s", seconds=60.0)),
        ("1.5 min", Budget("1.5 min", seconds=90.0)),
        ("2h", Budget("2h", seconds=7200.0)),
        ("2M-evaluations", Budget("2M-evaluations", evaluations=2_000_000)),
        ("1500 evaluations", Budget("1500 evaluations", evaluations=1500)),
        ("0.5k-evaluations", Budget("0.5k-evaluations", evaluations=500)),
    ],
)
def test_a_budget_is_a_time_or_a_number_of_evaluations(text, expected):
    assert parse_budget(text) == expected


@pytest.mark.parametrize("text", ["", "60", "0s", "-1s", "2M", "1.2.3s", "2T-evaluations", None, 60, "evaluations"])
def test_a_budget_of_another_form_is_refused(text):
    with pytest.raises(InputError, match="budget needs a training time, such as 60s"):
        parse_budget(text)


def test_all_trainings_have_the_same_decoder_evaluations(tmp_path, without_pictures):
    x = (torch.rand(80, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    data = pvae.load_data(x, validation=0.25, test=0.25, binarise="none")
    found = pvae.compare(
        {"vae": ModelSpec("vae", {"latent": 1, "hidden": 3})},
        data,
        ["elbo", "iwae:particles=4"],
        1,
        budget="1k-evaluations",
        out=tmp_path / "study",
        particles=30,
        limit=10,
        workers=0,
        progress=False,
        batch_size=10,
        validation_particles=2,
    )
    first, second = found.table.rows
    assert 990 < first.decoder_evaluations.value <= 1000 and 960 < second.decoder_evaluations.value <= 1000
    epochs = second.additional["epochs"].value
    assert first.additional["epochs"].value == 1000 // data.train.size and epochs == 1000 // (4 * data.train.size)
    *_, by_evaluations = found.table.rankings
    assert by_evaluations.amount == 4 * epochs * data.train.size  # the last complete epoch of the second row
    assert found.table.budget == "1k-evaluations" and found.table.subset == "10 of 20, drawn with seed 0"
    assert found.table.to_json()["budget"] == "1k-evaluations"
    assert all(outcome.scores["subset"] == "10 of 20, drawn with seed 0" for outcome in found.cells)


def test_the_loss_of_an_objective_without_a_bound_is_not_ranked_with_bounds(tmp_path, without_pictures):
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    data = pvae.load_data(x, validation=0.25, test=0.25)
    spec = ModelSpec("vae", {"latent": 1, "hidden": 3, "likelihood": "gaussian"})
    settings = {"particles": 30, "workers": 0, "progress": False, "epochs": 1, "validation_particles": 2}
    for objectives, rankings in ((["elbo", "wae"], 0), (["elbo", "iwae"], 3)):
        found = pvae.compare({"vae": spec}, data, objectives, 1, out=tmp_path / objectives[1], step="eager", **settings)
        assert len(found.table.rankings) == rankings
        page = (tmp_path / objectives[1] / "index.html").read_text()
        assert ("or the best validation loss of an objective without one" in page) == (rankings == 0)
        curve = read_curve(found.cells[1].scores)
        assert (curve.quantity == "minus validation loss of the objective") == (rankings == 0)
