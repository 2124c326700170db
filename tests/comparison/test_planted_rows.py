"""Planted runs in a comparison: each gives its own mark and its sentence on the page, and no other row has it."""

from __future__ import annotations

import html
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from comparison_outcomes import DATA, SEEDS, outcome
from planted import OneMode, Planted
from torch import Tensor

import pvae
from pvae.comparison.page.report_data import ReportData
from pvae.comparison.page.rows_section import make_rows_section
from pvae.comparison.rows import make_ranked_rows
from pvae.comparison.table import Table
from pvae.evaluate import Estimate, diagnose, judge, membership

pytestmark = pytest.mark.usefixtures("own_store", "without_pictures")

X = Planted().draw(64)
SPLITS = pvae.load_data({"x": X[:32], "x_test": X[32:]}, validation=0)


class Exact(Planted):
    """The exact guide, with a parameter that a training of one tiny step leaves at 0."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.offset = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            self.observe(z @ self.weight.T + self.bias + self.offset, x)

    def observe(self, mean: Tensor, x: Tensor) -> None:
        pyro.sample("x", dist.Normal(mean, self.noise).to_event(1), obs=x)


class Collapsed(Exact):
    """A decoder that ignores z; the guide is the prior, which is the posterior."""

    def __init__(self) -> None:
        super().__init__(collapsed=True)


class Memorised(Exact):
    """Half of the density of x is in narrow peaks at the training data."""

    def observe(self, mean: Tensor, x: Tensor) -> None:
        means = torch.cat([mean.unsqueeze(-2), X[:32].expand(*mean.shape[:-1], 32, 3)], -2)
        scales = torch.cat([x.new_full((1, 3), self.noise), x.new_full((32, 3), 0.01)])
        shares = torch.cat([x.new_tensor([0.5]), x.new_full((32,), 0.5 / 32)])
        parts = dist.Normal(means, scales).to_event(1)
        pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(shares.expand(*mean.shape[:-1], 33)), parts), obs=x)


class TrainedOneMode(OneMode):
    """The guide of one mode, with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def guide(self, x: Tensor) -> None:
        super().guide(x + self.offset)


def compare(models: Any, x: Tensor, folder: Path, **changes: Any) -> pvae.Comparison:
    half = len(x) // 2
    options = {"seeds": 1, "epochs": 1, "learning_rate": 1e-12, "precision": "float64", "step": "eager"}
    options |= {"workers": 0, "progress": False, "particles": 50, "batch_size": half}
    data = pvae.load_data({"x": x[:half], "x_test": x[half:]}, validation=0)
    return pvae.compare(models, data, ["elbo"], out=folder, **{**options, **changes})


def marks(cells: Any, table: Table) -> list[str]:
    section = make_rows_section(ReportData(table, cells, {"name": "made-up"}, {}, rerun=""))
    return [row[4].text for row in section.sheets[0].rows]


def test_collapsed_and_memorised_rows_have_their_marks_and_sentences(tmp_path: Path) -> None:
    found = compare({"exact": Exact, "collapsed": Collapsed, "memorised": Memorised}, X, tmp_path / "c")
    first, collapsed, memorised = marks(found.cells, found.table)
    assert first == "none"
    assert "no latent unit is used" in collapsed and "memorised" not in collapsed
    assert "training data memorised" in memorised and "no latent" not in memorised
    page = html.unescape(found.report.read_text())
    assert "Under B, no unit is active: the decoder ignores z." in page
    assert "Training data are memorised under C (100% of the pairs)" in page
    row = found.table.rows[2]
    folder = tmp_path / "c" / "cells" / "memorised" / "elbo" / "seed-0"
    alone = judge(pvae.open_run(folder, Memorised()), SPLITS, 50)
    assert "training data are memorised (100% of the pairs)" in alone.notes[-1]
    assert alone.membership.value == row.additional["membership"].value
    assert not any("memorised" in note for note in judge(Exact(), SPLITS, 50).notes)
    for model, said in ((Memorised(), True), (Exact(), False)):
        findings = pvae.evaluate.all(model, SPLITS, budget=4000, progress=False)
        assert ("Training data are memorised (" in findings.answers[0].reason) == said
        evidence = findings.answers[0].findings[0]
        assert evidence.cost == 32 * (30 + 16 + 50) and findings.cost <= 4000
        assert (evidence.membership.value > 0.9) == said
    trust = judge(pvae.open_run(folder, Memorised()), X[32:], 50).trust
    assert row.additional["variance_high"].value == pytest.approx(float(trust.log_weight_variance.sort().values[29]))
    for column in ("Var log w", "classifier", "train over test"):
        assert f">{column}</th>" in page and column not in str(found.table)


