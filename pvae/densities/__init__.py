"""Densities: modules whose ``forward(context)`` returns a Pyro distribution."""

from pvae.densities.completion import Completion
from pvae.densities.conditional_prior import ConditionalGaussian
from pvae.densities.counts import Categorical, NegativeBinomial, Poisson
from pvae.densities.discretised import DiscretisedLogistic
from pvae.densities.flows import FlowPosterior, FlowPrior, HouseholderPosterior
from pvae.densities.label_distributions import GivenLabel, label_posterior
from pvae.densities.likelihoods import Bernoulli, ContinuousBernoulli, Gaussian
from pvae.densities.mixtures import DiagonalMixture, MixturePosterior, MixturePrior
from pvae.densities.parts import LIKELIHOODS, POSTERIORS, PRIORS, part
from pvae.densities.points import Flat, Point
from pvae.densities.posteriors import DiagonalGaussian, FullGaussian
from pvae.densities.priors import StandardNormal
from pvae.densities.sphere_distributions import UniformSphere, VonMisesFisher
from pvae.densities.spheres import SpherePrior, VonMisesFisherPosterior
from pvae.densities.vamp import VampPrior

__all__ = [
    "LIKELIHOODS",
    "POSTERIORS",
    "PRIORS",
    "Bernoulli",
    "Categorical",
    "Completion",
    "ConditionalGaussian",
    "ContinuousBernoulli",
    "DiagonalGaussian",
    "DiagonalMixture",
    "DiscretisedLogistic",
    "Flat",
    "FlowPosterior",
    "FlowPrior",
    "FullGaussian",
    "Gaussian",
    "GivenLabel",
    "HouseholderPosterior",
    "MixturePosterior",
    "MixturePrior",
    "NegativeBinomial",
    "Point",
    "Poisson",
    "SpherePrior",
    "StandardNormal",
    "UniformSphere",
    "VampPrior",
    "VonMisesFisher",
    "VonMisesFisherPosterior",
    "label_posterior",
    "part",
]
