"""A guide in which the parameters of every latent site are changed for each datum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.bound import BoundPrograms
from pvae.programs.distribution_parameters import free_parameters, with_parameters
from pvae.programs.sites import Site, is_delta, sample_sites
from pvae.programs.wrapped import ReplaceParameters

__all__ = ["MovedGuide", "Moves"]

Moves = dict[tuple[str, str], Tensor]
"""The numbers that are added to each unconstrained parameter, in its shape, by site and name of the parameter."""


@dataclass
class MovedGuide:
    """A pair of programs with a guide of the same family, and parameters that are changed for each datum.

    The distribution of a site may depend on the value of another site. The move is added to the parameter that the
    guide computes, so the dependence remains. Sites of the guide that are marked for enumeration are drawn, because q
    of a site that is summed out is not in the bound.

    Attributes:
        programs: both programs; the guide has `moves` added to the unconstrained parameters of its sites.
        family: the family of each site of the guide.
        moves: the present moves; `set_moves` replaces them.
        parameter_dims: the number of dimensions of each parameter to the right of the plates.
    """

    programs: BoundPrograms
    family: Mapping[str, str]
    moves: Moves
    parameter_dims: Mapping[tuple[str, str], int]

    @classmethod
    def of(cls, programs: BoundPrograms) -> MovedGuide:
        """Return the guide with moves of zero.

        Args:
            programs: both programs on some data.

        Raises:
            InputError: if a site has no parameters that can be moved, such as a flow.
        """
        moves: Moves = {}
        parameter_dims: dict[tuple[str, str], int] = {}

        def move(site: Site, name: str, value: Tensor) -> Tensor:
            return value if is_delta(site) else value + moves[site["name"], name]

        def start(site: Site, name: str, value: Tensor) -> Tensor:
            if not is_delta(site):
                moves[site["name"], name] = torch.zeros_like(value, requires_grad=False)
                parameter_dims[site["name"], name] = value.dim() - len(site["fn"].batch_shape)
            return value

        with programs.preserved_state():
            trace = programs.with_programs(programs.model, ReplaceParameters(start)(programs.guide)).trace_guide()
        sites = [site for site in sample_sites(trace) if not site["is_observed"] and not is_delta(site)]
        if not sites:
            raise InputError(
                "The gaps of a guide need a z with a density; this guide has only points (Delta), which have no bound, "
                "or draws nothing, so its bound is exact. Use a guide with a density, such as a Normal."
            )
        family = {site["name"]: free_parameters(site["name"], site["fn"])[0] for site in sites}
        drawn = poutine.infer_config(programs.guide, _without_mark)
        moved = programs.with_programs(programs.model, ReplaceParameters(move)(drawn))
        return cls(moved, family, moves, parameter_dims)

    def set_moves(self, moves: Moves) -> None:
        """Replace the moves.

        Args:
            moves: tensors for the same sites and parameters.
        """
        self.moves.update(moves)

    def zero_moves(self) -> Moves:
        """Return moves of zero, with which q is the guide."""
        return {key: torch.zeros_like(move) for key, move in self.moves.items()}

    def moves_to_prior(self, programs: BoundPrograms) -> Moves | None:
        """Return the moves by which q starts at the prior; None if a prior is of another family than the guide.

        If the prior of a site depends on another one, it is computed at one draw, because it is only a starting point.

        Args:
            programs: both programs without moves.
        """
        with programs.preserved_state():
            guide_trace, model_trace = programs.trace_both()
        priors = {site["name"]: site for site in sample_sites(model_trace) if not site["is_observed"]}
        moves: Moves = {}
        for site in sample_sites(guide_trace):
            if site["name"] not in self.family:
                continue
            prior = priors.get(site["name"])
            if prior is None or not _same_family(site, prior):
                return None
            own = _unconstrained(site, site["fn"])
            of_prior = _unconstrained(prior, prior["fn"].expand(site["fn"].batch_shape))
            for name, value in own.items():
                if of_prior[name].shape != value.shape:
                    return None
                # A logit of minus infinity belongs to an impossible value, which stays impossible.
                moves[site["name"], name] = (of_prior[name] - value).detach().nan_to_num(0.0, 0.0, 0.0)
        return moves


def _without_mark(site: Site) -> Any:
    """Return the change of ``infer`` that removes a mark for enumeration."""
    return {"enumerate": None}


def _same_family(site: Site, prior: Site) -> bool:
    try:
        return free_parameters(site["name"], site["fn"]) == free_parameters(prior["name"], prior["fn"])
    except InputError:
        return False


def _unconstrained(site: Site, density: object) -> dict[str, Tensor]:
    """Return the unconstrained parameters of a distribution by name."""
    values: dict[str, Tensor] = {}

    def record(name: str, value: Tensor) -> Tensor:
        values[name] = value
        return value

    with_parameters(site["name"], density, record)
    return values
