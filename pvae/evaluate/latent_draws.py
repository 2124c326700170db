"""Draws of z from the guide, flattened to units, with log p(x, z), log p(x given z) and log q(z given x)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor

from pvae.batch import Batch
from pvae.evaluate.evaluation_context import EvaluationContext
from pvae.evaluate.simulated_pairs import SimulatedPairs, as_units
from pvae.programs.sites import UnknownDensityError, is_marked_for_enumeration, sample_sites
from pvae.weights.log_probs import PlateDims, log_probs_by_site, sum_tensors
from pvae.weights.posterior_draws import draw_latents

__all__ = ["LatentDraws", "draw_from_guide", "log_guide_of_pairs"]


@dataclass(frozen=True)
class LatentDraws:
    """Draws of z from the guide for each datum of a batch; all tensors are on the CPU.

    Attributes:
        values: the draws by site, shape (draws, batch, units).
        log_joint: log p(x, z), shape (draws, batch), nats.
        log_likelihood: log p(x given z), shape (draws, batch), nats.
        log_guide: log q(z given x), shape (draws, batch), nats; None if it is not the density of only the drawn sites,
            because a site is summed out or auxiliary.
    """

    values: Mapping[str, Tensor]
    log_joint: Tensor
    log_likelihood: Tensor
    log_guide: Tensor | None


def draw_from_guide(context: EvaluationContext, batch: Batch, draws: int) -> LatentDraws:
    """Draw z from the guide `draws` times for each datum.

    Sites that are enumerated or summed out are drawn from their exact posterior given the other sites.

    Args:
        context: the model.
        batch: the data.
        draws: the number of draws for each datum.

    Raises:
        InputError: if the programs give no weight per datum.
    """
    programs = context.bound_to(batch)
    data_dim = context.data_dim(programs)
    with programs.preserved_state():
        guide_trace, model_trace = programs.trace_both()
    sites = {site["name"]: site for site in sample_sites(model_trace)}
    latent = [name for name, site in sites.items() if not site["is_observed"]]
    if _needs_single_draws(guide_trace, model_trace):
        values, joint, likelihood = _draw_one_by_one(context, batch, draws)
        log_guide = None
    else:
        weights = context.log_weights(batch, draws)
        values, joint, likelihood = dict(weights.values), weights.log_joint, weights.log_likelihood()
        log_guide = _table(weights.log_guide)
    units = {name: as_units(values[name], data_dim, sites[name]["fn"].event_dim) for name in latent if name in values}
    return LatentDraws(units, _table(joint), _table(likelihood), log_guide)


def _needs_single_draws(guide_trace: poutine.Trace, model_trace: poutine.Trace) -> bool:
    """Return whether a site is summed out or auxiliary, so the weights do not contain each site separately."""
    drawn = {site["name"] for site in sample_sites(guide_trace) if not site["is_observed"]}
    latent = {site["name"] for site in sample_sites(model_trace) if not site["is_observed"]}
    marked = [site for trace in (guide_trace, model_trace) for site in sample_sites(trace)]
    return drawn != latent or any(is_marked_for_enumeration(site) for site in marked)


def _draw_one_by_one(context: EvaluationContext, batch: Batch, draws: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return draws of all latent sites, each from a separate run, with log p(x, z) and log p(x given z).

    The values have the shape (draws, *plates, *event), the log-densities (draws, batch).
    """
    programs = context.bound_to(batch)
    dims = PlateDims(programs.layout.nesting, context.data_dim(programs), 1)
    values, joint, likelihood = [], [], []
    for _ in range(draws):
        drawn = draw_latents(context.log_weights(batch, 1))
        sites = sample_sites(programs.trace_model(values=drawn))
        tables = log_probs_by_site([sites], dims)
        observed = [table for name, table in tables.items() if name not in drawn]
        values.append(drawn)
        joint.append(sum_tensors(tables.values()).expand(1, batch.size)[0])
        likelihood.append(sum_tensors(observed).expand(1, batch.size)[0])
    stacked = {name: torch.stack([drawn[name] for drawn in values]) for name in values[0]}
    return stacked, torch.stack(joint), torch.stack(likelihood)


def _table(table: Tensor) -> Tensor:
    """Return a table of log-densities as float64 on the CPU."""
    return table.detach().to("cpu", torch.float64)


def log_guide_of_pairs(context: EvaluationContext, pairs: SimulatedPairs) -> Tensor | None:
    """Return log q(z given x) of pairs that were drawn from the model, shape (batch,), nats.

    None if the guide cannot score a z that it did not draw itself, such as a flow without an inverse.

    Args:
        context: the guide.
        pairs: pairs of z and x.
    """
    programs = context.bound_to(pairs.batch)
    dims = PlateDims(programs.layout.nesting, context.data_dim(programs), 1)
    try:
        sites = sample_sites(programs.trace_guide(pairs.trace))
        tables = log_probs_by_site([[site for site in sites if not site["is_observed"]]], dims)
    except (UnknownDensityError, NotImplementedError):
        return None
    return _table(sum_tensors(tables.values()).expand(1, pairs.batch.size)[0])
