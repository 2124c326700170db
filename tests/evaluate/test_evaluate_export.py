"""ArviZ: draws written and read back, and models ranked by pointwise log evidence."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact import A_Q1, A_X, LinearGaussian, LinearGaussianModel, normal_log_prob
from stats import assert_close_in_sigmas

import pvae.evaluate as evaluate
from pvae.data.subset import Subset
from pvae.errors import InputError
from pvae.evaluate import arviz_versions

EXACT = LinearGaussian()
X = torch.tensor(np.tile(A_X, (8, 1)) + 0.1 * np.arange(8)[:, None])

POSITIONS = Subset(5, 8, 2).indices()  # of the data that the export draws with limit=5 and seed=2


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ArviZ reads back from the file, as plain datasets in memory."""
    path = tmp_path_factory.mktemp("arviz") / "draws.nc"
    tree = evaluate.to_arviz(LinearGaussianModel(), {"x": X, "y": torch.arange(8)}, 400, fields=("x",), limit=5, seed=2)
    assert evaluate.save(tree, path) == path
    read = {name: group.load() for name, group in arviz_versions.groups_of(arviz_versions.load(path)).items()}
    for name, group in arviz_versions.groups_of(tree).items():
        assert read[name].equals(group), name
    assert [each.name for each in path.parent.iterdir()] == ["draws.nc"]
    return read


def test_the_file_holds_the_groups_and_dimensions_that_arviz_expects(groups: dict[str, Any]) -> None:
    assert set(groups) == {
        "posterior", "sample_stats", "posterior_predictive", "prior", "prior_predictive", "observed_data",
        "constant_data",
    }  # fmt: skip
    for group in ("posterior", "prior"):
        assert groups[group]["z"].dims == ("chain", "draw", "datum", "z_dim_0")
        assert groups[group]["z"].shape == (1, 400, 5, 2)
    for group in ("posterior_predictive", "prior_predictive"):
        assert groups[group]["x"].dims == ("chain", "draw", "datum", "x_dim_0")
    assert groups["sample_stats"]["log_weights"].shape == (1, 400, 5)
    assert groups["posterior"].attrs["inference_library"] == "pvae"
    np.testing.assert_array_equal(groups["observed_data"]["x"], X[POSITIONS])
    np.testing.assert_array_equal(groups["constant_data"]["y"], POSITIONS)
    for group in groups.values():
        np.testing.assert_array_equal(group["datum"], POSITIONS)


def test_log_weights_are_those_of_the_draws_beside_them(groups: dict[str, Any]) -> None:
    z, log_w = groups["posterior"]["z"].values[0], groups["sample_stats"]["log_weights"].values[0]
    for draw in (0, 1, 399):
        for datum in (0, 4):
            each = z[draw, datum]
            log_joint = normal_log_prob(each, np.zeros(2), np.eye(2))
            x = X[POSITIONS[datum]].numpy()
            log_joint += normal_log_prob(x, EXACT.weight @ each + EXACT.bias, EXACT.variance * np.eye(3))
            log_guide = normal_log_prob(each, A_Q1[0], np.diag(A_Q1[1]))
            assert log_w[draw, datum] == pytest.approx(log_joint - log_guide, rel=1e-10)


def test_draws_come_from_the_guide_the_prior_and_the_likelihood(groups: dict[str, Any]) -> None:
    def flat(group: str, name: str) -> np.ndarray:
        values = groups[group][name].values
        return values.reshape(-1, values.shape[-1])

    count = 2000
    z, x = flat("posterior", "z"), flat("posterior_predictive", "x")
    assert_close_in_sigmas(z.mean(0), A_Q1[0], z.std(0) / count**0.5, effect=1.0, resolution=0.02)
    assert_close_in_sigmas(z.var(0), A_Q1[1], A_Q1[1] * (2 / count) ** 0.5, effect=1.0, resolution=0.02)
    noise = x - z @ EXACT.weight.T - EXACT.bias
    assert_close_in_sigmas(noise.var(0), np.full(3, 0.25), 0.25 * (2 / count) ** 0.5, effect=0.25, resolution=0.04)
    z, x = flat("prior", "z"), flat("prior_predictive", "x")
    assert_close_in_sigmas(z.var(0), np.ones(2), (2 / count) ** 0.5, effect=1.0, resolution=0.04)
    noise = x - z @ EXACT.weight.T - EXACT.bias
    assert_close_in_sigmas(noise.var(0), np.full(3, 0.25), 0.25 * (2 / count) ** 0.5, effect=0.25, resolution=0.04)


