"""The terms of the ELBO, even if guide sites are summed out of the weights."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor

from pvae.weights.auxiliary import log_marginal
from pvae.weights.base import LogWeights
from pvae.weights.contraction import Factor, FactorTree, multiply, named, sum_of_tree, sums_by_plates
from pvae.weights.enumeration import SUMMED
from pvae.weights.source import WeightsSource
from pvae.weights.summed_sites import DATA, PARTICLES, SummedSites, as_tree, merge_trees

__all__ = ["elbo_terms"]

#: In place of infinity: a value of probability 0 times this is 0, and not nan.
_LARGEST = 1e300


def elbo_terms(weights: LogWeights) -> Tensor:
    """Return the terms of which the mean over particles is the ELBO of each datum, shape (particles, batch), nats.

    Without summed-out guide sites they are the log weights. A guide site y that is summed out is not in the weights;
    their mean log is the bound E_q(z)[log sum_y p(x, y, z) - log q(z given x)]. The ELBO is below it: E_q(y, z)[log
    p(x, y, z) - log q(y, z given x)], here with the exact sum over y, in float64 and without gradient. Sites that are
    summed out only in the model are summed within p in both.

    Args:
        weights: the weights of a batch, from runs of the programs.

    Raises:
        InputError: if the weights do not exist, or a sum needs more memory than is free.
    """
    log_w = weights.log_w
    if SUMMED not in weights.strategies.values():
        return log_w
    source = weights.only_source()
    sites = SummedSites(source.pairs[0], source.dims)
    in_guide = {letter: name for letter, name in sites.sites.items() if name in weights.strategies}
    probabilities = sites.guide_factors(in_guide.values())
    log_q = as_tree([probabilities[name] for name in in_guide.values()])
    return _expectation(log_q, _terms(sites, source, in_guide), in_guide, log_w.shape)


def _terms(sites: SummedSites, source: WeightsSource, in_guide: Mapping[str, str]) -> FactorTree:
    """Return log p, with the model's own sites summed out, and -log q, as factors."""
    in_model = {letter: name for letter, name in sites.sites.items() if letter not in in_guide}
    log_p = sums_by_plates(sites.model_factors(in_model.values()), in_model)
    if source.pairs[0].auxiliary_sites:
        log_guide, _ = log_marginal(source.pairs[0], source.dims, source.auxiliary)
        log_q = [(frozenset[str](), sites.from_table(log_guide))]
    else:
        log_q = list(sites.guide_factors(()).values())
    return merge_trees(log_p, as_tree([(plates, named(-factor, factor._pyro_dims)) for plates, factor in log_q]))


def _expectation(log_q: FactorTree, terms: FactorTree, sites: Mapping[str, str], shape: torch.Size) -> Tensor:
    """Return the sum of the expectations of terms under q, shape (particles, batch), in float64.

    It is the derivative of log E[exp(s * sum of terms)] at s = 0, so one sum gives it, at the cost of the sum of the
    weights.

    Args:
        log_q: log q of the sites.
        terms: the terms.
        sites: for each letter of the sites' dimensions, the site.
        shape: (particles, batch).
    """
    letters = [letter for letter, size in zip((PARTICLES, DATA), shape, strict=True) if size > 1]
    device = next(iter(terms.values()))[0].device
    with torch.enable_grad():
        s = torch.zeros(shape, dtype=torch.float64, device=device).requires_grad_()
        factor_s = named(s.reshape([size for size in shape if size > 1]), "".join(letters))
        scaled = OrderedDict(
            (plates, [multiply(factor_s, _finite(term)) for term in terms[plates]]) for plates in terms
        )
        double = OrderedDict(
            (plates, [named(term.double(), term._pyro_dims) for term in log_q[plates]]) for plates in log_q
        )
        (mean,) = torch.autograd.grad(sum_of_tree(merge_trees(double, scaled), sites).sum(), s)
    return mean.masked_fill(mean < -(_LARGEST**0.5), -math.inf)


def _finite(term: Factor) -> Factor:
    return named(term.double().clamp(-_LARGEST, _LARGEST), term._pyro_dims)
