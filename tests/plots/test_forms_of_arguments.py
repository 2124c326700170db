"""Figures of runs and of data by the functions of `pvae.plots`: they equal those of the run and of the arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import pvae
from pvae import plots
from pvae.errors import InputError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pvae.Run:
    path = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(path, np.random.default_rng(0).normal(size=(60, 4)).astype("f4"))
    return pvae.fit("vae:latent=2:hidden=3:likelihood=gaussian", str(path), epochs=1, step="eager", progress=False)


def values(figure: Figure) -> list[Any]:
    """Return the values that a figure shows."""
    axes = figure.axes
    points = [np.asarray(item.get_offsets()) for each in axes for item in each.collections]
    lines = [np.asarray(line.get_xydata()) for each in axes for line in each.lines]
    pictures = [np.asarray(image.get_array()) for each in axes for image in each.images]
    return [shown for shown in [*points, *lines, *pictures] if shown.size]


def same(first: Figure, second: Figure) -> bool:
    shown, expected = values(first), values(second)
    return len(shown) == len(expected) > 0 and all(
        np.array_equal(one, other, equal_nan=one.dtype.kind == "f") for one, other in zip(shown, expected, strict=True)
    )


def test_a_figure_of_a_run_is_that_of_the_run(run: pvae.Run) -> None:
    own = run.config["data"]["path"]
    assert same(plots.history(run), run.plot.history())
    assert same(plots.latent_scatter(run), run.plot.latent())
    assert same(plots.latent_scatter(run, own, split="train", count=9), run.plot.latent(split="train", count=9))
    assert not same(plots.latent_scatter(run, count=4), run.plot.latent(count=3))
    assert same(plots.reconstructions(run, seed=3), run.plot.reconstructions(seed=3))
    assert same(plots.traversal(run, count=1), run.plot.traversal(count=1))


def test_a_figure_of_data_is_that_of_their_x(tmp_path: Path) -> None:
    x = torch.rand(12, 3, 3, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "x.npy", x.numpy())
    data = pvae.load_data(x, validation=2, test=4)
    assert same(plots.image_grid(data), plots.image_grid(data.test["x"]))
    assert same(plots.image_grid(data.train), plots.image_grid(data.train["x"]))
    from_path = pvae.load_data(str(tmp_path / "x.npy"))
    assert same(plots.image_grid(tmp_path / "x.npy"), plots.image_grid(from_path.test["x"]))


def test_frames_with_an_attribute_plot_are_data() -> None:
    import pandas as pd

    frame = pd.DataFrame(np.arange(12.0).reshape(6, 2))
    assert same(plots.latent_scatter(frame), plots.latent_scatter(frame.to_numpy()))


def test_what_cannot_be_drawn_is_refused(run: pvae.Run) -> None:
    data = pvae.load_data(torch.rand(9, 2), validation=0, test=0)
    for draw, words in (
        (lambda: plots.latent_scatter(run, "nofile.csv"), "There is no file nofile.csv"),
        (lambda: plots.latent_scatter(run, cuont=3), "did you mean 'count'"),
        (lambda: plots.image_grid("minst"), "did you mean 'mnist'"),
        (lambda: plots.history("runs/a"), "Open the run with pvae.open_run"),
        (lambda: plots.image_grid(data), "Give data.train"),
        (lambda: run.plot.draw("latnet"), "did you mean 'latent'"),
    ):
        with pytest.raises(InputError, match=words):
            draw()
