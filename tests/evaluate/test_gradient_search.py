"""The search over gradient strategies, the command line of gradient studies, and their figure."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import run
from exact import DiscreteModel, LinearGaussianModel
from pyro.infer import Trace_ELBO
from stats import assert_close_in_sigmas

import pvae
import pvae.evaluate as evaluate
from pvae import plots
from pvae.errors import InputError
from pvae.evaluate.gradient_estimators.estimator_search import _assignments

MODEL = """
import pyro
import pyro.distributions as dist
import torch
import pvae


class Bits(pvae.LatentModel):
    def __init__(self, data_shape=(64,), latent: int = 3):
        super().__init__()
        self.decoder = torch.nn.Linear(latent, 64)
        self.encoder = torch.nn.Linear(64, latent)
        self.latent = latent

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(x.new_full((len(x), self.latent), 0.5)).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Bernoulli(logits=self.encoder(x)).to_event(1))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("bits.py").write_text(MODEL)
    torch.manual_seed(0)
    return tmp_path


# ---- Assignments ----------------------------------------------------------------------------------------------------


def test_assignments_are_all_and_those_that_treat_sites_alike_come_first() -> None:
    sites = {"a": ("pathwise", "score"), "b": ("score", "enumerate", "measure")}
    found = list(_assignments(sites))
    assert len(found) == 6 and len({tuple(each.items()) for each in found}) == 6
    assert found[:4] == [
        {"a": "pathwise", "b": "score"},
        {"a": "score", "b": "score"},
        {"a": "pathwise", "b": "enumerate"},
        {"a": "pathwise", "b": "measure"},
    ]


def test_strategies_of_a_categorical_site() -> None:
    batch = pvae.Batch(x=torch.tensor([0, 1]))
    known = evaluate.strategies_of(DiscreteModel(), batch)
    assert known == {"z": ("score", "score:leave-one-out", "enumerate", "measure")}
    assert "score:leave-one-out" not in evaluate.strategies_of(DiscreteModel(), batch, particles=1)["z"]


# ---- The search -----------------------------------------------------------------------------------------------------


def test_a_search_ranks_every_strategy_by_its_known_variance() -> None:
    study = evaluate.search_gradients(
        DiscreteModel(), pvae.Batch(x=torch.tensor([0])), ["iwae:particles=1", "elbo"], draws=1500
    )
    rows = {row.objective: row for row in study.rows if row.group == "phi"}
    score, exact = rows["iwae:particles=1:gradients=z=score"], rows["iwae:particles=1:gradients=z=enumerate"]
    assert set(rows) == {
        "iwae:particles=1:gradients=z=score",
        "iwae:particles=1:gradients=z=enumerate",
        "iwae:particles=1:gradients=z=measure",
        "elbo",
    }
    for row in (score, rows["elbo"]):
        assert_close_in_sigmas(row.variance.value, 1.578427, row.variance.error, effect=1.578427, resolution=0.05)
    assert exact.variance.value == 0.0
    assert study.ranking()[0].objective == exact.objective
    assert not any(row.bias_found or row.mark() for row in study.rows)
    for row in rows.values():  # the name is one that the command line takes
        pvae.objectives.make_objective(row.objective)


def test_a_search_marks_the_biased_and_says_what_it_left_out(here: Path) -> None:
    model = pvae.ModelSpec("bits.py:Bits").build(pvae.load_data("digits"))
    x = torch.rand(6, 64, generator=torch.Generator().manual_seed(0)).round()
    study = evaluate.search_gradients(model, x, "iwae:particles=2", draws=60, most=7)
    assert (
        study.notes[0] == "iwae:particles=2: 7 of 8 assignments were tried, those with one strategy for all sites first"
    )
    marked = {row.objective.rpartition("=")[2] for row in study.rows if row.mark()}
    assert marked == {"concrete"}
    assert study.ranking()[-1].objective.endswith("concrete")
    table = study.table(ranked=True)
    assert "biased: relaxed draws: z=concrete" in table and "7 of 8 assignments" in table
    assert study.of("iwae:particles=2:gradients=z=disarm").reference == "exact, all outcomes of iwae:particles=2"

    other = study.of("iwae:particles=2:gradients=z=measure")
    assert other.reference == "exact, all outcomes of iwae:particles=2" and not other.bias_found


