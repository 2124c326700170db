"""What a fitted mixture says of data: densities, components, draws, information criteria, missing values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pvae.em.base import Mixture, with_whitening
from pvae.em.families import FAMILIES
from pvae.em.frame import Columns, check_finite, frame_of
from pvae.em.inputs import Form, read, read_weights
from pvae.em.missing_values import Marginal
from pvae.em.passes import log_likelihoods, shares
from pvae.em.routes import Route, make_route
from pvae.em.row_sources import ArrayRows, as_tensor
from pvae.em.settings import device_of
from pvae.errors import InputError

__all__ = ["MixturePredictor"]


class MixturePredictor(DensityMixin, BaseEstimator):
    """Methods of a mixture that has ``weights_``, ``means_`` and ``precisions_cholesky_``."""

    def score_samples(self, X: Any) -> Any:
        """Return log p(x) of each datum, (data,), nats."""
        return self._each(X, log_likelihoods)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the mean of log p(x), nats per datum; weighted where weights are given."""
        values = self.score_samples(X)
        weights = read_weights(sample_weight, len(values))
        if weights is None:
            return float(values.mean())
        return float(weights @ as_tensor(values).to(weights) / weights.sum())

    def predict(self, X: Any) -> Any:
        """Return the most probable component of each datum, (data,)."""
        return self._each(X, lambda route, prepared: route.logits(prepared).argmax(0), torch.int64)

    def predict_proba(self, X: Any) -> Any:
        """Return the probability of each component given each datum, (data, components)."""
        return self._each(X, lambda route, prepared: shares(route, prepared).mT)

    def bic(self, X: Any) -> float:
        """Return the Bayesian information criterion: lower is better."""
        count = len(X)
        return -2 * self.score(X) * count + self._n_parameters() * math.log(count)

    def aic(self, X: Any) -> float:
        """Return Akaike's information criterion: lower is better."""
        return -2 * self.score(X) * len(X) + 2 * self._n_parameters()

    def impute(self, X: Any) -> Any:
        """Return X with each missing value, NaN, at its expectation given the observed ones of its row.

        A row without any observed value gets the mixture's mean.
        """
        check_is_fitted(self)
        x, form = read(self, X, reset=False)
        check_finite(x, missing=True)
        frame, _, columns = self._columns(x)
        inside = frame.inside(self._mixture(x.device))
        route = Marginal(inside, torch.float64)
        found = [route.completed(u) for u, _ in columns.chunks(route.chunk, route.dtype)]
        values = torch.cat(found, 1).mT * frame.scale + frame.shift
        return form.give(torch.where(x.isnan(), values.to(x.device), x.double()))

    def dense_covariances(self) -> Any:
        """Return the covariances as matrices whatever their type, (components, features, features)."""
        check_is_fitted(self)
        mixture = self._mixture(torch.device("cpu"))
        return self._form().give(mixture.family.dense(mixture.covariances, mixture.components, mixture.features))

    def sample(self, n_samples: int = 1) -> tuple[Any, Any]:
        """Return draws, (n_samples, features), and the component of each, (n_samples,), in order of components."""
        check_is_fitted(self)
        if n_samples < 1:
            raise InputError(f"Invalid value for 'n_samples': {n_samples} . The sampling requires at least one sample.")
        random = check_random_state(self.random_state)
        mixture = self._mixture(torch.device("cpu"))
        weights = mixture.weights.numpy()
        counts = random.multinomial(n_samples, weights / weights.sum())
        drawn = [self._draw(random, mixture, component, int(count)) for component, count in enumerate(counts)]
        x, y = torch.from_numpy(np.vstack(drawn)), torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
        form = self._form()
        return form.give(x, torch.float64), form.give(y, torch.int64)

    @staticmethod
    def _draw(random: np.random.RandomState, mixture: Mixture, component: int, count: int) -> np.ndarray:
        """Draws in scikit-learn's order, so that the same random state gives the same data."""
        mean, covariances = mixture.means[component].numpy(), mixture.covariances.numpy()
        if mixture.family.name in ("full", "tied"):
            covariance = covariances if mixture.family.name == "tied" else covariances[component]
            return random.multivariate_normal(mean, covariance, count)
        return mean + random.standard_normal(size=(count, len(mean))) * np.sqrt(covariances[component])

    def _n_parameters(self) -> int:
        """How many free numbers the mixture has."""
        components, features = self.means_.shape
        return FAMILIES[self.covariance_type].size(components, features) + features * components + components - 1

    def _form(self) -> Form:
        """In which form the fitted parameters are."""
        means = self.means_
        tensor = as_tensor(means)
        return Form(isinstance(means, Tensor), tensor.dtype, tensor.device)

    def _mixture(self, device: torch.device) -> Mixture:
        """Return the fitted parameters in float64: those that the fit left, unless a person set others since."""
        precise = getattr(self, "_precise", None)
        if precise is None or not self._is_own(precise):
            family = FAMILIES[self.covariance_type]
            named = (self.weights_, self.means_, self.precisions_cholesky_)
            precise = with_whitening(family, *(as_tensor(each).to(torch.float64) for each in named))
        parts = (precise.weights, precise.means, precise.covariances, precise.whitening, precise.roots)
        return Mixture(precise.family, *(each.to(device) for each in parts))

    def _is_own(self, precise: Mixture) -> bool:
        """Whether the public parameters are those of the fit, rounded to the dtype of the data."""
        pairs = (
            (self.weights_, precise.weights),
            (self.means_, precise.means),
            (self.precisions_cholesky_, precise.whitening),
        )
        tensors = [(as_tensor(public), own) for public, own in pairs]
        return precise.family.name == self.covariance_type and all(
            public.shape == own.shape and torch.equal(public.cpu(), own.to(public.dtype).cpu())
            for public, own in tensors
        )

    def _columns(self, x: Tensor) -> tuple[Any, torch.device, Columns]:
        device = device_of(self.device, x.device)
        frame = frame_of(self._mixture(device))
        return frame, device, Columns(ArrayRows(x, device=device), frame)

    def _each(self, X: Any, what: Callable[[Route, Tensor], Tensor], dtype: torch.dtype | None = None) -> Any:
        """Return something of each datum, chunk by chunk."""
        check_is_fitted(self)
        x, form = read(self, X, reset=False)
        frame, device, columns = self._columns(x)
        missing = self.missing == "marginalise"
        if not bool(x.sum().isfinite()):
            check_finite(x, missing=missing)
        inside = frame.inside(self._mixture(device))
        marginal = missing and bool(x.isnan().any())
        route = Marginal(inside, torch.float64) if marginal else make_route(inside, frame.spread, torch.float64)
        found = [what(route, prepared) for prepared, _ in columns.prepared(route)]
        values = torch.cat(found)
        if what is log_likelihoods:
            scales = frame.scale.log()
            values = values - ((~x.isnan()).to(scales) @ scales if marginal else scales.sum())
        return form.give(values, dtype)
