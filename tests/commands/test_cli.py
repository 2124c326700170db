"""The command line: its output, its exit codes, and that bad input changes no file."""

from __future__ import annotations

import inspect
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from command_line import Done, in_process, run

import pvae
from pvae.cli import cli
from pvae.commands.evaluating import _text_rows
from pvae.commands.options.option_groups import MODEL_HELP
from pvae.commands.options.option_types import SettingType
from pvae.densities.parts import accepted
from pvae.models import MODELS
from pvae.train import run_record

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--step", "eager", "--latent", "2", "--hidden", "8", "--epochs", "1"]
MY_MODEL = """
import pyro
import pyro.distributions as dist
import torch
import pvae


class MyModel(pvae.LatentModel):
    def __init__(self, latent: int = 2):
        super().__init__()
        self.decoder = torch.nn.Linear(latent, 64)
        self.encoder = torch.nn.Linear(64, latent)
        self.latent = latent

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent), 1.0).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


class Broken(MyModel):
    def model(self, x):
        return self.decoder(x)  # this line


class Raises(MyModel):
    def __init__(self):
        raise KeyError("gone")
"""

WRONG_LINE = 1 + MY_MODEL.splitlines().index("        return self.decoder(x)  # this line")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a model file in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model.py").write_text(MY_MODEL)
    return tmp_path


def _bits(folder: Path) -> None:
    """Write 40 data of 6 bits to ``bits.npy``."""
    np.save(folder / "bits.npy", np.random.default_rng(0).integers(2, size=(40, 6)).astype(float))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run."""
    place = tmp_path_factory.mktemp("trained") / "run"
    done = run("train", "vae", *SMALL, "--objective", "iwae", "--particles", "3", "--out", str(place))
    assert done.code == 0, done.err
    return place


# Help


HELP = """
import sys
from pvae.cli import cli

for command in [[], *([name] for name in sorted(cli.commands))]:
    try:
        cli.main([*command, "--help"])
    except SystemExit as end:
        assert end.code == 0, (command, end.code)
    loaded = {"torch", "pyro", "numpy", "matplotlib", "rich"} & set(sys.modules)
    assert not loaded, (command, loaded)
