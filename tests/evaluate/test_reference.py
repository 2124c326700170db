"""The reference posterior by the No-U-Turn sampler against closed forms, and what it says of a guide."""

from __future__ import annotations

import exact
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from planted import Planted
from pyro.infer.mcmc.util import initialize_model
from scipy.stats import norm
from torch import Tensor

import pvae
from pvae import InputError
from pvae.evaluate import reference
from pvae.evaluate.arviz_versions import chain_diagnostics
from pvae.evaluate.evaluation_context import evaluation_context
from pvae.evaluate.reference_posterior.reference_record import SiteComparison, reference_of
from pvae.evaluate.reference_posterior.sample_posterior import SitePosterior, with_enumerated_sites

pytestmark = pytest.mark.usefixtures("own_store")


def test_the_chains_have_the_exact_posterior_and_show_a_narrow_guide() -> None:
    model = Planted(scale=0.5)
    x = model.draw(2)
    found = reference(model, x, 120, warmup=50, chains=2, progress=False)
    site = found.sites["z"]
    means = np.stack([model.known.posterior(row)[0] for row in x.numpy()])
    sd = np.sqrt(np.diag(model.known.posterior()[1]))
    error = sd / np.sqrt(site.reference.ess)
    assert (np.abs(site.reference.mean - means) < 4.5 * error).all()
    assert (error < 0.15 * sd).all()
    assert (np.abs(site.reference.sd / sd - 1) < 4.5 / np.sqrt(site.reference.ess)).all()
    assert np.exp(site.log_ratio.mean()) == pytest.approx(0.5, abs=0.05)
    assert found.worst_rhat < 1.05
    assert found.status in ("bad", "look")  # look, if R-hat of so few draws is above 1.01


def test_a_discrete_site_is_summed_out_of_the_potential() -> None:
    known, z = exact.Labelled(), 0.3
    with (
        evaluation_context(exact.LabelledModel(marked=False), exact.labelled_batch(-1)) as context,
        torch.enable_grad(),
    ):
        programs = context.bound_to(context.batch)
        model = with_enumerated_sites(programs.model, {"y"})
        _, potential, _, _ = initialize_model(model, programs.args, max_plate_nesting=programs.layout.nesting)
        found = potential({"z": torch.tensor([z], dtype=torch.float64)})
    likelihood = norm.pdf(exact.LABELLED_X, known.shift + known.slope * z, known.scale)
    assert float(found) == pytest.approx(-np.log(norm.pdf(z) * likelihood.mean()), abs=1e-10)


class Counted(pvae.LatentModel):
    """A latent with infinitely many values."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Poisson(torch.ones(len(x), dtype=x.dtype)))
            pyro.sample("x", dist.Normal(k, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Poisson(torch.ones(len(x), dtype=x.dtype)))


def test_latents_that_cannot_be_sampled_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="site 'k' is a Poisson"):
        reference(Counted(), torch.zeros(3, dtype=torch.float64), progress=False)
    with pytest.raises(InputError, match="z are all discrete"):
        reference(exact.DiscreteModel(), torch.arange(4), progress=False)
    with pytest.raises(InputError, match="R-hat compares chains"):
        reference(Planted(), torch.zeros(3, 3), chains=1, progress=False)


def _comparison(rhat: float, ess: float, shift: float, factor: float) -> SiteComparison:
    ones = np.ones((3, 1))
    return SiteComparison(SitePosterior(0 * ones, ones, rhat * ones, ess * ones), shift * ones, factor * ones)


@pytest.mark.parametrize(
    ("rhat", "ess", "shift", "factor", "status"),
    [
        (1.0, 900, 0.1, 1.1, "fine"),
        (1.0, 900, -0.3, 1.0, "look"),
        (1.0, 900, 0.0, 1 / 1.3, "look"),
        (1.0, 900, 0.6, 1.0, "bad"),
        (1.0, 900, 0.0, 0.6, "bad"),
        (1.1, 900, 0.0, 1.0, "look"),
        (1.0, 100, 0.9, 1.0, "look"),
    ],
)
def test_the_limits_and_chains_that_did_not_converge(
    rhat: float, ess: float, shift: float, factor: float, status: str
) -> None:
    found = reference_of({"z": _comparison(rhat, ess, shift, factor)}, 2, 10)
    assert found.status == status
    assert ("did not converge" in found.reason) == (rhat > 1.01 or ess < 200) == (not found.converged)


def test_rhat_sees_chains_apart() -> None:
    draws = np.random.default_rng(0).standard_normal((2, 200, 2))
    draws[1, :, 1] += 3.0
    rhat, ess = chain_diagnostics(draws)
    assert rhat[0] < 1.02 < 1.5 < rhat[1]
    assert ess[1] < 20 < 250 < ess[0]
