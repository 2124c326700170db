"""The page of results says what was measured, and nothing else; the verdicts claim what their errors allow."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmarks():
    """The benchmark's modules, which are no part of the package."""
    before = set(sys.modules)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import systems
        from experiments import base

        yield systems, base
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("systems", "experiments"):
                del sys.modules[name]


def test_the_page_is_written_from_what_was_measured(benchmarks):
    systems, _ = benchmarks
    assert (ROOT / "docs" / "results.md").read_text() == systems.page()


def test_every_experiment_has_a_budget_for_two_cores_and_one_for_a_card(benchmarks):
    systems, _ = benchmarks
    for heading, _, budgets in systems.EXPERIMENTS.values():
        assert heading and set(budgets) == {"short", "published"}
        assert all(len(set(budget.seeds)) >= 3 for budget in budgets.values())


def test_what_was_measured_says_how(benchmarks):
    systems, _ = benchmarks
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        record = json.loads(path.read_text())
        assert path.stem.rpartition("-")[0] in systems.EXPERIMENTS
        assert {"command", "date", "machine", "seconds", "setting", "table", "says"} <= record.keys()
        assert len({len(row) for row in record["table"]}) == 1


def test_a_verdict_needs_a_t_test_that_is_adjusted_for_all_differences(benchmarks):
    _, base = benchmarks
    assert base.mean_error([1.0, 2.0, 3.0]) == (2.0, pytest.approx(3**-0.5))
    assert base.paired([3.0, 5.0], [1.0, 1.0]) == (3.0, 1.0)
    one = base.Claim("a against b", 3.0, 0.65, "nats")
    other = base.Claim("a against c", -0.5, 1.6, "nats")
    # Student's t with 2 degrees of freedom: the p-value of 3.0 / 0.65 is 0.0439.
    assert base.verdicts([one], 3) == ("a against b: +3.00 ± 0.65 nats, shown (adjusted p 0.044).",)
    shown, line, not_shown = base.verdicts([one, "A line.", other], 3)
    assert shown == "a against b: +3.00 ± 0.65 nats, not shown (adjusted p 0.088): no claim."
    assert line == "A line." and not_shown.endswith("no claim.")
    assert base.verdicts([one._replace(error=float("nan"))], 3)[0].endswith("no claim.")


def test_a_second_call_goes_on_where_the_first_stopped(benchmarks, tmp_path):
    _, base = benchmarks
    room, calls = base.Room(tmp_path / "cells"), []

    def measure():
        calls.append(None)
        return {"value": 0.5}

    assert [room.once("cell", measure) for _ in range(2)] == [{"value": 0.5}] * 2 and len(calls) == 1