"""


def test_help_of_each_command_imports_no_torch() -> None:
    """One process prints all pages, in the order of the names: the first that imports too much is named."""
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    usages = re.findall(r"^Usage: pvae ?(\S*) \[OPTIONS\]", done.stdout, flags=re.MULTILINE)
    assert usages == ["", *sorted(cli.commands)]


def test_help_answers_within_three_tenths_of_a_second() -> None:
    """In processor time, which other tests on the same cores do not add to; the best of three."""
    assert min(_seconds("--help") for _ in range(3)) < 0.3


def _seconds(*arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert in_process(*arguments).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_every_option_has_a_help_text() -> None:
    without_help = [
        f"{name} {option.name}"
        for name, command in cli.commands.items()
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]
    assert without_help == []


def test_help_lists_options_in_sections() -> None:
    lines = run("train", "--help").out.splitlines()
    titles = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert titles[:3] == ["Names of models:", "Data:", "Objective:"]
    assert titles[4:] == ["Training:", "Run:", "Messages:"]
    training = lines[lines.index("Training:") : lines.index("Run:")]
    assert sum(line.startswith("  --") for line in training) == 20


def test_version_is_printed() -> None:
    assert run("--version") == Done(0, f"pvae {pvae.__version__}\n", "")


def test_no_command_prints_help_and_ends_with_code_2() -> None:
    done = run()
    assert (done.code, done.out) == (2, "")
    assert "Commands:" in done.err


# Options mirror the library


def test_every_argument_of_fit_is_a_flag_with_the_same_default() -> None:
    flags = {option.name: option.default for option in cli.commands["train"].params if isinstance(option, click.Option)}
    differs_by_design = {"model", "data", "objective", "out", "resume", "allow_changed", "progress"}
    python_only = {"callbacks", "fields", "model_spec"}
    arguments = inspect.signature(pvae.fit).parameters.items()
    defaults = {name: argument.default for name, argument in arguments if name not in differs_by_design | python_only}
    assert len(defaults) == 20
    assert {name: flags.get(name, "no flag") for name in defaults} == defaults


def test_flags_of_fit_have_the_type_of_their_argument() -> None:
    types = {option.name: option.type for option in cli.commands["train"].params}
    assert [types[name] for name in ("epochs", "patience", "max_evaluations", "clip", "max_seconds", "device")] == [
        click.INT,
        click.INT,
        click.INT,
        click.FLOAT,
        click.FLOAT,
        click.STRING,
    ]
    assert types["on_divergence"].choices == ("stop", "rollback")


def test_every_part_of_the_vae_is_a_flag() -> None:
    assert set(MODEL_HELP) >= set(inspect.signature(pvae.VAE).parameters) - {"data_shape"}


def test_every_model_flag_is_an_argument_of_a_built_in_model() -> None:
    names = {name for model in MODELS.values() for name in accepted(model)[0]}
    assert set(MODEL_HELP) <= names


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("0.5", 0.5), ("none", None), ("true", True), ("200,100", (200, 100)), ("tanh", "tanh")],
)
def test_text_decides_the_type_of_a_setting(text: str, value: Any) -> None:
    assert SettingType().convert(text, None, None) == value


# Training


def test_train_prints_a_summary_and_writes_a_run(folder: Path) -> None:
    done = run("train", "vae", *SMALL, "--out", "runs/a")
    assert done.code == 0
    assert (folder / "runs/a/config.toml").is_file()
    for word in ("digits", "binarise", "parameters", "device", "runs/a"):
        assert word in done.out + done.err


def test_train_json_is_one_object_and_nothing_else(folder: Path) -> None:
    done = run("train", "vae", *SMALL, "--out", "runs/a", "--json")
    record = json.loads(done.out)
    assert done.out.count("\n") == 1
    assert record["run"] == "runs/a"
    assert record["objective"] == "elbo"
    assert record["parameters"] == sum(parameter.numel() for parameter in pvae.open_run("runs/a").model.parameters())


def test_train_has_a_default_folder(folder: Path) -> None:
    done = run("train", "vae", *SMALL, "--objective", "iwae:particles=2", "--seed", "4")
    assert done.code == 0
    assert [path.name for path in (folder / "runs").iterdir()] == ["vae-digits-iwae_particles=2-seed4"]


def test_train_takes_a_model_file_and_its_settings(folder: Path) -> None:
    done = run("train", "my_model.py:MyModel", "--set", "latent=3", "--epochs", "1", "--out", "r", "--json")
    assert json.loads(done.out)["parameters"] == 3 * 64 + 64 + 64 * 3 + 3


def test_train_flags_reach_fit(folder: Path) -> None:
    flags = ["--batch-size", "50", "--learning-rate", "0.01", "--optimiser", "sgd", "--seed", "5"]
    assert run("train", "vae", *SMALL, *flags, "--out", "r").code == 0
    config = pvae.open_run("r").config["training"]
    assert [config[name] for name in ("batch_size", "learning_rate", "seed")] == [50, 0.01, 5]


def test_command_line_takes_precedence_over_config_file(folder: Path) -> None:
    text = 'data = "digits"\nepochs = 3\nbatch-size = 300\nout = "r"\n[set]\nlatent = 2\nhidden = [8, 9]\n'
    (folder / "c.toml").write_text(text)
    assert run("train", "vae", "--config", "c.toml", "--epochs", "1").code == 0
    opened = pvae.open_run("r")
    assert [opened.config["training"][name] for name in ("epochs", "batch_size")] == [1, 300]
    assert opened.model.latent == 2


def test_resume_continues_a_run(folder: Path) -> None:
    assert run("train", "vae", *SMALL, "--out", "r").code == 0
    assert run("train", "vae", *SMALL[:-1], "2", "--out", "r", "--resume").code == 0
    assert run("train", "vae", *SMALL[:-1], "2", "--out", "s").code == 0
    resumed, whole = (pvae.open_run(name, checkpoint="last") for name in "rs")
    for name, value in whole.model.state_dict().items():
        assert value.equal(resumed.model.state_dict()[name])


def test_divergence_ends_with_code_3_and_one_line(folder: Path) -> None:
    done = run("train", "vae", *SMALL[:-1], "5", "--learning-rate", "1e30", "--optimiser", "sgd", "--out", "r")
    assert done.code == 3
    assert _error_line(done.err).startswith("pvae: error: ")


# Evaluation, figures, checks, comparisons


def test_evaluate_json_holds_estimates(trained: Path) -> None:
    done = run("evaluate", str(trained), "--particles", "20", "--limit", "30", "--json")
    record = json.loads(done.out)
    assert set(record["log_evidence"]) == {"value", "error", "count"}
    assert record["log_evidence"]["count"] == 30
    assert record["log_evidence"]["value"] >= record["elbo"]["value"]


def test_evaluate_agrees_with_the_library(trained: Path) -> None:
    done = run("evaluate", str(trained), "--particles", "20", "--limit", "30", "--json")
    data = pvae.load_data("digits", binarise="static")
    direct = pvae.evaluate.log_evidence(pvae.open_run(trained), data, particles=20, limit=30)
    assert json.loads(done.out)["log_evidence"]["value"] == pytest.approx(direct.value, abs=1e-9)


def test_evaluate_by_elbo_prints_value_and_error(trained: Path) -> None:
    done = run("evaluate", str(trained), "--method", "elbo", "--particles", "5", "--limit", "20")
    assert done.code == 0
    assert done.out.startswith("elbo")
    assert "±" in done.out


@pytest.mark.parametrize("matmul", ["auto", "aten"])
def test_evaluate_passes_the_choice_of_libraries_on(
    trained: Path, matmul: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    elbo, chosen = pvae.evaluate.elbo, []
    monkeypatch.setattr(pvae.evaluate, "elbo", lambda *a, **k: chosen.append(k["matmul"]) or elbo(*a, **k))
    words = ("--method", "elbo", "--particles", "2", "--limit", "5", "--matmul", matmul)
    assert run("evaluate", str(trained), *words).code == 0
    assert chosen == [matmul]


def test_evaluate_writes_draws_for_arviz(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "draws.nc"
    done = run("evaluate", str(trained), "--particles", "5", "--limit", "10", "--arviz", str(path))
    assert done.code == 0
    assert path.stat().st_size > 0


@pytest.mark.parametrize("what", ["samples", "reconstructions", "latent", "traversal", "history"])
def test_show_draws_each_figure(trained: Path, tmp_path: Path, what: str) -> None:
    path = tmp_path / "figure.png"
    done = run("show", str(trained), "--what", what, "--out", str(path))
    assert done.code == 0, done.err
    assert path.read_bytes().startswith(b"\x89PNG")


def test_show_draws_figures_of_a_users_model(folder: Path) -> None:
    assert run("train", "my_model.py:MyModel", "--epochs", "1", "--out", "r").code == 0
    for what in ("samples", "reconstructions", "latent", "traversal"):
        assert run("show", "r", "--trust", "--what", what).code == 0
        assert (folder / "r/figures" / f"{what}.png").is_file()


def test_show_replaces_a_file_only_with_force_and_says_what_has_changed_since_the_training(
    folder: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = run_record._versions()
    monkeypatch.setattr(run_record, "_versions", lambda: {**versions, "torch": "9.9"})
    (folder / "mine.png").write_text("mine")
    refused = run("show", str(trained), "--out", "mine.png")
    assert refused.code == 2 and "--force" in refused.err and (folder / "mine.png").read_text() == "mine"
    shown = run("show", str(trained), "--out", "mine.png", "--force")
    assert shown.code == 0 and "Note: version of torch is 9.9; it was" in shown.err
    assert (folder / "mine.png").read_bytes().startswith(b"\x89PNG")


def test_a_full_disk_is_one_line_and_the_last_checkpoint_is_intact(folder: Path) -> None:
    words = ("train", "vae", *SMALL[:-1], "3", "--no-progress", "--out", "r")
    assert run(*words, "--max-steps", "2").code == 0
    before = pvae.open_run("r", checkpoint="last").model.state_dict()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        trained, shown = run(*words, "--resume"), run("show", "r", "--out", "a.png")
        compared = run("compare", "vae", *SMALL, "--seeds", "1", "--workers", "0", "--out", "c")
        exported = run("evaluate", "r", "--limit", "5", "--particles", "5", "--arviz", "a.nc")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        mixed = run("em", "--data", "digits", "--components", "1", "--out", "m")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [done.code for done in (trained, shown, compared, exported, mixed)] == [4] * 5
    for done in (compared, exported, mixed):
        assert "File too large" in done.err.splitlines()[-1] and "Traceback" not in done.err
    assert not list(Path().glob("a.nc*")) and not list(Path("c").rglob("seed-0/last*"))
    assert re.search(r"could be written to r/(last|best) \(File too large\)", trained.err.splitlines()[-1])
    assert "File too large: a.png" in shown.err.splitlines()[-1] and not Path("a.png").exists()
    after = pvae.open_run("r", checkpoint="last").model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_users_model_that_a_run_names_needs_consent_on_the_command_line(folder: Path) -> None:
    assert run("train", "my_model.py:MyModel", "--epochs", "1", "--set", "latent=3", "--out", "r").code == 0
    words = ("evaluate", "r", "--particles", "2", "--limit", "5", "--json")
    refused = run(*words)
    assert refused.code == 2 and len(refused.err.splitlines()) == 1
    assert "my_model.py:MyModel" in refused.err and str(folder / "my_model.py") in refused.err
    trusted, named = run(*words, "--trust"), run(*words, "--model", "my_model.py:MyModel")
    assert "Trusted: running the code of" in trusted.err and str(folder / "my_model.py") in trusted.err
    assert "Trusted" not in named.err
    assert json.loads(trusted.out)["log_evidence"] == json.loads(named.out)["log_evidence"]
    assert run("gradients", "r", "--draws", "2", "--batch-size", "5", "--step", "eager").code == 2
    assert run("gradients", "r", "--draws", "2", "--batch-size", "5", "--step", "eager", "--trust").code == 0


def test_check_finds_nothing_wrong_with_the_vae() -> None:
    assert run("check", "vae", "--latent", "2", "--hidden", "8", "--objective", "iwae").code == 0


def test_check_names_the_site_that_is_missing(folder: Path) -> None:
    wrong = MY_MODEL.replace('return pyro.sample("z"', 'return pyro.sample("w"')
    (folder / "wrong.py").write_text(wrong)
    done = run("check", "wrong.py:MyModel")
    assert done.code == 2
    assert "w" in done.out


def test_list_names_models_objectives_and_data() -> None:
    record = json.loads(run("list", "--json").out)
    assert {"vae"} <= set(record["models"])
    assert {"elbo", "iwae", "renyi"} <= set(record["objectives"])
    assert {"digits", "mnist"} <= set(record["data"])
    assert "renyi" in run("list").out


def test_data_list_and_verify() -> None:
    assert "mnist" in run("data", "list").out
    assert run("data", "verify", "digits").code == 0


@pytest.mark.usefixtures("without_pictures")
def test_compare_writes_table_and_page(folder: Path) -> None:
    _bits(folder)
    flags = ["--seeds", "2", "--particles", "10", "--limit", "20", "--workers", "1", "--out", "c", "--json"]
    flags += ["--data", "bits.npy"]
    done = run("compare", "vae", *SMALL, "--objectives", "elbo,renyi:alpha=0.5:particles=2", *flags)
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert Path(record["report"]).is_file()
    assert [row["objective"] for row in record["rows"]] == ["elbo", "renyi:alpha=0.5:particles=2"]


def test_evaluate_uses_the_data_file_of_the_run(folder: Path) -> None:
    x = torch.rand(60, 5, generator=torch.Generator().manual_seed(0)).numpy()
    np.savez(folder / "mine.npz", x=x)
    flags = ["--data", "./mine.npz", "--validation", "7", "--likelihood", "gaussian", "--out", "r"]
    assert run("train", "vae", *SMALL, *flags).code == 0
    record = json.loads(run("evaluate", "r", "--particles", "3", "--json").out)
    assert record["data_set"]["sizes"] == pvae.open_run("r").config["data"]["sizes"]
    assert record["data_set"]["sizes"]["validation"] == 7
    np.savez(folder / "mine.npz", x=1 - x)
    done = run("evaluate", "r", "--particles", "3", "--json")
    assert done.code == 2
    assert "--data" in _error_line(done.err)


# Bad input


def _error_line(err: str) -> str:
    """The last line of standard error, the only one with an error."""
    lines = [line for line in err.splitlines() if line.startswith("pvae: error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert err.splitlines()[-1] == lines[0]
    return lines[0]


def _snapshot(place: Path) -> dict[str, bytes]:
    return {
        path.relative_to(place).as_posix(): path.read_bytes()
        for path in place.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


TRAIN = ["train", "vae", *SMALL, "--out", "r"]
BAD = {
    "unknown model": (["train", "vea"], "did you mean 'vae'?"),
    "unknown command": (["trian", "vae"], "did you mean 'train'?"),
    "unknown command of data": (["data", "lost"], "did you mean 'list'?"),
    "unknown option": (["train", "vae", "--epoch", "3"], "--epochs"),
    "unknown objective": ([*TRAIN, "--objective", "iwea"], "did you mean 'iwae'?"),
    "unknown setting of an objective": ([*TRAIN, "--objective", "iwae:particels=3"], "did you mean 'particles'?"),
    "particles given twice": ([*TRAIN, "--objective", "iwae:particles=3", "--particles", "4"], "twice"),
    "unknown setting of a model": ([*TRAIN, "--set", "latnet=3"], "did you mean 'latent'?"),
    "setting without a value": ([*TRAIN, "--set", "latent"], "name=value"),
    "unknown network": ([*TRAIN, "--network", "mpl"], "did you mean 'mlp'?"),
    "unknown optimiser": ([*TRAIN, "--optimiser", "adm"], "did you mean"),
    "unknown data": ([*TRAIN, "--data", "mnits"], "did you mean 'mnist'?"),
    "missing data file": ([*TRAIN, "--data", "none.npz"], "none.npz"),
    "unknown precision": ([*TRAIN, "--precision", "float16"], "bfloat16"),
    "unknown choice": ([*TRAIN, "--binarise", "statik"], "static"),
    "no number": ([*TRAIN, "--batch-size", "many"], "many"),
    "no epochs": (["train", "vae", "--epochs", "-1", "--out", "r"], "epochs"),
    "no device": ([*TRAIN, "--device", "cuda:77"], "cuda:77"),
    "existing folder": (["train", "vae", "--out", "full"], "--resume"),
    "missing config file": ([*TRAIN, "--config", "none.toml"], "none.toml"),
    "unknown key": ([*TRAIN, "--config", "key.toml"], "did you mean 'epochs'?"),
    "config that is not TOML": ([*TRAIN, "--config", "my_model.py"], "TOML"),
    "missing model file": (["train", "none.py:MyModel", "--out", "r"], "none.py"),
    "unknown class": (["train", "my_model.py:MyModle", "--out", "r"], "did you mean 'MyModel'?"),
    "syntax error": (["train", "syntax.py:MyModel", "--out", "r"], "syntax.py"),
    "error in a constructor": (["train", "my_model.py:Raises", "--out", "r"], "KeyError"),
    "error in a program": (["train", "my_model.py:Broken", "--out", "r"], f"my_model.py:{WRONG_LINE}: RuntimeError"),
    "missing run": (["evaluate", "none"], "none"),
    "folder that is no run": (["evaluate", "full"], "full"),
    "folder of a figure": (["show", "full", "--out", "no/where.png"], "no"),
    "no seeds": (["compare", "vae", "--seeds", "none", "--out", "c"], "--seeds"),
    "unknown model of many": (["compare", "vae,veq", *SMALL, "--out", "c"], "did you mean 'vae'?"),
    "unknown objective of many": (["compare", "vae", "--objectives", "elbo,iwea", "--out", "c"], "'iwae'"),
}


# These errors name the file of the user.
NAMES_FILE = {"missing model file", "unknown class", "syntax error", "error in a constructor", "error in a program"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.paths if name in NAMES_FILE else ()) for name in BAD]
)
def test_bad_input_prints_one_line_and_changes_no_file(folder: Path, name: str) -> None:
    arguments, words = BAD[name]
    (folder / "full").mkdir()
    (folder / "full/notes.txt").write_text("mine")
    (folder / "key.toml").write_text("epohcs = 3\n")
    (folder / "syntax.py").write_text("def f(:\n")
    before = _snapshot(folder)
    done = run(*arguments)
    assert done.code == 2, (done.out, done.err)
    assert done.out == ""
    assert words in _error_line(done.err)
    assert _snapshot(folder) == before
    assert not (folder / "r").exists()


@pytest.mark.paths
def test_traceback_option_prints_the_traceback_of_a_users_program(folder: Path) -> None:
    done = run("train", "my_model.py:Broken", "--out", "r", "--traceback")
    assert done.code == 2
    assert "Traceback" in done.err
    assert "return self.decoder(x)  # this line" in done.err


@pytest.mark.paths
def test_json_leaves_standard_output_clean_in_a_process(folder: Path) -> None:
    _bits(folder)
    done = in_process("train", "vae", *SMALL, "--data", "bits.npy", "--out", "r", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == "r"
    assert done.stdout.count("\n") == 1


def test_interrupted_training_keeps_its_checkpoint_and_ends_with_130(folder: Path) -> None:
    """A process of its own is interrupted once its first epochs are written; test_interrupts.py forks processes."""
    _bits(folder)
    words = ["train", "vae", *SMALL[:-1], "100000", "--data", "bits.npy", "--out", "r"]
    command = [sys.executable, "-m", "pvae", *words]
    with subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as process:
        metrics = folder / "r/metrics.jsonl"
        for _ in range(600):
            if metrics.exists() and metrics.read_text().count("\n") > 2:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert "Traceback" not in err.decode()
    assert process.returncode == 130
    assert (folder / "r/last/state.json").is_file()


def test_an_evaluation_without_finite_numbers_is_text() -> None:
    rows = _text_rows({"log_evidence": {"value": None}, "membership": None, "notes": ["no finite weight"]})
    assert rows == {"note 1": "no finite weight"}
