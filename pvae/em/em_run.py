"""A run of EM: E-steps and M-steps in turn until the bound converges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pvae.em.base import Mixture, Statistics
from pvae.em.e_step import EStep
from pvae.em.em_options import EMOptions
from pvae.em.kernels.base import EStepKernel
from pvae.em.kernels.whitened_kernel import WhitenedKernel
from pvae.em.m_step import MStepResult, m_step

__all__ = ["EMRun", "EMStep", "RunFrom", "StepCallback", "em_step", "run_em"]

#: Called after each step with its number, counted from 1, the bound, and the change of the bound, nats per datum.
StepCallback = Callable[[int, float, float], None]


@dataclass
class EMRun:
    """The state and history of a run of EM.

    Attributes:
        mixture: the parameters after the last M-step, in standardised coordinates.
        counts: sums of the responsibilities in the last E-step, (components,).
        is_empty: components without data in the last step, (components,) bool.
        is_floored: components with a covariance that was raised in any step, (components,) bool.
        is_reseeded: components that were moved to another datum, (components,) bool.
        bounds: the bound before each M-step, nats per datum.
        log_likelihoods: the same without the log prior.
        falls: the amount of each fall of the bound beyond rounding, nats per datum.
        converged: whether the bound converged.
    """

    mixture: Mixture
    counts: Tensor
    is_empty: Tensor
    is_floored: Tensor
    is_reseeded: Tensor
    bounds: list[float] = field(default_factory=list)
    log_likelihoods: list[float] = field(default_factory=list)
    falls: list[float] = field(default_factory=list)
    converged: bool = False


#: Runs EM from a mixture in standardised coordinates.
RunFrom = Callable[[Mixture], EMRun]


@dataclass(frozen=True)
class EMStep:
    """The result of one step of EM.

    Attributes:
        statistics: the result of the E-step.
        update: the result of the M-step.
        next_kernel: the kernel of the next E-step, for the new parameters.
    """

    statistics: Statistics
    update: MStepResult
    next_kernel: EStepKernel


def run_em(
    e_step: EStep, mixture: Mixture, options: EMOptions, previous_bound: float, after_step: StepCallback
) -> EMRun:
    """Run EM from a mixture until the bound converges.

    Args:
        e_step: the E-step over the data.
        mixture: initial parameters, in standardised coordinates.
        options: of the run.
        previous_bound: the bound before the first step, nats per datum; minus infinity where it is unknown.
        after_step: called after each step.
    """
    no_components = torch.zeros_like(mixture.weights, dtype=torch.bool)
    counts = torch.zeros_like(mixture.weights)
    run = EMRun(mixture, counts, no_components, no_components, no_components.clone())
    kernel = e_step.make_kernel(mixture)
    for number in range(1, options.max_iter + 1):
        step = em_step(e_step, kernel, options)
        kernel = step.next_kernel
        _record_step(run, e_step, step, options)
        change = run.bounds[-1] - previous_bound
        previous_bound = run.bounds[-1]
        after_step(number, previous_bound, change)
        if options.reseed and _reseed_empty_component(run, e_step):
            previous_bound = float("-inf")
            kernel = e_step.make_kernel(run.mixture)
            continue
        if _is_fall(change, previous_bound, e_step.rounding):
            run.falls.append(-change)
        elif _is_converged(run, change, options):
            run.converged = True
            break
    return run


def em_step(e_step: EStep, kernel: EStepKernel, options: EMOptions) -> EMStep:
    """Run one E-step and one M-step.

    The new covariances may be too narrow for the kernel that computed them: they are then the result of cancellation,
    and the E-step is repeated by the accurate kernel.

    Args:
        e_step: the E-step over the data.
        kernel: for the current parameters.
        options: of the run.
    """
    mixture = kernel.mixture
    statistics = e_step.statistics(kernel)
    update = m_step(statistics, mixture, options.regularisation, options.prior)
    next_kernel = e_step.make_kernel(update.mixture)
    if kernel.is_most_accurate or _is_trustworthy(kernel, next_kernel, update):
        return EMStep(statistics, update, next_kernel)
    statistics = e_step.statistics(WhitenedKernel(mixture, torch.float64, e_step.products))
    update = m_step(statistics, mixture, options.regularisation, options.prior)
    return EMStep(statistics, update, e_step.make_kernel(update.mixture))


def _is_trustworthy(kernel: EStepKernel, next_kernel: EStepKernel, update: MStepResult) -> bool:
    """Return whether the kernel that computed the new parameters is also accurate for them."""
    same_kernel = type(next_kernel) is type(kernel) and next_kernel.dtype == kernel.dtype
    return same_kernel and not bool(update.is_floored.any())


def _record_step(run: EMRun, e_step: EStep, step: EMStep, options: EMOptions) -> None:
    weight = float(step.statistics.weight)
    log_scale = e_step.data.standardiser.log_scale()
    log_likelihood = float(step.statistics.log_likelihood) / weight - log_scale
    run.log_likelihoods.append(log_likelihood)
    run.bounds.append(log_likelihood + float(options.prior.log_density(run.mixture)) / weight)
    run.mixture = step.update.mixture
    run.counts = step.statistics.counts
    run.is_empty = step.update.is_empty
    run.is_floored = run.is_floored | step.update.is_floored


def _is_fall(change: float, bound: float, rounding: float) -> bool:
    return change < -rounding * max(1.0, abs(bound))


def _is_converged(run: EMRun, change: float, options: EMOptions) -> bool:
    if abs(change) < options.tol:
        return True
    if options.tol_relative is None or len(run.bounds) < 2:
        return False
    rise = run.bounds[-1] - run.bounds[0]
    return abs(change) <= options.tol_relative * rise


def _reseed_empty_component(run: EMRun, e_step: EStep) -> bool:
    """Move the first component that is empty for the first time to the least likely datum.

    Returns:
        Whether there was such a component.
    """
    component = (run.is_empty & ~run.is_reseeded).nonzero().flatten()[:1]
    if not len(component):
        return False
    mixture = run.mixture
    family = mixture.family
    means = mixture.means.clone()
    weights = mixture.weights.clone()
    covariances = mixture.covariances.clone()
    means[component] = e_step.least_likely_datum(mixture)
    if family.name != "tied":
        shares = weights.reshape(-1, *[1] * (covariances.ndim - 1)) / weights.sum()
        covariances[component] = (shares * covariances).sum(0)
    weights[component] = 1 / len(weights)
    run.mixture = family.make_mixture(weights / weights.sum(), means, covariances)
    run.is_reseeded[component] = True
    return True
