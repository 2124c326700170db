"""A picture that cannot be drawn costs neither the results of a comparison nor its page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pvae
from pvae import InputError, plots

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


class LowerHalf(pvae.LatentModel):
    """Observes the lower half of a picture, given the upper one."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = nn.Linear(2 + 32, 32), nn.Linear(64, 4)

    def model(self, x: Tensor) -> None:
        upper, lower = x.flatten(1).chunk(2, -1)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            logits = self.decoder(torch.cat([z, upper.expand(*z.shape[:-1], 32)], -1))
            pyro.sample("lower", dist.Bernoulli(logits=logits).to_event(1), obs=lower)

    def guide(self, x: Tensor) -> None:
        mean, log_scale = self.encoder(x.flatten(1)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))


def test_a_model_of_half_a_picture_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("no picture")

    monkeypatch.setattr(plots, "latent_scatter", refuse)
    data = pvae.load_data((torch.rand(60, 8, 8) < 0.3).float(), binarise="none")
    result = pvae.compare(
        {"half": LowerHalf},
        data,
        {"elbo": "elbo"},
        seeds=1,
        epochs=1,
        particles=5,
        limit=10,
        workers=0,
        progress=False,
        out=tmp_path,
    )
    assert [outcome.cell.seed for outcome in result.cells] == [0]
    assert "failed" not in str(result)
    page = (tmp_path / "index.html").read_text()
    assert "the codes could not be drawn (ValueError: no picture)" in page
    assert "samples from the model" in page
    assert "their reconstructions" not in page


def test_arrays_of_other_data_are_refused() -> None:
    with pytest.raises(InputError, match="reconstructed needs the same number of values"):
        plots.reconstructions(np.zeros((10, 8, 8)), np.zeros((10, 32)))
