"""The exact gradient of an objective, over all outcomes, where every latent site is discrete and they are few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import Tensor

from pvae.errors import InputError
from pvae.evaluate.evaluation_context import Setting
from pvae.objectives import Objective, PyroObjective, WeightsObjective
from pvae.programs.sites import is_subsample, sample_sites
from pvae.weights import LogWeights
from pvae.weights.compute import weights_of
from pvae.weights.handlers import ENUMERATE, support_size

__all__ = ["exact_gradient"]

JOINT, TUPLES, NUMBERS = 4096, 65536, 2**22
Value = Callable[[LogWeights], Tensor]
_EVIDENCE_LOWER_BOUNDS = (Trace_ELBO, TraceGraph_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO)


def exact_gradient(setting: Setting, target: Objective, tensors: Sequence[Tensor]) -> Tensor | None:
    """Return the gradient of a target's expected loss, per datum, summed over every outcome of its particles.

    Args:
        setting: the model and the batch.
        target: an objective whose surrogate is its value as a function of the log weights, or one of Pyro's ELBOs.
        tensors: what is differentiated, one after the other in the result.

    Returns:
        The gradient, shape (coordinates,), float64; None where a latent site is continuous, the outcomes are too many
        (more than 65536 of all particles of a datum), a plate is subsampled, or the target's value is not a function
        of each datum's weights alone.
    """
    found = _value(target)
    if found is None:
        return None
    value, particles = found
    try:
        weights = _all_outcomes(setting, target.data_plate or setting.data_plate)
    except InputError:
        return None
    loss = None if weights is None else _expected_loss(weights, value, particles)
    if loss is None:
        return None
    gradients = torch.autograd.grad(loss, list(tensors), allow_unused=True)
    pairs = zip(gradients, tensors, strict=True)
    return torch.cat([(torch.zeros_like(t) if g is None else g).detach().double().flatten() for g, t in pairs])


def _value(target: Objective) -> tuple[Value, int] | None:
    """The target's value per datum, and of how many particles it is a function; a mean over them needs only one."""
    if isinstance(target, PyroObjective):
        return (lambda weights: weights.log_w.mean(0), 1) if type(target.elbo) in _EVIDENCE_LOWER_BOUNDS else None
    if isinstance(target, WeightsObjective) and not target.pathwise:
        return target.surrogate, 1 if target.averages else target.particles
    return None


def _draws_data(site: Any) -> bool:
    """Whether a site is the draw of a subsample, which is random too."""
    plate: Any = site["fn"] if site["type"] == "sample" else None
    return is_subsample(site) and plate.subsample_size not in (None, plate.size)


def _all_outcomes(setting: Setting, data_plate: str | None) -> LogWeights | None:
    """The log weights of every joint outcome of the latent sites, tables of shape (outcomes, 1, batch)."""
    programs = setting.programs().bound_to(setting.batch)
    trace = programs.trace_guide()
    if any(_draws_data(site) for site in trace.nodes.values()):
        return None
    joint = 1
    for site in sample_sites(trace):
        if not site["is_observed"]:
            joint *= support_size(site["name"], site["fn"])
    if joint > JOINT:
        return None
    return weights_of(programs, 1, data_plate=data_plate, choose=lambda site: ENUMERATE)


def _expected_loss(weights: LogWeights, value: Value, particles: int) -> Tensor | None:
    """Minus the expected value, per datum: every tuple of outcomes, times its probability."""
    outcomes, _, batch = weights.log_guide.shape
    if outcomes**particles > TUPLES or outcomes**particles * particles * batch > NUMBERS:
        return None
    if not bool(torch.isfinite(weights.log_guide).all()):
        return None
    tuples = torch.cartesian_prod(*[torch.arange(outcomes)] * particles).reshape(-1, particles).T
    tuples = tuples.to(weights.log_guide.device)
    probability = weights.log_guide[:, 0][tuples].sum(0).exp()
    if not torch.allclose(probability.sum(0), torch.ones_like(probability[0]), atol=1e-4):
        return None
    values = value(_picked(weights, tuples)).reshape(probability.shape)
    with torch.no_grad():
        alone = value(_picked(weights, tuples[:, :1]))
    if not torch.allclose(alone, values[0], rtol=1e-5):  # the data of a batch are not apart in it
        return None
    return -((probability * values).sum(0) * weights.scale).sum() / weights.count


def _picked(weights: LogWeights, index: Tensor) -> LogWeights:
    """Weights of chosen outcomes: index of shape (particles, tuples); each tuple of each datum becomes a datum."""
    particles, tuples = index.shape

    def pick(table: Tensor) -> Tensor:
        return table[:, 0][index].reshape(particles, tuples * table.shape[-1])

    return weights.map(pick)
