"""Rows that have no difference to the first one, because they score other values or did not finish."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from comparison_outcomes import DATA, outcome, pointwise

import pvae
from pvae.comparison.cells.scored_data import ScoredData, describe_mismatch, scored_data_of
from pvae.comparison.number_formats import format_interval
from pvae.comparison.page.curves_section import make_curves_section
from pvae.comparison.page.questions_section import make_questions_section
from pvae.comparison.page.report_data import ReportData
from pvae.comparison.page.rows_section import make_rows_section
from pvae.comparison.rows import make_ranked_rows, rankings_of
from pvae.comparison.table import Table
from pvae.evaluate import Estimate

EVIDENCE = pointwise()
X = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
BITS, REALS = ScoredData(40, 4.0, 0.0), ScoredData(40, 0.0, 4.0, 0.5, 0.7)
CURVE = {"curve": [[1, -30.0, 0.1, 10.0], [2, -25.0, 0.2, 20.0]], "curve_quantity": "validation bound, 25 particles"}


def row_of(name, shift=0.0, seeds=(0, 1, 2), scored=None, **changes):
    scores = {} if scored is None else {"scored_data": scored.to_json()}
    return [outcome(name, seed, EVIDENCE[seed] + shift, **scores, **CURVE, **changes) for seed in seeds]


def table_of(*rows):
    cells = [cell for row in rows for cell in row]
    return Table(make_ranked_rows(cells, 100), DATA, 100, rankings=rankings_of(cells)), cells


# ---- what a model scores ---------------------------------------------------------------------------------------------


def pair_that_observes(*sites):
    """A model that observes these sites: (distribution of given batch shape, values of x)."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            for index, (density, value) in enumerate(sites):
                pyro.sample(f"x{index}", density(z[:, None], x), obs=value(x))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))

    return pvae.pair(model, guide)


def bits(z, x):
    return dist.Bernoulli(logits=z.expand(x.shape)).to_event(1)


def reals(z, x):
    return dist.Normal(z.expand(x.shape), 1.0).to_event(1)


def first_two(z, x):
    return dist.Normal(z.expand(len(x), 2), 1.0).to_event(1)


def seen(z, x):
    return dist.Normal(z.expand(x.shape), 1.0).mask(x > 0).to_event(1)


def one_number(z, x):
    return dist.Normal(z[:, 0], 1.0).mask(x[:, 0] > 0)


@pytest.mark.parametrize(
    ("sites", "expected"),
    [
        ([(bits, lambda x: x)], ScoredData(2, 4.0, 0.0)),
        ([(reals, lambda x: x)], ScoredData(2, 0.0, 4.0, 5 / 8, math.sqrt(5 / 8))),
        ([(reals, lambda x: 10 * x)], ScoredData(2, 0.0, 4.0, 50 / 8, 10 * math.sqrt(5 / 8))),
        ([(first_two, lambda x: x[:, :2])], ScoredData(2, 0.0, 2.0, 3 / 4, math.sqrt(3 / 4))),
        ([(bits, lambda x: x), (first_two, lambda x: x[:, :2])], ScoredData(2, 4.0, 2.0, 3 / 4, math.sqrt(3 / 4))),
        ([(seen, lambda x: x)], ScoredData(2, 0.0, 2.5, 1.0, 1.0)),
        ([(one_number, lambda x: torch.tensor(2.0))], ScoredData(2, 0.0, 0.5, 2.0, 2.0)),
    ],
    ids=["bits", "reals", "another scale", "a part", "bits and reals", "masked", "one number for all data"],
)
def test_what_a_model_scores_is_read_off_its_observed_sites(sites, expected):
    found = scored_data_of(pair_that_observes(*sites), X)
    values, others = ([entry or 0.0 for entry in dataclasses.astuple(scored)] for scored in (found, expected))
    assert values == pytest.approx(others, rel=1e-6)


def test_a_factor_hides_what_is_scored():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.factor("x", -0.5 * x.square().sum(-1))

    assert scored_data_of(pvae.pair(model, lambda x: None), X) is None
    assert describe_mismatch(None, BITS) == describe_mismatch(REALS, None) == ""


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            REALS,
            "its log evidence is a log-density of continuous values, and the other is a log-probability of discrete",
        ),
        (ScoredData(40, 4.0, 1.0, 0.1, 0.1), "a log-density of discrete and continuous values"),
        (ScoredData(40, 3.0, 0.0), "the models score different numbers of values per datum (3 and 4)"),
        (BITS, ""),
    ],
)
def test_a_density_is_not_compared_with_a_probability(row, words):
    found = describe_mismatch(row, BITS)
    assert (words in found) if words else not found


