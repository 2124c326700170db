"""Densities: modules whose ``forward(context)`` returns a Pyro distribution."""

from pvae.densities.likelihoods import Bernoulli, Gaussian
from pvae.densities.parts import LIKELIHOODS, POSTERIORS, PRIORS, part
from pvae.densities.posteriors import DiagonalGaussian
from pvae.densities.priors import StandardNormal

__all__ = [
    "LIKELIHOODS",
    "POSTERIORS",
    "PRIORS",
    "Bernoulli",
    "DiagonalGaussian",
    "Gaussian",
    "StandardNormal",
    "part",
]
