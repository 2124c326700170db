"""A sigmoid belief net: layers of Bernoulli units, each given the layer above; the guide draws the lowest first."""

import itertools

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pvae


class SigmoidBeliefNet(pvae.LatentModel):
    """p(z_L) ... p(z_1 given z_2) p(x given z_1) with binary layers; q(z_1 given x) ... q(z_L given z_(L-1)).

    Args:
        data_shape: shape of one x.
        layers: number of units of each layer; the first layer is the one next to the data.
    """

    def __init__(self, data_shape=(28, 28), layers=(200, 200, 200)):
        super().__init__()
        pixels = torch.Size(data_shape).numel()
        sizes = [pixels, *((layers,) if isinstance(layers, int) else layers)]
        self.up = nn.ModuleList(nn.Linear(below, above) for below, above in itertools.pairwise(sizes))
        self.down = nn.ModuleList(nn.Linear(above, below) for below, above in itertools.pairwise(sizes))
        self.top = nn.Parameter(torch.zeros(sizes[-1]))

    def model(self, x):
        flat = x.flatten(1)
        with pyro.plate("data", len(x)):
            logits = self.top.expand(len(x), -1)
            for layer in range(len(self.down), 0, -1):
                z = pyro.sample(f"z{layer}", dist.Bernoulli(logits=logits).to_event(1))
                logits = self.down[layer - 1](z)
            return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=flat)

    def guide(self, x):
        z = x.flatten(1)
        with pyro.plate("data", len(x)):
            for layer, up in enumerate(self.up, start=1):
                z = pyro.sample(f"z{layer}", dist.Bernoulli(logits=up(2 * z - 1)).to_event(1))
