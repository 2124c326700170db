"""Splits that take the place of the data that were read, and memory of a mixture of a large file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pvae import load_data


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_splits_of_a_file_are_those_of_its_array_which_stays_as_it_is(tmp_path: Path, dtype: type) -> None:
    x = (1000 * np.random.default_rng(0).normal(size=(40_000, 2))).astype(dtype)
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(len(x)) % 3)
    before = x.copy()
    read, given = load_data(tmp_path / "x.npz", seed=1), load_data({"x": x, "y": np.arange(len(x)) % 3}, seed=1)
    assert np.array_equal(x, before) and read.checksum == given.checksum
    for part, batch in given.parts.items():
        assert torch.equal(read.parts[part].x, batch.x) and torch.equal(read.parts[part]["y"], batch["y"])
        assert np.array_equal(batch.x.numpy(), x[given.positions[part]].astype(batch.x.numpy().dtype))


def test_a_mixture_of_a_large_file_needs_less_than_twice_its_size(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(400_000, 16))  # 49 MiB
    np.save(tmp_path / "x.npy", x)
    script = """
import resource, sys
import pvae.data, pvae.em, pvae.evaluate, pandas
from pvae.cli import cli
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before = peak()
words = "em --components 2 --covariance diag --max-iter 2 --init random_from_data --no-progress --json --data".split()
try:
    cli([*words, sys.argv[1]], standalone_mode=False)
finally:
    print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "x.npy")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout.splitlines()[-1]) < 2 * x.nbytes
