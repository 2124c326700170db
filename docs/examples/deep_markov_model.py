"""A deep Markov model of sequences of different lengths, with a guide that reads each sequence backwards."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import nn

import pvae


class GatedTransition(nn.Module):
    """p(z_t given z_(t-1)): for each unit, a gate mixes a linear and a nonlinear function of z_(t-1)."""

    def __init__(self, latent, hidden):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, latent), nn.Sigmoid())
        self.proposal = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, latent))
        self.linear = nn.Linear(latent, latent)
        self.scale = nn.Linear(latent, latent)
        # The linear function starts as the identity.
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, z):
        gate, proposal = self.gate(z), self.proposal(z)
        loc = (1 - gate) * self.linear(z) + gate * proposal
        return loc, nn.functional.softplus(self.scale(torch.relu(proposal)))


class Combiner(nn.Module):
    """q(z_t given z_(t-1) and the data from t on): combines z_(t-1) with the state of the backward network."""

    def __init__(self, latent, hidden):
        super().__init__()
        self.past = nn.Sequential(nn.Linear(latent, hidden), nn.Tanh())
        self.loc, self.scale = nn.Linear(hidden, latent), nn.Linear(hidden, latent)

    def forward(self, z, future):
        both = (self.past(z) + future) / 2
        return self.loc(both), nn.functional.softplus(self.scale(both))


class DeepMarkovModel(pvae.LatentModel):
    """A chain z_1, z_2, ... with gated transitions, and binary or real data x_t given z_t.

    Args:
        data_shape: (time, features) of one x; the entries after the end of a sequence are not used.
        latent: number of dimensions of each z_t.
        hidden: number of hidden units of each network.
        real: whether x_t is a vector of real numbers; otherwise its entries are 0 or 1.
    """

    def __init__(self, data_shape, latent=4, hidden=16, real=False):
        super().__init__()
        self.time, features = data_shape
        self.start, self.guide_start = nn.Parameter(torch.zeros(latent)), nn.Parameter(torch.zeros(latent))
        self.transition = GatedTransition(latent, hidden)
        self.emission = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, features))
        self.log_noise = nn.Parameter(torch.zeros(features)) if real else None
        self.backwards = nn.GRUCell(features, hidden)
        self.combiner = Combiner(latent, hidden)

    def emit(self, z):
        if self.log_noise is None:
            return dist.Bernoulli(logits=self.emission(z)).to_event(1)
        return dist.Normal(self.emission(z), self.log_noise.exp()).to_event(1)

    def model(self, x, lengths):
        z = self.start
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(self.time)):
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z{t}", dist.Normal(*self.transition(z)).to_event(1))
                    pyro.sample(f"x{t}", self.emit(z), obs=x[:, t])

    def guide(self, x, lengths):
        futures, z = self.read(x, lengths), self.guide_start
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(self.time)):
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z{t}", dist.Normal(*self.combiner(z, futures[t])).to_event(1))

    def read(self, x, lengths):
        """Return the state of the backward network for each t, which depends on the data from t on; 0 after the end."""
        future = x.new_zeros(len(x), self.backwards.hidden_size)
        found = []
        for t in reversed(range(self.time)):
            going = (t < lengths).unsqueeze(1)
            future = torch.where(going, self.backwards(x[:, t], future), future)
            found.append(future)
        return found[::-1]


def running_lights(size, time=10, lamps=6, noise=0.05, seed=0):
    """Simulate rings of lamps: one lamp is on, and the light moves left or right; some lamps show the wrong state.

    Returns:
        x, shape (size, time, lamps), and the lengths of the sequences, from time // 2 to time, shape (size,).
    """
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(lamps, (size, 1), generator=generator)
    way = 2 * torch.randint(2, (size, 1), generator=generator) - 1
    place = (start + way * torch.arange(time)) % lamps
    lit = nn.functional.one_hot(place, lamps).bool()
    wrong = torch.rand(lit.shape, generator=generator) < noise
    lengths = torch.randint(time // 2, time + 1, (size,), generator=generator)
    going = torch.arange(time) < lengths.unsqueeze(1)
    return ((lit ^ wrong) & going.unsqueeze(2)).float(), lengths
