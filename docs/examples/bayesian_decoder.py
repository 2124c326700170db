"""A VAE whose decoder is uncertain: its weights have a prior, and a posterior that all data share."""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pvae


class BayesianDecoder(pvae.LatentModel):
    """w ~ N(0, 1 / fan-in), z ~ N(0, 1), x ~ Bernoulli(decoder of w at z); q(w) and q(z given x) are diagonal.

    Args:
        data_shape: of one x.
        data_size: number N of training data; a batch of B stands for them with the scale N / B.
        latent: dimensions of z.
        hidden: units of the decoder's one hidden layer, and of the encoder's.
        start: standard deviation of q(w) at the start, as a share of the prior's.
    """

    def __init__(self, data_shape, data_size, latent=8, hidden=64, start=0.1):
        super().__init__()
        pixels = math.prod(data_shape) if isinstance(data_shape, tuple) else data_shape
        self.latent, self.data_size = latent, data_size
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.Tanh(), nn.Linear(hidden, 2 * latent))
        # One row more than inputs: the bias.
        self.sizes = [(latent + 1, hidden), (hidden + 1, pixels)]
        self.loc = nn.ParameterList(torch.randn(size) / size[0] ** 0.5 for size in self.sizes)
        self.log_scale = nn.ParameterList(torch.full(size, math.log(start / size[0] ** 0.5)) for size in self.sizes)

    def model(self, x):
        weights = []
        for layer, size in enumerate(self.sizes):
            prior = dist.Normal(x.new_zeros(size), size[0] ** -0.5)
            weights.append(pyro.sample(f"w{layer}", prior.to_event(2)))
        # The indices say which data a batch holds; pyro needs only their number, for the scale N / B.
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
        """Logits of x given z under one draw of the weights, or one draw for each particle."""
        return affine(torch.tanh(affine(z, first)), last)


def affine(z, weights):
    """z times all rows but the last, plus the last; any dimensions may stand in front of both."""
    return (z.unsqueeze(-2) @ weights[..., :-1, :]).squeeze(-2) + weights[..., -1, :]
