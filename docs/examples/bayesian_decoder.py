"""A VAE with a Bayesian decoder: its weights have a prior, and one posterior for all data."""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pvae


class BayesianDecoder(pvae.LatentModel):
    """w ~ N(0, 1 / fan-in), z ~ N(0, 1), x ~ Bernoulli(decoder(z; w)); q(w) and q(z given x) are diagonal Gaussians.

    Args:
        data_shape: shape of one x.
        data_size: number N of training data; the terms of a batch of B data are multiplied by N / B.
        latent: number of dimensions of z.
        hidden: number of units of the one hidden layer of the decoder, and of that of the encoder.
        start: initial standard deviation of q(w), divided by that of the prior.
    """

    def __init__(self, data_shape, data_size, latent=8, hidden=64, start=0.1):
        super().__init__()
        pixels = math.prod(data_shape) if isinstance(data_shape, tuple) else data_shape
        self.latent, self.data_size = latent, data_size
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.Tanh(), nn.Linear(hidden, 2 * latent))
        # The last row of each weight matrix is the bias.
        self.sizes = [(latent + 1, hidden), (hidden + 1, pixels)]
        self.loc = nn.ParameterList(torch.randn(size) / size[0] ** 0.5 for size in self.sizes)
        self.log_scale = nn.ParameterList(torch.full(size, math.log(start / size[0] ** 0.5)) for size in self.sizes)

    def model(self, x):
        weights = []
        for layer, size in enumerate(self.sizes):
            prior = dist.Normal(x.new_zeros(size), size[0] ** -0.5)
            weights.append(pyro.sample(f"w{layer}", prior.to_event(2)))
        # Pyro uses only the number of indices, for the scale N / B.
        with pyro.plate("data", self.data_size, subsample=torch.arange(len(x), device=x.device)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.latent), 1.0).to_event(1))
            logits = self.decode(z, *weights)
            return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x.flatten(1))

    def guide(self, x):
        for layer, (loc, log_scale) in enumerate(zip(self.loc, self.log_scale, strict=True)):
            pyro.sample(f"w{layer}", dist.Normal(loc, log_scale.exp()).to_event(2))
        with pyro.plate("data", self.data_size, subsample=torch.arange(len(x), device=x.device)):
            loc, raw = self.encoder(x.flatten(1)).chunk(2, dim=-1)
            return pyro.sample("z", dist.Normal(loc, nn.functional.softplus(raw)).to_event(1))

    def decode(self, z, first, last):
        """Return the logits of x given z, for one draw of the weights or one draw per particle."""
        return affine(torch.tanh(affine(z, first)), last)


def affine(z, weights):
    """Return z times all rows of the weights but the last, plus the last row; leading dimensions broadcast."""
    return (z.unsqueeze(-2) @ weights[..., :-1, :]).squeeze(-2) + weights[..., -1, :]
