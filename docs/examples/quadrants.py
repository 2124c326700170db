"""Missing quadrants of a picture from the others: a network guesses, and z stands for what it cannot know."""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pvae


def given_pixels(data_shape, quadrants):
    """Which pixels are given, flat: the lower left quadrant, then the upper left one, then the lower right one too."""
    height, width = data_shape
    given = torch.zeros(height, width, dtype=torch.bool)
    given[height // 2 :, : width // 2] = True
    given[: height // 2, : width // 2] |= quadrants > 1
    given[height // 2 :, width // 2 :] |= quadrants > 2
    return given.flatten()


class Baseline(pvae.LatentModel):
    """Each missing pixel on its own, given the others: nothing is latent, so the guide draws nothing.

    Args:
        data_shape: (height, width) of one x, bits.
        quadrants: how many are given, 1 to 3.
        hidden: units of the network's two hidden layers.
    """

    def __init__(self, data_shape, quadrants=1, hidden=64):
        super().__init__()
        self.register_buffer("given", given_pixels(data_shape, quadrants))
        seen, missing = int(self.given.sum()), int((~self.given).sum())
        layers = [nn.Linear(seen, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, missing)]
        self.network = nn.Sequential(*layers)

    def forward(self, x):
        """Logits of the missing pixels, shape (batch, missing); of x it sees the given pixels alone."""
        return self.network(x.flatten(1)[:, self.given] - 0.5)

    def model(self, x):
        with pyro.plate("data", len(x)):
            bits = dist.Bernoulli(logits=self(x)).to_event(1)
            return pyro.sample("missing", bits, obs=x.flatten(1)[:, ~self.given])

    def guide(self, x):
        pass


class Quadrants(pvae.LatentModel):
    """z ~ p(z given the given pixels), missing ~ Bernoulli(the baseline's logits + those of z); q(z) sees all pixels.

    Args:
        data_shape: (height, width) of one x, bits.
        quadrants: how many are given, 1 to 3.
        latent: dimensions of z.
        hidden: units of each network's hidden layers.
        baseline: a trained `Baseline`, which stays as it is; by default a fresh one, trained along.
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
        """The picture as the baseline would complete it, flat: the given pixels, and probabilities of the others."""
        picture = x.flatten(1).clone()
        picture[:, ~self.given] = guess.sigmoid()
        return picture

    @torch.no_grad()
    def complete(self, x):
        """The picture with its missing pixels drawn, in the shape of x; each call draws another."""
        guess = self.baseline(x)
        z = normal(self.prior(self.first_guess(x, guess))).sample()
        picture = x.flatten(1).clone()
        picture[:, ~self.given] = torch.bernoulli((guess + self.decoder(z)).sigmoid())
        return picture.reshape(x.shape)


def normal(numbers):
    loc, raw = numbers.chunk(2, dim=-1)
    return dist.Normal(loc, nn.functional.softplus(raw)).to_event(1)
