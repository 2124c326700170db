"""The ELBO of programs with latents that all data share, such as a decoder's weights: there is no weight per datum."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.evaluation_context import Setting
from pvae.programs.sites import Site
from pvae.weights.log_probs import PlateDims, log_probs_by_site
from pvae.weights.site_validation import delta_sites, require_weights_exist
from pvae.weights.traces import TracePair
from pvae.weights.vectorise import trace_particles

__all__ = ["shared_elbo", "shared_sites"]

_FEW = slice(0, 2)


def shared_sites(setting: Setting) -> tuple[str, ...]:
    """Return the latent sites outside the plate of the observed data; none where that is not one plate."""
    return setting.programs().bound_to(setting.batch.take(_FEW)).layout.shared()


def shared_elbo(setting: Setting, particles: int, chunk: int) -> Tensor:
    """Return for each datum its part of the ELBO, shape (data,), nats: their mean is the ELBO of N data over N.

    A datum's part is E_q[log p(x, z given w) - log q(z given x)] - KL(q(w) to p(w)) / N, where w is shared. N is the
    full size of the plate over data; without a subsample the data here are all that there are. Data of one pass
    share the draws of w, so the spread over data does not tell the noise of these: take more particles.

    Args:
        setting: the model and the data.
        particles: draws of w and z.
        chunk: greatest number of (particle, datum) evaluations at once.

    Raises:
        InputError: if `particles` or `chunk` is below 1; if a site of one program is none of the other's, or a point:
            the difference is then no bound.
    """
    particles, chunk = require_whole(particles, "particles"), require_whole(chunk, "chunk")
    local: list[Tensor] = []
    shared: list[Tensor] = []
    for batch in setting.slices(chunk):
        most = max(1, chunk // batch.size)
        parts = [_parts(setting, batch, min(most, particles - done)) for done in range(0, particles, most)]
        local.append(torch.stack([own for own, _ in parts]).sum(0) / particles)
        shared.append(torch.stack([of_all for _, of_all in parts]).sum() / particles)
    return torch.cat(local) + torch.stack(shared).mean() / _count(setting)


def _count(setting: Setting) -> int:
    """N of the plate over data; without a subsample these data are all, however many are passed at once."""
    few = setting.batch.take(_FEW)
    count = setting.programs().bound_to(few).count
    return count if count != few.size else setting.batch.size


def _parts(setting: Setting, batch: Batch, particles: int) -> tuple[Tensor, Tensor]:
    """Summed over particles: the terms of each datum, shape (batch,), and those of none, ()."""
    programs = setting.programs().bound_to(batch)
    layout = programs.layout
    plate = layout.observed_plate()
    if plate is None:
        raise InputError("The observed data are in no plate, so there is nothing to average over.")
    draws = trace_particles(programs, particles)
    _require_bound(draws[0])
    shape = PlateDims(layout.nesting, plate[1], particles // len(draws))
    own = torch.zeros(batch.size, dtype=torch.float64)
    shared = torch.zeros((), dtype=torch.float64)
    runs = ((1, [draw.model_sites for draw in draws]), (-1, [draw.guide_sites for draw in draws]))
    for sign, sites in runs:
        inside = _inside(sites[0], plate[0])
        for name, table in log_probs_by_site(sites, shape).items():
            table = sign * table.detach().to("cpu", torch.float64)
            if name in inside:
                own += table.sum(0)
            else:
                shared += table.sum()
    return own, shared


def _require_bound(draw: TracePair) -> None:
    """Refuse programs of which log p - log q, site by site, is no lower bound."""
    require_weights_exist(draw)
    guided = {site["name"] for site in draw.latent_sites}
    summed = [site["name"] for site in draw.model_sites if not site["is_observed"]]
    alone = [name for name in summed if name not in guided] + [site["name"] for site in draw.auxiliary_sites]
    if alone:
        raise InputError(
            f"Site {alone[0]!r} is in one program alone, and nothing is summed out beside a latent that all data "
            "share: draw it in both."
        )
    points = delta_sites(draw)
    if points:
        raise InputError(
            f"Guide site {points[0]!r} is a Delta, a point without a density, so there is no bound: draw it from a "
            "density, such as a Normal."
        )


def _inside(sites: Iterable[Site], plate: str) -> set[str]:
    """Return the names of the sites in a plate."""
    return {site["name"] for site in sites if plate in {frame.name for frame in site["cond_indep_stack"]}}
