"""Joint outcomes: every joint value of the latent sites, and every tuple of values of several particles."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from pyro import poutine
from pyro.poutine.replay_messenger import ReplayMessenger
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.bound import BoundPrograms
from pvae.programs.program_in_context import with_guide_in
from pvae.programs.sites import Site, sample_sites
from pvae.weights import LogWeights
from pvae.weights.compute import weights_of
from pvae.weights.enumeration import finite_support
from pvae.weights.vectorise import can_vectorise

__all__ = ["MOST_JOINT_VALUES", "MOST_TUPLES", "outcome_tuples", "weights_of_outcomes"]

#: the largest number of joint values of the latent sites of a datum
MOST_JOINT_VALUES = 4096

#: the largest number of joint outcomes of all particles of a datum
MOST_TUPLES = 65536


def outcome_tuples(outcomes: int, particles: int, device: torch.device | None = None) -> Tensor:
    """Return every choice of one outcome for each particle, as indices of shape (outcomes ** particles, particles)."""
    return _index_tuples([outcomes] * particles, device)


def _index_tuples(sizes: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Return every tuple of indices below the sizes, shape (tuples, sizes); the last index varies fastest."""
    ranges = [range(size) for size in sizes]
    return torch.tensor(list(itertools.product(*ranges)), device=device)


def weights_of_outcomes(programs: BoundPrograms, *, data_plate: str | None = None) -> LogWeights:
    """Return the weights of every joint value of the latent sites, with one particle for each; z is not drawn.

    Args:
        programs: both programs with their arguments.
        data_plate: the name of the plate over data, if several plates hold every site.

    Returns:
        Weights with tensors of shape (joint values, batch).

    Raises:
        InputError: if a site has no finite support, or is in a plate inside the data plate; if there are too many joint
            values; or if the programs do not vectorise.
    """
    layout = programs.layout
    layout.data_plate(data_plate)
    with torch.no_grad():
        guide_trace = programs.trace_guide()
    sites = [site for site in sample_sites(guide_trace) if not site["is_observed"]]
    supports = [finite_support(site["name"], site["fn"]) for site in sites]
    count = torch.Size(len(support) for support in supports).numel()
    if count > MOST_JOINT_VALUES:
        raise InputError(
            f"Exact enumeration is limited to {MOST_JOINT_VALUES} joint values of the latent sites; there are {count}. "
            "Use phi='gradient', or the objective 'elbo-enum' if the sites are independent."
        )
    if not can_vectorise(programs, count):
        raise InputError(
            "Exact enumeration needs programs that broadcast over a leading dimension; these do not (see the warning "
            "about particles). Use phi='gradient'."
        )
    indices = _index_tuples([len(support) for support in supports])
    outcomes = poutine.Trace()
    for place, (site, support) in enumerate(zip(sites, supports, strict=True)):
        values = _expand_to_plates(support[indices[:, place].to(support.device)], site, layout.nesting)
        outcomes.add_node(site["name"], **(site.copy() | {"value": values}))
    replayed = with_guide_in(lambda: ReplayMessenger(outcomes), programs)
    return weights_of(replayed, count, data_plate=data_plate)


def _expand_to_plates(values: Tensor, site: Site, nesting: int) -> Tensor:
    """Return the values of a site for each datum, as in a run with one particle for each outcome.

    Args:
        values: shape (outcomes, *event).
        site: the site in a single run.
        nesting: the largest number of nested plates.

    Returns:
        Shape (outcomes, *plates, *event); without the first dimension if there is one outcome.
    """
    plates = [frame.name for frame in site["cond_indep_stack"] if frame.vectorized]
    if len(plates) > 1:
        raise InputError(
            f"Exact enumeration needs a site that is only in the data plate; site {site['name']!r} is in the plates "
            f"{', '.join(plates)}, so its joint values are too many. Use phi='gradient'."
        )
    batch_shape = tuple(site["fn"].batch_shape)
    event = tuple(values.shape[1:])
    if len(values) == 1:
        return values.expand(*batch_shape, *event)
    missing = (1,) * (nesting - len(batch_shape))
    columns = values.reshape(len(values), *(1,) * nesting, *event)
    return columns.expand(len(values), *missing, *batch_shape, *event)
