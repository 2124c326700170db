"""Log weights of programs with latent sites that all data share: the weights of each datum given these sites."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.bound import BoundPrograms
from pvae.programs.sites import Site, is_marked_for_enumeration
from pvae.weights.compute import weights_of
from pvae.weights.enumeration import SUMMED
from pvae.weights.handlers import PATHWISE
from pvae.weights.log_probs import sum_tensors
from pvae.weights.posterior_draws import draw_latents
from pvae.weights.site_validation import delta_sites, require_same_masks, require_weights_exist
from pvae.weights.traces import TracePair, site_log_prob, trace_pair

__all__ = ["SharedWeights", "draw_shared", "has_summed_sites", "require_bound", "shared_weights"]


@dataclass(frozen=True)
class SharedWeights:
    """Log weights in two parts, for each draw of the shared sites w.

    Attributes:
        local: log p(x, z given w) - log q(z given x, w) of each datum, shape (particles, batch).
        shared: log p(w) - log q(w), shape (particles,).
    """

    local: Tensor
    shared: Tensor


def has_summed_sites(programs: BoundPrograms) -> bool:
    """Return whether the model marks a latent site for enumeration that the guide does not draw."""
    with programs.preserved_state():
        pair = trace_pair(programs)
    drawn = {site["name"] for site in pair.latent_sites}
    return any(is_marked_for_enumeration(site) and site["name"] not in drawn for site in pair.model_sites)


def shared_weights(programs: BoundPrograms, particles: int, plate: str) -> SharedWeights:
    """Return the log weights of programs with shared latent sites; marked sites of the model are summed out.

    The shared sites are drawn one after the other, and the programs then run with these values. So a shared table may
    be indexed by an enumerated site, as in ``locs[component]``, which does not broadcast over draws of the table.

    Args:
        programs: both programs with their arguments.
        particles: the number of draws of all latent sites.
        plate: the name of the plate over data; a site outside it is shared.

    Raises:
        InputError: if log p - log q is not a bound (see `require_bound`), if a shared site is marked for enumeration,
            or if the programs have no weight per datum given the shared sites.
    """
    runs = [weights for _, weights in itertools.islice(_runs(programs, plate), particles)]
    return SharedWeights(torch.stack([run.local[0] for run in runs]), torch.stack([run.shared[0] for run in runs]))


def draw_shared(programs: BoundPrograms, plate: str) -> tuple[dict[str, Tensor], SharedWeights]:
    """Return one draw of all latent sites, in their own shapes, and its log weights, like `shared_weights`.

    Sites that are summed out are drawn from their exact posterior given the other sites, by `draw_latents`.

    Args:
        programs: both programs with their arguments.
        plate: the name of the plate over data.

    Raises:
        InputError: as for `shared_weights`.
    """
    return next(_runs(programs, plate, draw=True))


def _runs(
    programs: BoundPrograms, plate: str, *, draw: bool = False
) -> Iterator[tuple[dict[str, Tensor], SharedWeights]]:
    """Yield draws of the latent sites, one after the other, and their weights; without `draw`, the values are empty."""
    values: dict[str, Tensor] = {}
    hidden: set[str] = set()
    # The same two functions for each draw, so that their layout is found once.
    local = programs.with_programs(_given(programs.model, values, hidden), _given(programs.guide, values, hidden))
    while True:
        pair = trace_pair(programs)
        if not hidden:
            require_bound(pair)
            _require_summed_inside(pair, plate)
        model, guide = (
            [site for site in sites if not _is_in(plate, site)] for sites in (pair.model_sites, pair.guide_sites)
        )
        values.update({site["name"]: site["value"] for site in guide})
        hidden.update(site["name"] for site in (*model, *guide))
        weights = weights_of(local, 1, data_plate=plate, choose=_sum_out_of_model)
        drawn = {**values, **draw_latents(weights)} if draw else {}
        yield drawn, SharedWeights(weights.log_w, (_sum(model) - _sum(guide)).unsqueeze(0))


def require_bound(pair: TracePair) -> None:
    """Raise InputError if log p - log q, summed over the sites of programs with shared sites, is not a lower bound.

    Args:
        pair: a run of both programs.

    Raises:
        InputError: if a latent site is in one program only and is not summed out, or is a point mass.
    """
    require_weights_exist(pair)
    require_same_masks(pair)
    if pair.auxiliary_sites:
        raise InputError(
            f"Site {pair.auxiliary_sites[0]['name']!r} is in one program only. If all data share a latent site, sites "
            "of the guide are not marginalised, so each needs to be in both programs. Draw it in both."
        )
    points = delta_sites(pair)
    if points:
        raise InputError(
            f"Guide site {points[0]!r} is a Delta, a point without a density, so there is no bound. Draw it from a "
            "density, such as a Normal."
        )


def _require_summed_inside(pair: TracePair, plate: str) -> None:
    drawn = {site["name"] for site in pair.latent_sites}
    for site in pair.model_sites:
        if is_marked_for_enumeration(site) and site["name"] not in drawn and not _is_in(plate, site):
            raise InputError(
                f"Site {site['name']!r} is marked for enumeration, but all data share it; an evaluation sums out only "
                f"sites of each datum. Move it into the plate {plate!r}, or draw it in the guide."
            )


def _is_in(plate: str, site: Site) -> bool:
    return plate in {frame.name for frame in site["cond_indep_stack"]}


def _given(program: Callable[..., Any], values: dict[str, Tensor], hidden: Collection[str]) -> Callable[..., Any]:
    """Return a program at the current values of some sites; hidden sites do not appear in its trace."""
    conditioned = poutine.condition(program, data=values)
    return poutine.block(conditioned, hide_fn=lambda site: site["name"] in hidden)


def _sum(sites: Iterable[Site]) -> Tensor:
    """Return the sum of the log-densities of sites, a number."""
    return sum_tensors([torch.zeros(()), *[site_log_prob(site).sum() for site in sites]])


def _sum_out_of_model(site: Site) -> str:
    """Return the strategy of a site: marked sites that only the model has are summed out.

    Sites of the guide are drawn.
    """
    return SUMMED if site["infer"].get("_in_model") and is_marked_for_enumeration(site) else PATHWISE
