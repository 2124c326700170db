"""Latent Dirichlet allocation: each document mixes topics, and the topic of each word is summed out.

    share_k ~ Gamma(1/K, 1)               topic_k ~ Dirichlet(1/W, ..., 1/W) over the W words of the vocabulary
    mixture_d ~ Dirichlet(share)          z_dn ~ Categorical(mixture_d)       word_dn ~ Categorical(topic_(z_dn))

The guide reads the counts of the words of a document and gives a Dirichlet for its mixture. All documents share the
topics and the shares.

Source: Blei, Ng & Jordan, Latent Dirichlet Allocation, JMLR 2003; amortised as in Srivastava & Sutton,
arXiv:1703.01488; Pyro's example of latent Dirichlet allocation.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.infer import SVI, TraceEnum_ELBO
from torch import nn

import pvae

TOPICS, VOCABULARY = 2, 12


class TopicModel(nn.Module):
    """Both programs. The argument `size` is the number of all documents: those of a call are a part of them."""

    def __init__(self, size, hidden=16):
        super().__init__()
        self.size = size
        self.mixture_net = nn.Sequential(nn.Linear(VOCABULARY, hidden), nn.Tanh(), nn.Linear(hidden, TOPICS))

    def documents(self, x):
        return pyro.plate("documents", self.size, subsample=torch.arange(len(x)), dim=-1)

    def model(self, x):
        with pyro.plate("topics", TOPICS):
            share = pyro.sample("share", dist.Gamma(1.0 / TOPICS, 1.0))
            topic = pyro.sample("topic", dist.Dirichlet(torch.full((VOCABULARY,), 1.0 / VOCABULARY)))
        with self.documents(x):
            mixture = pyro.sample("mixture", dist.Dirichlet(share))
            with pyro.plate("words", x.shape[1], dim=-2):
                z = pyro.sample("z", dist.Categorical(mixture), infer={"enumerate": "parallel"})
                pyro.sample("word", dist.Categorical(topic[z]), obs=x.T)

    def guide(self, x):
        pyro.module("mixture_net", self.mixture_net)
        share_loc = pyro.param("share_loc", torch.full((TOPICS,), -0.5))
        share_scale = pyro.param("share_scale", torch.full((TOPICS,), 0.1), constraint=constraints.positive)
        words = pyro.param("topic_words", lambda: 1 + torch.rand(TOPICS, VOCABULARY), constraint=constraints.positive)
        with pyro.plate("topics", TOPICS):
            pyro.sample("share", dist.LogNormal(share_loc, share_scale))
            pyro.sample("topic", dist.Dirichlet(words))
        counts = torch.eye(VOCABULARY)[x.long()].sum(1)
        with self.documents(x):
            pyro.sample("mixture", dist.Dirichlet(self.mixture_net(counts).exp() + 0.1))


def make_data(size=24, words=8, seed=0):
    """Return documents of one or both of two topics, which use different halves of the vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    half = VOCABULARY // 2
    mixture = torch.tensor([0.05, 0.5, 0.95])[torch.randint(3, (size, 1), generator=generator)]
    second = torch.rand(size, words, generator=generator) < mixture
    return {"x": torch.randint(half, (size, words), generator=generator) + half * second}


def make(size=24):
    return TopicModel(size)


def main():
    pyro.set_rng_seed(0)
    x = make_data(size=100)["x"]
    topics = TopicModel(len(x))
    svi = SVI(topics.model, topics.guide, pyro.optim.Adam({"lr": 0.05}), loss=TraceEnum_ELBO(max_plate_nesting=2))
    for step in range(200):
        rows = slice(50 * (step % 2), 50 * (step % 2) + 50)
        svi.step(x[rows])
    words = pyro.param("topic_words").detach()
    print("most probable words of each topic:", (words / words.sum(1, keepdim=True)).topk(6).indices.tolist())
    print("ELBO per document:", pvae.evaluate.elbo(topics, {"x": x}, particles=100))


if __name__ == "__main__":
    main()
