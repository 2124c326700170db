"""The optional attributes of a density, read by `density_traits_of` with their defaults."""

from __future__ import annotations

import torch
from torch import nn

from pvae.densities import Bernoulli, StandardNormal, VampPrior
from pvae.densities.conditional_prior import ConditionalGaussian
from pvae.models.density_traits import DensityTraits, density_traits_of


def test_a_module_that_offers_nothing_has_the_defaults() -> None:
    assert density_traits_of(nn.Linear(2, 2)) == DensityTraits()
    assert density_traits_of(StandardNormal(2)) == DensityTraits()


def test_priors_say_what_they_are_made_of() -> None:
    vamp = density_traits_of(VampPrior(2, 3, data_shape=4))
    conditional = density_traits_of(ConditionalGaussian(3, 2))
    assert (vamp.takes_posterior, vamp.takes_condition) == (True, False)
    assert (conditional.takes_posterior, conditional.takes_condition) == (False, True)


def test_the_methods_of_a_likelihood_are_its_own() -> None:
    likelihood = Bernoulli(5, (2, 3))
    traits = density_traits_of(likelihood)
    assert traits.data_shape == (2, 3)
    assert traits.set_bias is not None
    assert traits.initialise_from is not None
    traits.set_bias(0.25)
    torch.testing.assert_close(likelihood.head.bias.detach(), torch.full((6,), 0.25))
    traits.initialise_from(torch.full((4, 2, 3), 0.5))
    torch.testing.assert_close(likelihood.head.bias.detach(), torch.zeros(6))
