"""The options of a run of EM, made from the parameters of the estimator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.em.prior import Prior
from pvae.em.rows.standardise import Standardiser
from pvae.errors import InputError

__all__ = ["EMOptions", "make_options"]

#: The share of the variance of each feature that `reg_covar="relative"` adds.
RELATIVE_REGULARISATION = 1e-6


@dataclass(frozen=True)
class EMOptions:
    """The options of a run of EM.

    Attributes:
        tol: EM has converged if a step changes the bound by less, nats per datum.
        tol_relative: EM has also converged if a step changes the bound by at most this share of the rise since the
            first step; None turns this criterion off.
        max_iter: largest number of steps.
        regularisation: added to each variance, (features,), in standardised coordinates.
        prior: of the parameters, in standardised coordinates.
        reseed: whether an empty component moves to the datum with the lowest log-likelihood, at most once.
    """

    tol: float
    tol_relative: float | None
    max_iter: int
    regularisation: Tensor
    prior: Prior
    reseed: bool


def make_options(settings: dict[str, Any], standardiser: Standardiser) -> EMOptions:
    """Return the options of EM in standardised coordinates.

    Args:
        settings: the parameters of the estimator by name.
        standardiser: the standardised coordinates.

    Raises:
        InputError: if the prior does not fit the number of features.
    """
    return EMOptions(
        tol=float(settings["tol"]),
        tol_relative=None if settings["tol_relative"] is None else float(settings["tol_relative"]),
        max_iter=int(settings["max_iter"]),
        regularisation=_standardise_regularisation(settings["reg_covar"], standardiser),
        prior=_make_prior(settings, standardiser),
        reseed=settings["empty"] == "reseed",
    )


def _standardise_regularisation(reg_covar: float | str, standardiser: Standardiser) -> Tensor:
    if isinstance(reg_covar, str):
        return torch.full_like(standardiser.scale, RELATIVE_REGULARISATION)
    return float(reg_covar) / standardiser.scale.square()


def _make_prior(settings: dict[str, Any], standardiser: Standardiser) -> Prior:
    concentration = settings["weight_concentration_prior"]
    concentration = 1.0 if concentration is None else float(concentration)
    if settings["covariance_prior"] is None:
        return Prior(concentration)
    features = len(standardiser.scale)
    scale = _scale_matrix(settings["covariance_prior"], features).to(standardiser.scale.device)
    degrees = settings["degrees_of_freedom_prior"]
    degrees = float(features if degrees is None else degrees)
    if degrees <= features - 1:
        raise InputError(
            f"degrees_of_freedom_prior needs more than {features - 1} for this data of {features} features; got "
            f"{degrees:g}. Increase it, or leave it out to use {features}."
        )
    return Prior(concentration, scale / standardiser.scale.unsqueeze(1) / standardiser.scale, degrees)


def _scale_matrix(covariance_prior: Any, features: int) -> Tensor:
    """Return the scale of the inverse Wishart prior as a matrix, (features, features)."""
    if not isinstance(covariance_prior, Tensor):
        covariance_prior = np.asarray(covariance_prior, dtype=np.float64)
    values = torch.as_tensor(covariance_prior).double()
    shape = tuple(values.shape)
    if shape in ((), (features,)):
        values = torch.diag(values.expand(features))
    symmetric = values.shape == (features, features) and torch.allclose(values, values.mT)
    if not symmetric or not bool((torch.linalg.eigvalsh(values) > 0).all()):
        raise InputError(
            f"covariance_prior needs a positive number, ({features},) positive numbers or a positive definite matrix "
            f"({features}, {features}); got shape {shape}."
        )
    return values
