"""Objectives compute on the device of their data alone, and read no number from it; proven without a card."""

from __future__ import annotations

from pathlib import Path

import pytest
import zoo
from command_line import run_script

SCRIPT = Path(__file__).with_name("pretend_accelerator.py")


def faults(*arguments: str) -> dict[str, str]:
    """What the script finds for each objective: "fine" or a fault."""
    done = run_script(SCRIPT, *arguments)
    assert done.returncode == 0, done.stderr
    return dict(line.split("\t") for line in done.stdout.splitlines())


def test_all_objectives_stay_on_the_device_of_their_data() -> None:
    found = faults()
    assert found.keys() == zoo.OBJECTIVES.keys()
    # TraceGraph_ELBO of Pyro wraps tensors in a class of its own, which fake tensors do not allow.
    wrong = {text: fault for text, fault in found.items() if fault != "fine" and "ProvenanceTensor" not in fault}
    assert not wrong
    assert all(text.startswith("elbo-graph") for text, fault in found.items() if fault != "fine")


@pytest.mark.parametrize(
    ("plant", "error"),
    [
        ("cpu", "at least two devices"),
        ("item", "DataDependentOutputException"),
        ("numpy", "numpy"),
    ],
)
def test_a_planted_fault_is_found(plant: str, error: str) -> None:
    (fault,) = faults("--plant", plant).values()
    assert error in fault, fault
