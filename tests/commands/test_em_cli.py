"""``pvae em``: its results, output, files and errors."""

from __future__ import annotations

import json
from pathlib import Path

import command_line
import numpy as np
import pytest
from numpy.testing import assert_allclose
from safetensors.numpy import load_file

from pvae.data import load_data
from pvae.em import GaussianMixture

RANDOM = np.random.default_rng(0)
CENTRES = np.array([[-4.0, 0.0], [4.0, 1.0], [0.0, 5.0]])
X = CENTRES[RANDOM.integers(3, size=400)] + RANDOM.normal(size=(400, 2))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "x.npz", x=X[:300], x_test=X[300:350], x_validation=X[350:])
    return tmp_path


def run(*arguments: str) -> tuple[int, str, str]:
    return command_line.run("em", *arguments)


def test_json_output_agrees_with_the_library(folder: Path) -> None:
    code, out, err = run("--data", "./x.npz", "--components", "3", "--json")
    result = json.loads(out)
    assert code == 0 and out.count("\n") == 1 and "step" in err
    settings = {"tol": 1e-4, "max_iter": 200, "reg_covar": "relative", "random_state": 0}
    x = X.astype(np.float32).astype(np.float64)
    mixture = GaussianMixture(3, **settings).fit(x[:300])
    assert_allclose(result["log_likelihood"]["test"]["value"], mixture.score(x[300:350]), rtol=1e-6)
    assert result["log_likelihood"]["train"]["count"] == 300
    assert_allclose([result["bic"], result["aic"]], [mixture.bic(x[:300]), mixture.aic(x[:300])], rtol=1e-6)
    assert_allclose(result["weights"], mixture.weights_, rtol=1e-6)
    assert (
        result["notes"] == []
        and result["converged"]
        and result["steps"] == len(result["lower_bounds"])
        and result["status"] == ["fitted"] * 3
    )


def test_matmul_is_a_setting_of_the_saved_mixture(folder: Path) -> None:
    for matmul in ("auto", "aten"):
        code, _, _ = run("--data", "./x.npz", "--components", "2", "--matmul", matmul, "--out", matmul)
        assert code == 0 and GaussianMixture.load(Path(matmul, "mixture.safetensors")).matmul == matmul


@pytest.mark.parametrize("by", ["bic", "held-out"])
def test_select_keeps_the_best_number_of_components(folder: Path, by: str) -> None:
    code, out, _ = run("--data", "./x.npz", "--select", "1:4", "--by", by, "--out", "chosen", "--json", "--no-progress")
    result = json.loads(out)
    fits = result["selection"]["fits"]
    assert code == 0 and [fit["components"] for fit in fits] == [1, 2, 3, 4]
    values = [fit["bic"] if by == "bic" else -fit["log_likelihood"]["validation"]["value"] for fit in fits]
    assert result["components"] == 1 + int(np.argmin(values))
    assert result["components"] == 3 or by == "held-out"
    assert {path.name for path in (folder / "chosen").iterdir()} == {
        "mixture.safetensors",
        "em.json",
        "assignments.csv",
        "components.png",
        "history.png",
        "selection.png",
    }
    kept = load_file(folder / "chosen" / "mixture.safetensors")
    assert_allclose(kept["weights"], result["weights"], rtol=1e-12)
    assert json.loads((folder / "chosen" / "em.json").read_text()) == result


def test_warnings_of_the_fit_are_notes(folder: Path) -> None:
    np.save(folder / "narrow.npy", 1e-3 * X)
    arguments = ("--data", "./narrow.npy", "--components", "2", "--reg-covar", "1e-6", "--max-iter", "1")
    code, out, err = run(*arguments, "--json", "--no-progress")
    notes = json.loads(out)["notes"]
    assert code == 0 and len(notes) == 2 and "did not converge" in notes[0] and "features 0-1" in notes[1]
    assert all(note in err for note in notes)


