"""The verdict of a comparison: false alarms and power of the test, the bias of the evidence, unfinished rows."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from comparison_outcomes import DATA, outcome, outcomes
from scipy import stats

from pvae.comparison.rows import make_rows, rankings_of
from pvae.comparison.table.comparison_table import Table
from pvae.comparison.table.conclusions import ABOVE, NOT_SEPARATED, NOT_SHOWN, NOT_TESTED
from pvae.comparison.table.gain_left import gain_left
from pvae.comparison.table.row_difference import estimate_difference
from pvae.evaluate.holm import adjust_by_holm

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "verdict.py"
STUDIES = 2000
# 5 % and two standard errors of a share that is estimated from so many studies
MOST_FALSE_ALARMS = 0.05 + 2 * math.sqrt(0.05 * 0.95 / STUDIES)


# ---- the test of a difference ----------------------------------------------------------------------------------------


def test_one_seed_is_a_paired_t_test_over_data():
    a, b = np.random.default_rng(0).normal(size=(2, 30))
    found = estimate_difference(torch.tensor(a - b + 0.3)[None])
    expected = stats.ttest_rel(a + 0.3, b)
    assert found.degrees == 29
    assert float(found.p_value) == pytest.approx(expected.pvalue, rel=1e-10)
    assert float(found.error) == pytest.approx((a - b).std(ddof=1) / math.sqrt(30), rel=1e-12)


def test_seeds_without_differences_between_data_are_a_t_test_over_seeds():
    luck = np.random.default_rng(0).normal(0.3, 0.2, size=4)
    found = estimate_difference(torch.tensor(luck)[:, None].expand(4, 50))
    assert found.degrees == 3
    assert float(found.p_value) == pytest.approx(stats.ttest_1samp(luck, 0.0).pvalue, rel=1e-10)


def test_the_variance_of_a_difference_is_unbiased_under_crossed_random_effects():
    generator = torch.Generator().manual_seed(0)
    data, seeds, studies = 12, 4, 20_000

    def effects(*shape):
        return torch.randn(studies, *shape, generator=generator, dtype=torch.float64)

    values = 0.9 * effects(1, data) + 0.6 * effects(seeds, 1) + 0.8 * effects(seeds, data)
    exact = 0.9**2 / data + 0.6**2 / seeds + 0.8**2 / (seeds * data)
    found = estimate_difference(values)
    # The limits D and S are seldom reached here; without them the mean would be exact.
    assert float(found.error.square().mean()) == pytest.approx(exact, rel=0.02)
    assert float(found.value.var()) == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.04], [0.04]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.01, math.nan, 0.02], [0.02, math.nan, 0.02]),
    ],
)
def test_holm_adjusts_p_values(p_values, adjusted):
    found = adjust_by_holm(torch.tensor(p_values, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(adjusted, dtype=torch.float64), equal_nan=True)


def test_equal_rows_differ_by_nothing_and_one_datum_has_no_test():
    assert float(estimate_difference(torch.zeros(3, 5, dtype=torch.float64)).p_value) == 1.0
    assert math.isnan(float(estimate_difference(torch.ones(3, 1, dtype=torch.float64)).p_value))


def _simulator():
    """The benchmark of the verdict, which is no part of the package: it simulates studies and tests them."""
    specification = importlib.util.spec_from_file_location("verdict_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


SIMULATOR = _simulator()


def _studies(rows, seeds, data, **settings):
    return SIMULATOR.draw_studies(STUDIES, rows, seeds, data=data, seed=0, **settings)


def _alarms(values):
    return float((SIMULATOR.adjusted_p_values(values) <= 0.05).any(-1).double().mean())


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("rows", [2, 4, 8])
def test_false_alarms_are_at_most_five_percent(rows, seeds):
    assert _alarms(_studies(rows, seeds, 20, luck=2.0, noise=0.5)) <= MOST_FALSE_ALARMS  # luck dominates
    assert _alarms(_studies(rows, seeds, 20, luck=0.5, interaction=2.0)) <= MOST_FALSE_ALARMS  # both count


@pytest.mark.parametrize("case", ["heavy tails", "few data", "one wide row", "wide first row", "one seed"])
def test_false_alarms_of_data_and_seeds_of_other_kinds(case):
    values = {
        "heavy tails": lambda: _studies(4, 3, 20, heavy=True, interaction=2.0),
        "few data": lambda: _studies(4, 5, 4, luck=0.5, interaction=2.0),
        "one wide row": lambda: _studies(4, 3, 20, luck=0.1, wide=-1, noise=0.5),
        "wide first row": lambda: _studies(4, 3, 20, luck=0.1, wide=0, noise=0.5),
        "one seed": lambda: _studies(4, 1, 20, luck=0.0, heavy=True),
    }[case]()
    assert _alarms(values) <= MOST_FALSE_ALARMS


def test_two_rows_that_differ_by_luck_alone_use_the_whole_level():
    values = _studies(2, 3, 20, luck=2.0, noise=0.1)
    assert _alarms(values) == pytest.approx(0.05, abs=2.5 * math.sqrt(0.05 * 0.95 / STUDIES))


@pytest.mark.parametrize(("rows", "seeds", "least"), [(2, 3, 0.99), (8, 3, 0.6), (8, 5, 0.99)])
def test_a_true_gain_of_three_nats_is_found(rows, seeds, least):
    values = _studies(rows, seeds, 100, gain=3.0)
    assert float((SIMULATOR.adjusted_p_values(values)[:, 0] <= 0.05).double().mean()) >= least


# ---- the bias of the evidence ----------------------------------------------------------------------------------------


def _with_bias(found, biases, margins):
    """Outcomes of two rows with these biases and margins of the log evidence."""
    made = []
    for each in found:
        index = int(each.cell.objective != "elbo")
        bias = torch.full((DATA,), biases[index], dtype=torch.float64)
        scores = {**each.scores, "bias": {"margin": margins[index]}}
        made.append(replace(each, scores=scores, pointwise={**each.pointwise, "bias": bias}))
    return made


def _two_rows(shift, seeds=3):
    noise = np.random.default_rng(0).normal(size=(2, seeds, DATA))
    first = np.linspace(-30, -10, DATA) + 0.01 * noise[0]
    return outcomes(first, np.linspace(-30, -10, DATA) + shift + 0.01 * noise[1])


def test_a_difference_is_that_of_the_evidences_without_their_bias():
    plain, second = make_rows(_two_rows(1.0))[1], make_rows(_with_bias(_two_rows(1.0), (-0.1, -0.7), (0.0, 0.2)))
    assert second[1].difference.value == pytest.approx(plain.difference.value - 0.1 + 0.7, rel=1e-12)
    assert [row.bias.value for row in second] == pytest.approx([-0.1, -0.7])
    assert [row.bias_margin for row in second] == pytest.approx([0.0, 0.2]) and second[1].conclusion == ABOVE
    table = Table(second, DATA, 100)
    assert "without their estimated bias" in table.verdict() and "bias" in table.to_text().splitlines()[0]
    assert "The bias of the log evidences is not known" in Table(make_rows(_two_rows(1.0)), DATA, 100).verdict()


def test_a_difference_below_the_margin_of_the_bias_is_not_separated():
    rows = make_rows(_with_bias(_two_rows(1.0), (-0.1, -0.1), (1.5, 0.2)))
    assert rows[1].adjusted_p_value < 0.05 and rows[1].conclusion == NOT_SEPARATED
    verdict = Table(rows, DATA, 100).verdict()
    assert "is not separated from the bias" in verdict and " above " not in verdict and " below " not in verdict


def test_the_bias_must_be_known_in_both_rows():
    found = _two_rows(1.0)
    known = _with_bias(found, (-0.1, -0.7), (0.0, 0.2))
    plain, mixed = make_rows(found)[1], make_rows([*found[:3], *known[3:]])[1]
    assert mixed.difference.value == pytest.approx(plain.difference.value, rel=1e-12) and mixed.bias is not None


def test_rows_without_a_test_or_without_a_shown_difference_are_not_named():
    rows = make_rows(_two_rows(0.0))
    assert rows[1].conclusion == NOT_SHOWN and rows[0].conclusion == ""
    broken = _two_rows(5.0)
    broken[4].pointwise["log_evidence"][0] = -math.inf
    rows = make_rows(broken)
    assert rows[1].conclusion == NOT_TESTED and "There is no test for iwae" in Table(rows, DATA, 100).verdict()


def test_every_row_counts_in_the_correction():
    few = _two_rows(0.02)
    many = [*few, *(outcome(f"way {way}", seed, each) for way in range(6) for seed, each in enumerate(_first(few)))]
    assert make_rows(few)[1].p_value == pytest.approx(make_rows(many)[1].p_value, rel=1e-12)
    assert make_rows(few)[1].conclusion == ABOVE and make_rows(many)[1].conclusion == NOT_SHOWN


def _first(found):
    return [each.pointwise["log_evidence"] for each in found[:3]]


# ---- unfinished rows and equal budgets -------------------------------------------------------------------------------


def _trained(objective, seed, values, *, patience=None, **scores):
    """An outcome with a validation bound after each epoch, one second and 10 decoder evaluations each."""
    curve = [[epoch, value, float(epoch)] for epoch, value in enumerate(values, 1)]
    facts = {"curve": curve, "curve_quantity": "validation bound", "curve_split": "validation", "epochs": len(values)}
    made = outcome(
        objective, seed, np.full(DATA, -20.0), **{**facts, "decoder_evaluations": 10 * len(values), **scores}
    )
    return replace(made, cell=replace(made.cell, config={"fit": {"patience": patience}}))


def test_the_gain_that_is_left_is_the_slope_times_the_remaining_patience():
    curve = [-30.0 + 0.1 * epoch for epoch in range(50)]
    assert gain_left([_trained("elbo", 0, curve)]).gain.value == pytest.approx(1.0, rel=1e-9)  # ten further epochs
    left = gain_left([_trained("elbo", 0, [*curve[:-1], curve[-2] - 0.5], patience=3)])
    assert left.epochs == 2 and left.gain.error > 0
    assert gain_left([_trained("elbo", 0, [*curve[:40], *[-40.0] * 10], patience=10)]).gain.value == 0.0


def test_the_error_of_the_gain_is_that_of_the_regression():
    values = np.random.default_rng(0).normal(size=30) + 0.2 * np.arange(30)
    expected = stats.linregress(np.arange(24, 30), values[-6:])
    left = gain_left([_trained("elbo", 0, values.tolist())])
    assert left.gain.value == pytest.approx(6 * expected.slope, rel=1e-9)
    assert left.gain.error == pytest.approx(6 * expected.stderr, rel=1e-9) and left.degrees == 4
    two = gain_left([_trained("elbo", seed, values.tolist()) for seed in range(2)])
    assert two.gain.error == pytest.approx(left.gain.error / math.sqrt(2), rel=1e-9) and two.degrees == 8


def test_an_unfinished_row_is_marked_in_table_and_verdict():
    noise = np.random.default_rng(0).normal(scale=0.01, size=(2, 3, 30))
    found = [_trained("elbo", seed, (noise[0, seed] - 20).tolist()) for seed in range(3)]
    found += [_trained("iwae", seed, (noise[1, seed] - 20 + 0.1 * np.arange(30)).tolist()) for seed in range(3)]
    rows = make_rows(found)
    assert [row.unfinished for row in rows] == [False, True]
    table = Table(rows, DATA, 100)
    assert "Training is not finished under iwae (by about 0.6" in table.verdict()
    first, second = table.to_text().splitlines()[1:3]
    assert "(unfinished)" in second and "(unfinished)" not in first
    assert table.to_json()["rows"][1]["unfinished"] is True


def test_curves_that_are_short_or_of_training_losses_leave_the_gain_unknown():
    curve = [-20.0, -19.0, -18.0, -17.0]
    assert gain_left([_trained("elbo", 0, curve)]) is None
    assert gain_left([_trained("elbo", 0, curve * 3, curve_split="training")]) is None


def test_rankings_at_equal_epochs_time_and_evaluations_disagree_as_the_curves_do():
    # "slow" is better at each epoch, needs ten times the time, and five times the decoder evaluations.
    quick = [_trained("quick", seed, [-30.0, -25.0, -22.0, -21.0, -20.5, -20.2]) for seed in range(2)]
    slow = [_trained("slow", seed, [-28.0, -24.0, -19.0], decoder_evaluations=150) for seed in range(2)]
    slow = [
        replace(each, scores={**each.scores, "curve": [[e, v, 10.0 * s] for e, v, s in each.scores["curve"]]})
        for each in slow
    ]
    by_epochs, by_time, by_evaluations = rankings_of([*quick, *slow])
    assert (by_epochs.budget, by_epochs.amount, list(by_epochs.bounds)) == ("epochs", 3.0, [1, 0])
    assert [by_epochs.bounds[row].value for row in (0, 1)] == [-22.0, -19.0]
    assert (by_time.amount, list(by_time.bounds)) == (6.0, [0])  # slow has no bound within 6 seconds
    assert (by_evaluations.amount, list(by_evaluations.bounds)) == (60.0, [0, 1])
    assert by_evaluations.bounds[1].value == -28.0
    table = Table(make_rows([*quick, *slow]), DATA, 100, rankings=rankings_of([*quick, *slow]))
    lines = table.describe_rankings()
    assert lines[0].startswith(
        "Validation bound at 3 epochs (± over seeds), the best first: slow (-19.00 ± 0.00), quick"
    )
    assert lines[1].endswith("no bound yet: slow.") and "60 decoder evaluations" in lines[2]
    assert [entry["row"] for entry in table.to_json()["rankings"][0]["bounds"]] == [1, 0]


def test_there_is_no_ranking_of_training_losses_or_of_one_row():
    curve = [-20.0, -19.0]
    assert rankings_of([_trained("a", 0, curve)]) == ()
    assert rankings_of([_trained("a", 0, curve), _trained("b", 0, curve, curve_split="training")]) == ()
