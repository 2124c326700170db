"""The optional attributes of a latent model, read by `traits_of` with their defaults."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor, nn
from tutorial_vae import VAE as TutorialVAE

import pvae
from pvae.programs.model_traits import ModelTraits, is_latent_model, traits_of


def program(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))


class Declares(pvae.LatentModel):
    """A latent model that offers every trait."""

    fields = ("x", "y")
    default_objective = "iwae"
    classes = 3
    started = 0

    def model(self, x: Tensor, y: Tensor) -> None:
        program(x)

    def guide(self, x: Tensor, y: Tensor) -> None:
        program(x)

    def initialise_from(self, batch: Any) -> None:
        self.started += len(batch["x"])

    def classify(self, x: Tensor) -> pyro.distributions.Categorical:
        return pyro.distributions.Categorical(logits=torch.zeros(len(x), self.classes))


@pytest.mark.parametrize(
    "latent_model",
    [SimpleNamespace(model=program, guide=program), TutorialVAE(z_dim=2, hidden_dim=3)],
    ids=["plain object", "tutorial"],
)
def test_a_model_that_offers_nothing_has_the_defaults(latent_model: Any) -> None:
    assert traits_of(latent_model) == ModelTraits()


def test_a_pair_has_its_fields_and_the_objective_of_every_latent_model() -> None:
    traits = traits_of(pvae.pair(program, program, fields=("x",)))
    assert (traits.fields, traits.default_objective, traits.classify, traits.classes) == (("x",), "elbo", None, None)


def test_every_trait_of_a_model_is_read() -> None:
    latent_model = Declares()
    traits = traits_of(latent_model)
    assert (traits.fields, traits.default_objective, traits.classes) == (("x", "y"), "iwae", 3)
    assert traits.initialise_from is not None
    traits.initialise_from({"x": torch.zeros(5, 2)})
    assert latent_model.started == 5
    assert traits.classify is not None
    assert traits.classify(torch.zeros(4, 2)).batch_shape == (4,)


def test_a_class_and_a_function_show_their_default_objective() -> None:
    assert traits_of(Declares).default_objective == "iwae"
    assert traits_of(lambda: Declares()).default_objective == "elbo"


def test_a_latent_model_has_two_programs() -> None:
    assert is_latent_model(Declares())
    assert is_latent_model(SimpleNamespace(model=program, guide=program))
    assert not is_latent_model(SimpleNamespace(model=program, guide=None))
    assert not is_latent_model(nn.Linear(2, 2))
