"""A process that was forked after torch had several threads uses one, or is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run_script
from hostile_files import Reaction, reaction_to

import pvae
from pvae.randomness import preserved_randomness

SPLITS = pvae.load_data(np.eye(6).repeat(5, axis=0), validation=0, test=0, binarise="none")
FIT = {"epochs": 1, "step": "eager", "progress": False}
_LIMIT = 100.0  # seconds; a fork that waits for threads that it does not have never ends


def _fit(threads_of_child: int | None, **options: object) -> None:
    if threads_of_child is not None:
        torch.set_num_threads(threads_of_child)
    run = pvae.fit(pvae.ModelSpec("vae", {"hidden": (3,)}), SPLITS, **FIT, **options)
    raise RuntimeError(f"loss {run.history[-1]['loss']!r}")


def _after_threads(block: object) -> Reaction:
    """Run a block in a child of a process in which two threads of torch have worked."""

    def parent() -> None:
        torch.set_num_threads(2)
        torch.ones(10**6).exp().sum()
        reaction = reaction_to(block, _LIMIT)
        raise RuntimeError(f"{reaction.error}: {reaction.text}")

    return reaction_to(parent, 2 * _LIMIT)


def test_a_fork_after_threads_is_refused_or_right() -> None:
    # In a new process: a process of the test suite may be a fork itself, or have had threads of torch before.
    done = run_script(Path(__file__))
    assert done.returncode == 0, done.stderr


def _check_forks() -> None:
    refused = _after_threads(lambda: _fit(None))
    assert "InputError: This process was forked" in refused.text and "'spawn'" in refused.text
    assert "InputError: This process was forked" in _after_threads(lambda: _fit(1, threads=2)).text
    assert "InputError: This process was forked" in _after_threads(lambda: pvae.load_data(np.eye(6))).text
    assert "InputError: This process was forked" in _after_threads(lambda: pvae.GaussianMixture(2).fit(np.eye(6))).text
    right = reaction_to(lambda: _fit(1), _LIMIT).text
    assert "loss" in right and right in _after_threads(lambda: _fit(1)).text


FORK_BEFORE_PVAE = """
import multiprocessing, sys

def child():
    import torch
    torch.set_num_threads(2)
    from pvae.forked_threads import require_usable_threads
    try:
        require_usable_threads()
        print("accepted", torch.ones(10**6).exp().sum().item() > 0)
    except ValueError as error:
        print(error)

if "first" in sys.argv:
    import torch
    torch.set_num_threads(2)
    torch.ones(10**6).exp().sum()
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join(60)
process.kill()
"""


@pytest.mark.parametrize(("order", "said"), [("first", "This process was forked"), ("later", "accepted True")])
def test_a_fork_before_the_import_of_pvae_is_refused_if_torch_was_imported_before_it(order: str, said: str) -> None:
    command = [sys.executable, "-c", FORK_BEFORE_PVAE, order]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert said in done.stdout, done


def test_a_fork_does_not_wait_for_a_thread_that_it_does_not_have() -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with preserved_randomness():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        entered.wait()
        assert "loss" in reaction_to(lambda: _fit(1)).text
    finally:
        leave.set()
        thread.join()


if __name__ == "__main__":
    _check_forks()
