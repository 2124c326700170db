"""Planted models: each defect gives its answer and no other."""

from __future__ import annotations

import json
from pathlib import Path

import exact
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from planted import OneMode, Planted
from torch import Tensor

import pvae
from pvae import InputError
from pvae.evaluate import Calibration, Estimate, ModelFindings, NotRun, read_findings
from pvae.evaluate.all_checks.evidence_finding import evidence_finding, remaining_rise
from pvae.evaluate.all_checks.model_findings import QUESTIONS, answer_inference
from pvae.evaluate.calibration.calibration_record import calibration_of
from pvae.evaluate.inference_gaps.gap_record import gaps_of

pytestmark = pytest.mark.usefixtures("own_store")

#: Enough for the two shared passes over 100 data; gaps and reference are not run.
BUDGET = 3.3e5


def answers(model: object, data: Tensor, budget: float = BUDGET) -> ModelFindings:
    return pvae.evaluate.all(model, data, budget=budget, progress=False)


def planted(defect: str) -> tuple[object, Tensor]:
    """A model with a planted defect, and 100 data."""
    right = Planted()
    if defect == "one mode":
        return OneMode(), OneMode().draw(100)
    if defect == "misspecified":
        return right, right.draw(100, variance=1.5)
    if defect == "collapsed":
        return Planted(collapsed=True), Planted(collapsed=True).draw(100)
    models = {"exact": right, "narrow": Planted(scale=0.8), "prior": Planted(prior=True)}
    return models[defect], right.draw(100)


#: By defect: log evidence, inference, data, latents, resemblance. Weights alone never show that the guide is right, so
#: a guide that is not calibrated leaves the question about single data open.
EXPECTED = {
    "exact": ("fine", "fine", "fine", "fine", "fine"),
    "narrow": ("fine", "bad", "look", "fine", "fine"),
    "prior": ("fine", "bad", "bad", "fine", "fine"),
    "collapsed": ("fine", "fine", "fine", "bad", "fine"),
    "misspecified": ("fine", "fine", "fine", "fine", "bad"),
    "one mode": ("fine", "bad", "look", "fine", "fine"),
}


@pytest.mark.parametrize("defect", list(EXPECTED))
def test_each_defect_gives_its_answer_and_no_other(defect: str) -> None:
    found = answers(*planted(defect))
    assert tuple(answer.question for answer in found.answers) == QUESTIONS
    assert tuple(answer.status for answer in found.answers) == EXPECTED[defect], str(found)
    assert found.cost <= BUDGET
    not_run = [finding.to_json()["name"] for finding in found[QUESTIONS[1]].findings if finding.status == "not run"]
    assert not_run == ["gaps", "reference"]


def test_an_unfinished_run_is_marked_and_its_answers_are_saved(tmp_path: Path) -> None:
    data = Planted().draw(100).float()
    splits = pvae.load_data({"x": data.numpy()}, validation=20, test=20)
    model = exact.LinearGaussianModel().float()
    settings = {"epochs": 20, "learning_rate": 0.01, "batch_size": 60, "progress": False, "step": "eager"}
    run = pvae.fit(model, splits, out=tmp_path / "run", **settings)
    found = pvae.evaluate.all(run, splits, budget=3e5, progress=False)
    first = found[QUESTIONS[0]]
    assert first.status == "look"
    assert "The training is unfinished" in first.reason
    saved = read_findings(tmp_path / "run")
    assert saved == json.loads(json.dumps(found.to_json()))
    path = tmp_path / "run" / "findings.json"
    path.write_text(path.read_text().replace('"look"', '"fine"', 1))
    with pytest.raises(InputError, match="its checksum does not match"):
        read_findings(tmp_path / "run")


def test_the_remaining_rise_is_that_of_a_line() -> None:
    rising = [{"validation_bound": -10.0 + 0.2 * epoch} for epoch in range(50)]
    rise = remaining_rise(rising)
    assert rise is not None
    assert (rise.value, rise.count) == (pytest.approx(2.0, abs=1e-9), 10)
    assert rise.error < 1e-9
    assert remaining_rise(rising[:15]) is None
    values = Estimate.mean_of(torch.tensor([-1.0, -2.0]))
    assert "too few validation records" in evidence_finding(values, values, rising[:15], (), 0).reason
    assert evidence_finding(values, values, rising, (), 0).status == "look"
    assert evidence_finding(values, values, None, (), 0).status == "fine"


def test_without_calibration_the_inference_is_never_fine() -> None:
    known = torch.tensor([-1.0, -2.0], dtype=torch.float64)
    no_gap = gaps_of(known, known, known, None, 0)
    ranks = {"z": np.random.default_rng(0).integers(0, 20, 400)}
    uniform, skipped = calibration_of(ranks, 19), NotRun.of(Calibration, "The budget is spent.")
    assert (no_gap.status, uniform.status) == ("fine", "fine")
    assert answer_inference([uniform, no_gap]).status == "fine"
    alone = answer_inference([skipped, no_gap])
    assert alone.status == "look"
    assert alone.reason.endswith("a mode that the guide never draws would not show.")
    assert answer_inference([skipped]).status == "not run"
    bad = answer_inference([uniform, gaps_of(known, known - 2.0, known, None, 0)])
    assert (bad.status, bad.findings[0].name) == ("bad", "gaps")


def test_a_small_budget_leaves_questions_open_and_never_fine() -> None:
    x = Planted().draw(100)
    found = answers(Planted(), x, budget=1.5e5)
    assert [answer.status for answer in found.answers] == ["fine", "not run", "look", "not run", "not run"]
    assert "of the budget are left" in found[QUESTIONS[1]].reason
    assert found.cost <= 1.5e5
    assert {answer.status for answer in answers(Planted(), x, budget=10).answers} == {"not run"}


def test_what_the_model_does_not_allow_is_not_run() -> None:
    class Autoencoder(Planted):
        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Delta((x - self.bias) @ self.gain.T).to_event(1))

    found = answers(Autoencoder(), Planted().draw(8), budget=1e4)
    assert found[QUESTIONS[0]].status == "not run"
    assert "a point without a density" in found[QUESTIONS[0]].reason


def test_data_are_needed_for_a_model_that_is_no_run() -> None:
    with pytest.raises(InputError, match="pass them as the second argument"):
        pvae.evaluate.all(Planted())
    with pytest.raises(InputError, match="budget"):
        answers(Planted(), torch.zeros(3, 3), budget=-1.0)
