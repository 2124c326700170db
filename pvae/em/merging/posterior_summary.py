"""The overlap of components and how well each fits its data, from one pass over the data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pvae.em.base import Mixture
from pvae.em.e_step import EStep
from pvae.em.em_options import EMOptions

__all__ = ["PosteriorSummary", "summarise_posteriors"]


@dataclass(frozen=True)
class PosteriorSummary:
    """Summary of the posteriors r of all data under a mixture.

    Attributes:
        gram: sum of r_i r_j over the data, (components, components).
        misfit: minus the mean of log p(x) over the data of each component, weighted by r, (components,), nats per
            datum in standardised coordinates.
        bound: log-likelihood plus log prior, nats per datum in standardised coordinates.
    """

    gram: Tensor
    misfit: Tensor
    bound: float

    def overlap(self) -> Tensor:
        """Return the cosine between the posteriors of each pair of components, 0 on the diagonal.

        It is 1 if and only if the two posteriors are proportional over all data: one component can then replace both
        without changing the likelihood. It depends neither on units nor on how two duplicates share their data.

        Returns:
            (components, components).
        """
        norms = self.gram.diagonal().clamp_min(torch.finfo(torch.float64).tiny).sqrt()
        cosine = self.gram / norms / norms.unsqueeze(1)
        return cosine.fill_diagonal_(0.0)


def summarise_posteriors(e_step: EStep, mixture: Mixture, options: EMOptions) -> PosteriorSummary:
    """Return a summary of the posteriors of all data.

    Args:
        e_step: the E-step over the data.
        mixture: in standardised coordinates.
        options: hold the prior.
    """
    kernel = e_step.make_kernel(mixture)
    components = mixture.components
    gram = mixture.weights.new_zeros(components, components)
    counts_and_log_densities = mixture.weights.new_zeros(2, components)
    log_density_and_weight = mixture.weights.new_zeros(2)
    for prepared, weights in e_step.data.prepared_chunks(kernel):
        logits = kernel.logits(prepared)
        common_term = kernel.common_term(prepared)
        log_densities = logits.logsumexp(0)
        if common_term is not None:
            log_densities = log_densities + common_term
        log_densities = log_densities.double()
        r = torch.softmax(logits, 0).double()
        w = torch.ones_like(log_densities) if weights is None else weights.double()
        gram += (r * w) @ r.mT
        counts_and_log_densities += torch.stack([r @ w, r @ (w * log_densities)])
        log_density_and_weight += torch.stack([w @ log_densities, w.sum()])
    gram = e_step.group.sum(gram)
    counts, component_log_densities = e_step.group.sum(counts_and_log_densities)
    total_log_density, total_weight = e_step.group.sum(log_density_and_weight)
    misfit = -component_log_densities / counts.clamp_min(torch.finfo(torch.float64).tiny)
    bound = float((total_log_density + options.prior.log_density(mixture)) / total_weight)
    return PosteriorSummary(gram, misfit, bound)
