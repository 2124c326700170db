"""The eight schools: effects of a training in eight schools, which share a mean and a spread.

    mu ~ Normal(0, 10)    tau ~ HalfCauchy(25)    eta_j ~ Normal(0, 1)    y_j ~ Normal(mu + tau eta_j, sigma_j)

The standard errors sigma_j are known. The guide is Normal for mu and for each eta_j, and LogNormal for tau.

Source: Rubin, Estimation in Parallel Randomized Experiments, Journal of Educational Statistics, 1981; Gelman et al.,
Bayesian Data Analysis, section 5.5. The data are those of the paper.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.infer import SVI, Trace_ELBO

import pvae

EFFECTS = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
ERRORS = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]


def model(y, sigma):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = pyro.sample("tau", dist.HalfCauchy(25.0))
    with pyro.plate("schools", len(y)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)


def guide(y, sigma):
    mu = pyro.param("mu_loc", torch.tensor(0.0)), pyro.param("mu_scale", torch.tensor(1.0), constraints.positive)
    tau = pyro.param("tau_loc", torch.tensor(1.0)), pyro.param("tau_scale", torch.tensor(0.5), constraints.positive)
    pyro.sample("mu", dist.Normal(*mu))
    pyro.sample("tau", dist.LogNormal(*tau))
    # One mean and one scale for each school: the data are always passed whole.
    loc = pyro.param("eta_loc", torch.zeros(len(y)))
    scale = pyro.param("eta_scale", torch.ones(len(y)), constraints.positive)
    with pyro.plate("schools", len(y)):
        pyro.sample("eta", dist.Normal(loc, scale))


def make():
    return pvae.pair(model, guide, fields=["x", "sigma"])


def make_data():
    return {"x": torch.tensor(EFFECTS), "sigma": torch.tensor(ERRORS)}


def main():
    pyro.set_rng_seed(0)
    data = make_data()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.03}), loss=Trace_ELBO())
    for _ in range(1000):
        svi.step(data["x"], data["sigma"])
    store = pyro.get_param_store()
    print(f"mu {store['mu_loc'].item():.1f} +- {store['mu_scale'].item():.1f}, in points")
    print("ELBO of all schools, per school:", pvae.evaluate.elbo(make(), data, particles=1000))


if __name__ == "__main__":
    main()