def test_text_output_has_a_table_of_the_fits(folder: Path) -> None:
    code, out, err = run("--data", "./x.npz", "--select", "2,3", "--no-progress")
    assert code == 0 and err == ""
    assert "chosen" in out and "*" in out and "3 components, full covariances" in out and "nats per datum" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "digit"], "digits"),
        (["--select", "5:2"], "2:30"),
        (["--select", "a"], "got 'a'"),
        (["--components", "0"], "0"),
        (["--components", "500", "--data", "./x.npz"], "n_samples = 300"),
        (["--reg-covar", "absolute"], "relative"),
        (["--device", "moon"], "moon"),
        (["--matmul", "fast"], "aten"),
        (["--missing", "ignore"], "marginalise"),
        (["--merge", "2", "--data", "./x.npz", "--components", "2"], "(0, 1)"),
        (["--split-merge", "-1", "--data", "./x.npz", "--components", "2"], "from 0 up"),
        (["--covariance", "round"], "full"),
        (["--out", "."], "exists already"),
    ],
)
def test_bad_input_prints_one_line_and_ends_with_code_2(folder: Path, arguments: list[str], words: str) -> None:
    code, out, err = run(*arguments)
    assert code == 2 and out == "" and words in err and err.count("\n") == 1


# Missing values, merges and splits


@pytest.mark.parametrize("kind", ["npy", "npz", "csv", "mask"])
def test_missing_values_of_any_file_format_are_marginalised(folder: Path, kind: str) -> None:
    x = X.astype(np.float32)
    x[::3, 1] = np.nan
    observed = ~np.isnan(x)
    if kind == "npy":
        np.save(folder / "holes.npy", x)
    elif kind == "csv":
        cells = [",".join("" if np.isnan(value) else repr(float(value)) for value in row) for row in x]
        (folder / "holes.csv").write_text("\n".join(cells) + "\n")
    else:
        fields = {"x": x} if kind == "npz" else {"x": np.where(observed, x, 99.0), "mask": observed}
        np.savez(folder / "holes.npz", **fields)
    data = f"./holes.{kind.replace('mask', 'npz')}"
    code, _, err = run("--data", data, "--components", "3", "--json")
    assert code == 2 and err.count("\n") == 1 and ("--missing" in err or "empty cell" in err or "NaN" in err)
    arguments = ("--data", data, "--components", "3", "--missing", "marginalise", "--out", f"out-{kind}", "--json")
    code, out, _ = run(*arguments, "--no-progress")
    result = json.loads(out)
    part = load_data(X.astype(np.float32), binarise="none").train.x
    rows = x[[int(np.flatnonzero((X.astype(np.float32) == datum.numpy()).all(1))[0]) for datum in part]].astype(float)
    settings = {"tol": 1e-4, "max_iter": 200, "reg_covar": "relative", "random_state": 0, "missing": "marginalise"}
    mixture = GaussianMixture(3, **settings).fit(rows)
    assert code == 0 and result["missing"] == "marginalise"
    assert_allclose(result["log_likelihood"]["train"]["value"], mixture.score(rows), rtol=1e-9)
    assert (
        result["log_likelihood"]["train"]["count"] == len(rows) and (folder / f"out-{kind}" / "components.png").exists()
    )


def test_merge_and_split_merge_agree_with_the_library(folder: Path) -> None:
    arguments = ("--data", "./x.npz", "--components", "6", "--merge", "0.3", "--split-merge", "2")
    code, out, _ = run(*arguments, "--json", "--no-progress")
    result = json.loads(out)
    settings = {"tol": 1e-4, "max_iter": 200, "reg_covar": "relative", "random_state": 0}
    x = X[:300]
    mixture = GaussianMixture(6, **settings, merge=0.3, split_merge=2).fit(x)
    assert (
        code == 0
        and result["asked"] == 6
        and result["components"] == len(result["weights"]) == len(mixture.weights_) < 6
    )
    assert result["merged"] == mixture.merged_ and "merged" in result["status"]
    assert [(*move["merged"], move["split"]) for move in result["split_merges"]] == [
        (*move.merged, move.split) for move in mixture.split_merges_
    ]
    assert_allclose([result["bic"], *result["weights"]], [mixture.bic(x), *mixture.weights_], rtol=1e-9)
    assert (result["merge"], result["split_merge"]) == (0.3, 2)
    _, text, _ = run(*arguments, "--no-progress")
    assert f"{len(mixture.weights_)} components, full covariances, merged from 6" in text


def test_selection_table_marks_one_merged_mixture(folder: Path) -> None:
    code, out, _ = run("--data", "./x.npz", "--select", "3:6", "--merge", "0.3", "--no-progress")
    assert code == 0 and sum(line.rstrip().endswith("*") for line in out.splitlines()) == 1
