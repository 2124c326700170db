"""A latent variable on the sphere: a model with a known posterior, log weights by hand, and pairs that are refused."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.special import ive

import pvae
from pvae.densities import UniformSphere, VonMisesFisher
from pvae.errors import InputError

EXACT = {"rtol": 1e-11, "atol": 1e-11}

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def small(kind=pvae.VAE, **parts):
    settings = {"prior": "sphere", "posterior": "von-mises-fisher:least=0.2", "latent": 3, "hidden": 4, **parts}
    return kind((6,), **settings).double()


def binary(size):
    return torch.rand(size, 6, dtype=torch.float64).round()


class Directions:
    """z is uniform on the sphere, and x is von Mises-Fisher around z; the posterior is von Mises-Fisher around x."""

    def __init__(self, dimensions, concentration, of_guide):
        self.zeros = torch.zeros(dimensions, dtype=torch.float64)
        self.concentration, self.of_guide = torch.tensor([concentration, of_guide], dtype=torch.float64)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", UniformSphere(self.zeros))
            return pyro.sample("x", VonMisesFisher(z, self.concentration), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", VonMisesFisher(x, self.of_guide))


@pytest.mark.parametrize(("dimensions", "concentration"), [(2, 3.0), (5, 20.0), (50, 8.0)])
def test_with_the_exact_posterior_each_log_weight_is_the_log_evidence(dimensions, concentration):
    programs = Directions(dimensions, concentration, concentration)
    x = UniformSphere(programs.zeros).sample((4,))
    log_w = pvae.log_weights(programs, x, particles=7).log_w
    log_area = math.log(2) + dimensions / 2 * math.log(math.pi) - math.lgamma(dimensions / 2)
    torch.testing.assert_close(log_w, torch.full((7, 4), -log_area, dtype=torch.float64), **EXACT)


def test_log_evidence_of_another_guide_is_that_of_the_sphere():
    programs = Directions(3, 6.0, 4.0)
    x = UniformSphere(programs.zeros).sample((50,))
    evidence = pvae.evaluate.log_evidence(programs, x, particles=500)
    assert evidence.value == pytest.approx(-math.log(4 * math.pi), abs=0.01)


def test_log_weights_agree_with_the_formula_by_scipy():
    model, x = small(), binary(5)
    weights = pvae.log_weights(model, x, particles=3)
    z, q = weights.values["z"], model.encode(x)
    k = q.concentration.detach().numpy()
    log_c = 0.5 * np.log(k) - 1.5 * math.log(2 * math.pi) - np.log(ive(0.5, k))
    log_q = torch.tensor(log_c + k * ((z * q.loc).sum(-1).detach().numpy() - 1))
    by_hand = model.decode(z).log_prob(x) - math.log(4 * math.pi) - log_q
    torch.testing.assert_close(weights.log_w, by_hand, **EXACT)


def test_the_kl_of_diagnoses_and_objectives_is_the_closed_form():
    model, x = small(), binary(8)
    q = model.encode(x)
    k = q.concentration
    expected = (k / torch.tanh(k) - 1 + torch.log(k / torch.sinh(k))).detach()
    found = pvae.evaluate.diagnose(model, x, particles=100)
    assert found.latents["z"].how == "analytic-whole"
    assert found.latents["z"].kl.value == pytest.approx(expected.mean().item(), rel=1e-9)
    assert found.latents["z"].kl_per_unit.shape == (1,)
    assert not any("closed-form" in note for note in found.notes)
    assert isinstance(q, VonMisesFisher)


def test_a_reconstruction_decodes_the_mean_direction():
    model, x = small(), binary(5)
    decoded = model.decode(model.encode(x).loc).mean
    torch.testing.assert_close(model.reconstruct(x), decoded, **EXACT)
    assert model.encode(x).mean.norm(dim=-1).max() < 0.9


def test_a_vamp_prior_is_a_mixture_on_the_sphere():
    model, x = small(prior="vamp:components=4"), binary(5)
    model.initialise_from({"x": binary(9)})
    weights = pvae.log_weights(model, x, particles=3)
    z = weights.values["z"]
    parts = torch.stack([model.encode(row[None]).log_prob(z) for row in model.prior.pseudo_inputs])
    by_hand = parts.logsumexp(0) - math.log(4) + model.decode(z).log_prob(x) - model.encode(x).log_prob(z)
    torch.testing.assert_close(weights.log_w, by_hand, **EXACT)


class Gaussian:
    """Programs of a user: z is on the sphere in one of them, and Gaussian in the other."""

    def __init__(self, on_sphere):
        self.on_sphere = on_sphere

    def density(self, x, program):
        normal = dist.Normal(x.new_zeros(3), 1.0).to_event(1)
        return UniformSphere(x.new_zeros(3)) if self.on_sphere == program else normal

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.density(x, "model"))
            return pyro.sample("x", dist.Normal(z.sum(-1, True) + torch.zeros_like(x), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.density(x, "guide"))


@pytest.mark.parametrize("where", ["model", "guide"])
def test_a_site_on_the_sphere_in_one_program_only_is_refused(where):
    programs, x = Gaussian(where), binary(6)
    for evaluate in (partial(pvae.log_weights, particles=2), pvae.evaluate.elbo, pvae.evaluate.diagnose):
        with (
            pyro.validation_enabled(False),
            pytest.raises(InputError, match=rf"'z' is on a sphere in the {where} but not in the") as caught,
        ):
            evaluate(programs, x)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="on a sphere in one program only"):
        pvae.fit(programs, x, epochs=1, progress=False)


@pytest.mark.parametrize(
    "parts",
    [
        {"prior": "standard"},
        {"prior": "mixture:components=2"},
        {"prior": "flow"},
        {"posterior": "diagonal"},
        {"posterior": "full"},
        {"posterior": "flow"},
    ],
)
def test_parts_that_are_not_both_on_the_sphere_are_refused(parts):
    with pytest.raises(InputError, match="are not both on a sphere") as caught:
        small(**parts)
    assert "\n" not in str(caught.value)


def test_fitted_priors_annealing_and_second_derivatives_are_refused():
    model, x = small(), binary(6)
    with pytest.raises(InputError, match="needs real numbers of any size; site z has the support Sphere"):
        pvae.fit_prior(pvae.fit(model, x, epochs=1, step="eager", precision="float64", progress=False), "mixture", x)
    with pytest.raises(InputError, match=r"'z' \(UniformSphere\) has none"):
        pvae.evaluate.ais(model, x)
    with pytest.raises(InputError, match="only first derivatives"):
        pvae.fit(pvae.SemiAmortised(model), x, epochs=1, progress=False)