def test_a_relaxation_is_caught_against_a_sampled_reference_too(here: Path) -> None:
    model = pvae.ModelSpec("bits.py:Bits", {"latent": 12}).build(pvae.load_data("digits"))
    with torch.no_grad():
        model.decoder.weight.mul_(3)
    x = torch.rand(3, 64, generator=torch.Generator().manual_seed(0)).round()
    named = {name: pvae.IWAE(2, gradients={"z": name}) for name in ("concrete", "disarm")}
    other = pvae.IWAE(2, gradients={"z": "measure"})
    study = evaluate.gradients(model, x, named, draws=1000, reference=other, reference_draws=1500)
    assert study.of("disarm").reference == "mean of 1500 draws of iwae:particles=2:gradients=z=measure"
    assert not study.of("disarm").bias_found and not math.isnan(study.of("disarm").z)
    assert study.of("concrete").bias_found
    plain = evaluate.gradients(model, x, named, draws=2, reference_draws=2)
    assert plain.of("concrete").reference == "mean of 2 draws of iwae:particles=2"


def test_a_reference_serves_only_objectives_of_its_own_target() -> None:
    x, model = torch.zeros(2, 3, dtype=torch.float64), LinearGaussianModel()
    objectives = {"two": pvae.IWAE(2), "three": pvae.IWAE(3)}
    study = evaluate.gradients(model, x, objectives, draws=2, reference=[pvae.DReG(3)])
    assert study.of("three").reference == "mean of 8 draws of dreg:particles=3"
    assert study.of("two").reference.startswith("mean of 8 draws of iwae:particles=2: itself")
    named = evaluate.gradients(model, x, objectives, draws=2, reference={"two": pvae.DReG(2), "nine": pvae.DReG(9)})
    assert named.of("two").reference == "mean of 8 draws of dreg:particles=2"
    assert named.of("three").reference.startswith("mean of 8 draws of iwae:particles=3: itself")
    with pytest.raises(InputError, match="must be unbiased, but stl:particles=2 is not"):
        evaluate.gradients(model, x, objectives, draws=2, reference="stl:particles=2")
    assert named.notes == ("nine: no reference, since no objective here has its target",)


def test_a_search_needs_an_objective_of_weights() -> None:
    batch = pvae.Batch(x=torch.tensor([0]))
    with pytest.raises(InputError, match="objective of log weights"):
        evaluate.search_gradients(DiscreteModel(), batch, "elbo")
    with pytest.raises(InputError, match="at least 1; got 0"):
        evaluate.search_gradients(DiscreteModel(), batch, most=0)


def test_an_objective_that_refuses_the_model_is_left_out_with_its_reason() -> None:
    batch = pvae.Batch(x=torch.tensor([0]))
    wrong = pvae.IWAE(2, gradients={"other": "score"})
    with pytest.raises(InputError, match="no guide site matches"):
        evaluate.gradients(DiscreteModel(), batch, {"wrong": wrong, "elbo": Trace_ELBO()}, draws=2)
    study = evaluate.gradients(
        DiscreteModel(), batch, {"wrong": wrong, "elbo": Trace_ELBO()}, draws=2, skip_refused=True
    )
    assert {row.objective for row in study.rows} == {"elbo"}
    assert study.notes[0].startswith("wrong: refused: ") and study.notes[0] in study.table()
    with pytest.raises(InputError, match="elbo-analytic: All distributions in the guide"):
        evaluate.gradients(DiscreteModel(), batch, "elbo-analytic", draws=2)
    with pytest.raises(InputError, match="No objective can be studied"):
        evaluate.gradients(DiscreteModel(), batch, {"wrong": wrong}, draws=2, skip_refused=True)


# ---- The command line -----------------------------------------------------------------------------------------------

SMALL = ("--latent", "2", "--draws", "4", "--batch-size", "5")


def test_the_command_prints_the_table_and_one_json_object(here: Path) -> None:
    done = run("gradients", "bits.py:Bits", *SMALL, "--objectives", "elbo,elbo-graph")
    assert done.code == 0 and "Drawing 4 gradients of each of 2 objectives" in done.err
    assert "phi: 130 coordinates" in done.out and "theta: 192 coordinates" in done.out
    assert "  all: exact, all outcomes of elbo" in done.out
    done = run("gradients", "bits.py:Bits", *SMALL, "--objectives", "elbo", "--json")
    found = json.loads(done.out)
    assert found["batch"] == 5 and found["draws"] == 4 and [row["group"] for row in found["rows"]] == ["theta", "phi"]
    assert set(found["rows"][0]["variance"]) == {"value", "error", "count"}


