"""Integers and booleans reach the programs as they are, in training, evaluation and a run that is opened again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pvae
from pvae import evaluate

RNG = np.random.default_rng(0)
DATA = {
    "x": RNG.normal(size=(40, 3)),
    "site": RNG.integers(0, 4, 40),
    "seen": RNG.random((40, 3)) < 0.5,
    "weight": RNG.random(40),
}


class Sites(pvae.LatentModel):
    """x given z and an embedding of the site; only what is seen is scored."""

    def __init__(self, kinds: list[Any] | None = None) -> None:
        super().__init__()
        self.kinds = kinds
        self.embedding, self.encoder = nn.Embedding(4, 3), nn.Linear(3, 2)

    def model(self, x: Tensor, site: Tensor, seen: Tensor, weight: Tensor) -> None:
        if self.kinds is not None:
            self.kinds.append((x.dtype, site.dtype, seen.dtype, weight.dtype))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            mean = self.embedding(site) + z.unsqueeze(-1)
            with pyro.poutine.mask(mask=seen.any(-1)):
                pyro.sample("x", dist.Normal(mean, 1.0).mask(seen).to_event(1), obs=x)

    def guide(self, x: Tensor, site: Tensor, seen: Tensor, weight: Tensor) -> None:
        loc, log_scale = self.encoder(x * seen).unbind(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()))


def test_programs_get_the_kinds_of_the_data(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Sites([])
    data = pvae.load_data(DATA, validation=8, test=8)
    run = pvae.fit(model, data, epochs=2, batch_size=7, step="eager", progress=False, out=tmp_path / "run")
    value = evaluate.elbo(run, data, 10).value
    expected = (torch.float32, torch.int64, torch.bool, torch.float32)
    assert model.kinds and set(model.kinds) == {expected}
    again = pvae.open_run(tmp_path / "run", Sites([]))
    assert evaluate.elbo(again, data, 10).value == value
    assert set(again.model.kinds) == {expected}
    assert run.config["data"]["fields"]["seen"] == {"shape": [3], "dtype": "bool"}


def test_a_graph_and_eager_steps_agree_on_integer_and_boolean_fields() -> None:
    finals = []
    for step in ("graph", "eager"):
        torch.manual_seed(0)
        run = pvae.fit(
            Sites(), pvae.load_data(DATA, validation=0, test=0), epochs=2, batch_size=8, step=step, progress=False
        )
        finals.append(run.model.embedding.weight.detach())
    assert torch.allclose(*finals)
