"""A mixture of Gaussians whose assignments are summed out, with point estimates of its parameters.

    weights ~ Dirichlet(1/2, ..., 1/2)      scale ~ LogNormal(0, 2)      loc_k ~ Normal(0, 10)
    k_n ~ Categorical(weights)              x_n ~ Normal(loc_(k_n), scale)

Source: Bishop, Pattern Recognition and Machine Learning, 2006, section 9.2; Pyro's tutorial on Gaussian mixtures.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, init_to_value

import pvae

COMPONENTS = 2
PARAMETERS = ["weights", "scale", "locs"]


def model(x):
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((COMPONENTS,), 0.5)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("components", COMPONENTS):
        locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(x)):
        component = pyro.sample("component", dist.Categorical(weights), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(locs[component], scale), obs=x)


def make_guide(autoguide=AutoDelta):
    """Return a guide of the parameters; a start from the prior often leaves a component without data.

    Args:
        autoguide: the class of the guide: AutoDelta gives point estimates, AutoNormal a density.
    """
    start = {"weights": torch.tensor([0.5, 0.5]), "scale": torch.tensor(2.0), "locs": torch.tensor([-1.0, 5.0])}
    return autoguide(poutine.block(model, expose=PARAMETERS), init_loc_fn=init_to_value(values=start))


def make(autoguide=AutoDelta):
    return pvae.pair(model, make_guide(autoguide))


def at(estimates):
    """Return the model with its parameters at the estimates: p(x given parameters), which has no latent site left.

    Args:
        estimates: the value of each parameter by name.
    """
    density = poutine.block(poutine.condition(model, data=estimates), hide=PARAMETERS)
    return pvae.pair(density, lambda x: None)


def make_data(size=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centre = torch.where(torch.rand(size, generator=generator) < 0.3, -2.0, 4.0)
    return {"x": centre + torch.randn(size, generator=generator)}


def main():
    pyro.set_rng_seed(0)
    x = make_data()["x"]
    guide = make_guide()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), loss=TraceEnum_ELBO(max_plate_nesting=1))
    for _ in range(200):
        svi.step(x)
    estimates = {name: value.detach() for name, value in guide.median().items()}
    print(estimates)
    print("log density per datum:", pvae.evaluate.log_evidence(at(estimates), {"x": x}))


if __name__ == "__main__":
    main()