def test_the_command_studies_a_run_at_its_parameters(here: Path) -> None:
    done = run("train", "vae", "--latent", "2", "--hidden", "8", "--epochs", "1", "--out", "runs/a", "--no-progress")
    assert done.code == 0, done.err
    done = run(
        "gradients", "runs/a", "--objectives", "elbo", "--draws", "2", "--batch-size", "10", "--json", "--step", "eager"
    )
    found = json.loads(done.out)
    opened = pvae.open_run("runs/a")
    from pvae.commands.runs import data_of_run

    same = evaluate.gradients(opened, data_of_run(opened), "elbo", draws=2, limit=10, step="eager")
    assert found["rows"][1]["variance"]["value"] == same.of("elbo").variance.value


def test_the_command_writes_a_figure_over_particles(here: Path) -> None:
    done = run(
        "gradients",
        "bits.py:Bits",
        *SMALL,
        "--objectives",
        "iwae",
        "--particles",
        "1,2",
        "--out",
        "g",
        "--step",
        "eager",
    )
    assert done.code == 0, done.err
    assert {path.name for path in Path("g").iterdir()} == {"gradients.json", "snr-phi.png", "snr-theta.png"}
    found = json.loads(Path("g/gradients.json").read_text())
    assert {row["objective"] for row in found["rows"]} == {"iwae:particles=1", "iwae:particles=2"}


def test_the_command_searches(here: Path) -> None:
    done = run("gradients", "bits.py:Bits", *SMALL, "--search", "--most", "2", "--step", "eager")
    assert done.code == 0, done.err
    assert "iwae:particles=2:gradients=z=score" in done.out and "2 of 8 assignments" in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--objectives", "iwea"), "did you mean 'iwae'"),
        (("--objectives", ","), "at least one name"),
        (("--particles", "0,4"), "numbers of particles"),
        (("--particles", "4,4"), "numbers of particles"),
        (("--particles", "1,4", "--search"), "use one of them"),
        (("--out", "bits.py"), "bits.py is a file"),
        (("--search", "--objectives", "elbo"), "objective of log weights"),
        (("--draws", "1"), "draws"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(here: Path, arguments: tuple[str, ...], said: str) -> None:
    before = sorted(here.iterdir())
    done = run("gradients", "bits.py:Bits", *arguments)
    assert done.code == 2 and said in done.err and done.out == ""
    assert done.err.strip().splitlines()[-1].startswith(("pvae: error: ", "Error: "))
    assert sorted(here.iterdir()) == before


# ---- The figure -----------------------------------------------------------------------------------------------------


def _legend(figure: Any) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_the_figure_shows_the_points_in_logarithms_and_the_fitted_slopes() -> None:
    particles = [1, 4, 16, 64]
    rising, falling = np.sqrt(particles), 0.3 * np.asarray(particles, float) ** -0.5
    figure = plots.signal_to_noise(particles, {"dreg": rising, "iwae": falling}, ylabel="ratio")
    (axes,) = figure.axes
    assert axes.get_xscale() == axes.get_yscale() == "log" and axes.get_ylabel() == "ratio"
    assert _legend(figure) == ["dreg: slope 0.50", "iwae: slope −0.50"]
    drawn = axes.containers[0].lines[0]
    np.testing.assert_allclose(drawn.get_ydata(), rising)


def test_a_slope_is_weighted_by_the_errors_and_points_at_zero_are_left_out() -> None:
    particles, ratios, errors = [1, 2, 4, 8], [1.0, 2.0, 4.0, 0.0], [0.01, 0.02, 0.04, 1.0]
    figure = plots.signal_to_noise(particles, {"a": ratios}, {"a": errors})
    x = np.log([1, 2, 4])
    error = 0.01 / math.sqrt(((x - x.mean()) ** 2).sum())
    assert _legend(figure) == [f"a: slope 1.00 ± {error:.2f}"]  # the points lie on a line: the error is theirs
    assert len(figure.axes[0].containers[0].lines[0].get_xdata()) == 3
    bent = plots.signal_to_noise([1, 2, 4], {"a": [1.0, 1.0, 4.0]}, {"a": [0.001, 0.001, 0.004]})
    assert _legend(bent) == ["a: slope 1.00 ± 0.58"]  # the error is the misfit's: sqrt(3) / 3
    late = plots.signal_to_noise([1, 2, 4], {"a": [1.0, 1.0, 4.0]}, fit_from=2)
    assert _legend(late) == ["a: slope 2.00"]
    alone = plots.signal_to_noise([8], {"a": [1.0]})
    assert _legend(alone) == ["a"]
