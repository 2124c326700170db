"""``pvae evaluate --method ais`` and ``sandwich``: the numbers of the library, and options that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import command_line
import pytest

import pvae

QUICK = ("--temperatures", "5", "--chains", "2", "--limit", "4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("annealed") / "run"
    words = ("train", "vae", "--hidden", "8", "--latent", "2", "--epochs", "1", "--batch-size", "500", "--no-progress")
    assert command_line.run(*words, "--out", str(folder)).code == 0
    return folder


def test_methods_agree_with_the_library(folder: Path) -> None:
    data = pvae.load_data("digits", binarise="static")
    settings = {"temperatures": 5, "chains": 2, "limit": 4, "start": "guide", "progress": False}
    both = pvae.evaluate.sandwich(pvae.open_run(folder), data, **settings)
    done = command_line.run("evaluate", str(folder), "--method", "sandwich", *QUICK, "--start", "guide", "--json")
    record = json.loads(done.out)
    assert record["lower"]["value"] == pytest.approx(both.lower.value, abs=1e-9)
    assert record["upper"]["value"] == pytest.approx(both.upper.value, abs=1e-9)
    assert record["upper_is"] == "approximate"
    assert record["on_simulated"]["gap"]["value"] == pytest.approx(both.on_simulated.gap.value, abs=1e-9)
    assert (record["cost"], record["limit"]) == (both.cost, 4)
    assert "sandwich: about" in done.err
    lower = command_line.run("evaluate", str(folder), "--method", "ais", *QUICK, "--start", "guide")
    assert lower.out.startswith("status")
    assert str(both.lower) in lower.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "is", "--temperatures", "5"), "--temperatures needs one of the methods ais and sandwich"),
        (("--method", "sandwich", "--particles", "5"), "--particles needs one of the methods is and elbo"),
        (("--method", "ais", "--temperatures", "0"), "--temperatures"),
        (("--method", "ais", "--schedule", "cosine"), "cosine"),
        (("--method", "ais", "--start", "posterior"), "posterior"),
    ],
)
def test_options_that_a_method_does_not_use_are_refused(folder: Path, words: tuple[str, ...], message: str) -> None:
    done = command_line.run("evaluate", str(folder), *words)
    assert done.code == 2
    assert message in done.err
