"""What a comparison is made of, apart from training: statistics, table, plan, worker processes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from comparison_jobs import Unbuildable, broken, nap, shared, work
from pyro.infer import Trace_ELBO

from pvae.comparison.base import Cell, Outcome
from pvae.comparison.plan import can_travel, check_folder, named_models, named_objectives, plan, record
from pvae.comparison.rows import Row, make_rows, ranked
from pvae.comparison.running import Room
from pvae.comparison.sharing import share
from pvae.comparison.study import usual_epochs
from pvae.comparison.table import Table, row_label
from pvae.comparison.workers import StartError, run_here, run_jobs
from pvae.data import load_data
from pvae.errors import InputError
from pvae.models import ModelSpec

RNG = np.random.default_rng(0)
DATA, SEEDS = 40, 3


def outcome(objective, seed, evidence, failure="", **scores):
    cell = Cell("vae", objective, seed, Path(f"out/cells/vae/{objective}/seed-{seed}"))
    if failure:
        return Outcome(cell, failure=failure)
    values = {"log_evidence": evidence, "elbo": evidence - 1.5, "khat": np.full(DATA, 0.2), "ess": np.full(DATA, 0.5)}
    numbers = {"active_units": 4, "seconds": 2.0, "decoder_evaluations": 1000, "epochs": 5, **scores}
    return Outcome(cell, numbers, {name: torch.as_tensor(each) for name, each in values.items()})


def pointwise(shift=0.0):
    """Log evidence of SEEDS trainings on DATA data: hard and easy data are the same for all."""
    return np.linspace(-30, -10, DATA) + shift + RNG.normal(size=(SEEDS, DATA))


def outcomes(first, second):
    pairs = (("elbo", first), ("iwae", second))
    return [outcome(name, seed, each) for name, values in pairs for seed, each in enumerate(values)]


# Statistics -----------------------------------------------------------------------------------------------


def test_evidence_has_its_error_over_data_and_its_spread_over_seeds():
    a, b = pointwise(), pointwise()
    row = make_rows(outcomes(a, b))[0]
    assert row.log_evidence.value == pytest.approx(a.mean(), rel=1e-12)
    assert row.log_evidence.error == pytest.approx(a.mean(0).std(ddof=1) / math.sqrt(DATA), rel=1e-12)
    assert row.spread == pytest.approx(a.mean(1).std(ddof=1), rel=1e-12)
    assert row.gap.value == pytest.approx(1.5, rel=1e-12) and row.elbo.value == pytest.approx(a.mean() - 1.5)


def test_difference_is_paired_by_datum_and_by_seed():
    a, b = pointwise(), pointwise(0.4)
    first, second = make_rows(outcomes(a, b))
    delta = b - a
    assert first.difference is None
    assert second.difference.value == pytest.approx(delta.mean(), rel=1e-12)
    assert second.difference.error == pytest.approx(delta.mean(0).std(ddof=1) / math.sqrt(DATA), rel=1e-12)
    assert second.difference_over_seeds.error == pytest.approx(delta.mean(1).std(ddof=1) / math.sqrt(SEEDS), rel=1e-12)
    total = math.hypot(second.difference.error, second.difference_over_seeds.error)
    assert second.total_error == pytest.approx(total, rel=1e-12)
    # Pairing is the point: unpaired, the same difference would be lost in the spread of the data.
    assert second.difference.error < 0.2 * math.hypot(first.log_evidence.error, second.log_evidence.error)


def test_difference_uses_only_the_seeds_that_both_rows_have():
    a, b = pointwise(), pointwise(0.4)
    found = outcomes(a, b)
    found[0] = outcome("elbo", 0, None, failure="broke")
    first, second = make_rows(found)
    assert first.seeds == (1, 2) and first.failures == ("seed 0: broke",) and second.seeds == (0, 1, 2)
    assert second.difference.value == pytest.approx((b[1:] - a[1:]).mean(), rel=1e-12)
    found = outcomes(a, b)
    found[SEEDS] = outcome("iwae", 0, None, failure="broke")
    assert make_rows(found)[1].difference.value == pytest.approx((b[1:] - a[1:]).mean(), rel=1e-12)


def test_row_without_a_finished_seed_has_no_numbers():
    rows = make_rows([outcome("elbo", 0, pointwise()[0]), outcome("iwae", 0, None, failure="broke")])
    assert rows[1].log_evidence is None and rows[1].difference is None and rows[1].failures == ("seed 0: broke",)


def test_shares_of_bad_khat_and_of_effective_samples():
    each = outcome("elbo", 0, pointwise()[0])
    khat, ess = torch.linspace(0.0, 1.0, DATA, dtype=torch.float64), torch.linspace(0.1, 0.9, DATA).double()
    row = make_rows([replace(each, pointwise={**each.pointwise, "khat": khat, "ess": ess})])[0]
    assert row.bad_khat.value == pytest.approx(float((khat > 0.7).double().mean()))
    assert row.ess_median.value == pytest.approx(float(ess.median()))
    assert row.ess_low.value == pytest.approx(np.quantile(ess.numpy(), 0.05))


def test_rank_is_the_order_of_log_evidence():
    a = pointwise()
    found = [*outcomes(a, a + 0.3), *(outcome("renyi", seed, each - 0.3) for seed, each in enumerate(a))]
    assert [row.rank for row in ranked(found, 100)] == [1, 0, 2]


# Table ----------------------------------------------------------------------------------------------------


def table(shift, seeds=SEEDS):
    a, b = pointwise()[:seeds], pointwise(shift)[:seeds]
    return Table(ranked(outcomes(a, b), 100), DATA, 100)


def test_verdict_tells_apart_what_differs_and_what_does_not():
    for shift, side in ((5.0, "above"), (-5.0, "below")):
        found = table(shift)
        size = f"{abs(found.rows[1].difference.value):.2f} ± {found.rows[1].total_error:.2f}"
        assert f"more than two standard errors {side} elbo: iwae by {size}." in found.verdict()
    base = pointwise()
    same = Table(make_rows(outcomes(base, base + RNG.normal(size=base.shape) * 0.01)), DATA, 100)
    assert "Not to be told apart from elbo within two standard errors: iwae." in same.verdict()


def test_verdict_says_when_seeds_are_few():
    assert "rough with 3 seeds" in table(1.0).verdict()
    assert "One seed gives no error over seeds" in table(1.0, seeds=1).verdict()


def test_json_holds_every_estimate_with_error_and_count():
    found = json.loads(json.dumps(table(1.0).to_json()))
    for row in found["rows"]:
        for name in ("log_evidence", "elbo", "gap", "bad_khat", "ess_median", "active_units", "seconds"):
            assert set(row[name]) == {"value", "error", "count"}
    assert found["rows"][1]["difference"]["count"] == DATA and found["rows"][1]["difference_over_seeds"]["count"] == 3
    assert found["particles"] == 100 and found["data"] == DATA and found["verdict"]


def test_text_is_aligned_and_has_a_line_per_row_and_failure():
    rows = make_rows([*outcomes(pointwise(), pointwise()), outcome("renyi", 0, None, failure="out of [memory]")])
    lines = Table(rows, DATA, 100).to_text().splitlines()
    assert len(lines) == 5 and lines[-1] == "failed: renyi, seed 0: out of [memory]"
    assert len({line.index("±") for line in lines[1:3]}) == 1
    for word in ("log evidence (sd)", "difference to first", "ELBO", "gap", "k-hat>0.7", "ESS (5%)", "evaluations"):
        assert word in lines[0]
    assert "1.500 ± 0.000" in lines[1]


def test_text_for_a_narrow_terminal_stays_within_it():
    text = table(1.0).to_text(80)
    assert max(map(len, text.splitlines())) <= 80 and "evaluations" in text and "difference" in text


# Plan -----------------------------------------------------------------------------------------------------


def jobs(folder, objectives=("elbo", "iwae:particles=8"), **changes):
    named = named_objectives(objectives)
    options = {"learning_rate": 0.001, "epochs": 5, **changes}
    judging = {"particles": 10, "limit": None}
    return plan({"vae": ModelSpec("vae", {"latent": 2})}, named, [0, 1], folder, options, judging, {"checksum": "c"})


def test_cells_are_models_times_objectives_times_seeds_in_safe_folders(tmp_path):
    planned = jobs(tmp_path, dict.fromkeys(("elbo", "iwae:particles=8", "IWAE-particles=8"), "elbo"))
    places = [job.cell.folder.relative_to(tmp_path).as_posix() for job in planned]
    assert len({place.lower() for place in places}) == 6
    assert places[:3] == [f"cells/vae/{name}" for name in ("elbo/seed-0", "elbo/seed-1", "iwae-particles=8/seed-0")]


@pytest.mark.parametrize("name", ["../../etc", "a/b", "..", "", "é", "x" * 300])
def test_no_name_leaves_its_folder(tmp_path, name):
    job = plan({name: dict}, {name: Trace_ELBO}, [0], tmp_path, {}, {"particles": 1, "limit": None}, {})[0]
    inside = job.cell.folder.relative_to(tmp_path / "cells").parts
    assert len(inside) == 3 and all(part.isascii() and ".." not in part and 0 < len(part) < 80 for part in inside)


def test_folder_with_other_options_is_refused_and_says_which(tmp_path):
    for job in jobs(tmp_path):
        record(job.cell)
    check_folder(tmp_path, jobs(tmp_path))
    check_folder(tmp_path, jobs(tmp_path, ["elbo", "renyi:alpha=0.5"]))
    with pytest.raises(InputError, match=r"fit learning_rate was 0.001, now 0.1"):
        check_folder(tmp_path, jobs(tmp_path, learning_rate=0.1))


def test_folder_that_is_no_comparison_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("words")
    with pytest.raises(InputError, match="holds no comparison"):
        check_folder(tmp_path, jobs(tmp_path))
    run = jobs(tmp_path / "other")[0].cell.folder
    run.mkdir(parents=True)
    with pytest.raises(InputError, match="a run of something else"):
        check_folder(tmp_path / "other", jobs(tmp_path / "other"))


def test_instances_are_refused_where_factories_are_needed():
    with pytest.raises(InputError, match="give its class"):
        named_objectives({"elbo": Trace_ELBO()})
    with pytest.raises(InputError, match="is an instance"):
        named_models({"net": type("Net", (), {"model": len, "guide": len, "__call__": len})()})
    with pytest.raises(InputError, match="did you mean 'iwae'"):
        named_objectives(["iwea"])


def test_lambdas_stay_in_this_process(tmp_path):
    job = jobs(tmp_path)[0]
    assert can_travel(job) and not can_travel(replace(job, model=lambda: None))


def test_workers_stay_within_the_cores_and_share_them(monkeypatch, tmp_path):
    monkeypatch.setattr("pvae.comparison.running.cores", lambda: 8)
    four = jobs(tmp_path)
    assert Room.of(four, None, None, "cpu") == Room(4, 2, "cpu")
    assert Room.of(four * 5, None, None, "cpu") == Room(8, 1, "cpu")
    assert Room.of(four, 1, None, "cpu") == Room(1, 8, "cpu")
    with pytest.raises(InputError, match="workers"):
        Room.of(four, -1, None, "cpu")


def test_shared_data_come_back_as_they_were(tmp_path):
    x = torch.rand(30, 4)
    splits = load_data((x, torch.arange(30) % 3))
    again = share(splits, tmp_path, torch.get_num_threads())()
    assert again.summary() == splits.summary() and again.notes == splits.notes
    for name, part in splits.parts.items():
        assert again.parts[name].names == part.names
        assert all(torch.equal(again.parts[name][field], part[field]) for field in part)


# Workers --------------------------------------------------------------------------------------------------


def test_a_failing_and_a_dying_job_leave_the_others_alone():
    events = []
    given = ["one", "raise", "die", Unbuildable(), "leave", "two"]
    run_jobs(given, work, shared, workers=1, report=events.append)
    ends = {event.job: (event.kind, event.content) for event in events if event.kind in ("done", "failed")}
    assert ends[0] == ("done", "one shared") and ends[5] == ("done", "two shared")
    assert ends[1] == ("failed", "ValueError: a reason")
    assert ends[2] == ("failed", "its process was killed by SIGKILL, perhaps for want of memory")
    assert ends[3][0] == "failed" and "ValueError" in ends[3][1]
    assert ends[4] == ("failed", "its process ended with exit code 7")
    assert [event.content for event in events if event.kind == "news"] == [
        f"at {job}" for job in ("one", "raise", "die", "leave", "two")
    ]


def test_the_same_events_come_from_this_process():
    events = []
    run_here(["one", "raise"], work, shared, numbers=[4, 6], report=events.append)
    told = [(event.kind, event.job, event.content) for event in events]
    assert told == [
        ("began", 4, None), ("news", 4, "at one"), ("done", 4, "one shared"),
        ("began", 6, None), ("news", 6, "at raise"), ("failed", 6, "ValueError: a reason"),
    ]  # fmt: skip


def test_workers_that_do_not_start_blame_no_job():
    events = []
    with pytest.raises(StartError, match="exit code 3") as caught:
        run_jobs(["one", "two"], work, broken, workers=1, report=events.append)
    assert caught.value.left == [0, 1] and events == []


def test_an_interrupt_stops_the_workers():
    seen = []

    def interrupt(event):
        if event.kind == "news":
            seen.append(event.content)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(["one"], nap, shared, workers=1, report=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0], 0)


ORPHAN = """
from comparison_jobs import chatter, shared
from pvae.comparison.workers import run_jobs
if __name__ == "__main__":
    told = lambda event: event.kind == "news" and print(event.content, flush=True)
    run_jobs(["one"], chatter, shared, workers=1, report=told)