def test_a_guide_of_one_mode_has_its_mark_and_sentence(tmp_path: Path) -> None:
    settings = "temperatures=4:chains=2:leapfrog_steps=1:start=guide"
    found = compare({"one": TrainedOneMode}, OneMode().draw(16), tmp_path / "c", evidence=f"sandwich:{settings}")
    assert "chains miss a part of the posterior" in marks(found.cells, found.table)[0]
    missed = "he gap on simulated data of A is much larger than the gap on the data, so the chains from the guide miss"
    assert missed in html.unescape(found.report.read_text())
    assert marks(*exact_sandwich(tmp_path / "e", settings)) == ["none"]


def exact_sandwich(folder: Path, settings: str) -> tuple[Any, Table]:
    found = compare({"exact": Exact}, X[:16], folder, evidence=f"sandwich:{settings}")
    return found.cells, found.table


def test_a_misspecified_model_has_its_mark_and_sentence_after_all_checks(tmp_path: Path) -> None:
    x = Planted().draw(200, variance=2.0)
    models = {"wrong": Exact}
    compare(models, x, tmp_path / "c")
    run = pvae.open_run(tmp_path / "c" / "cells" / "wrong" / "elbo" / "seed-0", Exact())
    pvae.evaluate.all(run, x[100:], budget=2.5e5, progress=False)
    found = compare(models, x, tmp_path / "c")
    (mark,) = marks(found.cells, found.table)
    assert "data of the model do not resemble the data" in mark and "inference" not in mark


def test_a_row_that_still_climbs_has_its_mark_and_sentence() -> None:
    rising = [[epoch, -30.0 + 0.5 * epoch, float(epoch)] for epoch in range(1, 41)]
    flat = [[epoch, -20.0, float(epoch)] for epoch in range(1, 41)]
    noise = np.random.default_rng(0).normal(size=(2, SEEDS, DATA))
    cells = [
        outcome(name, seed, noise[number, seed], curve=curve, curve_split="validation", curve_quantity="bound")
        for number, (name, curve) in enumerate((("elbo", flat), ("iwae", rising)))
        for seed in range(SEEDS)
    ]
    table = Table(make_ranked_rows(cells, 100), DATA, 100)
    first, second = marks(cells, table)
    assert "not converged" in second and "not converged" not in first
    assert "Training is not finished under iwae" in table.verdict() and "under elbo" not in table.verdict()


def test_membership_is_the_area_under_the_curve() -> None:
    train, test = (Estimate.mean_of(torch.tensor(values)) for values in ([3.0, 2.0, 5.0], [1.0, 2.0]))
    assert membership(train, test).value == pytest.approx((2 + 1.5 + 2) / 6)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(200, 2, 80, generator=generator, dtype=torch.float64)
    found = [membership(Estimate.mean_of(a), Estimate.mean_of(b)) for a, b in values]
    areas = torch.tensor([estimate.value for estimate in found])
    errors = torch.tensor([estimate.error for estimate in found])
    assert float(areas.mean()) == pytest.approx(0.5, abs=4 * float(areas.std()) / 200**0.5)
    assert float(errors.mean()) == pytest.approx(float(areas.std()), rel=0.15)


@pytest.mark.parametrize(
    "changes", [{"mask": "block"}, {"labels": 5}, {"train": SPLITS.train.replace(y=-torch.ones(32))}]
)
def test_training_data_with_other_entries_have_no_membership(changes: dict[str, Any]) -> None:
    assert judge(Exact(), SPLITS, 2).membership.value == pytest.approx(0.5, abs=0.2)
    assert judge(Exact(), replace(SPLITS, **changes), 2).membership is None


def test_judge_has_the_trust_of_diagnose() -> None:
    judged, diagnosed = (evaluate(Planted(scale=0.7), X[:8], 60).to_json() for evaluate in (judge, diagnose))
    for name in ("kl", "log_weight_variance", "accuracy"):
        assert judged[name] == diagnosed[name] and judged[name]["median"] is not None
