"""`fit`, `check`, `compare`, `log_weights` and the evaluations take data, models and objectives in the same forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch

import pvae
from pvae.models.make_model import build_model, spec_from_text

OPTIONS = {"progress": False, "step": "eager", "matmul": "aten"}
X = np.random.default_rng(0).normal(size=(30, 3)).astype("float32")


def make_vae(data_shape: tuple[int, ...]) -> pvae.VAE:
    """Return a small model for data of a shape."""
    return pvae.VAE(data_shape, latent=1, hidden=2, likelihood="gaussian")


def make_from_splits(splits: pvae.Splits) -> pvae.VAE:
    """Return a small model for data."""
    return make_vae(splits.data_shape)


def make_alone() -> pvae.VAE:
    """Return a small model for three features."""
    return make_vae((3,))


TEXT = "vae:latent=1:hidden=2:likelihood=gaussian"
RECIPES = {
    "text": TEXT,
    "specification": pvae.ModelSpec("vae", {"latent": 1, "hidden": 2, "likelihood": "gaussian"}),
    "function of a fact": make_vae,
    "function of the splits": make_from_splits,
    "function": make_alone,
}


@pytest.fixture
def forms(tmp_path: Path) -> dict[str, Any]:
    """The same data in several forms."""
    np.save(tmp_path / "x.npy", X)
    frame = pd.DataFrame(X, columns=list("abc"))
    return {
        "path": tmp_path / "x.npy",
        "text": str(tmp_path / "x.npy"),
        "array": X,
        "tensor": torch.tensor(X),
        "frame": frame,
        "splits": pvae.load_data(X),
        "mapping": {"x": X},
    }


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_fit_and_check_build_the_model_that_compare_builds(recipe: Any) -> None:
    data = pvae.load_data(X)
    run = pvae.fit(recipe, data, seed=4, epochs=0, **OPTIONS)
    with pvae.train.isolated(4):
        model = make_alone()
    expected = pvae.fit(model, data, seed=4, epochs=0, **OPTIONS)
    for own, other in zip(run.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(own, other)
    findings, state = str(pvae.check(make_alone(), data)), torch.get_rng_state()
    assert str(pvae.check(recipe, data)) == findings
    assert torch.equal(state, torch.get_rng_state())


def test_a_class_gets_the_facts_that_it_requires() -> None:
    data = pvae.load_data((X, np.arange(30) % 3))
    sampled = pvae.programs.queries.sample(build_model(pvae.VAE, data), data.train)
    assert sampled.shape == data.train.x.shape
    with pytest.raises(pvae.InputError, match="make_nothing needs a latent model"):
        build_model(make_nothing, data)


def make_nothing() -> None:
    """Return no model."""


@pytest.mark.parametrize(
    ("text", "name", "settings"),
    [
        ("vae", "vae", {}),
        ("vae:latent=8:hidden=4,4", "vae", {"latent": 8, "hidden": (4, 4)}),
        ("models/mine.py:Mine:latent=2", "models/mine.py:Mine", {"latent": 2}),
        ("package.module:Class", "package.module:Class", {}),
    ],
)
def test_a_text_names_a_model_with_settings(text: str, name: str, settings: dict[str, Any]) -> None:
    assert spec_from_text(text) == pvae.ModelSpec(name, settings)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: pvae.fit("vea", X), "did you mean 'vae'"),
        (lambda: pvae.fit("vae:latent", X), "name:key=value"),
        (lambda: pvae.check("vae:latnt=2", X), "did you mean 'latent'"),
        (lambda: pvae.compare("vea", X, "elbo"), "did you mean 'vae'"),
        (lambda: pvae.compare(3, X, "elbo"), "models is a mapping from names to factories.*or texts"),
        (lambda: pvae.compare({"a": make_alone()}, X, "elbo"), "is an instance"),
        (lambda: pvae.log_weights(make_alone(), "nowhere.npy", 2), "nowhere.npy"),
        (lambda: pvae.log_weights(make_alone(), pvae.load_data(X, test=0), 2), "has no test split, only train"),
    ],
)
def test_what_cannot_be_used_is_named(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(pvae.InputError, match=said):
        call()


def test_log_weights_take_data_in_every_form(forms: dict[str, Any]) -> None:
    model = make_alone()

    def log_w(data: Any, **options: Any) -> torch.Tensor:
        pyro.set_rng_seed(0)
        return pvae.log_weights(model, data, 2, **options).log_w

    test = log_w(pvae.Batch(x=forms["splits"].test.x))
    for name in ("path", "text", "splits"):
        torch.testing.assert_close(log_w(forms[name]), test)
    whole = log_w({"x": torch.tensor(X)})
    for name in ("array", "tensor", "frame", "mapping"):
        torch.testing.assert_close(log_w(forms[name]), whole)
    torch.testing.assert_close(log_w(X.astype(np.float64)), whole)
    torch.testing.assert_close(log_w(forms["splits"], split="train"), log_w({"x": forms["splits"].train.x}))
    assert log_w(torch.tensor(X)).requires_grad


def test_grey_data_are_binarised_as_in_a_training() -> None:
    data = pvae.load_data("digits")
    model = pvae.VAE(data.data_shape, latent=1, hidden=2)
    pyro.set_rng_seed(0)
    found = pvae.log_weights(model, data, 1).log_w
    pyro.set_rng_seed(0)
    expected = pvae.log_weights(model, {"x": data.binarised("static").test.x}, 1).log_w
    torch.testing.assert_close(found, expected)


def test_a_comparison_takes_models_as_texts(tmp_path: Path, without_pictures: None) -> None:
    compared = pvae.compare(
        [TEXT, "vae:latent=2:hidden=2:likelihood=gaussian"],
        X,
        "elbo",
        seeds=1,
        out=tmp_path / "out",
        particles=3,
        workers=0,
        epochs=1,
        **OPTIONS,
    )
    assert [row.model for row in compared.table.rows] == [TEXT, "vae:latent=2:hidden=2:likelihood=gaussian"]
    settings = [pvae.open_run(cell.cell.folder).config["model"]["settings"] for cell in compared.cells]
    assert [setting["latent"] for setting in settings] == [1, 2]
