"""A training in several processes equals that of one process on the same batches; what would not is refused."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import distributed_cases as cases
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.distributions import Bernoulli, Categorical, Gamma, Normal

import pvae
from pvae.data import minibatches
from pvae.errors import InputError
from pvae.train import open_run
from pvae.train.checkpoint import read_state
from pvae.train.distributed.constant_draws import ConstantDraws


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each process found: "3" and "2" for the number of processes, and "end"; and their folder."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "port").write_text(str(_free_port()))
    command = [sys.executable, cases.__file__, str(folder)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        ends = parent.communicate(timeout=240)[0].splitlines()[-1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
    assert json.loads(ends) == [0, 9, 0]  # process 1 ends itself at last

    def read(name: str, count: int) -> list[Any]:
        return [json.loads((folder / f"{name}.{rank}.json").read_text()) for rank in range(count)]

    return {"3": read("3", 3), "2": read("2", 2), "end": read("end", 2), "folder": folder}


ONE_PROCESS: dict[str, Callable[[], Any]] = {
    **cases.EXACT,
    "graph": cases.graph_of_autoencoder,
    "changed count": lambda: cases.trained(epochs=4, max_steps=None),
}


@pytest.mark.parametrize("name", list(ONE_PROCESS))
def test_several_processes_give_the_numbers_of_one(found: dict[str, Any], name: str) -> None:
    one = ONE_PROCESS[name]()
    groups = (
        [found["2"]] if name == "changed count" else [found[count] for count in ("3", "2") if name in found[count][0]]
    )
    for group in groups:
        for process in group:
            assert process[name] == group[0][name]
            assert_allclose(process[name]["tensors"], one["tensors"], rtol=1e-9, atol=1e-11)
            assert_allclose(process[name]["losses"], one["losses"], rtol=1e-9)


def test_processes_share_the_data_of_each_batch_and_draw_their_own_noise(found: dict[str, Any]) -> None:
    first, second = (process["recorded"] for process in found["2"])
    whole = cases.recorded()
    for step in range(5):
        assert first["x"][step] == whole["x"][step][::2]
        assert second["x"][step] == whole["x"][step][1::2]
        assert set(first["noise"][step]).isdisjoint(second["noise"][step])
    assert first["x"][5] == second["x"][5] == whole["x"][5]  # one datum, with weight 0 in the second process


def test_a_resumed_training_of_two_processes_has_the_bits_of_one_without_a_break(found: dict[str, Any]) -> None:
    assert [process["resumed"]["equal"] for process in found["2"]] == [True, True]
    assert found["2"][0]["resumed"]["sum"] == found["2"][1]["resumed"]["sum"]


def test_running_averages_of_batch_normalisation_are_averaged_and_it_is_said(found: dict[str, Any]) -> None:
    groups = [process["batch norm"] for process in found["3"]]
    assert groups[0]["mean"] == groups[1]["mean"] == groups[2]["mean"]
    assert_allclose(groups[0]["mean"], cases.batch_norm()["mean"], rtol=1e-12)
    assert "1 batch normalisations use the data of each process alone, 10 or 11 of 31" in groups[0]["said"]
    assert groups[1]["said"] == groups[2]["said"] == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mmd", "is not one: its loss for a batch is not the mean over the shares"),
        ("total correlation", "is not the mean over the shares"),
        ("factor-vae", "draws random numbers by torch.randperm"),
        ("global", "is not one: its loss for a batch is not the mean over the shares"),
        ("max_seconds", "Give max_steps or epochs"),
        ("rollback", "Use on_divergence='stop'"),
        ("batch", "a batch has 1. Give a larger batch_size"),
        ("loader", "Give arrays, files or an indexed data set"),
        ("other data", "the same data in each of them; 2 of 3 processes differ"),
        ("batch norm of one datum", "the smallest has 1 data, and the step fails on it: ValueError"),
        ("divergence", "diverged at step 1: a number is not finite"),
    ],
)
def test_what_several_processes_would_not_train_alike_is_refused(found: dict[str, Any], name: str, words: str) -> None:
    for process in found["3"]:
        kind, _, message = process["refusals"][name].partition(": ")
        assert kind == ("DivergenceError" if name == "divergence" else "InputError")
        assert words in message and "\n" not in message


def test_all_processes_end_if_one_fails_or_gets_a_signal(found: dict[str, Any]) -> None:
    other, failed = (process["error"] for process in found["2"])
    message = "Process 1 of this training has failed in a step, and all processes end. See the message of that process."
    assert other == f"LostProcessError: {message}"
    assert failed.startswith("ValueError: the planted error")
    assert [process["signal"] for process in found["2"]] == ["SystemExit: 143"] * 2
    assert 0 < read_state(found["folder"] / "signal0" / "last")["step"] < 12
    assert not (found["folder"] / "signal1").exists()
    (end, _) = found["end"]
    assert end["death"].startswith("LostProcessError: Another process of the group has ended")
    assert end["seconds"] < 60


def test_the_command_line_joins_the_processes_of_torchrun(found: dict[str, Any]) -> None:
    first, second = (process["command"] for process in found["end"])
    assert first["code"] == second["code"] == 0
    assert second["out"] == ""
    assert "2 processes train together; each takes 50 of the 100 data of a batch" in first["err"]
    assert open_run(found["folder"] / "run").config["training"]["max_steps"] == 3
    assert read_state(found["folder"] / "run" / "last")["step"] == 3


@pytest.mark.parametrize("kind", ["memory", "file", "labelled"])
def test_the_shares_of_a_batch_are_the_batch(kind: str, tmp_path: Path) -> None:
    x = torch.arange(23.0).unsqueeze(1)
    data = pvae.Batch(x=x)
    options: dict[str, Any] = {}
    if kind == "file":
        np.save(tmp_path / "x.npy", x.numpy())
        data = pvae.load_data(tmp_path / "x.npy", validation=0.0, test=0.0, resident=False).train
    elif kind == "labelled":
        data, options = data.replace(y=torch.where(torch.arange(23) < 4, 0, -1)), {"labelled": 0.2}
    whole = list(minibatches(data, 5, seed=2, epoch=1, start=1, **options))
    shares = [list(minibatches(data, 5, seed=2, epoch=1, start=1, share=(rank, 3), **options)) for rank in range(3)]
    assert len(whole) > 3
    for number, batch in enumerate(whole):
        for rank, share in enumerate(shares):
            expected = batch.x[rank::3] if rank < batch.size else batch.x[:1]
            assert torch.equal(share[number].x, expected)


def test_constant_draws_are_the_same_for_each_datum() -> None:
    with ConstantDraws():
        assert Normal(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 3.0])).rsample().tolist() == pytest.approx(
            [0.3, 2.9]
        )
        assert Bernoulli(torch.tensor([0.2, 0.6])).sample().tolist() == [0.0, 1.0]
        assert Categorical(torch.tensor([[0.1, 0.9], [0.7, 0.3]])).sample().tolist() == [1, 0]
        assert Gamma(torch.tensor([2.0, 5.0]), torch.tensor(1.0)).rsample().tolist() == pytest.approx([2.0, 5.0])
        with pytest.raises(InputError, match="randperm"):
            torch.randperm(3)
