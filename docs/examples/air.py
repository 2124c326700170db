"""Attend, infer, repeat: a picture is a sum of objects; their number is not known.

For up to T steps:
    pres_t ~ Bernoulli(p pres_(t-1))    where_t ~ Normal    what_t ~ Normal(0, 1)    (both only while pres_t = 1)
    x ~ Normal(sum over t of pres_t * place(decoder(what_t), where_t), 0.3)

`place` scales and shifts the small picture of an object by a spatial transformer. The guide draws the objects one
after the other, from a recurrent network that reads the picture and the objects before.
The number of objects is discrete, so a network predicts a baseline for each step, which reduces the variance.

Source: Eslami et al., Attend, Infer, Repeat: Fast Scene Understanding with Generative Models, NIPS 2016,
arXiv:1603.08575; Pyro's tutorial on AIR.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, TraceGraph_ELBO
from torch import nn

import pvae

SIDE, WINDOW, STEPS, WHAT, WHERE = 8, 4, 2, 3, 3


def network(inputs, hidden, outputs):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def normal(numbers):
    loc, raw = numbers.chunk(2, dim=-1)
    return loc, nn.functional.softplus(raw)


def transform(pictures, where, side, inverse=False):
    """Put pictures into a frame, or with `inverse` cut them out of it.

    Args:
        pictures: shape (batch, height, width).
        where: scale and the two shifts, shape (batch, 3).
        side: number of rows and columns of the result.
    """
    scale, shift = where[:, :1].exp(), where[:, 1:]
    if inverse:
        scale, shift = 1 / scale, -shift / scale
    zero = torch.zeros_like(scale)
    rows = [torch.cat([scale, zero, shift[:, :1]], 1), torch.cat([zero, scale, shift[:, 1:]], 1)]
    grid = nn.functional.affine_grid(torch.stack(rows, 1), [len(pictures), 1, side, side], align_corners=False)
    return nn.functional.grid_sample(pictures.unsqueeze(1), grid, align_corners=False).squeeze(1)


class AIR(nn.Module):
    def __init__(self, hidden=16):
        super().__init__()
        self.hidden = hidden
        self.decoder = network(WHAT, hidden, WINDOW**2)
        self.rnn = nn.GRUCell(SIDE**2 + 1 + WHERE + WHAT, hidden)
        self.pres_and_where = network(hidden, hidden, 1 + 2 * WHERE)
        self.encoder = network(WINDOW**2, hidden, 2 * WHAT)
        self.baseline = network(hidden, hidden, 1)
        self.register_buffer("where_prior", torch.tensor([[0.7, 0.0, 0.0], [0.2, 1.0, 1.0]]))

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            pres, picture = torch.ones(len(x), 1), torch.zeros_like(x)
            for t in range(STEPS):
                pres = pyro.sample(f"pres_{t}", dist.Bernoulli(0.5 * pres).to_event(1))
                loc, scale = self.where_prior
                where = pyro.sample(
                    f"where_{t}", dist.Normal(loc, scale).expand([len(x), WHERE]).mask(pres).to_event(1)
                )
                what = pyro.sample(f"what_{t}", dist.Normal(0.0, 1.0).expand([len(x), WHAT]).mask(pres).to_event(1))
                window = self.decoder(what).sigmoid().reshape(-1, WINDOW, WINDOW)
                picture = picture + pres.unsqueeze(-1) * transform(window, where, SIDE)
            pyro.sample("x", dist.Normal(picture, 0.3).to_event(2), obs=x)

    def guide(self, x):
        for name in ("rnn", "pres_and_where", "encoder", "baseline"):
            pyro.module(name, getattr(self, name))
        with pyro.plate("data", len(x)):
            state, pres = torch.zeros(len(x), self.hidden), torch.ones(len(x), 1)
            where, what = torch.zeros(len(x), WHERE), torch.zeros(len(x), WHAT)
            for t in range(STEPS):
                state = self.rnn(torch.cat([x.flatten(1), pres, where, what], -1), state)
                value = self.baseline(state.detach()).squeeze(-1) * pres.squeeze(-1)
                numbers = self.pres_and_where(state)
                probability = numbers[:, :1].sigmoid().clamp(1e-3, 1 - 1e-3) * pres
                infer = {"baseline": {"baseline_value": value}}
                pres = pyro.sample(f"pres_{t}", dist.Bernoulli(probability).to_event(1), infer=infer)
                loc, scale = normal(numbers[:, 1:])
                where = pyro.sample(f"where_{t}", dist.Normal(loc, scale).mask(pres).to_event(1))
                window = transform(x, where, WINDOW, inverse=True)
                loc, scale = normal(self.encoder(window.flatten(1)))
                what = pyro.sample(f"what_{t}", dist.Normal(loc, scale).mask(pres).to_event(1))


def make():
    return AIR()


def make_data(size=40, seed=0):
    """Return pictures with no, one or two bright squares."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.zeros(size, SIDE, SIDE)
    for picture in x:
        for _ in range(int(torch.randint(STEPS + 1, (), generator=generator))):
            row, column = torch.randint(SIDE - 2, (2,), generator=generator).tolist()
            picture[row : row + 3, column : column + 3] = 1.0
    return {"x": x}


def main():
    pyro.set_rng_seed(0)
    x = make_data(size=100)["x"]
    air = AIR()
    svi = SVI(air.model, air.guide, pyro.optim.Adam({"lr": 5e-3}), loss=TraceGraph_ELBO())
    for _ in range(200):
        svi.step(x)
    print("log evidence:", pvae.evaluate.log_evidence(air, {"x": x}, particles=50))


if __name__ == "__main__":
    main()
