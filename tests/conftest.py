"""Fixtures for every test: state that a test must leave as it found it, and data that may be absent."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch

torch.set_num_threads(1)
# Python's default of 700 new objects between two collections costs a fifth of the time of a test that draws figures.
gc.set_threshold(50_000, 10, 10)

ROOT = Path(__file__).resolve().parent.parent


def _settings() -> dict[str, Any]:
    """Process-wide settings that the library must never leave changed."""
    return {
        "torch's default dtype": torch.get_default_dtype(),
        "the number of threads": torch.get_num_threads(),
        "gradients enabled": torch.is_grad_enabled(),
        "Pyro's settings": pyro.settings.get(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "Pyro's handler stack": len(pyro.poutine.runtime._PYRO_STACK),
    }


def _restore(settings: dict[str, Any]) -> None:
    torch.set_default_dtype(settings["torch's default dtype"])
    torch.set_num_threads(settings["the number of threads"])
    torch.set_grad_enabled(settings["gradients enabled"])
    if torch.are_deterministic_algorithms_enabled() != settings["deterministic algorithms"]:
        torch.use_deterministic_algorithms(settings["deterministic algorithms"])  # its first call imports inductor
    pyro.settings.set(**settings["Pyro's settings"])
    del pyro.poutine.runtime._PYRO_STACK[settings["Pyro's handler stack"] :]


@pytest.fixture(autouse=True)
def leaves_no_trace(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves parameters in Pyro's store or a process-wide setting changed.

    A test may seed the generators itself, so these are put back and not compared; that the library leaves
    them alone is tested where the library uses them.
    """
    before = _settings()
    generators = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    yield
    after = _settings()
    left = sorted(pyro.get_param_store().keys())
    pyro.clear_param_store()
    _restore(before)
    random.setstate(generators[0])
    np.random.set_state(generators[1])  # noqa: NPY002
    torch.set_rng_state(generators[2])
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    if changed:
        pytest.fail(f"The test left process-wide settings changed (before, after): {changed}")
    if left and not request.node.get_closest_marker("keeps_params"):
        pytest.fail(
            f"The test left parameters in Pyro's global store: {left[:5]}. Run it inside "
            "pyro.get_param_store().scope(), or mark it keeps_params where plain SVI is what it tests."
        )


@pytest.fixture
def own_store() -> Iterator[None]:
    """Give the test a param store of Pyro of its own: ``pytestmark = pytest.mark.usefixtures("own_store")``."""
    with pyro.get_param_store().scope():
        yield


@pytest.fixture
def seeded() -> None:
    """Seed torch's generator before the test."""
    torch.manual_seed(0)


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures of HTML pages out: to draw and to render them takes most of a small comparison."""
    monkeypatch.setattr("pvae.report.writing._encode_pictures", lambda page: {})
    monkeypatch.setattr("pvae.comparison.page.report_data.ReportData.rows_with_pictures", lambda data: [])


@pytest.fixture
def set_free_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[float | None], None]:
    """A function that sets the free memory, in bytes, which programs find; None if it is not known."""

    def patch(count: float | None) -> None:
        for module in ("memory_limit", "memory_growth", "fitting_runs"):
            monkeypatch.setattr(f"pvae.programs.{module}.free_bytes", lambda device: count)

    return patch


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with MNIST and Frey faces: ``$PVAE_DATA``, else ``../shared/data`` beside the checkout."""
    named = os.environ.get("PVAE_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs real data: neither $PVAE_DATA nor ../shared/data is a folder")
    return folder


@pytest.fixture(scope="session")
def mnist_folder(data_folder: Path) -> Path:
    """The data folder, where it holds MNIST."""
    if not (data_folder / "mnist").is_dir():
        pytest.skip(f"needs MNIST: no folder mnist in {data_folder}")
    return data_folder


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Keep the garbage collector from traversing the collected tests and the imported modules again and again."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