def test_arviz_summarises_the_posterior(groups: dict[str, Any]) -> None:
    summary = arviz_versions.arviz().summary(arviz_versions.wrap({"posterior": groups["posterior"]}), kind="stats")
    assert len(summary) == 10


def test_saving_replaces_a_file_and_refuses_a_missing_folder(tmp_path: Path) -> None:
    path = tmp_path / "draws.nc"
    path.write_text("old")
    evaluate.save(evaluate.to_arviz(LinearGaussianModel(), X, 2), path)
    assert arviz_versions.groups_of(arviz_versions.load(path))["posterior"]["z"].shape == (1, 2, 8, 2)
    with pytest.raises(InputError, match="no folder"):
        evaluate.save(None, tmp_path / "missing" / "draws.nc")
    with pytest.raises(InputError, match="draws needs a whole number"):
        evaluate.to_arviz(LinearGaussianModel(), X, 0)


def judged(**shift: float) -> dict[str, Any]:
    """Pointwise evidences of models that agree on which data are hard."""
    rng = np.random.default_rng(0)
    hard = 23 * rng.normal(size=200)
    return {name: (hard + by + rng.normal(size=200), np.full(200, 0.1), 1000) for name, by in shift.items()}


@pytest.mark.parametrize("level", [0.0, -4000.0])
def test_arviz_ranks_by_log_evidence_with_paired_errors(level: float) -> None:
    """At -4000 nats a probability is 0 in floating point: the weights must not see it."""
    models = judged(worse=level - 1.0, best=level, worst=level - 5.0)
    table = evaluate.compare_evidence(models)
    assert list(table.index) == ["best", "worse", "worst"]
    assert list(table["rank"]) == [1, 2, 3]
    for name in models:
        pointwise, apart = models[name][0], models[name][0] - models["best"][0]
        assert table.log_evidence[name] == pytest.approx(pointwise.mean(), rel=1e-12)
        assert table.error[name] == pytest.approx(pointwise.std(ddof=1) / 200**0.5, rel=1e-12)
        assert table.difference[name] == pytest.approx(apart.mean(), rel=1e-9, abs=1e-12)
        assert table.difference_error[name] == pytest.approx(apart.std() / 200**0.5, rel=1e-9, abs=1e-12)
    assert table.weight.sum() == pytest.approx(1.0, abs=1e-6) and table.weight["best"] > 0.5


def test_judgements_are_ranked_and_unreliable_data_counted() -> None:
    x = torch.tensor(np.tile(A_X, (8, 1)))
    good = evaluate.judge(LinearGaussianModel(), x, 1000)
    bad = evaluate.judge(LinearGaussianModel(mean=np.array([3.0, 3.0])), x, 1000)
    table = evaluate.compare_evidence({"bad": bad, "good": good})
    assert list(table.index) == ["good", "bad"]
    assert table.log_evidence["good"] == pytest.approx(good.log_evidence.value)
    assert table.error["bad"] == pytest.approx(bad.log_evidence.error)
    assert table.unreliable["bad"] > 4 and table.unreliable["good"] == 0
    assert list(evaluate.compare_evidence({"good": good}).difference) == [0.0]


def test_a_comparison_of_unequal_or_infinite_evidence_is_refused() -> None:
    models = judged(a=0.0)
    short = tuple(each[:10] for each in models["a"][:2])
    with pytest.raises(InputError, match="same data"):
        evaluate.compare_evidence({**models, "b": (*short, 1000)})
    with pytest.raises(InputError, match="same data"):
        evaluate.compare_evidence({})
    models["a"][0][3] = -np.inf
    with pytest.raises(InputError, match="'a' has no finite log evidence for 1 of 200 data"):
        evaluate.compare_evidence(models)


def test_arviz_is_imported_where_its_cache_folder_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fail_once(name: str) -> Any:
        seen.append(os.environ.get("XDG_CACHE_HOME"))
        if len(seen) == 1:
            raise PermissionError(name)
        return importlib.import_module(name)

    monkeypatch.setenv("XDG_CACHE_HOME", "/before")
    monkeypatch.setattr(arviz_versions, "import_module", fail_once)
    assert hasattr(arviz_versions.arviz(), "from_netcdf")
    assert seen[0] == "/before" == os.environ["XDG_CACHE_HOME"] != seen[1]

    monkeypatch.setattr(arviz_versions.tempfile, "TemporaryDirectory", lambda: (_ for _ in ()).throw(OSError("full")))
    seen.clear()
    with pytest.raises(InputError, match="XDG_CACHE_HOME"):
        arviz_versions.arviz()
