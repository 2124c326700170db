"""Models for comparisons in worker processes, which import this file."""

from __future__ import annotations

import os
import signal

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pvae


class Linear(pvae.LatentModel):
    """Two latent units, four features; as a user would write it, without methods to sample or to reconstruct."""

    def __init__(self):
        super().__init__()
        self.decoder, self.encoder = nn.Linear(2, 4), nn.Linear(4, 2)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


class Killed(Linear):
    """Its process dies in the first training step."""

    def guide(self, x):
        if self.training:
            os.kill(os.getpid(), signal.SIGKILL)
        super().guide(x)


class Failing(Linear):
    """Raises in the first training step."""

    def guide(self, x):
        raise RuntimeError("this guide has a bug")


class TutorialVAE(nn.Module):
    """The shape of the class in Pyro's VAE tutorial: no base class, ``pyro.module`` inside, Bernoulli pixels."""

    def __init__(self, z_dim=2):
        super().__init__()
        self.decoder, self.encoder, self.z_dim = nn.Linear(z_dim, 16), nn.Linear(16, 2 * z_dim), z_dim

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            loc, scale = x.new_zeros(x.shape[0], self.z_dim), x.new_ones(x.shape[0], self.z_dim)
            z = pyro.sample("latent", dist.Normal(loc, scale).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x.reshape(-1, 16))

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = self.encoder(x.reshape(-1, 16)).chunk(2, dim=-1)
            pyro.sample("latent", dist.Normal(loc, log_scale.exp()).to_event(1))


class Mixture(pvae.LatentModel):
    """One discrete latent, no continuous one: nothing to scatter."""

    def __init__(self):
        super().__init__()
        self.centres, self.encoder = nn.Parameter(torch.randn(3, 4)), nn.Linear(4, 3)

    def model(self, x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=torch.zeros(3)))
            pyro.sample("x", dist.Normal(self.centres[k], 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=self.encoder(x)))


def build_linear(splits):
    """A factory that asks for the data."""
    if splits.data_shape != (4,):
        raise ValueError(f"expected 4 features, got {splits.data_shape}")
    return Linear()
