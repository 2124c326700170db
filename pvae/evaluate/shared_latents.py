"""The ELBO of programs with latent sites that all data share, such as a decoder's weights.

Such programs have no log weight per datum, so importance sampling per datum does not apply to them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.evaluation_context import EvaluationContext
from pvae.programs.sites import Site
from pvae.weights.log_probs import PlateDims, log_probs_by_site
from pvae.weights.shared import has_summed_sites, require_bound, shared_weights
from pvae.weights.vectorise import trace_particles

__all__ = ["shared_elbo", "shared_sites"]


def shared_sites(context: EvaluationContext, chunk: int) -> tuple[str, ...]:
    """Return the latent sites outside the plate of the observed data; an empty tuple if that is not one plate.

    Args:
        context: the model and the data.
        chunk: the largest number of data at once.
    """
    return context.bound_to(next(context.chunks(chunk))).layout.shared()


def shared_elbo(context: EvaluationContext, particles: int, chunk: int) -> Tensor:
    """Return each datum's part of the ELBO, shape (data,), in nats; the mean of the parts is the ELBO divided by N.

    A datum's part is E_q[log p(x, z given w) - log q(z given x)] - KL(q(w) to p(w)) / N, where w is shared. N is the
    full size of the plate over data; if the plate is not subsampled, it is the number of data in the context. All data
    of a chunk share the draws of w, so the standard error over data does not include the noise of these draws. More
    particles reduce this noise. Sites of a datum that are marked for enumeration and that the guide does not draw are
    summed out.

    Args:
        context: the model and the data.
        particles: the number of draws of w and z.
        chunk: the largest number of (particle, datum) evaluations at once.

    Raises:
        InputError: if `particles` or `chunk` is below 1; if a latent site is in one program only and is not summed out,
            or is a point mass, because log p - log q is then no bound.
    """
    particles, chunk = require_whole(particles, "particles"), require_whole(chunk, "chunk")
    local_terms: list[Tensor] = []
    shared_terms: list[Tensor] = []
    for batch in context.chunks(chunk):
        at_once = max(1, chunk // batch.size)
        sums = [_term_sums(context, batch, min(at_once, particles - done)) for done in range(0, particles, at_once)]
        local_terms.append(torch.stack([local for local, _ in sums]).sum(0) / particles)
        shared_terms.append(torch.stack([shared for _, shared in sums]).sum() / particles)
    return torch.cat(local_terms) + torch.stack(shared_terms).mean() / _data_count(context, chunk)


def _data_count(context: EvaluationContext, chunk: int) -> int:
    """Return N, the full size of the plate over data; the number of data in the context if it is not subsampled."""
    first_data = next(context.chunks(chunk))
    count = context.bound_to(first_data).count
    return count if count != first_data.size else context.batch.size


def _term_sums(context: EvaluationContext, batch: Batch, particles: int) -> tuple[Tensor, Tensor]:
    """Return log p - log q summed over particles, in nats: the terms of each datum, and the terms of shared sites.

    The shapes are (batch,) and ().
    """
    programs = context.bound_to(batch)
    layout = programs.layout
    plate = layout.observed_plate()
    if plate is None:
        raise InputError(
            "The ELBO per datum needs a plate over the observed data, and these data are in no plate. Draw them inside "
            "pyro.plate('data', len(x))."
        )
    plate_name, data_dim = plate
    if has_summed_sites(programs):
        weights = shared_weights(programs, particles, plate_name)
        return weights.local.sum(0).to("cpu", torch.float64), weights.shared.sum().to("cpu", torch.float64)
    pairs = trace_particles(programs, particles)
    require_bound(pairs[0])
    dims = PlateDims(layout.nesting, data_dim, particles // len(pairs))
    local = torch.zeros(batch.size, dtype=torch.float64)
    shared = torch.zeros((), dtype=torch.float64)
    for pair in pairs:  # each by itself: programs with random control flow have other sites in each run
        for sign, sites in ((1, pair.model_sites), (-1, pair.guide_sites)):
            local_names = _names_inside(sites, plate_name)
            for name, table in log_probs_by_site([sites], dims).items():
                signed = sign * table.detach().to("cpu", torch.float64)
                if name in local_names:
                    local += signed.sum(0)
                else:
                    shared += signed.sum()
    return local, shared


def _names_inside(sites: Iterable[Site], plate: str) -> set[str]:
    """Return the names of the sites in a plate."""
    return {site["name"] for site in sites if plate in {frame.name for frame in site["cond_indep_stack"]}}
