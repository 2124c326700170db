"""`pvae show` on programs for a fixed number of data: pictures of all data, or an error with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import run

PROGRAMS = """
import pyro
import pyro.distributions as dist
import torch
import pvae


class Fixed(pvae.LatentModel):
    def __init__(self):
        super().__init__()
        self.means = torch.nn.Parameter(torch.randn(30, 2))
        self.decoder = torch.nn.Linear(2, 4)

    def model(self, x):
        with pyro.plate("data", 30):
            z = pyro.sample("z", dist.Normal(torch.zeros(30, 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", 30):
            pyro.sample("z", dist.Normal(self.means, 0.5).to_event(1))
"""


def test_programs_for_a_fixed_number_of_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fixed.py").write_text(PROGRAMS)
    np.save("x.npy", np.random.default_rng(0).normal(size=(33, 4)).astype("float32"))  # 30 for training, 3 for a test
    words = ["--data", "x.npy", "--validation", "0", "--epochs", "1", "--out", "r"]
    assert run("train", "fixed.py:Fixed", *words).code == 0
    for what in ("samples", "reconstructions", "latent"):
        assert run("show", "r", "--trust", "--split", "train", "--what", what).code == 0, what
    for what in ("traversal", "interpolation", "plane"):
        refused = run("show", "r", "--trust", "--split", "train", "--what", what)
        assert refused.code == 2
        assert "are for 30 data" in refused.err and "reconstructions" in refused.err
