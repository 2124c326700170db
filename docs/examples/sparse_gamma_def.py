"""A deep exponential family of sparse gamma layers for counts.

    w_l ~ Gamma(0.1, 0.3) for each weight        z_3 ~ Gamma(0.1, 0.1) for each unit of the top layer
    z_l ~ Gamma(0.1, 0.1 / (z_(l+1) w_l))        x ~ Poisson(z_1 w_0)

Each layer has mean z_(l+1) w_l and shape 0.1, which makes it sparse. The guide is a Gamma distribution, by its shape
and mean, for each weight and for each unit of each datum, so the data are always passed whole.

Source: Ranganath et al., Deep Exponential Families, AISTATS 2015, arXiv:1411.2581; Pyro's example of sparse gamma DEF.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch.nn.functional import softplus

import pvae

SIZES = {"top": 2, "middle": 3, "bottom": 4}
FEATURES = 6


def weights(name, rows, columns):
    """Draw the weights between two layers."""
    with pyro.plate(f"{name}_plate", rows * columns):
        return pyro.sample(name, dist.Gamma(0.1, 0.3)).reshape(*(-1, rows, columns)[-2:])


def model(x):
    top, middle, bottom = SIZES.values()
    w_top, w_middle = weights("w_top", top, middle), weights("w_middle", middle, bottom)
    w_bottom = weights("w_bottom", bottom, FEATURES)
    with pyro.plate("data", len(x)):
        z_top = pyro.sample("z_top", dist.Gamma(0.1, 0.1).expand([top]).to_event(1))
        z_middle = pyro.sample("z_middle", dist.Gamma(0.1, 0.1 / (z_top @ w_top)).to_event(1))
        z_bottom = pyro.sample("z_bottom", dist.Gamma(0.1, 0.1 / (z_middle @ w_middle)).to_event(1))
        pyro.sample("x", dist.Poisson(z_bottom @ w_bottom).to_event(1), obs=x)


def gamma(name, *shape):
    """Return a Gamma distribution with free shape and mean."""
    alpha = softplus(pyro.param(f"alpha_{name}", lambda: 0.5 + 0.1 * torch.randn(*shape)))
    mean = softplus(pyro.param(f"mean_{name}", lambda: 0.1 * torch.randn(*shape)))
    alpha, mean = alpha + 0.05, mean + 0.01
    return dist.Gamma(alpha, alpha / mean)


def guide(x):
    top, middle, bottom = SIZES.values()
    for name, length in (("w_top", top * middle), ("w_middle", middle * bottom), ("w_bottom", bottom * FEATURES)):
        with pyro.plate(f"{name}_plate", length):
            pyro.sample(name, gamma(name, length))
    with pyro.plate("data", len(x)):
        for layer, units in SIZES.items():
            pyro.sample(f"z_{layer}", gamma(f"z_{layer}", len(x), units).to_event(1))


def make():
    return pvae.pair(model, guide)


def make_data(size=16, seed=0):
    """Return counts that come in two groups of features."""
    generator = torch.Generator().manual_seed(seed)
    first = (torch.rand(size, 1, generator=generator) < 0.5).float()
    left = (torch.arange(FEATURES) < FEATURES // 2).float()
    return {"x": torch.poisson(0.2 + 6 * (first * left + (1 - first) * (1 - left)), generator=generator)}


def main():
    pyro.set_rng_seed(0)
    x = make_data()["x"]
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.03}), loss=Trace_ELBO())
    for _ in range(1500):
        svi.step(x)
    print("ELBO per datum:", pvae.evaluate.elbo(make(), {"x": x}, particles=200))


if __name__ == "__main__":
    main()
