"""``pvae evaluate --checks``: findings of a run as text and as JSON, and the file that the run keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import run

import pvae
from pvae.evaluate import ModelFindings, read_findings
from pvae.evaluate.all_checks.findings_file import write_findings
from pvae.evaluate.evaluated_data import evaluated_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run on the digits."""
    where = tmp_path_factory.mktemp("checks") / "run"
    model = pvae.VAE(data_shape=(8, 8), latent=1, hidden=(4,))
    pvae.fit(model, pvae.load_data("digits"), epochs=1, batch_size=500, progress=False, step="eager", out=where)
    return where


def test_all_answers_the_questions_and_saves_them(folder: Path) -> None:
    done = run("evaluate", str(folder), "--checks", "all", "--budget", "2.5e5", "--limit", "10", "--json")
    assert done.code == 0, done.err
    printed = json.loads(done.out)["checks"]["all"]
    assert [answer["status"] for answer in printed["questions"]][1] in ("fine", "look", "bad")
    assert printed["questions"][1]["findings"][-1]["status"] == "not run"
    saved = read_findings(folder)
    assert printed.items() <= saved.items()
    assert "within the budget of 2.5e+05 decoder evaluations: 10 data with 1000 particles; 310 simulated" in done.err
    inference = saved["questions"][1]
    shown = run("evaluate", str(folder), "--method", "elbo", "--limit", "5", "--particles", "2")
    assert inference["status"] == "bad" and f"bad (inference not right): {inference['reason']}" in shown.out


def test_saved_answers_are_of_the_parameters_that_they_were_made_for(tmp_path: Path) -> None:
    where = tmp_path / "run"
    (where / "best").mkdir(parents=True)
    (where / "last").mkdir()
    for name in ("best", "last"):
        (where / name / "parameters.safetensors").write_bytes(b"first")
    findings = ModelFindings((), 1.0, 1, 0, "test", 1)
    write_findings(where, findings)
    assert read_findings(where)["cost"] == read_findings(where, "last")["cost"] == 1
    (where / "last" / "parameters.safetensors").write_bytes(b"second")
    assert read_findings(where, "last") is None and read_findings(where, "best") is not None
    (where / "best" / "parameters.safetensors").write_bytes(b"third")
    with pytest.raises(pvae.InputError, match="about earlier parameters"):
        read_findings(where)


def test_particles_reach_the_checks_that_use_them(folder: Path) -> None:
    options = ("--budget", "1e4", "--limit", "10", "--particles", "33", "--json")
    done = run("evaluate", str(folder), "--checks", "all", *options)
    assert json.loads(done.out)["checks"]["all"]["choices"]["particles"] == 33
    refused = run("evaluate", str(folder), "--checks", "calibrate", "--particles", "33")
    assert refused.code == 2 and "--particles is used by the checks all, gaps, resemblance" in refused.err


def test_checks_print_one_row_for_each_number(folder: Path) -> None:
    done = run("evaluate", str(folder), "--checks", "resemblance", "--limit", "20")
    assert done.code == 0, done.err
    lines = {line.split("  ")[0]: line for line in done.out.splitlines()}
    assert {"status", "value", "typicality gap", "classifier", "kernel (MMD)"} <= lines.keys()
    assert "nats per datum" in lines["value"]


@pytest.mark.parametrize(
    ("checks", "said"),
    [
        ("gap", "gaps"),
        (",", "needs at least one of gaps, calibrate"),
        ("all,gapz", "gaps"),
        ("calibrated", "calibrate"),
    ],
)
def test_a_wrong_list_of_checks_is_one_line(folder: Path, checks: str, said: str) -> None:
    done = run("evaluate", str(folder), "--checks", checks)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_a_wrong_budget_is_one_line(folder: Path) -> None:
    done = run("evaluate", str(folder), "--checks", "all", "--budget", "many")
    assert done.code == 2
    assert "budget" in done.err


def test_the_data_of_a_run_are_loaded_again_and_compared(folder: Path) -> None:
    opened = pvae.open_run(folder)
    data = evaluated_data(opened, None)
    assert data.checksum == pvae.load_data("digits").checksum
    opened.config["data"]["checksum"] = "other"
    with pytest.raises(pvae.InputError, match="have changed since the run was trained"):
        evaluated_data(opened, None)
