"""EM as an objective of a comparison."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.comparison.cells.training_summary import TRAINING, VALIDATION, CurvePoint, LearningCurve, TrainingSummary
from pvae.data import Splits
from pvae.em import Mixture, Prior, maximise, mixture_of, responsibilities
from pvae.errors import InputError
from pvae.models.mixture import GMM

__all__ = ["fit_by_em"]

# EM has converged if a step raises the log-likelihood by less than this, in nats per datum.
_TOLERANCE = 1e-7
_MAX_STEPS = 2000
_REGULARISATION = 1e-6  # lower limit of a variance, as a share of the variance of the data


def fit_by_em(model: Any, splits: Splits) -> TrainingSummary:
    """Fit a Gaussian mixture in place by EM, from its own starting values.

    If the mixture has a prior on its parameters, this is MAP-EM. An amortised guide of the mixture is not trained: EM
    computes the posterior of the components exactly.

    Args:
        model: the mixture.
        splits: the data; the learning curve is on the validation data, or on the training data if there are none.

    Returns:
        Time, cost and curves; an epoch is one step of EM.

    Raises:
        InputError: if the model has no closed-form M-step.
    """
    if not isinstance(model, GMM):
        raise InputError(
            f"em needs a model with a closed-form M-step, but {type(model).__name__} has none. Use it with gmm."
        )
    model.initialise_from(splits.train)
    training = _EMTraining(model, splits)
    previous_bound = -np.inf
    for step in range(1, _MAX_STEPS + 1):
        bound = training.run_step(step)
        if bound - previous_bound < _TOLERANCE:
            break
        previous_bound = bound
    mixture = training.mixture
    model.set_parameters(mixture.weights, mixture.means, mixture.covariances)
    return training.summarise()


class _EMTraining:
    """The state of EM on one data set: the mixture, the training time and the curves."""

    def __init__(self, model: GMM, splits: Splits) -> None:
        self._has_validation = splits.validation is not None
        self._train = _flatten(splits.train.x)
        self._held_out = self._train if splits.validation is None else _flatten(splits.validation.x)
        self._covariance_type = model.covariance
        self._least_variance = _REGULARISATION * float(self._train.var(0, correction=0).mean())
        self._prior = _prior_of(model)
        self._seconds = 0.0
        self._curve: list[CurvePoint] = []
        self._log_likelihoods: list[CurvePoint] = []
        self.mixture = mixture_of(*model.parameters_of_mixture(), model.covariance)

    def run_step(self, step: int) -> float:
        """Run an E-step and an M-step; return the log-likelihood before the step, in nats per datum."""
        start = time.perf_counter()
        posterior, log_likelihood = responsibilities(self._train, self.mixture)
        bound = float(log_likelihood.mean()) + self._prior_per_datum(self.mixture)
        self.mixture = maximise(
            self._train,
            posterior,
            covariance_type=self._covariance_type,
            reg_covar=self._least_variance,
            prior=self._prior,
        )
        # The time to compute the curves is not counted as training time.
        self._seconds += time.perf_counter() - start
        held_out = self._mean_log_likelihood(self._held_out)
        log_posterior = self._mean_log_likelihood(self._train) + self._prior_per_datum(self.mixture)
        self._curve.append(CurvePoint(step, held_out, self._seconds))
        self._log_likelihoods.append(CurvePoint(step, log_posterior, self._seconds))
        return bound

    def summarise(self) -> TrainingSummary:
        split = VALIDATION if self._has_validation else TRAINING
        steps = len(self._curve)
        return TrainingSummary(
            training_seconds=self._seconds,
            epochs=steps,
            training_particles=1,
            decoder_evaluations=len(self._train) * steps,
            curve=LearningCurve(tuple(self._curve), f"{split} bound, exact", split),
            log_likelihoods=tuple(self._log_likelihoods),
        )

    def _mean_log_likelihood(self, x: Tensor) -> float:
        return float(responsibilities(x, self.mixture)[1].mean())

    def _prior_per_datum(self, mixture: Mixture) -> float:
        return float(self._prior.log_density(mixture)) / len(self._train)


def _prior_of(model: GMM) -> Prior:
    if model.prior is None:
        return Prior()
    return Prior(model.prior.concentration, torch.diag(model.prior.scale.double().cpu()), model.prior.degrees)


def _flatten(x: Tensor) -> Tensor:
    """Return data as float64 vectors on the CPU: (data, ...) becomes (data, features)."""
    return x.reshape(len(x), -1).double().cpu()
