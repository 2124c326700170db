"""Codes, samples and reconstructions come from the traces of any model."""

from __future__ import annotations

import math
from typing import Any

import exact
import pyro
import pyro.distributions as dist
import pytest
import torch
import tutorial_vae
from stats import assert_close_in_sigmas
from torch import nn

import pvae
from pvae import InputError, pair
from pvae.comparison.cells.drawings import draw_arrays
from pvae.models import encode, has_bernoulli_likelihood, reconstruct, sample
from pvae.models.rendering import interpolate

DOUBLE = torch.float64


def test_codes_are_the_guides_means() -> None:
    model, x = exact.TwoLayerModel(), torch.randn(4, 3, dtype=DOUBLE)
    codes = encode(model, {"x": x})
    torch.testing.assert_close(codes["z1"], x @ model.C.T + model.c)
    assert set(codes) == {"z1", "z2"}
    assert not codes["z1"].requires_grad


def test_samples_have_the_models_mean_whatever_x_was() -> None:
    model = exact.LinearGaussianModel()
    drawn = sample(model, {"x": torch.full((20_000, 3), 1e3, dtype=DOUBLE)})
    error = torch.tensor(exact.A_WEIGHT).square().sum(1).sqrt() / math.sqrt(20_000)
    assert_close_in_sigmas(drawn.mean(0), exact.A_BIAS, error)


def test_reconstructions_are_means_given_z_in_the_shape_of_x() -> None:
    model = exact.LinearGaussianModel(exact.A_PRIOR[0], 1e-12 * exact.A_PRIOR[1])
    x = torch.randn(5, 3, dtype=DOUBLE)
    expected = torch.tensor(exact.A_BIAS).expand(5, 3)
    torch.testing.assert_close(reconstruct(model, {"x": x}), expected, atol=1e-4, rtol=0)


class Clusters(pvae.LatentModel):
    """Clusters at -5 and 5, mirrored by z of -1 or 1; only the model has the component k, which is summed out."""

    def model(self, x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 2.0))
            k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.9)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal((10 * k - 5) * z, 0.5), obs=x[:, 0])

    def guide(self, x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0].abs() / 5, 1e-3))


def test_a_component_that_only_the_model_has_is_that_of_each_datum_in_every_picture() -> None:
    x = torch.tensor([[-5.0], [5.0]]).repeat(20, 1)
    torch.testing.assert_close(reconstruct(Clusters(), {"x": x}), x, atol=0.05, rtol=0)
    ends = torch.cat([2 * x[:2], x[:2]])
    lines = interpolate(Clusters(), pvae.Batch(x=ends[2:]), pvae.Batch(x=ends[:2]), steps=3)[..., 0]
    torch.testing.assert_close(lines, torch.tensor([[-5.0, -7.5, -10.0], [5.0, 7.5, 10.0]]), atol=0.05, rtol=0)
    splits = pvae.load_data(x, binarise="none", validation=0, test=10)
    drawn = draw_arrays(Clusters(), splits)
    torch.testing.assert_close(drawn.arrays["reconstructions"], drawn.arrays["originals"], atol=0.05, rtol=0)
    assert not drawn.failures


def test_the_tutorials_vae_is_asked_without_methods_of_its_own() -> None:
    model = tutorial_vae.VAE(z_dim=2, hidden_dim=4)
    batch = {"x": torch.rand(6, 28, 28).round()}
    pictures = [ask(model, batch) for ask in (reconstruct, sample)]
    assert all(each.shape == (6, 28, 28) and (each > 0).all() and (each < 1).all() for each in pictures)
    torch.testing.assert_close(encode(model, batch)["latent"], model.encoder(batch["x"])[0].detach())
    assert not pyro.get_param_store()


def test_asking_runs_in_evaluation_mode_and_leaves_the_mode_alone() -> None:
    class Dropped(exact.LinearGaussianModel):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = nn.Dropout(0.9)

        def guide(self, x: torch.Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.dropout(x[:, :2]), 1.0).to_event(1))

    model, x = Dropped(), torch.ones(4, 3, dtype=DOUBLE)
    model.dropout.train()
    torch.testing.assert_close(encode(model, {"x": x})["z"], x[:, :2])
    assert model.dropout.training


def test_global_parameters_trained_by_plain_svi_are_used() -> None:
    def guide(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    with pyro.get_param_store().scope():
        pyro.param("loc", torch.tensor(3.0))
        codes = encode(pair(lambda x: None, guide), {"x": torch.zeros(2)})
    assert codes["z"].eq(3.0).all()


def test_a_model_that_observes_nothing_says_so() -> None:
    nothing = lambda x: pyro.sample("z", dist.Normal(0.0, 1.0))
    with pytest.raises(InputError, match="observes nothing"):
        sample(pair(nothing, nothing), {"x": torch.zeros(2)})


@pytest.mark.parametrize(
    ("density", "bits"),
    [
        (lambda z: dist.Bernoulli(logits=z).to_event(1), True),
        (lambda z: dist.Bernoulli(logits=z).to_event(1).mask(torch.tensor(True)), True),
        (lambda z: dist.ContinuousBernoulli(logits=z).to_event(1), False),
        (lambda z: dist.Normal(z, 1.0).to_event(1), False),
    ],
)
def test_only_a_bernoulli_likelihood_of_x_asks_for_bits(density: Any, bits: bool) -> None:
    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("y", dist.Bernoulli(logits=z.sum(-1)), obs=y)
            pyro.sample("x", density(z), obs=x)

    state = torch.get_rng_state()
    batch = {"x": torch.full((2, 3), 0.3), "y": torch.ones(2)}
    assert has_bernoulli_likelihood(pair(model, lambda x: None), batch) is bits
    assert torch.equal(torch.get_rng_state(), state)


def test_the_old_name_of_has_bernoulli_likelihood_warns() -> None:
    model = pvae.VAE((3,), latent=2, hidden=4)
    with pytest.warns(DeprecationWarning, match="scores_bits is now called has_bernoulli_likelihood"):
        assert pvae.models.scores_bits(model, {"x": torch.rand(4, 3)})
