"""Bayesian linear regression with an autoguide.

    w ~ Normal(0, 1) for each feature    b ~ Normal(0, 10)    sigma ~ Uniform(0, 10)    y_n ~ Normal(w'x_n + b, sigma)

All data share w, b and sigma, so the evidence is that of all y together, not a sum over data.

Source: Gelman et al., Bayesian Data Analysis, 3rd edition, 2013, chapter 14; Pyro's tutorial on Bayesian regression.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoMultivariateNormal
from pyro.nn import PyroModule, PyroSample
from torch import nn

import pvae

FEATURES = 2


class Regression(PyroModule):
    def __init__(self, features=FEATURES):
        super().__init__()
        self.linear = PyroModule[nn.Linear](features, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, features]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 10.0).expand([1]).to_event(1))

    def forward(self, x, y=None):
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, sigma), obs=y)
        return mean


def make():
    regression = Regression()
    return pvae.pair(regression, AutoMultivariateNormal(regression, init_scale=0.1))


def make_data(size=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, FEATURES, generator=generator)
    noise = 0.5 * torch.randn(size, generator=generator)
    return {"x": x, "y": x @ torch.tensor([1.0, -2.0]) + 3.0 + noise}


def main():
    pyro.set_rng_seed(0)
    data = make_data()
    regression = Regression()
    guide = AutoDiagonalNormal(regression)
    svi = SVI(regression, guide, pyro.optim.Adam({"lr": 0.05}), loss=Trace_ELBO())
    for _ in range(500):
        svi.step(data["x"], data["y"])
    bound = pvae.evaluate.elbo(pvae.pair(regression, guide), data, particles=1000)
    print("ELBO of all data, per datum:", bound)
    draws = Predictive(regression, guide=guide, num_samples=500, return_sites=("linear.weight", "linear.bias", "sigma"))
    for name, value in draws(data["x"]).items():
        print(f"{name}: {value.mean(0).flatten().tolist()} +- {value.std(0).flatten().tolist()}")


if __name__ == "__main__":
    main()
