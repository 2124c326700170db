"""Comparisons in a cluster of Ray that loses a machine; skipped where Ray is not installed."""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from models import Failing, Killed, Linear
from ray_models import watched

import pvae
from pvae.errors import InputError

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install ray")

SUPPORT = Path(__file__).parents[1] / "support"
FAST = {"epochs": 2, "batch_size": 20, "particles": 30, "limit": None, "step": "eager"}
LONG = {**FAST, "epochs": 100, "checkpoint_seconds": 0.3, "validation_particles": 1}
NUMBERS = (
    "best/parameters.safetensors",
    "last/parameters.safetensors",
    "evaluation.safetensors",
    "drawings.safetensors",
)


@pytest.fixture(autouse=True)
def _no_pictures(without_pictures):
    """Leave the pictures of the pages out."""


@pytest.fixture(scope="module")
def data():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    return pvae.load_data(x, validation=0.2, test=0.25)


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two machines with a CPU each, beside the machine of the caller, which has none."""
    from ray.cluster_utils import Cluster

    paths = os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1]), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", paths)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        nodes = [made.add_node(num_cpus=1) for _ in range(2)]
        ray.init(address=made.address, log_to_driver=False)
        yield made, nodes
        ray.shutdown()
        made.shutdown()


def _kill(cluster, node, places, folder):
    """Kill a machine once it runs a cell and there is a checkpoint."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        nodes = [path.read_text().split()[1] for path in places.iterdir()]
        if node.node_id in nodes and list(folder.glob("cells/*/*/*/last/state.json")):
            time.sleep(0.3)
            cluster.remove_node(node, allow_graceful=False)
            return
        time.sleep(0.02)


def test_a_cluster_that_loses_a_machine_has_the_bits_of_a_local_comparison(cluster, data, tmp_path, capsys):
    made, nodes = cluster
    places, folder = tmp_path / "places", tmp_path / "ray"
    places.mkdir()
    models, objectives = {"linear": partial(watched, str(places))}, ["elbo", "iwae:particles=3"]
    killer = threading.Thread(target=_kill, args=(made, nodes[0], places, folder))
    killer.start()
    found = pvae.compare(models, data, objectives, 2, out=folder, executor="ray", **LONG)
    killer.join()
    said = capsys.readouterr().err
    assert "4 cells as tasks of Ray, 1 CPU and 1 thread each, in a cluster of 3 machines" in said
    assert "runs again from its last checkpoint, because its process was lost" in said
    assert "runs again from its last checkpoint" in found.report.read_text()
    built = [path.read_text().split() for path in places.iterdir()]
    ran = [(process, node) for process, node in built if process != str(os.getpid())]
    # A cell more than there are, and no more processes than machines: a process runs several cells.
    assert len(ran) == 5 and len({process for process, _ in ran}) == 2
    local = pvae.compare(models, data, objectives, 2, out=tmp_path / "local", workers=0, progress=False, **LONG)
    for ours, theirs in zip(found.cells, local.cells, strict=True):
        assert not ours.failure
        for name in NUMBERS:
            assert (ours.cell.folder / name).read_bytes() == (theirs.cell.folder / name).read_bytes(), name
    assert [row.log_evidence for row in found.table.rows] == [row.log_evidence for row in local.table.rows]
    again = pvae.compare(models, data, objectives, 2, out=folder, executor="ray", **LONG)
    assert "4 of 4 cells were done before" in capsys.readouterr().err
    assert again.table.to_json() == found.table.to_json()


def test_failed_cells_and_lost_processes_leave_the_others_alone(cluster, data, tmp_path):
    class OfThisTest(Linear):
        """A class that no other process can import: Ray sends it by value."""

    models = {"killed": Killed, "failing": Failing, "good": OfThisTest}
    found = pvae.compare(models, data, "elbo", 1, out=tmp_path, executor="ray", progress=False, **FAST)
    killed, failing, good = found.cells
    assert killed.failure.startswith("its process was lost 3 times") and not good.failure
    assert "this guide has a bug" in failing.failure
    assert not list(tmp_path.rglob("*.lock"))


def test_resources_that_no_machine_has_are_refused(cluster, data, tmp_path):
    for resources in ({"cpus_per_cell": 7}, {"gpus_per_cell": 0.5}):
        with pytest.raises(InputError, match=r"Each cell needs a machine with .* the machines of the cluster have"):
            pvae.compare({"m": Linear}, data, "elbo", 1, out=tmp_path / "x", executor="ray", **resources, **FAST)
    with pytest.raises(InputError, match=r"gpus_per_cell needs a whole number, or a fraction below 1; got 1.5"):
        pvae.compare({"m": Linear}, data, "elbo", 1, out=tmp_path / "x", executor="ray", gpus_per_cell=1.5, **FAST)