def test_values_of_another_scale_are_not_compared_and_rounding_is_no_other_scale():
    assert "another scale" in describe_mismatch(dataclasses.replace(REALS, mean=1.0, scale=1.4), REALS)
    assert not describe_mismatch(dataclasses.replace(REALS, mean=0.500001), REALS)
    # Two looks at different numbers of data differ by chance.
    assert not describe_mismatch(dataclasses.replace(REALS, data=20, mean=0.6), REALS)


# ---- the table and the page ------------------------------------------------------------------------------------------


def test_a_row_of_another_density_has_no_difference_rank_or_ranking():
    table, _ = table_of(row_of("bits", scored=BITS), row_of("reals", 5.0, scored=REALS), row_of("other", 2.0))
    _, reals_row, other = table.rows
    assert reals_row.difference is None and reals_row.p_value is None and reals_row.rank is None
    assert other.difference.value == pytest.approx(2.0) and other.rank is None  # of an earlier version
    assert table.rankings == ()
    assert "reals is not compared with bits: its log evidence is a log-density" in table.verdict()
    assert "(not comparable)" in table.to_text()
    assert table.to_json()["rows"][1]["not_comparable"] == reals_row.not_comparable != ""
    same, _ = table_of(row_of("bits", scored=BITS), row_of("again", 5.0, scored=BITS))
    assert same.rows[1].rank == 1 and len(same.rankings) == 3 and same.rows[1].not_comparable == ""


def test_the_page_ranks_no_row_that_cannot_be_compared():
    table, cells = table_of(row_of("bits", scored=BITS), row_of("reals", 5.0, scored=REALS))
    data = ReportData(table, cells, {"name": "made-up"}, {}, rerun="")
    questions = make_questions_section(data).questions
    assert "that can be compared with A (not B) is that of A" in questions[0].answer
    assert questions[-1].status == "not run" and "B is not compared with A" in questions[-1].answer
    assert "not comparable with the first row" in make_rows_section(data).sheets[0].rows[1][4].text
    assert "cannot be compared" in make_curves_section(data).pictures[0].caption


def test_the_verdict_names_each_row_that_is_left_out():
    failed = [outcome("bad", seed, None, failure="no luck") for seed in range(3)]
    fewer = [*row_of("fewer", 1.0, seeds=(0, 2)), outcome("fewer", 1, None, failure="no luck")]
    apart = [outcome("apart", 0, None, failure="no luck"), *row_of("apart", seeds=(1,))]
    bound = [dataclasses.replace(cell, pointwise={"elbo": cell.pointwise["elbo"]}) for cell in row_of("bound")]
    alone, _ = table_of(row_of("elbo"), failed)
    assert alone.verdict() == "bad is not compared with elbo: none of its trainings finished."
    verdict = table_of(row_of("elbo"), failed, fewer, bound)[0].verdict()
    assert "bad is not compared with elbo: none of its trainings finished." in verdict
    assert "bound is not compared with elbo: it has no log evidence of each datum" in verdict
    assert "Only the seeds that finished in both rows are in the difference of fewer (2 of 3)." in verdict
    first_without_seed_1 = [outcome("elbo", 1, None, failure="no luck"), *row_of("elbo", seeds=(0,))]
    assert (
        "apart is not compared with elbo: no seed finished in both rows."
        in table_of(first_without_seed_1, apart)[0].verdict()
    )


def test_the_verdict_has_the_numbers_of_the_table():
    base = EVIDENCE + np.linspace(0, 0.01, DATA)
    rows = [outcome("near", seed, base[seed] + 2e-4 * seed + 0.02) for seed in range(3)]
    table, _ = table_of(row_of("elbo"), rows)
    near = table.rows[1]
    size = f"{near.difference.value:.5f} ± {near.difference_error:.5f}"
    assert near.conclusion == "above" and near.difference_error == pytest.approx(4.9e-4, rel=0.05)
    assert f"(by {size})" in table.verdict() and f"+{size} (above)" in table.to_text()


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (-26.584, 0.17, "-26.58 ± 0.17"),
        (0.0214, 0.0942, "0.021 ± 0.094"),
        (0.00123, 0.00041, "0.00123 ± 0.00041"),
        (-0.0000012, 0.0000031, "-0.000001 ± 0.000003"),
        (-1e-9, 2e-9, "0.000 ± 0.000"),
        (-0.001, 0.0, "0.00 ± 0.00"),
        (3.0, math.nan, "3.00 ± -"),
    ],
)
def test_an_error_is_never_rounded_to_zero_if_it_is_more_than_rounding(value, error, text):
    assert format_interval(Estimate(value, error, 10)) == text
