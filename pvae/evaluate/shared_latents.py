"""The ELBO and the weights of programs with latent sites that all data share, such as a decoder's weights.

Such programs have no log weight per datum. Each draw has one weight for all data together.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.evaluation_context import EvaluationContext
from pvae.evaluate.fitting_chunk import fitting_chunk
from pvae.programs.sites import Site
from pvae.weights.log_probs import PlateDims, log_probs_by_site
from pvae.weights.shared import draw_shared, has_summed_sites, require_bound, shared_weights
from pvae.weights.traces import TracePair
from pvae.weights.vectorise import trace_particles

__all__ = ["draw_jointly", "joint_weights", "shared_elbo", "shared_sites"]


def shared_sites(context: EvaluationContext, chunk: int) -> tuple[str, ...]:
    """Return the sites outside the plate of the observed data: latent sites, or data in another plate.

    Args:
        context: the model and the data.
        chunk: the largest number of data at once.
    """
    programs = context.bound_to(next(context.chunks(chunk)))
    layout = programs.layout
    plate = layout.observed_plate(programs.size)
    if plate is None:
        return ()
    outside = [name for name in (*layout.observed_sites, *layout.undrawn) if plate[0] not in layout.frames[name]]
    return (*layout.shared(programs.size), *outside)


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
    chunk = _fitting_chunk(context, particles, chunk)
    local_terms: list[Tensor] = []
    shared_terms: list[Tensor] = []
    for batch in context.chunks(chunk):
        at_once = max(1, chunk // batch.size)
        runs = [_run(context, batch, min(at_once, particles - done)) for done in range(0, particles, at_once)]
        local_terms.append(torch.stack([local.sum(0) for _, local, _ in runs]).sum(0) / particles)
        shared_terms.append(torch.stack([shared.sum() for _, _, shared in runs]).sum() / particles)
    return torch.cat(local_terms) + torch.stack(shared_terms).mean() / _data_count(context, chunk)


def _require_all_data(context: EvaluationContext) -> None:
    """Raise InputError for a part of the data, because the weights are for all N data together."""
    size = context.batch.size
    count = context.bound_to(context.batch).count
    if count != size:
        raise InputError(
            f"All data share site {shared_sites(context, size)[0]!r}, so a weight needs all {count} data; got "
            f"{size}. Pass all of them, or use `elbo`, which also accepts a part of the data."
        )


def draw_jointly(context: EvaluationContext) -> tuple[dict[str, Tensor], Tensor]:
    """Return one draw of all latents by site, in their own shapes, and its log weight for all data, in nats.

    Args:
        context: the model and the data.

    Raises:
        InputError: as `joint_weights`.
    """
    _require_all_data(context)
    programs = context.bound_to(context.batch)
    plate = programs.layout.observed_plate(programs.size)
    if plate is not None and has_summed_sites(programs):
        drawn, weights = draw_shared(programs, plate[0])
        return drawn, (weights.local.double().sum() + weights.shared.double().sum()).cpu()
    pairs, local, shared = _run(context, context.batch, 1)
    pair = pairs[0]
    values = {site["name"]: site["value"] for site in pair.latent_sites if site["name"] in pair.model.nodes}
    return values, local.sum() + shared.sum()


def joint_weights(context: EvaluationContext, particles: int, chunk: int) -> tuple[Tensor, Tensor]:
    """Return the log weights of all data together, and the mean of the terms of each datum, in nats.

    Args:
        context: the model and the data.
        particles: the number of draws of the shared and of the other latents.
        chunk: the largest number of (particle, datum) evaluations at once, unless one draw needs more.

    Returns:
        Shapes (particles,) and (data,).

    Raises:
        InputError: if the data are not all N of a subsampled plate, or a latent site is in one program only or a point.
    """
    batch = context.batch
    _require_all_data(context)
    at_once = max(1, _fitting_chunk(context, particles, chunk, all_data=True) // batch.size)
    joint, local = [], torch.zeros(batch.size, dtype=torch.float64)
    for done in range(0, particles, at_once):
        _, own, shared = _run(context, batch, min(at_once, particles - done))
        joint.append(own.sum(1) + shared)
        local += own.sum(0) / particles
    return torch.cat(joint), local


def _fitting_chunk(context: EvaluationContext, particles: int, chunk: int, *, all_data: bool = False) -> int:
    """Return the chunk, or a smaller one if the first runs of the evaluation do not fit into the free memory."""

    def first_runs(chunk: int) -> None:
        batch = context.batch if all_data else next(context.chunks(chunk))
        _run(context, batch, min(max(1, chunk // batch.size), particles))

    return fitting_chunk(first_runs, context, particles, chunk)


def _data_count(context: EvaluationContext, chunk: int) -> int:
    """Return N, the full size of the plate over data; the number of data in the context if it is not subsampled."""
    first_data = next(context.chunks(chunk))
    count = context.bound_to(first_data).count
    return count if count != first_data.size else context.batch.size


def _run(context: EvaluationContext, batch: Batch, particles: int) -> tuple[list[TracePair], Tensor, Tensor]:
    """Return runs of both programs, and log p - log q of each particle: the terms of each datum and of shared sites.

    The terms are in nats, of shapes (particles, batch) and (particles,). There are no runs if a site is summed out.
    """
    programs = context.bound_to(batch)
    layout = programs.layout
    plate = layout.observed_plate(programs.size)
    if plate is None:
        raise InputError(
            "The ELBO per datum needs a plate over the observed data, but these data are in no plate. Observe them "
            "inside "
            "pyro.plate('data', len(x))."
        )
    plate_name, data_dim = plate
    if has_summed_sites(programs):
        weights = shared_weights(programs, particles, plate_name)
        return [], weights.local.to("cpu", torch.float64), weights.shared.to("cpu", torch.float64)
    pairs = trace_particles(programs, particles)
    require_bound(pairs[0])
    dims = PlateDims(layout.nesting, data_dim, particles // len(pairs))
    local, shared = [], []
    for pair in pairs:  # run separately, because programs with random control flow have other sites in each run
        own = torch.zeros(dims.particles, batch.size, dtype=torch.float64)
        others = torch.zeros(dims.particles, dtype=torch.float64)
        for sign, sites in ((1, pair.model_sites), (-1, pair.guide_sites)):
            local_names = _names_inside(sites, plate_name)
            for name, table in log_probs_by_site([sites], dims).items():
                signed = sign * table.detach().to("cpu", torch.float64)
                if name in local_names:
                    own += signed
                else:
                    others += signed.sum(1)
        local.append(own)
        shared.append(others)
    return pairs, torch.cat(local), torch.cat(shared)


def _names_inside(sites: Iterable[Site], plate: str) -> set[str]:
    """Return the names of the sites in a plate."""
    return {site["name"] for site in sites if plate in {frame.name for frame in site["cond_indep_stack"]}}
