"""`calibrate`: simulation-based calibration of a guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.calibration.calibration_record import Calibration, calibration_of
from pvae.evaluate.calibration.rank_tests import ranks_among
from pvae.evaluate.evaluated_data import ModelOrRun
from pvae.evaluate.evaluation_context import EvaluationContext, evaluation_context
from pvae.evaluate.finding import EvaluationSteps, evaluation_steps
from pvae.evaluate.latent_draws import LatentDraws, draw_from_guide, log_guide_of_pairs
from pvae.evaluate.simulated_pairs import SimulatedPairs, keyed_batches, require_local_latents, simulate_pairs

__all__ = ["DRAWS", "GUIDE_DENSITY", "SIMULATIONS", "Quantity", "calibrate", "ranks_of_pairs"]

SIMULATIONS, DRAWS = 1000, 99
"""The numbers of simulated data, and of draws of the guide for each.

100 ranks make the central 50, 80 and 90 % intervals exact.
"""

#: The number of simulated data in a batch. The draws depend on it, so it is fixed.
_BATCH = 64

GUIDE_DENSITY = "log q(z given x)"
"""The name of the guide's density among the quantities."""

Quantity = Callable[[Mapping[str, Tensor], Tensor], Tensor]
"""A function of z by site, shape (batch, units) each, and of x, shape (batch, ...), to one number per datum."""


def calibrate(
    model: ModelOrRun,
    data: Any = None,
    simulations: int = SIMULATIONS,
    *,
    draws: int = DRAWS,
    quantities: Mapping[str, Quantity] | None = None,
    seed: int = 0,
    progress: bool | None = None,
    **where: Any,
) -> Calibration:
    """Return whether the guide is calibrated on data that the model generates.

    z is drawn from the prior and x from p(x given z). For this x, `draws` values of z are drawn from the guide. If the
    guide is the posterior, the rank of a quantity of the first z among its values at these draws is uniform. The ranked
    quantities are every unit of z, log p(x given z), log p(x, z), log q(z given x), and the quantities of the caller.
    Without the log-densities, a guide that equals the prior would pass.

    The draws are made in fixed batches, so the result depends only on the seed, not on options of memory.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split), or another form of data; None for the data of a run. See `pvae.evaluate`.
            Only the shape of x is used, and the fields that the model does not generate, such as conditions.
        simulations: the number of simulated data. Defects of a few per cent need 2000.
        draws: the number of draws of the guide for each simulated datum.
        quantities: further quantities by name: functions of z by site, shape (batch, units) each, and of x, that return
            shape (batch,).
        seed: the seed of all draws.
        progress: None for a bar on a terminal and one line elsewhere; False for no output.
        where: ``limit``, ``device``, ``split``, ``fields``, ``data_plate``; see `pvae.evaluate`.

    Raises:
        InputError: if a count is too small, the data share a latent site, or an observed site is not a field of the
            data.
    Source: Talts, Betancourt, Simpson, Vehtari & Gelman, Validating Bayesian Inference Algorithms with Simulation-Based
        Calibration, arXiv:1804.06788; Modrák et al., Simulation-Based Calibration Checking with the Choice of Test
        Quantities, Bayesian Analysis 20 (2025), for the log-densities.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> calibration = pvae.evaluate.calibrate(model, x, simulations=100, draws=19, progress=False)
        >>> calibration.status  # an untrained guide is not calibrated
        'bad'
    """
    simulations = require_whole(simulations, "simulations", least=20)
    draws = require_whole(draws, "draws", least=19)
    with evaluation_context(model, data, seed=seed, **where) as context:
        require_local_latents(context.first_data, "Calibration")
        with evaluation_steps("calibrate", simulations * (draws + 1), progress=progress) as steps:
            ranks, notes = ranks_of_pairs(context, simulations, draws, quantities or {}, seed, steps)
            return calibration_of(ranks, draws, cost=steps.done, seed=seed, notes=notes)


def ranks_of_pairs(
    context: EvaluationContext,
    simulations: int,
    draws: int,
    quantities: Mapping[str, Quantity],
    seed: int,
    steps: EvaluationSteps,
    visit: Callable[[SimulatedPairs, int], None] | None = None,
) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...]]:
    """Return the ranks of each quantity, shape (simulations,), and notes on quantities that are left out.

    Args:
        context: the model and the data.
        simulations: the number of simulated data.
        draws: the number of draws of the guide for each simulated datum.
        quantities: the quantities of the caller.
        seed: the seed of all draws.
        steps: counts the decoder evaluations.
        visit: called with the pairs and the number of each batch, for other evaluations of the same pairs.
    """
    ties = np.random.default_rng([seed, 1])
    ranks: dict[str, list[NDArray[np.int64]]] = {}
    for index, batch in enumerate(keyed_batches(context, simulations, _BATCH, seed, stage=1)):
        pairs = simulate_pairs(context, batch)
        drawn = draw_from_guide(context, pairs.batch, draws)
        log_guide = log_guide_of_pairs(context, pairs)
        for name, (value, at_draws) in _quantities(pairs, drawn, log_guide, quantities).items():
            ranks.setdefault(name, []).append(ranks_among(value.numpy(), at_draws.numpy(), ties))
        steps.advance(batch.size * (draws + 1))
        if visit is not None:
            visit(pairs, index)
    notes: tuple[str, ...] = ()
    if GUIDE_DENSITY not in ranks:
        notes = (f"{GUIDE_DENSITY} is left out: the guide has no density for a z that it did not draw itself",)
    return {name: np.concatenate(parts) for name, parts in ranks.items()}, notes


def _quantities(
    pairs: SimulatedPairs, drawn: LatentDraws, log_guide: Tensor | None, quantities: Mapping[str, Quantity]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return each quantity at the z that generated the data, shape (batch,), and at the draws, (draws, batch)."""
    ranked = {}
    for site, value in pairs.latents.items():
        if site in drawn.values:
            for unit in range(value.shape[1]):
                name = site if value.shape[1] == 1 else f"{site}[{unit}]"
                ranked[name] = (value[:, unit], drawn.values[site][:, :, unit])
    ranked["log p(x given z)"] = (pairs.log_likelihood, drawn.log_likelihood)
    ranked["log p(x, z)"] = (pairs.log_joint, drawn.log_joint)
    if drawn.log_guide is not None and log_guide is not None:
        ranked[GUIDE_DENSITY] = (log_guide, drawn.log_guide)
    x = pairs.batch["x"] if "x" in pairs.batch else pairs.batch[pairs.batch.names[0]]
    for name, function in quantities.items():
        at_draws = [
            _apply(name, function, {site: values[draw] for site, values in drawn.values.items()}, x)
            for draw in range(len(drawn.log_joint))
        ]
        ranked[name] = (_apply(name, function, pairs.latents, x), torch.stack(at_draws))
    return ranked


def _apply(name: str, function: Quantity, values: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return a quantity of the caller, shape (batch,).

    Raises:
        InputError: if the function does not return one number per datum.
    """
    result = torch.as_tensor(function(values, x)).detach().to("cpu", torch.float64)
    if result.shape != (len(x),):
        raise InputError(
            f"quantities[{name!r}] needs to return one number per datum, shape ({len(x)},); it returned shape "
            f"{tuple(result.shape)}. It gets z by site, shape (batch, units) each, and x."
        )
    return result
