"""A semi-supervised VAE: the class y is observed for some data, and otherwise summed out.

    y ~ OneHotCategorical(1/10, ...)    z ~ Normal(0, 1)    x ~ Bernoulli(decoder(z, y))
    q(y given x) = OneHotCategorical(classifier(x))         q(z given x, y) = Normal(encoder(x, y))

With y the programs are those of labelled data, without it those of unlabelled data. The second pair of programs trains
the classifier on labelled data, which the bound alone does not.

Source: Kingma et al., Semi-Supervised Learning with Deep Generative Models, NIPS 2014, arXiv:1406.5298 (model M2);
Pyro's tutorial on the semi-supervised VAE.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from sklearn.datasets import load_digits
from torch import nn

import pvae

PIXELS, CLASSES = 64, 10


class SSVAE(nn.Module):
    def __init__(self, latent=4, hidden=32):
        super().__init__()
        self.latent = latent
        self.decoder = nn.Sequential(nn.Linear(latent + CLASSES, hidden), nn.ReLU(), nn.Linear(hidden, PIXELS))
        self.encoder = nn.Sequential(nn.Linear(PIXELS + CLASSES, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent))
        self.classifier = nn.Sequential(nn.Linear(PIXELS, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))

    def model(self, x, y=None):
        pyro.module("ssvae", self)
        with pyro.plate("data", len(x)):
            label = pyro.sample("y", dist.OneHotCategorical(x.new_ones(CLASSES) / CLASSES), obs=one_hot(y))
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.latent), 1.0).to_event(1))
            logits = self.decoder(join(z, label))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x, y=None):
        pyro.module("ssvae", self)
        with pyro.plate("data", len(x)):
            label = one_hot(y)
            if y is None:
                q = dist.OneHotCategorical(logits=self.classifier(x))
                label = pyro.sample("y", q, infer={"enumerate": "parallel"})
            loc, raw = self.encoder(join(x, label)).chunk(2, dim=-1)
            pyro.sample("z", dist.Normal(loc, nn.functional.softplus(raw)).to_event(1))

    def classify_model(self, x, y):
        pyro.module("ssvae", self)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.OneHotCategorical(logits=self.classifier(x)), obs=one_hot(y))

    def classify_guide(self, x, y):
        pass


def one_hot(y):
    """Return class numbers as one-hot vectors; None stays None."""
    return None if y is None else torch.eye(CLASSES)[y]


def join(first, second):
    """Concatenate two tensors whose leading dimensions broadcast, as those of enumerated labels do."""
    shape = torch.broadcast_shapes(first.shape[:-1], second.shape[:-1])
    return torch.cat([first.expand(*shape, -1), second.expand(*shape, -1)], -1)


def make():
    return SSVAE()


def make_data(size=100):
    """Return digits of 8 x 8 binary pixels and their classes, 0 to 9."""
    digits = load_digits()
    x = torch.as_tensor(digits.images[:size] > 7).float().flatten(1)
    return {"x": x, "y": torch.as_tensor(digits.target[:size]).long()}


def main():
    pyro.set_rng_seed(0)
    labelled, unlabelled = make_data(100), make_data(1000)["x"][100:]
    ssvae, adam = SSVAE(), pyro.optim.Adam({"lr": 1e-2})
    bound = SVI(ssvae.model, ssvae.guide, adam, loss=TraceEnum_ELBO(max_plate_nesting=1))
    classify = SVI(ssvae.classify_model, ssvae.classify_guide, adam, loss=Trace_ELBO())
    for step in range(200):
        bound.step(**labelled)
        classify.step(**labelled)
        rows = slice(step % 9 * 100, step % 9 * 100 + 100)
        bound.step(unlabelled[rows])
    print("log p(x):", pvae.evaluate.log_evidence(ssvae, {"x": unlabelled}, particles=20))
    print("log p(x, y):", pvae.evaluate.log_evidence(ssvae, labelled, particles=20))


if __name__ == "__main__":
    main()
