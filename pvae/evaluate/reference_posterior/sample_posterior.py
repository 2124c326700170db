"""Draws of the posterior of chosen data by Pyro's No-U-Turn sampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.infer import MCMC, NUTS
from pyro.poutine.messenger import Messenger

from pvae.errors import InputError, first_line
from pvae.evaluate.arviz_versions import chain_diagnostics
from pvae.evaluate.evaluation_context import EvaluationContext
from pvae.evaluate.finding import EvaluationSteps
from pvae.evaluate.simulated_pairs import as_units
from pvae.programs.bound import BoundPrograms
from pvae.programs.site_masks import require_every_entry
from pvae.programs.sites import Site, is_discrete, sample_sites
from pvae.train.devices import reseed

__all__ = ["SitePosterior", "sample_posterior", "with_enumerated_sites"]


@dataclass(frozen=True)
class SitePosterior:
    """The posterior of one site, by draws of several chains.

    Attributes:
        mean: shape (data, units).
        sd: shape (data, units).
        rhat: the rank-normalised split R-hat, shape (data, units); near 1 if the chains agree.
        ess: the bulk effective sample size of all chains together, shape (data, units).
    """

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    rhat: NDArray[np.float64]
    ess: NDArray[np.float64]


class _CountRuns(Messenger):
    """Counts the runs of a program inside this context."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def __enter__(self) -> Any:
        self.runs += 1
        return super().__enter__()


def sample_posterior(
    context: EvaluationContext, draws: int, warmup: int, chains: int, seed: int, steps: EvaluationSteps
) -> dict[str, SitePosterior]:
    """Return the posterior of every continuous latent site on all data of the context.

    Discrete sites are summed out by Pyro's enumeration.

    Args:
        context: the model and a few data.
        draws: the number of draws of each chain after its warm-up.
        warmup: the number of steps of the warm-up, which adapts step size and mass matrix.
        chains: the number of chains, each with its own starting point.
        seed: the seed of the chains.
        steps: counts the decoder evaluations.

    Raises:
        InputError: if a discrete site cannot be enumerated, a site is masked, there is no continuous site, or the
            sampler fails.
    """
    programs = context.bound_to(context.batch)
    sites = _latent_sites(programs)
    discrete = {name for name, site in sites.items() if is_discrete(site)}
    _require_enumerable(sites, discrete)
    for site in sites.values():
        require_every_entry(site, "The reference posterior")
    counter = _CountRuns()
    model = counter(with_enumerated_sites(programs.model, discrete))
    by_chain: list[Mapping[str, torch.Tensor]] = []
    for chain in range(chains):
        reseed(seed, 7, chain)
        before = counter.runs
        by_chain.append(_run_chain(model, programs, draws, warmup))
        steps.advance((counter.runs - before) * context.batch.size)
    data_dim = context.data_dim(programs)
    return {
        name: _summary(torch.stack([as_units(chain[name], data_dim, site["fn"].event_dim) for chain in by_chain]))
        for name, site in sites.items()
        if name not in discrete
    }


def _latent_sites(programs: BoundPrograms) -> dict[str, Site]:
    """Return the latent sites of the model by name."""
    with programs.preserved_state():
        trace = programs.trace_both()[1]
    return {site["name"]: site for site in sample_sites(trace) if not site["is_observed"]}


def _require_enumerable(sites: Mapping[str, Site], discrete: set[str]) -> None:
    """Refuse discrete sites with infinitely many values, and models without a continuous site."""
    for name in sorted(discrete):
        if not sites[name]["fn"].has_enumerate_support:
            raise InputError(
                f"The reference posterior needs continuous latents, or discrete ones with few values that can be "
                f"enumerated; site {name!r} is a {type(sites[name]['fn']).__name__}, which has infinitely many values, "
                "or no list of them. Leave this evaluation out."
            )
    if len(discrete) == len(sites):
        raise InputError(
            "The reference posterior needs a continuous latent site; "
            + (f"{', '.join(sorted(discrete))} are all discrete." if discrete else "the model has none.")
        )


def with_enumerated_sites(model: Any, discrete: set[str]) -> Any:
    """Return the model with some sites marked for enumeration, and no other site.

    Args:
        model: the model.
        discrete: the names of the sites.
    """
    return poutine.infer_config(model, lambda site: {"enumerate": "parallel" if site["name"] in discrete else None})  # type: ignore[typeddict-item]


def _run_chain(model: Any, programs: BoundPrograms, draws: int, warmup: int) -> dict[str, torch.Tensor]:
    """Return the draws of one chain by site, shape (draws, *plates, *event)."""
    kernel = NUTS(model, max_plate_nesting=programs.layout.nesting)
    sampler = MCMC(kernel, num_samples=draws, warmup_steps=warmup, num_chains=1, disable_progbar=True)
    try:
        with torch.enable_grad():
            sampler.run(*programs.args, **programs.kwargs)
    except (RuntimeError, ValueError, ArithmeticError, NotImplementedError) as error:
        raise InputError(
            f"The No-U-Turn sampler of Pyro failed on this model: {first_line(error)} Check the model at draws of its "
            "prior, or leave this evaluation out."
        ) from error
    samples: dict[str, torch.Tensor] = sampler.get_samples()
    return samples


def _summary(draws: torch.Tensor) -> SitePosterior:
    """Return the posterior of a site from its draws, shape (chains, draws, data, units)."""
    array = draws.numpy()
    data, units = array.shape[2:]
    rhat, ess = chain_diagnostics(array.reshape(*array.shape[:2], -1))
    return SitePosterior(
        array.mean((0, 1)), array.std((0, 1), ddof=1), rhat.reshape(data, units), ess.reshape(data, units)
    )
