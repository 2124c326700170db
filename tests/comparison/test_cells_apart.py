"""Cells of a comparison that run one by one, as jobs of a cluster do, and the collection of their results."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from command_line import ROOT, run
from models import Failing, Linear
from pyro.infer import Trace_ELBO

import pvae
from pvae.comparison import plan_comparison
from pvae.comparison.cells.cell_lock import is_running, release_cell, require_own_lock, sole_runner
from pvae.errors import InputError
from pvae.locks import LOCK_FILE, sole_writer

PLAN = {"epochs": 2, "batch_size": 20, "particles": 30, "limit": None, "step": "eager"}
OBJECTIVES = {"elbo": Trace_ELBO, "iwae-3": "iwae:particles=3"}
# The files of a cell that hold its numbers. Times and checksums of times are in the others.
NUMBERS = (
    "best/parameters.safetensors",
    "last/parameters.safetensors",
    "evaluation.safetensors",
    "drawings.safetensors",
)


@pytest.fixture(scope="module")
def data():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    return pvae.load_data(x, validation=0.2, test=0.25)


@pytest.fixture(autouse=True)
def _no_pictures(without_pictures):
    """Leave the pictures of the pages out."""


def _in_another_order(data, folder):
    """Run the cells one by one, the last first, and return the comparison that collects them."""
    planned = plan_comparison({"linear": Linear}, data, OBJECTIVES, 1, out=folder, **PLAN)
    for number in (2, 1):
        outcome = planned.run_cell(number, progress=False)
        assert outcome.cell == planned.cells[number - 1]
    return pvae.compare({"linear": Linear}, data, OBJECTIVES, 1, out=folder, executor="slurm", progress=False, **PLAN)


def test_cells_one_by_one_have_the_bits_of_a_local_comparison(data, tmp_path):
    local = pvae.compare(
        {"linear": Linear}, data, OBJECTIVES, 1, out=tmp_path / "local", workers=0, progress=False, **PLAN
    )
    apart = _in_another_order(data, tmp_path / "apart")
    for ours, theirs in zip(apart.cells, local.cells, strict=True):
        for name in NUMBERS:
            assert (ours.cell.folder / name).read_bytes() == (theirs.cell.folder / name).read_bytes(), name
    rows = zip(apart.table.rows, local.table.rows, strict=True)
    assert all(row.log_evidence == other.log_evidence and row.elbo == other.elbo for row, other in rows)
    assert not list(apart.folder.rglob("*.lock")) and not list(apart.folder.rglob("*.failure.json"))
    assert "as jobs of Slurm" in apart.report.read_text()


def test_cells_that_are_not_done_are_named_with_the_reason(data, tmp_path, capsys):
    models = {"good": Linear, "failing": Failing, "held": Linear, "absent": Linear, "stopped": Linear}
    planned = plan_comparison(models, data, "elbo", 1, out=tmp_path, **PLAN)
    planned.run_cell(1, progress=False)
    with pytest.raises(ValueError, match="this guide has a bug"):
        planned.run_cell(2, progress=False)
    planned.cells[4].folder.mkdir(parents=True)
    planned.cells[4].record.write_text(json.dumps(planned.cells[4].config))
    with sole_runner(planned.cells[2]):
        with pytest.raises(InputError, match="held, elbo, seed 0 can run in one process at a time"):
            planned.run_cell(3, progress=False)
        found = pvae.compare(models, data, "elbo", 1, out=tmp_path, executor="slurm", **PLAN)
    failures = {outcome.cell.model: outcome.failure for outcome in found.cells}
    assert failures["good"] == "" and failures["absent"] == "it has not run"
    assert re.search(r"this guide has a bug.*\(on ", failures["failing"]) and "it is running" in failures["held"]
    assert "it was stopped before its end" in failures["stopped"]
    assert "absent, elbo, seed 0: it has not run" in capsys.readouterr().err
    assert all(reason in found.report.read_text() for reason in ("it has not run", "this guide has a bug"))
    (planned.cells[1].folder.with_name("seed-0.failure.json")).write_text('{"failure": 3}')
    again = pvae.compare(models, data, "elbo", 1, out=tmp_path, executor="slurm", progress=False, **PLAN)
    assert "the reason cannot be read" in again.cells[1].failure


def test_a_cell_that_is_done_is_kept_and_a_later_failure_leaves_no_trace(data, tmp_path, capsys):
    planned = plan_comparison({"linear": Linear}, data, "elbo", 1, out=tmp_path, **PLAN)
    record = planned.cells[0].folder.with_name("seed-0.failure.json")
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    first = planned.run_cell(1, progress=False)
    assert not record.exists()
    before = first.cell.evaluation.stat().st_mtime_ns
    assert planned.run_cell(1).scores == first.scores and first.cell.evaluation.stat().st_mtime_ns == before
    assert "was done before and is kept" in capsys.readouterr().err


def test_a_cell_is_refused_in_a_folder_with_other_options_and_while_all_cells_run(data, tmp_path):
    planned = plan_comparison({"linear": Linear}, data, "elbo", 1, out=tmp_path, **PLAN)
    with sole_writer(tmp_path), pytest.raises(InputError, match="a process runs all its cells now"):
        planned.run_cell(1)
    planned.cells[0].record.parent.mkdir(parents=True)
    planned.cells[0].record.write_text(json.dumps({**planned.cells[0].config, "seed": 5}))
    with pytest.raises(InputError, match="seed was 5, now 0"):
        planned.run_cell(1)


@pytest.mark.parametrize("number", [0, -1, 3, 1.0, True, "1"])
def test_a_number_that_is_no_cell_is_refused(data, tmp_path, number):
    planned = plan_comparison({"linear": Linear}, data, OBJECTIVES, 1, out=tmp_path / "x", **PLAN)
    with pytest.raises(InputError, match=r"cell needs a whole number from 1 to 2; got .*counted from 1"):
        planned.run_cell(number)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"executor": "slrum"}, "did you mean 'slurm'"),
        ({"executor": "slurm", "workers": 2}, "workers needs executor='local'"),
        ({"executor": "local", "cpus_per_cell": 2}, "cpus_per_cell needs executor='ray' or 'slurm'"),
        ({"executor": "slurm", "gpus_per_cell": 0.5}, "gpus_per_cell needs a whole number; got 0.5"),
        ({"executor": "slurm", "gpus_per_cell": -1}, "gpus_per_cell needs a number of at least 0"),
        ({"executor": "slurm", "cpus_per_cell": 0}, "cpus_per_cell needs a whole number of at least 1"),
    ],
)
def test_bad_choices_of_an_executor_are_refused_before_anything_is_written(data, tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        pvae.compare({"linear": Linear}, data, "elbo", 1, out=tmp_path / "x", **options, **PLAN)
    assert not (tmp_path / "x").exists()


def _lock_of_another_machine(folder, **changes):
    """Write the lock that job 7 of Slurm has left on a machine that has failed."""
    folder.mkdir(exist_ok=True)
    content = {"host": "a-lost-machine", "process": 1, "job": "7", "restarts": 0, **changes}
    (folder / LOCK_FILE).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "restarts", "is_free"),
    [({}, "1", True), ({}, "0", False), ({"job": "8"}, "1", False), ({"restarts": "x"}, "1", False), ({}, "x", False)],
)
def test_a_job_that_slurm_starts_again_takes_over_its_own_lock(tmp_path, monkeypatch, changes, restarts, is_free):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    _lock_of_another_machine(tmp_path, **changes)
    if is_free:
        with sole_writer(tmp_path):
            assert json.loads((tmp_path / LOCK_FILE).read_text())["restarts"] == 1
    else:
        with pytest.raises(InputError, match="a-lost-machine has not released it"), sole_writer(tmp_path):
            pass


def test_a_process_that_was_believed_to_be_dead_stops(data, tmp_path):
    (cell,) = plan_comparison({"linear": Linear}, data, "elbo", 1, out=tmp_path, **PLAN).cells
    with sole_runner(cell):
        require_own_lock(cell)
        _lock_of_another_machine(cell.folder.with_name("seed-0.lock"))
        with pytest.raises(InputError, match="is run by another process now"):
            require_own_lock(cell)


def test_the_locks_of_a_lost_machine_are_removed_before_its_cell_runs_again(data, tmp_path):
    planned = plan_comparison({"linear": Linear}, data, "elbo", 1, out=tmp_path, **PLAN)
    planned.run_cell(1, progress=False)
    (cell,) = planned.cells
    cell.evaluation.unlink()
    for folder in (cell.folder, cell.folder.with_name("seed-0.lock")):
        _lock_of_another_machine(folder)
    assert is_running(cell)
    release_cell(cell)
    assert not is_running(cell) and not planned.run_cell(1, progress=False).failure


def test_the_script_for_sbatch_runs_a_line_of_the_plan(tmp_path, monkeypatch):
    """Slurm itself is replaced: the script runs in a shell that has the variable of an array."""
    monkeypatch.chdir(tmp_path)
    model = "vae:latent=1:hidden=0"
    command = ["compare", model, "--objectives", "elbo", "--seeds", "1,2", "--epochs", "1", "--particles", "2"]
    command += ["--limit", "3", "--step", "eager", "--out", "a folder", "--cpus-per-cell", "1"]
    planned = run(*command, "--plan", "jobs of mine.txt", "--executor", "slurm")
    assert planned.code == 0, planned.err
    assert "#SBATCH --array=1-2\n" in planned.out and "#SBATCH --cpus-per-task=1\n" in planned.out
    assert not Path("a folder").exists()
    lines = Path("jobs of mine.txt").read_text().splitlines()
    assert [line.partition("  # ")[2] for line in lines] == [f"{model}, elbo, seed {seed}" for seed in (1, 2)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SLURM_ARRAY_TASK_ID": "2"}
    done = subprocess.run(
        ["bash", "-c", planned.out], capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    collected = run(*command, "--executor", "slurm", "--json")
    assert collected.code == 0, collected.err
    assert f"{model}, elbo, seed 1: it has not run" in collected.err
    cells = json.loads(Path("a folder/comparison.json").read_text())["cells"]
    assert [(cell["seed"], cell["failure"]) for cell in cells] == [(1, "it has not run"), (2, None)]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--plan", "jobs.txt", "--cell", "1"], "--cell and --plan cannot be used together"),
        (["--plan", "jobs.txt", "--executor", "ray"], "--plan and --executor cannot be used together"),
        (["--plan", "jobs.txt", "--workers", "2"], "--plan and --workers cannot be used together"),
        (["--plan", "jobs.txt", "--gpus-per-cell", "0.5"], "gpus_per_cell needs a whole number"),
        (["--cell", "2"], "cell needs a whole number from 1 to 1"),
        (["--cell", "1", "--json"], "--cell and --json cannot be used together"),
    ],
)
def test_flags_that_do_not_belong_together_are_one_line(tmp_path, monkeypatch, flags, said):
    monkeypatch.chdir(tmp_path)
    ended = run("compare", "vae", "--objectives", "elbo", "--seeds", "1", "--out", "x", *flags)
    assert ended.code == 2 and said in ended.err and ended.err.count("\n") == 1, ended.err
    assert list(tmp_path.iterdir()) == []


def test_ray_is_named_where_it_is_not_installed(data, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs Ray, which is not installed. Install it: pip install 'pvae\[ray\]'"):
        pvae.compare({"linear": Linear}, data, "elbo", 1, out=tmp_path / "x", executor="ray", **PLAN)
    assert not (tmp_path / "x").exists()
