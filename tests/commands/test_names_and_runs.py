"""Names and spellings that options accept, completion by the shell, `pvae help`, `pvae runs` and the next commands."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.shell_completion import ShellComplete
from command_line import run

import pvae
from pvae.cli import cli
from pvae.commands.listing import _names_by_kind
from pvae.commands.options.help_examples import example_of
from pvae.commands.options.help_sections import section_of
from pvae.commands.options.known_names import KNOWN_NAMES, SYSTEM_ALIASES, ModelType, RunType, objective_names
from pvae.commands.options.message_level import level_restored
from pvae.locks import LOCK_FILE, sole_writer
from pvae.models.build import MODELS
from pvae.models.make_model import spec_from_text
from pvae.objectives.registry import OBJECTIVES

SMALL = ["--step", "eager", "--latent", "2", "--hidden", "4", "--epochs", "1", "--no-progress"]


def test_names_for_help_and_completion_are_those_of_the_tables() -> None:
    listed = {kind: tuple(sorted(names)) for kind, names in _names_by_kind().items()}
    assert {kind: listed[kind] for kind in KNOWN_NAMES} == KNOWN_NAMES
    assert objective_names() == sorted(OBJECTIVES)


def test_aliases_lead_to_models_and_objectives() -> None:
    for model, objective in SYSTEM_ALIASES.values():
        assert spec_from_text(model).name in MODELS and objective in (None, *OBJECTIVES)


def test_a_system_is_its_model_and_its_objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("train", "beta-vae", "--lr", "0.002", "--batch", "700", "--json", *SMALL)
    record = json.loads(done.out)
    assert (record["model"], record["objective"]) == ("vae", "beta:beta=4.0:particles=1")
    assert (record["training"]["learning_rate"], record["training"]["batch_size"]) == (0.002, 700)


def test_options_replace_the_settings_of_the_objective_of_a_model(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((20, 6, 6))
    np.savez(tmp_path / "x.npz", x=x)
    command = [
        "train",
        "air",
        "--data",
        str(tmp_path / "x.npz"),
        "--hidden",
        "4",
        "--set",
        "steps=1",
        "--max-steps",
        "1",
    ]
    command += ["--step", "eager", "--particles", "2", "--gradients", "z_pres_*=measure", "--json", "--no-progress"]
    done = run(*command, "--out", str(tmp_path / "r"))
    assert json.loads(done.out)["objective"] == "iwae:particles=2:gradients=z_pres_*=measure"


def test_a_system_with_an_objective_is_refused_where_several_are_compared() -> None:
    done = run("compare", "beta-vae", "--out", "unused")
    assert done.code == 2 and "Write vae, and name beta there." in done.err


def _completed(kind: click.ParamType, text: str) -> list[str]:
    context = click.Context(cli.commands["train"])
    return [str(item.value) for item in kind.shell_complete(context, context.command.params[0], text)]


def test_the_shell_completes_models_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _completed(ModelType(), "gmm,vq") == ["gmm,vq-vae", "gmm,vqvae"]
    monkeypatch.chdir(tmp_path)
    for name in ("runs/first", "runs/second"):
        Path(name).mkdir(parents=True)
        Path(name, "config.toml").touch()
    Path("runs/other").mkdir()
    assert _completed(RunType(), "") == ["runs/first", "runs/second"]
    assert _completed(RunType(), "runs/s") == ["runs/second"]


def test_help_of_a_command_is_the_help_that_its_flag_prints() -> None:
    assert run("help", "data", "list").out == run("data", "list", "--help").out
    assert "gaussian, negative-binomial, poisson" in " ".join(run("help", "train").out.split())
    unknown = run("help", "trian")
    assert unknown.code == 2 and "did you mean 'train'" in unknown.err


def test_train_prints_commands_that_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = run("train", "vae", "--validation", "0", *SMALL).out
    commands = [shlex.split(line) for line in shown.partition("Next:")[2].strip().splitlines()]
    assert [command[:2] for command in commands] == [["pvae", "evaluate"], ["pvae", "show"], ["pvae", "train"]]
    assert commands[2].count("--epochs") == 1
    for command in commands[1:]:
        done = run(*command[1:])
        assert done.code == 0, done.err
    listed = json.loads(run("runs", "--json").out)["runs"]
    assert [(record["state"], record["completed_epochs"], record["validation_bound"]) for record in listed] == [
        ("finished", 2, None)
    ]


@pytest.mark.filterwarnings("ignore:The validation bound is the objective")
def test_runs_are_listed_with_their_state(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    for folder in (first, second, third):
        assert run("train", "vae", *SMALL, "--out", str(folder)).code == 0
    (first / "last" / "state.json").write_text("{}")
    with sole_writer(second):
        listed = run("runs", str(tmp_path), "--json")
    (third / LOCK_FILE).write_text(json.dumps({"host": os.uname().nodename, "process": 2**30}))
    again = run("runs", str(tmp_path), "--json")
    states = [
        {record["run"].split("/")[-1]: record["state"] for record in json.loads(done.out)["runs"]}
        for done in (listed, again)
    ]
    assert states[0] == {"first": "damaged", "second": "training", "third": "finished"}
    assert states[1] == {"first": "damaged", "second": "finished", "third": "finished"}
    text = run("runs", str(tmp_path)).out
    assert "1 of 1" in text and " ± " in text
    assert run("train", "wae", *SMALL, "--out", str(tmp_path / "wae")).code == 0
    assert run("runs", str(tmp_path)).out.count("no bound; objective -") == 1
    missing = run("runs", str(tmp_path / "none"))
    assert missing.code == 2 and "is not a folder" in missing.err


def test_settings_after_the_name_of_a_model_replace_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).normal(size=(30, 3)).astype("f4"))
    words = ["--data", "x.npy", "--likelihood", "gaussian", "--latent", "3", "--hidden", "2"]
    done = run("train", "beta-vae:latent=1", *words, "--epochs", "1", "--out", "run")
    assert done.code == 0, done.err
    config = pvae.open_run("run").config
    settings = config["model"]["settings"]
    assert (settings["latent"], settings["hidden"], settings["likelihood"]) == (1, 2, "gaussian")
    assert config["objective"].startswith("beta")
    refused = run("check", "vae:latnt=1", *words)
    assert refused.code == 2 and "did you mean 'latent'" in refused.err


def _commands(group: click.Group, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, (*names, name))
        else:
            yield (*names, name), command


def test_every_section_of_every_help_has_an_example_that_uses_it() -> None:
    count = 0
    for names, command in _commands(cli):
        options = [option for option in command.params if isinstance(option, click.Option)]
        for title in dict.fromkeys(map(section_of, options)):
            example = example_of(" ".join(names), title)
            assert example is not None, (names, title)
            assert f"Example: {example}\n" in run(*names, "--help").out
            words = shlex.split(example)
            assert words[: len(names) + 1] == ["pvae", *names]
            arguments = words[len(names) + 1 :]
            flags = {flag for option in options if section_of(option) == title for flag in option.opts}
            assert flags & set(arguments) or names == ("help",), example
            # Parsing finds unknown options and values; a file of options is not there.
            if "--config" not in arguments:
                with level_restored():
                    command.make_context(names[-1], arguments, parent=click.Context(cli, obj=arguments))
            count += 1
    assert count > 60


def test_help_lists_the_names_that_options_accept() -> None:
    shown = "".join(run("help", "train").out.split())  # a name with a hyphen may be on two lines
    for kind in ("models", "data", "priors", "networks"):
        assert all(name in shown for name in KNOWN_NAMES[kind])
    assert f"Names:{','.join(objective_names())}." in shown


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train", "Missing argument 'MODEL'. For example: pvae train vae "),
        ("compare vae", "Missing option '--out'. For example: pvae compare vae --out reports/a"),
        ("train vae -lr 3", "No such option '-l'. Write --lr with two dashes."),
        ("train vae --epoch 3", "'--epochs'"),
        ("train vae --epochs ten", "'ten' is not a whole number."),
        ("em --components two", "'two' is not a whole number."),
        ("train vae --objective iwae particles=8", "(particles=8). pvae help train shows the arguments, and examples."),
        ("train VAE", "did you mean 'vae'?"),
        ("train vae:latent", "Settings are written name:key=value in 'vae:latent'; got 'latent'."),
        ("evaluate vae", "pvae runs lists the runs of a folder."),
        ("compare vae --objectives elbo iwae --out x", "Commas separate objectives."),
    ],
)
def test_an_error_of_arguments_says_in_one_line_what_to_type(
    line: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*line.split())
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1) and words in done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("train v", ["vae", "vae-gan", "vq-vae", "vqvae"]),
        ("train vae --prior v", ["vamp"]),
        ("compare vae --objectives elbo,iw", ["elbo,iwae"]),
        ("em --data di", ["digits"]),
        ("data fetch mn", ["mnist", "mnist_static"]),
        ("help tr", ["train"]),
        ("help data li", ["list"]),
        ("show runs/a --what sa", ["samples"]),
    ],
)
def test_the_shell_completes_arguments_and_options(typed: str, completed: list[str]) -> None:
    *words, incomplete = typed.split()
    completion = ShellComplete(cli, {}, "pvae", "_PVAE_COMPLETE")
    assert [item.value for item in completion.get_completions(words, incomplete)] == completed
