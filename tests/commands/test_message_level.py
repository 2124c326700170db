"""Lines of progress: printed, hidden by --quiet, with details by --verbose, or given to logging, never twice."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import torch
from command_line import run

import pvae
from pvae.cli import cli
from pvae.logs import PACKAGE, is_recorded, say, timed

SMALL = ["--step", "eager", "--latent", "2", "--hidden", "4", "--epochs", "1"]
EPOCH = "epoch 1/1  loss "


@pytest.fixture(autouse=True)
def _level() -> Iterator[None]:
    yield
    PACKAGE.setLevel(logging.NOTSET)


def _commands(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from _commands(command)
        else:
            yield command


def test_every_command_has_both_options() -> None:
    flags = [{flag for option in command.params for flag in option.opts} for command in _commands(cli)]
    assert len(flags) > 15 and all({"--quiet", "--verbose"} <= given for given in flags)


def test_a_command_prints_progress_and_what_comes_next(tmp_path: Path) -> None:
    done = run("train", "vae", *SMALL, "--out", str(tmp_path / "run"))
    assert done.code == 0 and done.err.count(EPOCH) == 1 and "Next:" in done.out and "debug" not in done.err


def test_a_quiet_command_prints_its_result_alone(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    done = run("train", "vae", *SMALL, "--out", folder, "--quiet")
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith(f"run               {folder}\n")
    assert run("evaluate", folder, "--particles", "5", "--limit", "9", "-q").err == ""
    refused = run("show", folder, "--what", "nothing", "-q")
    assert refused.code == 2 and refused.err.startswith("pvae: error: ")


def test_a_verbose_command_prints_details_and_each_line_once(tmp_path: Path) -> None:
    handlers = list(PACKAGE.handlers)
    done = run("train", "vae", *SMALL, "--out", str(tmp_path / "run"), "--verbose")
    assert done.err.count(EPOCH) == 1 and done.err.count("debug: pvae.train.trainer: train: ") == 1
    assert (PACKAGE.level, PACKAGE.handlers) == (logging.NOTSET, handlers)


def test_quiet_and_verbose_exclude_each_other() -> None:
    done = run("list", "--quiet", "--verbose")
    assert (done.code, done.err.count("\n")) == (2, 1) and "cannot be used together" in done.err


def _fit(progress: bool | None = None) -> None:
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    data = pvae.load_data(x, validation=0, test=0)
    pvae.fit("vae:latent=1:hidden=2:likelihood=gaussian", data, epochs=1, step="eager", progress=progress)


def test_a_training_gives_its_lines_to_logging_or_prints_them(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    _fit()
    assert capsys.readouterr().err.count(EPOCH) == 1 and caplog.messages == []
    with caplog.at_level(logging.INFO):
        _fit()
    records = [record for record in caplog.records if EPOCH in record.getMessage()]
    assert [(record.name, record.levelname) for record in records] == [("pvae.train.progress", "INFO")]
    PACKAGE.setLevel(logging.WARNING)
    with caplog.at_level(logging.INFO):
        caplog.clear()
        _fit()
    assert (capsys.readouterr().err, caplog.messages) == ("", [])
    PACKAGE.setLevel(logging.NOTSET)
    _fit(progress=False)
    assert capsys.readouterr().err == ""


def test_a_level_without_a_handler_hides_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("pvae.only.here")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    logger.addHandler(logging.NullHandler())
    say(logger, "printed")
    assert not is_recorded(logger) and capsys.readouterr().err == "printed\n"


def test_the_time_of_a_phase_is_logged_even_if_it_raises(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([10.0, 12.5])
    monkeypatch.setattr("pvae.logs.time.monotonic", lambda: next(times))
    with caplog.at_level(logging.DEBUG), pytest.raises(ValueError, match="stop"), timed(PACKAGE, "phase"):
        raise ValueError("stop")
    assert caplog.messages == ["phase: 2.500 s"]
