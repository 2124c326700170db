"""The page of a comparison and `pvae show` draw the same codes of a run, and no given label as if it were inferred."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run
from PIL import Image

import pvae
import pvae.plots
from pvae.models import ModelSpec

FAST = {"epochs": 1, "batch_size": 40, "particles": 5, "limit": 10, "workers": 0, "step": "eager", "progress": False}


@pytest.fixture
def scatters(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Records what `latent_scatter` gets."""
    recorded, draw = [], pvae.plots.latent_scatter

    def record(codes, labels=None, **options):
        recorded.append((np.asarray(codes), list(labels), options))
        return draw(codes, labels, **options)

    monkeypatch.setattr(pvae.plots, "latent_scatter", record)
    return recorded


def test_two_pictures_of_a_semi_supervised_run_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scatters: list[tuple]
) -> None:
    monkeypatch.setattr("pvae.report.writing._encode_pictures", lambda page: {})  # drawn, and not rendered
    random = np.random.default_rng(0)
    y = random.integers(0, 3, 120)
    np.savez(tmp_path / "labelled.npz", x=(random.random((120, 6)) < 0.2 + 0.3 * y[:, None]).astype("f4"), y=y)
    monkeypatch.chdir(tmp_path)
    data = pvae.load_data("labelled.npz", labels=30)
    model = ModelSpec("ssvae", {"classes": 3, "latent": 3, "hidden": 4})
    found = pvae.compare({"ssvae": model}, data, "semi-supervised", 1, out="study", **FAST)
    shown = run("show", str(found.cells[0].cell.folder), "--what", "latent", "--out", "latent.png")
    assert shown.code == 0
    (page_codes, page_labels, page), (codes, labels, options) = scatters
    assert codes.shape[1] == 3 and not (codes == codes.round()).all(0).any()
    assert np.allclose(page_codes, codes, atol=1e-6) and page_labels == labels
    assert page["note"] == options["note"] == "Inferred: z, y, from x only."
    inferred = torch.as_tensor(options["categories"]["y"])[:, 0]
    assert torch.equal(torch.as_tensor(page["categories"]["y"])[:, 0], inferred)
    assert inferred.tolist() != labels
    with Image.open("latent.png") as image:
        assert "run: study" in image.text["Description"] and "seed: 0; split: test" in image.text["Description"]


def test_figures_of_an_untrained_guide_are_refused_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_pictures: None
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", (np.random.default_rng(0).random((80, 6)) < 0.5).astype("f4"))
    words = ["--latent", "2", "--hidden", "4", "--epochs", "1", "--out", "r"]
    assert run("train", "vae", "--data", "x.npy", "--objective", "gan", *words).code == 0
    for what in ("latent", "reconstructions", "interpolation"):
        refused = run("show", "r", "--what", what)
        assert refused.code == 2 and "needs a trained guide, and the objective 'gan'" in refused.err
    assert run("show", "r", "--what", "samples").code == 0


@pytest.mark.parametrize("name", ["vqvae", "gmm"])
def test_there_is_no_line_between_two_categories(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", (np.random.default_rng(0).random((60, 6)) < 0.5).astype("f4"))
    assert run("train", name, "--data", "x.npy", "--epochs", "1", "--out", "r").code == 0
    refused = run("show", "r", "--what", "interpolation")
    assert refused.code == 2 and "there is nothing between two categories" in refused.err
