"""Densities: modules whose ``forward(context)`` returns a Pyro distribution."""

from pvae.densities.counts import Categorical, NegativeBinomial, Poisson
from pvae.densities.discretised import DiscretisedLogistic
from pvae.densities.labels import GivenLabel, label_posterior
from pvae.densities.likelihoods import Bernoulli, ContinuousBernoulli, Gaussian
from pvae.densities.parts import LIKELIHOODS, POSTERIORS, PRIORS, part
from pvae.densities.posteriors import DiagonalGaussian
from pvae.densities.priors import StandardNormal

__all__ = [
    "LIKELIHOODS",
    "POSTERIORS",
    "PRIORS",
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "DiagonalGaussian",
    "DiscretisedLogistic",
    "Gaussian",
    "GivenLabel",
    "NegativeBinomial",
    "Poisson",
    "StandardNormal",
    "label_posterior",
    "part",
]
