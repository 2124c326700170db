"""The plan of a comparison: cells, folders, factories, options, and the data and cores of the workers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from pyro.infer import Trace_ELBO

from pvae.comparison.cells.cell_files import check_folder, write_config
from pvae.comparison.cells.factories import models_by_name, objectives_by_name
from pvae.comparison.cells.plan import can_be_pickled, plan_jobs
from pvae.comparison.planned_comparison import usual_epochs
from pvae.comparison.processes.shared_splits import write_shared_splits
from pvae.comparison.processes.worker_plan import WorkerPlan
from pvae.data import load_data
from pvae.errors import InputError
from pvae.models import ModelSpec


def jobs(folder, objectives=("elbo", "iwae:particles=8"), **changes):
    named = objectives_by_name(objectives)
    options = {"learning_rate": 0.001, "epochs": 5, **changes}
    judging = {"particles": 10, "limit": None}
    return plan_jobs(
        {"vae": ModelSpec("vae", {"latent": 2})}, named, [0, 1], folder, {"vae": options}, judging, {"checksum": "c"}
    )


def test_cells_are_models_times_objectives_times_seeds_in_safe_folders(tmp_path):
    planned = jobs(tmp_path, dict.fromkeys(("elbo", "iwae:particles=8", "IWAE-particles=8"), "elbo"))
    places = [job.cell.folder.relative_to(tmp_path).as_posix() for job in planned]
    assert len({place.lower() for place in places}) == 6
    assert places[:3] == [f"cells/vae/{name}" for name in ("elbo/seed-0", "elbo/seed-1", "iwae-particles=8/seed-0")]


@pytest.mark.parametrize("name", ["../../etc", "a/b", "..", "", "é", "x" * 300])
def test_no_name_leaves_its_folder(tmp_path, name):
    job = plan_jobs({name: dict}, {name: Trace_ELBO}, [0], tmp_path, {name: {}}, {"particles": 1, "limit": None}, {})[0]
    inside = job.cell.folder.relative_to(tmp_path / "cells").parts
    assert len(inside) == 3 and all(part.isascii() and ".." not in part and 0 < len(part) < 80 for part in inside)


def test_folder_with_other_options_is_refused_and_says_which(tmp_path):
    for job in jobs(tmp_path):
        write_config(job.cell)
    check_folder(tmp_path, jobs(tmp_path))
    check_folder(tmp_path, jobs(tmp_path, ["elbo", "renyi:alpha=0.5"]))
    with pytest.raises(InputError, match=r"fit learning_rate was 0.001, now 0.1"):
        check_folder(tmp_path, jobs(tmp_path, learning_rate=0.1))


def test_folder_that_is_no_comparison_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("words")
    with pytest.raises(InputError, match="not the folder of a comparison"):
        check_folder(tmp_path, jobs(tmp_path))


def test_a_cell_with_a_damaged_or_missing_record_of_its_options_is_named_and_the_others_may_run(tmp_path):
    planned = jobs(tmp_path)
    for job in planned:
        job.cell.folder.mkdir(parents=True)
        write_config(job.cell)
    assert check_folder(tmp_path, planned) == {}
    other_options = planned[0].cell.record.read_text().replace('"particles": 10', '"particles": 11')
    for content, said in (
        ("{", "not valid JSON"),
        ("[]", "needs to be dict"),
        (other_options, "checksum does not match"),
    ):
        planned[0].cell.record.write_text(content)
        assert said in check_folder(tmp_path, planned)[planned[0].cell.label]
    planned[1].cell.record.unlink()
    damages = check_folder(tmp_path, planned)
    assert set(damages) == {planned[0].cell.label, planned[1].cell.label}
    assert "has no options" in damages[planned[1].cell.label]
    with pytest.raises(InputError, match="Remove it together with its run"):
        check_folder(tmp_path, planned[:2])


def test_instances_are_refused_where_factories_are_needed():
    with pytest.raises(InputError, match="give its class"):
        objectives_by_name({"elbo": Trace_ELBO()})
    with pytest.raises(InputError, match="is an instance"):
        models_by_name({"net": type("Net", (), {"model": len, "guide": len, "__call__": len})()})
    with pytest.raises(InputError, match="did you mean 'iwae'"):
        objectives_by_name(["iwea"])


def test_lambdas_stay_in_this_process(tmp_path):
    job = jobs(tmp_path)[0]
    assert can_be_pickled(job) and not can_be_pickled(replace(job, model=lambda: None))


def test_workers_stay_within_the_cores_and_share_them(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("pvae.comparison.processes.worker_plan.count_cores", lambda: 8)
    assert WorkerPlan.choose(4, None, None, "cpu") == WorkerPlan(4, 2, "cpu")
    assert WorkerPlan.choose(20, None, None, "cpu") == WorkerPlan(8, 1, "cpu")
    assert WorkerPlan.choose(4, 1, None, "cpu") == WorkerPlan(1, 8, "cpu")
    with pytest.raises(InputError, match="workers"):
        WorkerPlan.choose(4, -1, None, "cpu")


@pytest.mark.parametrize(("text", "threads"), [("1", 1), ("3,2", 3), ("16", 8), ("", 8), ("0", 8), ("many", 8)])
def test_a_worker_has_no_more_threads_than_the_environment_allows(monkeypatch, text, threads):
    monkeypatch.setattr("pvae.comparison.processes.worker_plan.count_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert WorkerPlan.choose(4, 1, None, "cpu").threads == threads
    assert WorkerPlan.choose(4, 1, 5, "cpu").threads == 5


def test_shared_data_come_back_as_they_were(tmp_path):
    x = torch.rand(30, 4)
    splits = load_data((x, torch.arange(30) % 3))
    again = write_shared_splits(splits, tmp_path, torch.get_num_threads())()
    assert again.summary() == splits.summary() and again.notes == splits.notes
    for name, part in splits.parts.items():
        assert again.parts[name].names == part.names
        assert all(torch.equal(again.parts[name][field], part[field]) for field in part)


def test_partial_factories_are_told_apart(tmp_path):
    made = [
        plan_jobs({"m": model}, {"e": Trace_ELBO}, [0], tmp_path, {"m": {}}, {"particles": 1, "limit": None}, {})[
            0
        ].cell.config
        for model in (partial(dict, a=1), partial(dict, a=2))
    ]
    assert made[0]["model is"] == "builtins.dict with a=1" != made[1]["model is"]


@pytest.mark.parametrize(("size", "batch", "epochs"), [(1294, 100, 124), (50000, 100, 50), (100, 100, 1600)])
def test_small_data_are_trained_for_more_epochs(size, batch, epochs):
    splits = load_data(torch.rand(size, 1), validation=0, test=0)
    assert usual_epochs(splits, batch) == epochs
