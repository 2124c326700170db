"""Every joint value of the latent sites, as particles: what expectations over a finite guide are exact with."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.replay_messenger import ReplayMessenger
from torch import Tensor

from pvae.errors import InputError
from pvae.objectives.base import Call
from pvae.objectives.phases.alternating import Within
from pvae.programs.bound import BoundPrograms
from pvae.programs.sites import Site, sample_sites
from pvae.weights import LogWeights
from pvae.weights.compute import weights_of
from pvae.weights.handlers import finite_support
from pvae.weights.vectorise import can_vectorise

__all__ = ["weights_of_outcomes"]

_MOST = 4096


def weights_of_outcomes(
    model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any], *, data_plate: str | None = None
) -> LogWeights:
    """Return the weights of every joint value of the latent sites, one particle for each; nothing is drawn for them.

    Raises:
        InputError: if a site has no finite support, lies in a plate within the data's, or if there are too many joint
            values; or if the programs do not vectorise.
    """
    programs = BoundPrograms(model, guide, args, kwargs)
    layout = programs.layout
    layout.data_plate(data_plate)
    with torch.no_grad():
        drawn = programs.trace_guide()
    sites = [site for site in sample_sites(drawn) if not site["is_observed"]]
    supports = {site["name"]: finite_support(site["name"], site["fn"]) for site in sites}
    count = torch.Size(len(each) for each in supports.values()).numel()
    if count > _MOST:
        raise InputError(
            f"The latent sites have {count} joint values, more than the {_MOST} that can be enumerated together: "
            "use phi='gradient', or the objective 'elbo-enum' where sites are independent."
        )
    if not can_vectorise(programs, count):
        raise InputError("Exact enumeration needs programs that broadcast over a leading dimension; these do not.")
    picks = torch.tensor(list(itertools.product(*(range(len(each)) for each in supports.values()))))
    forced = poutine.Trace()
    for place, site in enumerate(sites):
        values = supports[site["name"]]
        chosen = values[picks[:, place].to(values.device)]
        forced.add_node(site["name"], **(site.copy() | {"value": _spread(chosen, site, layout.nesting)}))
    replayed = Within(guide, lambda: ReplayMessenger(forced))
    return weights_of(programs.with_programs(model, replayed), count, data_plate=data_plate)


def _spread(values: Tensor, site: Site, nesting: int) -> Tensor:
    """Values (outcomes, *event) at each datum: (outcomes, *plates, *event), as a run of so many particles has them."""
    inner = [frame.name for frame in site["cond_indep_stack"] if frame.vectorized]
    if len(inner) > 1:
        raise InputError(
            f"Site {site['name']!r} lies in the plates {', '.join(inner)}: its joint values are too many to enumerate "
            "together. Use phi='gradient'."
        )
    plates = (1,) * (nesting - len(site["fn"].batch_shape)) + tuple(site["fn"].batch_shape)
    event = tuple(values.shape[1:])
    if len(values) == 1:
        return values.expand(*site["fn"].batch_shape, *event)
    return values.reshape(len(values), *(1,) * nesting, *event).expand(len(values), *plates, *event)
