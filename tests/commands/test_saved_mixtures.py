"""The component of every row by ``pvae em``, and its folder in ``pvae evaluate`` and ``pvae show``."""

from __future__ import annotations

import json
from pathlib import Path

import command_line
import numpy as np
import pandas as pd
import pytest
import sklearn.mixture
from numpy.testing import assert_allclose, assert_array_equal

from pvae.em import GaussianMixture

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(120, 2)) * [1, 3] + 8 * (np.arange(120) % 2)[:, None]
NAMES = [f"bird {number}" for number in RANDOM.permutation(120)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame(X, columns=["length", "width"], index=pd.Index(NAMES, name="bird"))
    frame.to_csv(tmp_path / "birds.csv")
    frame[["width", "length"]][::-1].to_csv(tmp_path / "others.csv")
    return tmp_path


def em(*arguments: str) -> dict:
    words = ("em", "--data", "birds.csv", "--index", "bird", "--components", "2", "--no-progress", "--json")
    code, out, err = command_line.run(*words, *arguments)
    assert code == 0, err
    return json.loads(out)


def theirs(folder: Path) -> sklearn.mixture.GaussianMixture:
    """Return the saved mixture as one of scikit-learn."""
    saved = GaussianMixture.load(folder / "mixture.safetensors")
    other = sklearn.mixture.GaussianMixture(2)
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        setattr(other, name, getattr(saved, name))
    return other


@pytest.mark.parametrize("sizes", [(), ("--test", "0", "--validation", "0"), ("--test", "7", "--data-seed", "3")])
def test_every_row_has_its_component_in_the_order_of_the_file(folder: Path, sizes: tuple[str, ...]) -> None:
    result = em("--out", "mixture", "--assign", "table.csv", *sizes)
    assert sum(result["data_set"]["sizes"].values()) == 120
    table = pd.read_csv("table.csv")
    assert (folder / "table.csv").read_bytes() == (folder / "mixture" / "assignments.csv").read_bytes()
    other = theirs(folder / "mixture")
    assert list(table.columns) == ["bird", "split", "component", "probability", "log_p"] and list(table.bird) == NAMES
    assert_array_equal(table.component, other.predict(X))
    assert_allclose(table.probability, other.predict_proba(X).max(1), rtol=1e-6)
    assert_allclose(table.log_p, other.score_samples(X), rtol=1e-6)
    counts = table.split.value_counts()
    assert {name: int(counts.get(name, 0)) for name in ("train", "validation", "test")} == result["data_set"]["sizes"]
    for split, estimate in result["log_likelihood"].items():
        assert_allclose(table.log_p[table.split == split].mean(), estimate["value"], rtol=1e-9)


def test_rows_without_names_have_numbers_and_own_splits_follow(folder: Path) -> None:
    np.savez("own.npz", x=X[:80], x_test=X[80:])
    code, _, err = command_line.run(
        "em", "--data", "./own.npz", "--components", "2", "--no-progress", "--assign", "table.csv"
    )
    assert code == 0, err
    table = pd.read_csv("table.csv")
    assert list(table.row) == [*range(80), *range(40)] and list(table.split[80:]) == ["test"] * 40


def test_a_saved_mixture_is_evaluated_on_its_data_and_on_others(folder: Path) -> None:
    result = em("--out", "mixture", "--test", "0.25")
    code, out, err = command_line.run("evaluate", "mixture", "--json", "--assign", "again.csv")
    assert code == 0, err
    record = json.loads(out)
    assert record["log_evidence"] == result["log_likelihood"]["test"] and record["log_evidence"]["count"] == 30
    assert (folder / "again.csv").read_bytes() == (folder / "mixture" / "assignments.csv").read_bytes()
    # the columns of other data are put in the order of the fit, by their names
    words = ("evaluate", "mixture", "--data", "others.csv", "--index", "bird", "--assign", "others-assigned.csv")
    code, _, err = command_line.run(*words)
    assert code == 0, err
    table = pd.read_csv("others-assigned.csv")
    assert list(table.bird) == NAMES[::-1]
    assert_array_equal(table.component, theirs(folder / "mixture").predict(X[::-1]))


def test_a_saved_mixture_is_shown(folder: Path) -> None:
    em("--out", "mixture")
    for what in ("components", "history"):
        code, out, err = command_line.run("show", "mixture", "--what", what)
        assert code == 0 and Path(out.strip()).stat().st_size > 1000, err


BAD = [
    (["show", "mixture"], "components and history"),
    (["evaluate", "mixture", "--method", "accuracy"], "--assign"),
    (["evaluate", "mixture", "--method", "sandwich"], "for a mixture it is known exactly"),
    (["evaluate", "mixture", "--data", "narrow.csv"], "'width' is missing"),
    (["evaluate", "mixture-of-array", "--data", "narrow.npy"], "1 features"),
    (["evaluate", "mixture", "--assign", "birds.csv"], "exists already"),
    (["evaluate", "mixture", "--assign", "table.txt"], ".csv"),
    (["evaluate", "mixture", "--arviz", "draws.nc"], "--arviz"),
    (["evaluate", "damaged"], "damaged"),
    (["em", "--data", "birds.csv", "--index", "bird", "--test", "1.5"], "test needs"),
    (["em", "--data", "birds.csv", "--index", "bird", "--assign", "no/table.csv"], "does not exist"),
]


def test_what_cannot_be_done_is_one_line(folder: Path) -> None:
    em("--out", "mixture")
    pd.DataFrame({"bird": NAMES, "length": X[:, 0]}).to_csv("narrow.csv", index=False)
    np.save("narrow.npy", X[:, :1])
    np.save("whole.npy", X)
    command_line.run("em", "--data", "./whole.npy", "--components", "2", "--out", "mixture-of-array")
    (folder / "damaged").mkdir()
    (folder / "damaged" / "mixture.safetensors").write_bytes(b"no mixture")
    for words, message in BAD:
        code, out, err = command_line.run(*words)
        assert code == 2 and out == "" and message in err.splitlines()[-1], (words, err)
