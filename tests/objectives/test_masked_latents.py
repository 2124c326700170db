"""Objectives that compare draws of z refuse a latent site with a mask, because they cannot leave entries out."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

import pvae
from pvae.objectives import make_objective

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

COMPARE_DRAWS = ("wae", "info-mmd", "total-correlation", "factor-vae", "aae", "ali", "vae-gan")


PLAYERS = {"factor-vae": "critic", "aae": "critic", "ali": "critic", "vae-gan": "critic"}


class Masked(pvae.LatentModel):
    """z of the first half of the data alone."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(3, 2), nn.Linear(2, 3)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=torch.arange(len(x)) < len(x) // 2):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)), poutine.mask(mask=torch.arange(len(x)) < len(x) // 2):
            pyro.sample("z", dist.Normal(self.encoder(x), 1.0).to_event(1))

    def theta(self) -> list[nn.Parameter]:
        return list(self.decoder.parameters())

    def phi(self) -> list[nn.Parameter]:
        return list(self.encoder.parameters())


@pytest.mark.parametrize("text", COMPARE_DRAWS)
def test_a_masked_latent_site_is_refused_by_objectives_that_compare_draws(text: str) -> None:
    masked, x = Masked(), torch.randn(4, 3)
    with pytest.raises(pvae.InputError, match=r"compares draws of z .* the site 'z' is masked"):
        make_objective(text)().terms(masked.model, masked.guide, (x,), {}, PLAYERS.get(text, "all"))
