"""How runs, histories, data and estimates show themselves in a notebook, and the figures of `run.plot`."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import run as command
from PIL import Image

import pvae
from pvae.evaluate import Estimate, difference
from pvae.plots.base import new_figure
from pvae.train.progress import NotebookDisplay, TrainingDisplay, make_display
from pvae.train.records import Records

OPTIONS = {"epochs": 2, "progress": False, "step": "eager", "matmul": "aten"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the pictures of a file in the current folder."""
    folder = tmp_path_factory.mktemp("shown")
    random = np.random.default_rng(0)
    np.savez(folder / "pictures.npz", x=(random.random((60, 4, 4)) < 0.4).astype("f4"), y=random.integers(0, 3, 60))
    data = pvae.load_data(folder / "pictures.npz", test=0.3)
    pvae.fit(pvae.VAE(data.data_shape, latent=2, hidden=4), data, out=folder / "run", **OPTIONS)
    return folder


def _pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_a_run_plots_the_figures_of_pvae_show(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    plot = pvae.open_run("run").plot
    figures = {
        "history": plot.history(),
        "samples": plot.samples(),
        "reconstructions": plot.reconstructions(split="train", count=3),
        "latent": plot.latent(),
        "traversal": plot.traversal(count=1),
        "plane": plot.plane(count=3, seed=1),
    }
    assert "The first 1 of 2 latent units are shown." in " ".join(figures["traversal"].get_suptitle().split())
    words = {"reconstructions": "--split train --count 3", "traversal": "--count 1", "plane": "--count 3 --seed 1"}
    for name, figure in figures.items():
        shown = command("show", "run", "--what", name, "--out", f"{name}.png", *words.get(name, "").split())
        assert shown.code == 0, shown.err
        expected = _pixels(Path(f"{name}.png").read_bytes())
        np.testing.assert_array_equal(_pixels(figure._repr_png_()), expected, err_msg=name)


def test_figures_of_data_that_are_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    data = pvae.load_data(torch.zeros(20, 4))
    in_memory = pvae.fit(pvae.VAE(data.data_shape, latent=2, hidden=4), data, **OPTIONS)
    with pytest.raises(pvae.InputError, match="data in memory, which its folder does not hold"):
        in_memory.plot.samples()
    opened = pvae.open_run("run")
    opened.config["data"]["checksum"] = "0" * 64
    with pytest.raises(pvae.InputError, match="have changed since the run was trained"):
        opened.plot.samples()
    with pytest.raises(pvae.InputError, match="has no nothing split; it has train"):
        opened.plot.samples(data, split="nothing")
    opened.config["data"] |= {"name": "gone.npz", "path": "gone/gone.npz"}
    with pytest.raises(pvae.InputError, match=r"was trained on 'gone.npz'.*Give the data as an argument"):
        opened.plot.latent()


def test_a_figure_is_a_picture_in_a_notebook() -> None:
    figure = new_figure(1.0, width=2.0)
    assert _pixels(figure._repr_png_()).shape[:2] == (150, 300)


def test_a_history_is_a_table() -> None:
    records = Records([{"epoch": number, "loss": number / 4} for number in range(1, 21)])
    records.append({"event": "rollback", "epoch": 20, "reason": "<b>"})
    assert isinstance(records, list) and records[1] == {"epoch": 2, "loss": 0.5}
    assert list(records.to_pandas()["loss"][:20]) == [number / 4 for number in range(1, 21)]
    shown = records._repr_html_()
    assert re.findall(r"<th style=[^>]*>([\d…]+)</th>", shown) == [*"12345", "…", *map(str, range(16, 21))]
    assert "event rollback, epoch 20, reason &lt;b&gt;" in shown and "<b>" not in shown
    *_, last, _, event = records.to_markdown().splitlines()
    assert last == "| 20 | 5 |" and event == r"event rollback, epoch 20, reason \<b\>"
    assert "20 & 5 \\\\" in records.to_latex() and records.to_latex().startswith("% event rollback")


def test_names_of_users_are_text_in_html(folder: Path) -> None:
    opened = pvae.open_run(folder / "run")
    opened.config["objective"] = "<b>bold</b>\x1b"
    opened.config["data"]["name"] = "<script>"
    shown = opened._repr_html_() + pvae.load_data({"x": np.zeros((9, 2)), "y": ["<i>"] * 9})._repr_html_()
    assert "&lt;b&gt;bold&lt;/b&gt;\\x1b" in shown and "&lt;script&gt;: 38 train, 4 validation, 18 test" in shown
    assert not {"<b>", "<script>", "<i>", "\x1b"} & set(re.findall(r"<\w+>|\x1b", shown))


def test_data_show_their_sizes(folder: Path) -> None:
    shown = re.sub(r"<[^>]+>", " ", pvae.load_data(folder / "pictures.npz", test=0.3)._repr_html_())
    assert re.search(r"train +38 +validation +4 +test +18 +shape of x +4 x 4 +classes +3", shown)


def test_a_difference_of_estimates_is_paired_where_it_can_be() -> None:
    random = np.random.default_rng(1)
    values = random.normal(size=(2, 50))
    a, b = Estimate.mean_of(torch.tensor(values[0])), Estimate.mean_of(torch.tensor(values[0] + 0.01 * values[1]))
    assert a - b == difference(a, b) and (a - b).error == pytest.approx(0.01 * values[1].std(ddof=1) / 50**0.5)
    without = Estimate(-25.0, 0.3, 100) - Estimate(-27.0, 0.4, 200)
    assert (without.value, without.error, without.count) == (2.0, pytest.approx(0.5), 100)
    assert a - 1.0 == Estimate(a.value - 1.0, a.error, 50)
    assert float(a) == a.value and sorted([a, a - 2, a - 1])[0] == a - 2
    assert a > a - 1 and a >= a.value and a - 1 < a and a - 1 <= 10 and a <= a and not a < a
    with pytest.raises(TypeError):
        a < "2"  # noqa: B015


def test_the_display_in_a_notebook(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert not isinstance(make_display(None), NotebookDisplay)
    kernel = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel, version_info=(9, 0)))
    assert type(make_display(False)) is TrainingDisplay
    display = make_display(None)
    assert isinstance(display, NotebookDisplay)
    monkeypatch.delitem(sys.modules, "IPython")
    display.start(0, 3, 10)
    display.show_epoch({"epoch": 2, "loss": 1.5, "seconds": 1.0, "validation_bound": -2.0, "validation_error": 0.1})
    display.note("a line")
    display.show_epoch({"epoch": 3, "loss": 1.25, "seconds": 1.0})
    display.close()
    shown = capsys.readouterr().err
    assert "3/3" in shown and "loss 1.2500" in shown and "a line" in shown
