"""Training reaches the optimum that is known in closed form."""

from __future__ import annotations

import exact
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pvae

ROWS, COLUMNS = np.arange(40)[:, None], np.arange(5)[None]
FIXED = np.cos(0.7 * ROWS * (COLUMNS + 1) + 0.3 * COLUMNS) * np.array([3.0, 2.0, 1.0, 0.6, 0.4]) + 0.1 * COLUMNS
OPTIMUM = -6.1306248891  # the largest average log-likelihood of probabilistic PCA with two latents


class LinearVAE(pvae.LatentModel):
    """Linear decoder, linear encoder, one noise variance: probabilistic PCA, amortised."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = nn.Linear(2, 5), nn.Linear(5, 2)
        self.log_noise = nn.Parameter(torch.zeros(()))
        self.log_scale = nn.Parameter(torch.zeros(2))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), self.log_noise.exp()).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), self.log_scale.exp()).to_event(1))


def closed_form(model: LinearVAE) -> tuple[float, float]:
    """Average ELBO and log evidence of the trained parameters, from NumPy's closed forms."""
    weight, bias = model.decoder.weight.detach().numpy(), model.decoder.bias.detach().numpy()
    known = exact.LinearGaussian(weight, bias, (2 * model.log_noise).exp().item())
    means = model.encoder(torch.tensor(FIXED)).detach().numpy()
    variance = (2 * model.log_scale).exp().detach().numpy()
    elbo = np.mean([known.elbo(mean, variance, x) for mean, x in zip(means, FIXED, strict=True)])
    return float(elbo), float(np.mean([known.log_evidence(x) for x in FIXED]))


@pytest.mark.parametrize("objective", ["elbo", "iwae:particles=4"])
def test_a_linear_vae_reaches_probabilistic_pca(objective: str) -> None:
    torch.manual_seed(1)
    model = LinearVAE().double()
    data = pvae.load_data(np.repeat(FIXED, 25, axis=0), validation=0, test=0)
    pvae.fit(
        model,
        data,
        objective=objective,
        epochs=250,
        batch_size=1000,
        learning_rate=0.03,
        schedule="cosineannealing:T_max=250",
        precision="float64",
        progress=False,
    )
    elbo, evidence = closed_form(model)
    # nothing can exceed the optimum; one that is 0.01 below would have lost a tenth of the smaller axis' gain
    assert elbo <= evidence <= OPTIMUM + 1e-9
    assert evidence > OPTIMUM - 0.01
    # the importance-weighted bound leaves its guide wider than the posterior, so its ELBO stays lower
    assert elbo > OPTIMUM - (0.02 if objective == "elbo" else 0.2)
