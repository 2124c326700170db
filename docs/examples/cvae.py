"""Complete the missing quadrants of a picture by a conditional VAE, whose prior depends on the given quadrant.

    z ~ Normal(prior(x, guess(x)))                missing pixels of y ~ Bernoulli(generation(z))
    q(z given x, y) = Normal(recognition(x, y))

x is the picture with -1 for the missing pixels, and y is the whole picture. The network `guess` predicts y from x
alone; it is trained first, on its own.

Source: Sohn, Lee & Yan, Learning Structured Output Representation using Deep Conditional Generative Models, NIPS 2015;
Pyro's example of conditional VAEs.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from sklearn.datasets import load_digits
from torch import nn

import pvae

PIXELS = 64


def network(inputs, hidden, outputs):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def normal(numbers):
    loc, raw = numbers.chunk(2, dim=-1)
    return dist.Normal(loc, nn.functional.softplus(raw)).to_event(1)


class CVAE(nn.Module):
    def __init__(self, latent=4, hidden=32, guess=None):
        super().__init__()
        self.guess = network(PIXELS, hidden, PIXELS) if guess is None else guess
        self.guess.requires_grad_(guess is None)
        self.prior = network(2 * PIXELS, hidden, 2 * latent)
        self.generation = network(latent, hidden, PIXELS)
        self.recognition = network(2 * PIXELS, hidden, 2 * latent)

    def model(self, x, y=None):
        pyro.module("generation", self.generation), pyro.module("prior", self.prior)
        with pyro.plate("data", len(x)):
            first_guess = torch.where(x < 0, self.guess(x).sigmoid(), x)
            z = pyro.sample("z", normal(self.prior(torch.cat([x, first_guess], -1))))
            logits = self.generation(z)
            if y is None:
                return pyro.deterministic("completed", torch.where(x < 0, logits.sigmoid(), x))
            missing = x[0] < 0  # the same pixels in each picture
            return pyro.sample("y", dist.Bernoulli(logits=logits[..., missing]).to_event(1), obs=y[:, missing])

    def guide(self, x, y=None):
        pyro.module("recognition", self.recognition)
        with pyro.plate("data", len(x)):
            # Without y, z is drawn from the prior network.
            numbers = (
                self.prior(torch.cat([x, self.guess(x)], -1)) if y is None else self.recognition(torch.cat([x, y], -1))
            )
            pyro.sample("z", normal(numbers))


def train_guess(data, steps=100, hidden=32):
    """Return a network that predicts the missing pixels, each on its own."""
    guess, missing = network(PIXELS, hidden, PIXELS), data["x"][0] < 0
    optimiser = torch.optim.Adam(guess.parameters(), lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        logits = guess(data["x"])[:, missing]
        nn.functional.binary_cross_entropy_with_logits(logits, data["y"][:, missing]).backward()
        optimiser.step()
    return guess


def make():
    return CVAE()


def make_data(size=100):
    """Return digits of 8 x 8 binary pixels, of which the lower left quadrant is given."""
    y = torch.as_tensor(load_digits().images[:size] > 7).float()
    missing = torch.ones(8, 8, dtype=torch.bool)
    missing[4:, :4] = False
    return {"x": torch.where(missing, -1.0, y).flatten(1), "y": y.flatten(1)}


def main():
    pyro.set_rng_seed(0)
    data = make_data(size=1000)
    cvae = CVAE(guess=train_guess(data))
    svi = SVI(cvae.model, cvae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO())
    for step in range(300):
        rows = slice(step % 10 * 100, step % 10 * 100 + 100)
        svi.step(data["x"][rows], data["y"][rows])
    print("log p(missing pixels given the others):", pvae.evaluate.log_evidence(cvae, data, particles=50))


if __name__ == "__main__":
    main()
