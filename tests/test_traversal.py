"""Traversals of latent units, against the decoder itself."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

from pvae.batch import Batch
from pvae.errors import InputError
from pvae.models.base import pair
from pvae.models.traversal import traverse
from pvae.models.vae import VAE


def test_traversal_agrees_with_the_decoder_at_each_unit_and_step() -> None:
    vae, values = VAE((2, 3), latent=4, hidden=5), torch.linspace(-2, 2, 3)
    found = traverse(vae, Batch(x=torch.zeros(7, 6)), values)
    assert found.shape == (4, 3, 6)
    for unit in range(4):
        for step in range(3):
            z = torch.zeros(1, 4)
            z[0, unit] = values[step]
            torch.testing.assert_close(found[unit, step], vae.decode(z).mean[0].detach())


def test_traversal_refuses_two_latent_sites() -> None:
    def program(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            total = pyro.sample("a", dist.Normal(0.0, 1.0)) + pyro.sample("b", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(total, 1.0), obs=x)

    def guide(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Normal(x, 1.0))
            pyro.sample("b", dist.Normal(x, 1.0))

    with pytest.raises(InputError, match="one latent site; the guide has a, b"):
        traverse(pair(program, guide), Batch(x=torch.zeros(3)), torch.zeros(2))
