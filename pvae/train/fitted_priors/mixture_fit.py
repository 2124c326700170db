"""Gaussian mixtures of codes, fitted by EM. The Bayesian information criterion chooses the number of components."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pvae.checks import require_whole
from pvae.densities.full_mixture import FullMixturePrior
from pvae.errors import InputError
from pvae.train.fitted_priors.codes import Codes
from pvae.train.fitted_priors.fitted_density import FitSettings, FittedDensity

if TYPE_CHECKING:
    from pvae.em import GaussianMixture

__all__ = ["fit_full_gaussian", "fit_mixture"]

_CANDIDATES = (1, 2, 5, 10, 20, 50)
_MOST_STEPS = 500


def fit_full_gaussian(codes: Codes, settings: FitSettings) -> FittedDensity:
    """Return the Gaussian with the mean and the covariance of the codes, which maximise the likelihood.

    Args:
        codes: the codes, real numbers.
        settings: the settings of the fit, which are not used.
    """
    return FittedDensity(_as_prior(_mixture(codes, 1, settings.seed)), {"components": 1})


def fit_mixture(codes: Codes, settings: FitSettings, *, components: int | None = None) -> FittedDensity:
    """Return a mixture of Gaussians with full covariances.

    Args:
        codes: the codes, real numbers.
        settings: the settings of the fit.
        components: the number of components; by default that of 1, 2, 5, 10, 20 and 50 with the best Bayesian
            information criterion. The criterion counts each datum once, however many codes it has.
    """
    if components is not None:
        count = require_whole(components, "components")
        _require_enough(codes, count)
        return FittedDensity(_as_prior(_mixture(codes, count, settings.seed)), {"components": count})
    _require_enough(codes, 1)
    # the criterion does not choose a component with fewer data than parameters
    most = max(1, codes.count // (1 + codes.site.size))
    mixtures = {count: _mixture(codes, count, settings.seed) for count in _CANDIDATES if count <= most}
    weights = _weights(codes)
    criteria = {count: float(mixture.bic(codes.values, weights)) for count, mixture in mixtures.items()}
    best = min(criteria, key=lambda count: criteria[count])
    facts = {"bic": {str(count): round(value, 3) for count, value in criteria.items()}}
    return FittedDensity(_as_prior(mixtures[best]), {"components": best}, facts)


def _require_enough(codes: Codes, components: int) -> None:
    needed = components * (codes.site.size + 1)
    if codes.count < needed:
        raise InputError(
            f"A mixture of {components} full Gaussians in {codes.site.size} dimensions needs at least {needed} data; "
            f"got {codes.count}. Use fewer components, or fewer latent dimensions."
        )


def _weights(codes: Codes) -> Any:
    """Return the weight of each code: a datum counts once, however many codes it has."""
    return np.full(len(codes.values), 1 / codes.draws)


def _mixture(codes: Codes, components: int, seed: int) -> GaussianMixture:
    # imported here because scikit-learn is slow to import
    from sklearn.exceptions import ConvergenceWarning

    from pvae.em import GaussianMixture

    mixture = GaussianMixture(
        components, reg_covar="relative", max_iter=_MOST_STEPS, random_state=seed, dtype=torch.float64
    )
    with warnings.catch_warnings():
        # a mixture that still gains a thousandth of a nat in each step is good enough as a prior
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(codes.values.double(), sample_weight=_weights(codes))


def _as_prior(mixture: GaussianMixture) -> FullMixturePrior:
    weights, means, covariances = (
        torch.as_tensor(value) for value in (mixture.weights_, mixture.means_, mixture.covariances_)
    )
    prior = FullMixturePrior(means.shape[1], len(weights)).double()
    prior.set_parameters(weights, means, covariances)
    return prior
