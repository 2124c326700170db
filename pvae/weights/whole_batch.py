"""One log weight for a whole batch, for programs without a plate that holds every site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.bound import BoundPrograms
from pvae.weights.base import LogWeights
from pvae.weights.handlers import PATHWISE, ChooseStrategy
from pvae.weights.log_probs import sum_tensors
from pvae.weights.site_validation import delta_sites, require_same_masks, require_same_scales, require_weights_exist
from pvae.weights.traces import site_log_prob
from pvae.weights.vectorise import trace_particles

__all__ = ["weights_of_batch"]


def weights_of_batch(programs: BoundPrograms, particles: int, choose: ChooseStrategy) -> LogWeights:
    """Return the log weight of a whole batch for each particle, in tables of shape (particles, 1).

    It is the sum over all sites, each times its scale, as in Pyro's losses. Only an objective that is linear in the log
    weight may use it: its mean does not change if the sum over data is taken before the mean over particles.

    Args:
        programs: both programs with their arguments.
        particles: the number of draws of z.
        choose: the strategy of each site.

    Raises:
        InputError: if a site is to be enumerated, is auxiliary, or is in one program only.
    """
    pairs = trace_particles(programs, particles, choose)
    pair = pairs[0]
    require_weights_exist(pair)
    require_same_masks(pair)
    require_same_scales(pair)
    enumerated = [site.name for site in pair.dims.sites]
    without_weight = enumerated or [site["name"] for site in pair.auxiliary_sites]
    if without_weight:
        raise InputError(
            f"Site {without_weight[0]!r} is enumerated or auxiliary, which needs a weight per datum, but no plate "
            "holds every site. Remove its mark, or put every site in one plate over data."
        )
    nesting = programs.layout.nesting
    joint = _tables([pair.model_sites for pair in pairs], particles, nesting, scaled=True)
    guide = _tables([pair.guide_sites for pair in pairs], particles, nesting, scaled=True)
    return LogWeights(
        log_joint=sum_tensors(joint.values()),
        log_guide=sum_tensors(guide.values()),
        scale=1.0,
        count=programs.count,
        values={},
        not_reparameterised=tuple([site["name"] for site in pair.latent_sites if not site["fn"].has_rsample]),
        strategies={site["name"]: str(site["infer"].get("_strategy", PATHWISE)) for site in pair.latent_sites},
        # A score belongs to the draws, so a scale does not change it.
        site_log_guide=_tables([pair.guide_sites for pair in pairs], particles, nesting, scaled=False),
        _site_log_joint=joint,
        _observed=tuple([site["name"] for site in pair.model_sites if site["is_observed"]]),
        _points=delta_sites(pair),
    )


def _tables(runs: Sequence[list[Any]], particles: int, nesting: int, *, scaled: bool) -> Mapping[str, Tensor]:
    """Return the log-density of each site, summed over all plates, shape (particles, 1).

    Args:
        runs: the sites of each run.
        particles: the number of particles of all runs together.
        nesting: the greatest number of nested plates; the particles of a run are to the left of them.
        scaled: whether each log-density is multiplied by the scale of its site.
    """
    tables: dict[str, list[Tensor]] = {}
    for sites in runs:
        for site in sites:
            log_prob = site_log_prob(site)
            if scaled:
                log_prob = log_prob * site["scale"]
            if log_prob.dim() <= nesting:
                log_prob = log_prob.sum().expand(particles // len(runs))
            else:
                log_prob = log_prob.flatten(1).sum(1) if nesting else log_prob
                log_prob = log_prob.expand(particles // len(runs))
            tables.setdefault(site["name"], []).append(log_prob)
    return {name: torch.cat(parts).unsqueeze(-1) for name, parts in tables.items()}
