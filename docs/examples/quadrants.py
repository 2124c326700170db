"""Complete the missing quadrants of a picture: a network predicts them, and a latent z models their dependence."""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pvae


def given_pixels(data_shape, quadrants):
    """Return which pixels are given, flat: the lower left quadrant, from 2 on the upper left, for 3 the lower right."""
    height, width = data_shape
    given = torch.zeros(height, width, dtype=torch.bool)
    given[height // 2 :, : width // 2] = True
    given[: height // 2, : width // 2] |= quadrants > 1
    given[height // 2 :, width // 2 :] |= quadrants > 2
    return given.flatten()


class Baseline(pvae.LatentModel):
    """Independent missing pixels, given the other pixels. There is no latent site, so the guide is empty.

    Args:
        data_shape: (height, width) of one x, which is binary.
        quadrants: number of given quadrants, 1 to 3.
        hidden: number of units of each of the two hidden layers.
    """

    def __init__(self, data_shape, quadrants=1, hidden=64):
        super().__init__()
        self.register_buffer("given", given_pixels(data_shape, quadrants))
        seen, missing = int(self.given.sum()), int((~self.given).sum())
        layers = [nn.Linear(seen, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, missing)]
        self.network = nn.Sequential(*layers)

    def forward(self, x):
        """Return the logits of the missing pixels, shape (batch, missing), computed from the given pixels only."""
        return self.network(x.flatten(1)[:, self.given] - 0.5)

    def model(self, x):
        with pyro.plate("data", len(x)):
            bits = dist.Bernoulli(logits=self(x)).to_event(1)
            return pyro.sample("missing", bits, obs=x.flatten(1)[:, ~self.given])

    def guide(self, x):
        pass


class Quadrants(pvae.LatentModel):
    """z ~ p(z | given pixels), missing pixels ~ Bernoulli(logits of the baseline + decoder(z)); q(z | all pixels).

    Args:
        data_shape: (height, width) of one x, which is binary.
        quadrants: number of given quadrants, 1 to 3.
        latent: number of dimensions of z.
        hidden: number of units of the hidden layers of each network.
        baseline: a trained `Baseline`, which is not trained further; by default a new one, trained with the model.
    """

    def __init__(self, data_shape, quadrants=1, latent=8, hidden=64, baseline=None):
        super().__init__()
        self.register_buffer("given", given_pixels(data_shape, quadrants))
        self.baseline = Baseline(data_shape, quadrants, hidden) if baseline is None else baseline
        if baseline is not None:
            self.baseline.requires_grad_(False)
        pixels, missing = math.prod(data_shape), int((~self.given).sum())
        self.prior = nn.Sequential(nn.Linear(pixels, hidden), nn.Tanh(), nn.Linear(hidden, 2 * latent))
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.Tanh(), nn.Linear(hidden, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.Tanh(), nn.Linear(hidden, missing))

    def model(self, x):
        guess = self.baseline(x)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(self.prior(self.first_guess(x, guess))))
            bits = dist.Bernoulli(logits=guess + self.decoder(z)).to_event(1)
            return pyro.sample("missing", bits, obs=x.flatten(1)[:, ~self.given])

    def guide(self, x):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", normal(self.encoder(x.flatten(1))))

    def first_guess(self, x, guess):
        """Return the given pixels and the baseline's probabilities of the others, shape (batch, pixels)."""
        picture = x.flatten(1).clone()
        picture[:, ~self.given] = guess.sigmoid()
        return picture

    @torch.no_grad()
    def complete(self, x):
        """Return the picture with its missing pixels drawn at random, in the shape of x."""
        guess = self.baseline(x)
        z = normal(self.prior(self.first_guess(x, guess))).sample()
        picture = x.flatten(1).clone()
        picture[:, ~self.given] = torch.bernoulli((guess + self.decoder(z)).sigmoid())
        return picture.reshape(x.shape)


def normal(numbers):
    """Return a diagonal Gaussian from the output of a network, which has two numbers per dimension."""
    loc, raw = numbers.chunk(2, dim=-1)
    return dist.Normal(loc, nn.functional.softplus(raw)).to_event(1)