"""


def test_workers_end_when_their_parent_is_killed(tmp_path):
    (tmp_path / "orphan.py").write_text(ORPHAN)
    tests = Path(__file__).parents[1] / "support"
    paths = {**os.environ, "PYTHONPATH": f"{tests}{os.pathsep}{tests.parents[1]}"}
    with subprocess.Popen(
        [sys.executable, tmp_path / "orphan.py"], env=paths, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
        errors = parent.communicate(timeout=30)[1]
    assert "Traceback" not in errors
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    status = Path(f"/proc/{worker}/status")
    # Where nothing reaps orphans, the ended process stays as a zombie.
    assert not status.exists() or "zombie" in status.read_text()


def test_partial_factories_are_told_apart(tmp_path):
    made = [
        plan({"m": model}, {"e": Trace_ELBO}, [0], tmp_path, {}, {"particles": 1, "limit": None}, {})[0].cell.config
        for model in (partial(dict, a=1), partial(dict, a=2))
    ]
    assert made[0]["model is"] == "builtins.dict with a=1" != made[1]["model is"]


@pytest.mark.parametrize(("size", "batch", "epochs"), [(1294, 100, 124), (50000, 100, 50), (100, 100, 1600)])
def test_small_data_are_trained_for_more_epochs(size, batch, epochs):
    splits = load_data(torch.rand(size, 1), validation=0, test=0)
    assert usual_epochs(splits, batch) == epochs


def test_a_biased_objective_carries_the_word() -> None:
    rows = [
        Row("vae", "stl:particles=4", (0,), (), biased="the score is left out"),
        Row("vae", "iwae:particles=4", (0,), ()),
    ]
    assert [row_label(row, rows) for row in rows] == ["stl:particles=4 (biased)", "iwae:particles=4"]
