"""``pvae em``: what it fits, prints, writes and refuses; and the figures of mixtures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_allclose
from safetensors.numpy import load_file

from pvae import plots
from pvae.cli import cli
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
    ended = CliRunner().invoke(cli, ["em", *arguments], catch_exceptions=False)
    return ended.exit_code, ended.stdout, ended.stderr


def test_it_prints_one_json_object_that_says_what_the_library_says(folder: Path) -> None:
    code, out, err = run("--data", "./x.npz", "--components", "3", "--json")
    told = json.loads(out)
    assert code == 0 and out.count("\n") == 1 and "step" in err
    settings = {"tol": 1e-4, "max_iter": 200, "reg_covar": "relative", "random_state": 0}
    x = X.astype(np.float32).astype(np.float64)
    mixture = GaussianMixture(3, **settings).fit(x[:300])
    assert_allclose(told["log_likelihood"]["test"]["value"], mixture.score(x[300:350]), rtol=1e-6)
    assert told["log_likelihood"]["train"]["count"] == 300
    assert_allclose([told["bic"], told["aic"]], [mixture.bic(x[:300]), mixture.aic(x[:300])], rtol=1e-6)
    assert_allclose(told["weights"], mixture.weights_, rtol=1e-6)
    assert (
        told["notes"] == []
        and told["converged"]
        and told["steps"] == len(told["lower_bounds"])
        and told["status"] == ["fitted"] * 3
    )


@pytest.mark.parametrize("by", ["bic", "held-out"])
def test_it_chooses_the_number_of_components(folder: Path, by: str) -> None:
    code, out, _ = run("--data", "./x.npz", "--select", "1:4", "--by", by, "--out", "chosen", "--json", "--no-progress")
    told = json.loads(out)
    fits = told["selection"]["fits"]
    assert code == 0 and [each["components"] for each in fits] == [1, 2, 3, 4]
    values = [each["bic"] if by == "bic" else -each["log_likelihood"]["validation"]["value"] for each in fits]
    assert told["components"] == 1 + int(np.argmin(values))
    assert told["components"] == 3 or by == "held-out"
    assert {path.name for path in (folder / "chosen").iterdir()} == {
        "mixture.safetensors",
        "em.json",
        "components.png",
        "history.png",
        "selection.png",
    }
    kept = load_file(folder / "chosen" / "mixture.safetensors")
    assert_allclose(kept["weights"], told["weights"], rtol=1e-12)
    assert json.loads((folder / "chosen" / "em.json").read_text()) == told


def test_what_the_fit_warns_of_is_told(folder: Path) -> None:
    np.save(folder / "narrow.npy", 1e-3 * X)
    arguments = ("--data", "./narrow.npy", "--components", "2", "--reg-covar", "1e-6", "--max-iter", "1")
    code, out, err = run(*arguments, "--json", "--no-progress")
    notes = json.loads(out)["notes"]
    assert code == 0 and len(notes) == 2 and "did not converge" in notes[0] and "features 0-1" in notes[1]
    assert all(note in err for note in notes)


def test_a_person_reads_a_table(folder: Path) -> None:
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
        (["--missing", "ignore"], "marginalise"),
        (["--merge", "2", "--data", "./x.npz", "--components", "2"], "(0, 1)"),
        (["--split-merge", "-1", "--data", "./x.npz", "--components", "2"], "from 0 up"),
        (["--covariance", "round"], "full"),
        (["--out", "."], "exists already"),
    ],
)
def test_bad_input_is_one_line_and_code_2(folder: Path, arguments: list[str], words: str) -> None:
    code, out, err = run(*arguments)
    assert code == 2 and out == "" and words in err and err.count("\n") == 1


# ---- figures


def test_pictures_stand_in_order_of_their_weights() -> None:
    means = np.arange(4.0)[:, None, None] * np.ones((4, 3, 3))
    figure = plots.mixture_pictures(means, [0.1, 0.4, 0.2, 0.3])
    assert [axes.get_title() for axes in figure.axes] == ["40.0%", "30.0%", "20.0%", "10.0%"]
    assert [axes.images[0].get_array().mean() for axes in figure.axes] == [1.0, 3.0, 2.0, 0.0]
    assert len({axes.images[0].get_clim() for axes in figure.axes}) == 1


def test_an_ellipse_holds_the_share_that_its_deviations_hold() -> None:
    covariance = np.array([[3.0, 1.2], [1.2, 1.0]])
    x = np.random.default_rng(0).multivariate_normal([1.0, -2.0], covariance, size=20000)
    figure = plots.mixture_ellipses(x, np.zeros(20000), [1.0], [[1.0, -2.0]], [covariance])
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x[0]", "x[1]")
    for deviations, patch in zip((1, 2), axes.patches, strict=True):
        inside = patch.get_path().contains_points(patch.get_patch_transform().inverted().transform(x)).mean()
        exact = 1 - np.exp(-0.5 * deviations**2)
        assert inside == pytest.approx(exact, abs=4.5 * np.sqrt(exact * (1 - exact) / 20000))


def test_more_features_are_projected_exactly() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(500, 4)) * [5, 3, 1, 0.1]
    figure = plots.mixture_ellipses(x, np.zeros(500), [1.0], [x.mean(0)], [np.cov(x.T, bias=True)])
    axes = figure.axes[0]
    points = np.asarray(axes.collections[0].get_offsets())
    assert_allclose(sorted([axes.patches[0].width, axes.patches[0].height]), sorted(2 * points.std(0)), rtol=1e-6)
    assert axes.get_xlabel().startswith("principal component 1 (")


def test_the_curve_marks_the_choice() -> None:
    figure = plots.selection_curve([2, 4, 6], {"BIC": [3.0, 1.0, 2.0], "AIC": [2.0, 1.0, 0.5]}, best=4)
    axes = figure.axes[0]
    assert_allclose(axes.lines[1].get_ydata(), [2.0, 1.0, 0.5])
    assert axes.texts[0].get_text() == "4 chosen" and list(axes.lines[2].get_xdata()) == [4, 4]
    assert "lower is better" in axes.get_ylabel()


# ---- missing values, merges and splits


@pytest.mark.parametrize("kind", ["npy", "npz", "csv", "mask"])
def test_missing_values_are_integrated_out_from_any_file(folder: Path, kind: str) -> None:
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
    told = json.loads(out)
    part = load_data(X.astype(np.float32), binarise="none").train.x
    rows = x[[int(np.flatnonzero((X.astype(np.float32) == each.numpy()).all(1))[0]) for each in part]].astype(float)
    settings = {"tol": 1e-4, "max_iter": 200, "reg_covar": "relative", "random_state": 0, "missing": "marginalise"}
    mixture = GaussianMixture(3, **settings).fit(rows)
    assert code == 0 and told["missing"] == "marginalise"
    assert_allclose(told["log_likelihood"]["train"]["value"], mixture.score(rows), rtol=1e-9)
    assert (
        told["log_likelihood"]["train"]["count"] == len(rows) and (folder / f"out-{kind}" / "components.png").exists()
    )


def test_components_are_merged_and_split_on_request(folder: Path) -> None:
    arguments = ("--data", "./x.npz", "--components", "6", "--merge", "0.3", "--split-merge", "2")
    code, out, _ = run(*arguments, "--json", "--no-progress")
    told = json.loads(out)
    settings = {"tol": 1e-4, "max_iter": 200, "reg_covar": "relative", "random_state": 0}
    x = X[:300]
    mixture = GaussianMixture(6, **settings, merge=0.3, split_merge=2).fit(x)
    assert code == 0 and told["asked"] == 6 and told["components"] == len(told["weights"]) == len(mixture.weights_) < 6
    assert told["merged"] == mixture.merged_ and "merged" in told["status"]
    assert [(*each["merged"], each["split"]) for each in told["split_merges"]] == [
        (*move.merged, move.split) for move in mixture.split_merges_
    ]
    assert_allclose([told["bic"], *told["weights"]], [mixture.bic(x), *mixture.weights_], rtol=1e-9)
    assert (told["merge"], told["split_merge"]) == (0.3, 2)
    _, text, _ = run(*arguments, "--no-progress")
    assert f"{len(mixture.weights_)} components, full covariances, merged from 6" in text


def test_a_choice_among_merged_mixtures_marks_one(folder: Path) -> None:
    code, out, _ = run("--data", "./x.npz", "--select", "3:6", "--merge", "0.3", "--no-progress")
    assert code == 0 and sum(line.rstrip().endswith("*") for line in out.splitlines()) == 1
