"""A deep Markov model of padded sequences, with a guide that reads them backwards as packed sequences.

    z_t ~ Normal(transition(z_(t-1)))    x_t ~ Bernoulli(emission(z_t))    q(z_t given z_(t-1), x_t, x_(t+1), ...)

The sequences have different lengths. A mask leaves out the steps after the end of each of them, in both programs.

Source: Krishnan, Shalit & Sontag, Structured Inference Networks for Nonlinear State Space Models, AAAI 2017,
arXiv:1609.09869; Pyro's tutorial on the deep Markov model.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import pvae

FEATURES = 4


def normal(numbers):
    loc, raw = numbers.chunk(2, dim=-1)
    return dist.Normal(loc, nn.functional.softplus(raw)).to_event(1)


def reversed_in_time(x, lengths):
    """Return each sequence backwards, its padding still at the end.

    Args:
        x: shape (batch, time, features).
        lengths: shape (batch,).
    """
    time = torch.arange(x.shape[1])
    place = torch.where(time < lengths.unsqueeze(-1), lengths.unsqueeze(-1) - 1 - time, time)
    return x.gather(1, place.unsqueeze(-1).expand_as(x))


class DMM(nn.Module):
    def __init__(self, latent=2, hidden=8):
        super().__init__()
        self.transition = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent))
        self.emission = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, FEATURES))
        self.rnn = nn.GRU(FEATURES, hidden, batch_first=True)
        self.from_past = nn.Linear(latent, hidden)
        self.combiner = nn.Linear(hidden, 2 * latent)
        self.z_0, self.z_q_0 = nn.Parameter(torch.zeros(latent)), nn.Parameter(torch.zeros(latent))

    def model(self, x, lengths):
        pyro.module("dmm", self)
        z = self.z_0.expand(len(x), -1)
        with pyro.plate("sequences", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z_{t}", normal(self.transition(z)))
                    pyro.sample(f"x_{t}", dist.Bernoulli(logits=self.emission(z)).to_event(1), obs=x[:, t])

    def guide(self, x, lengths):
        pyro.module("dmm", self)
        packed = pack_padded_sequence(
            reversed_in_time(x, lengths), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=x.shape[1])
        future = reversed_in_time(states, lengths)
        z = self.z_q_0.expand(len(x), -1)
        with pyro.plate("sequences", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=t < lengths):
                    both = (torch.tanh(self.from_past(z)) + future[:, t]) / 2
                    z = pyro.sample(f"z_{t}", normal(self.combiner(both)))


def make():
    return DMM()


def make_data(size=40, time=5, seed=0):
    """Return lights that run around a ring of lamps, to the left or to the right, in sequences of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(FEATURES, (size, 1), generator=generator)
    way = 2 * torch.randint(2, (size, 1), generator=generator) - 1
    x = nn.functional.one_hot((start + way * torch.arange(time)) % FEATURES, FEATURES).float()
    lengths = torch.randint(2, time + 1, (size,), generator=generator)
    return {"x": x * (torch.arange(time) < lengths.unsqueeze(-1)).unsqueeze(-1), "lengths": lengths}


def main():
    pyro.set_rng_seed(0)
    data = make_data(size=200)
    dmm = DMM()
    svi = SVI(dmm.model, dmm.guide, pyro.optim.ClippedAdam({"lr": 1e-2, "clip_norm": 10.0}), loss=Trace_ELBO())
    for _ in range(300):
        svi.step(**data)
    print("log evidence of a sequence:", pvae.evaluate.log_evidence(dmm, pvae.Batch(**data), particles=50))


if __name__ == "__main__":
    main()
