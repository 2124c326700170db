"""The exact gradient of an objective, as the sum over all outcomes, for models with few outcomes of discrete sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import Tensor

from pvae.errors import InputError
from pvae.evaluate.evaluation_context import EvaluationContext
from pvae.objectives import Objective, PyroObjective, WeightsObjective
from pvae.objectives.joint_outcomes import MOST_TUPLES, outcome_tuples, weights_of_outcomes
from pvae.programs.sites import Site, is_subsample
from pvae.weights import LogWeights

__all__ = ["exact_gradient"]

#: The largest number of values in a table of shape (particles, tuples, batch).
_MOST_VALUES = 2**22
_ELBOS = (Trace_ELBO, TraceGraph_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO)

#: A function from log weights to a value per datum, shape (batch,), nats.
Value = Callable[[LogWeights], Tensor]


def exact_gradient(context: EvaluationContext, target: Objective, parameters: Sequence[Tensor]) -> Tensor | None:
    """Return the gradient of a target's expected loss per datum, summed over every outcome of its particles.

    Args:
        context: the model and the batch.
        target: an objective with a surrogate that is a function of the log weights, or one of Pyro's ELBOs.
        parameters: the parameters to differentiate, in the order of the result.

    Returns:
        The gradient, shape (coordinates,), float64. None if a latent site is continuous, if there are too many outcomes
        (more than 65536 of all particles of a datum), if a plate is subsampled, or if the target's value for a datum
        depends on the weights of other data.
    """
    value_and_particles = _value_and_particles(target)
    if value_and_particles is None:
        return None
    value, particles = value_and_particles
    try:
        weights = _all_outcomes(context, target.data_plate or context.data_plate)
    except InputError:
        return None
    loss = None if weights is None else _expected_loss(weights, value, particles)
    if loss is None:
        return None
    gradients = torch.autograd.grad(loss, list(parameters), allow_unused=True)
    rows = []
    for parameter, gradient in zip(parameters, gradients, strict=True):
        known = torch.zeros_like(parameter) if gradient is None else gradient
        rows.append(known.detach().double().flatten())
    return torch.cat(rows)


def _value_and_particles(target: Objective) -> tuple[Value, int] | None:
    """Return the target's value per datum and its number of particles.

    None is returned if it is not a function of the log weights. For a mean over particles the number is 1, because one
    particle has the same expectation.
    """
    if isinstance(target, PyroObjective):
        return (lambda weights: weights.log_w.mean(0), 1) if type(target.elbo) in _ELBOS else None
    if isinstance(target, WeightsObjective) and not target.pathwise:
        return target.surrogate, 1 if target.averages else target.particles
    return None


def _draws_subsample(site: Site) -> bool:
    """Return whether a site draws the indices of a plate that is smaller than the data."""
    return is_subsample(site) and site["fn"].subsample_size not in (None, site["fn"].size)


def _all_outcomes(context: EvaluationContext, data_plate: str | None) -> LogWeights | None:
    """Return the log weights of every joint outcome of the latent sites, in tables of shape (outcomes, batch).

    The result is None if a plate is subsampled.

    Raises:
        InputError: if there are too many outcomes, or a site cannot be enumerated.
    """
    programs = context.programs.bound_to(context.batch)
    if any(_draws_subsample(site) for site in programs.trace_guide().nodes.values()):
        return None
    return weights_of_outcomes(programs, data_plate=data_plate)


def _expected_loss(weights: LogWeights, value: Value, particles: int) -> Tensor | None:
    """Return minus the expected value per datum, a scalar: the sum over every tuple of outcomes times its probability.

    The result is None if there are too many tuples, if the probabilities do not sum to 1, or if the value of a datum
    depends on other data.

    Args:
        weights: the weights of all outcomes, in tables of shape (outcomes, batch).
        value: the value per datum.
        particles: the number of particles that `value` depends on, which is the length of a tuple.
    """
    outcomes, batch = weights.log_guide.shape
    if outcomes**particles > MOST_TUPLES or outcomes**particles * particles * batch > _MOST_VALUES:
        return None
    if not bool(torch.isfinite(weights.log_guide).all()):
        return None
    tuples = outcome_tuples(outcomes, particles, weights.log_guide.device).T
    probability = weights.log_guide[tuples].sum(0).exp()
    if not torch.allclose(probability.sum(0), torch.ones_like(probability[0]), atol=1e-4):
        return None
    values = value(_select_outcomes(weights, tuples)).reshape(probability.shape)
    with torch.no_grad():
        values_of_first_tuple = value(_select_outcomes(weights, tuples[:, :1]))
    if not torch.allclose(values_of_first_tuple, values[0], rtol=1e-5):  # the value of a datum depends on other data
        return None
    return -((probability * values).sum(0) * weights.scale).sum() / _sum_of_scales(weights)


def _sum_of_scales(weights: LogWeights) -> float | Tensor:
    """Return the sum of the scales of the data, by which a training step divides its loss."""
    data = weights.log_joint.shape[-1]
    return weights.scale.expand(data).sum() if isinstance(weights.scale, Tensor) else weights.scale * data


def _select_outcomes(weights: LogWeights, index: Tensor) -> LogWeights:
    """Return the weights of tuples of outcomes; each pair of a tuple and a datum becomes one datum.

    Args:
        weights: the weights of all outcomes, in tables of shape (outcomes, batch).
        index: the outcome of each particle in each tuple, shape (particles, tuples).

    Returns:
        Weights in tables of shape (particles, tuples * batch).
    """
    particles, tuples = index.shape

    def select(table: Tensor) -> Tensor:
        return table[index].reshape(particles, tuples * table.shape[-1])

    return weights.map(select)
