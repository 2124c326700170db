"""The methods of a fitted mixture: log-densities, components, draws, information criteria, imputation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.base import DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pvae.checks import is_whole
from pvae.em.base import Mixture
from pvae.em.check_parameters import find_device
from pvae.em.e_step import chunk_log_likelihoods, chunk_responsibilities
from pvae.em.kernels.base import EStepKernel
from pvae.em.kernels.choose_kernel import choose_kernel
from pvae.em.kernels.missing_values_kernel import MissingValuesKernel
from pvae.em.public_parameters import on_device
from pvae.em.read_inputs import OutputFormat, read_data, read_sample_weight
from pvae.em.rows.row_sources import ArrayRows, as_tensor
from pvae.em.rows.standardise import Standardiser, standardiser_of_mixture
from pvae.em.rows.standardised_chunks import StandardisedChunks
from pvae.em.rows.value_checks import check_finite
from pvae.em.stored_mixture import StoredMixture
from pvae.errors import InputError
from pvae.products import default_products

__all__ = ["MixturePredictor"]


@dataclass(frozen=True)
class _PredictionInputs:
    """Data, and the kernel of a fitted mixture for them.

    Attributes:
        x: (data, features).
        output: format of the results.
        data: the data in standardised coordinates.
        kernel: for the fitted parameters in standardised coordinates.
    """

    x: Tensor
    output: OutputFormat
    data: StandardisedChunks
    kernel: EStepKernel

    @property
    def standardiser(self) -> Standardiser:
        """The standardised coordinates."""
        return self.data.standardiser

    def prepared_chunks(self) -> Iterator[Tensor]:
        """Yield the data in chunks as the kernel prepares them, (prepared_size, batch)."""
        for prepared, _ in self.data.prepared_chunks(self.kernel):
            yield prepared

    def log_scale(self) -> Tensor:
        """Return log p(u) - log p(x) of each datum, (data,), or one number for all, (), nats."""
        log_scales = self.standardiser.scale.log()
        if isinstance(self.kernel, MissingValuesKernel):
            return (~self.x.isnan()).to(log_scales) @ log_scales
        return log_scales.sum()


class MixturePredictor(DensityMixin, StoredMixture):
    """The methods of a mixture that has ``weights_``, ``means_`` and ``precisions_cholesky_``."""

    def score_samples(self, X: Any) -> Any:
        """Return log p(x) of each datum, (data,), nats.

        Args:
            X: (data, features).

        Raises:
            InputError: for values that are not finite, or another number of features than that of the fitted data.
        """
        inputs = self._prepare(X)
        parts = (chunk_log_likelihoods(inputs.kernel, prepared) for prepared in inputs.prepared_chunks())
        values = _join(parts, len(inputs.x))
        return inputs.output.convert(values - inputs.log_scale())

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the mean of log p(x), nats per datum.

        Args:
            X: (data, features).
            y: not used; part of the interface of scikit-learn.
            sample_weight: weights of the mean, (data,); by default equal.
        """
        values = self.score_samples(X)
        weights = read_sample_weight(sample_weight, len(values))
        if weights is None:
            return float(values.mean())
        return float(weights @ as_tensor(values).to(weights) / weights.sum())

    def predict(self, X: Any) -> Any:
        """Return the number of the most probable component of each datum, (data,).

        Args:
            X: (data, features).
        """
        return self._map_chunks(X, lambda kernel, prepared: kernel.logits(prepared).argmax(0), torch.int64)

    def predict_proba(self, X: Any) -> Any:
        """Return the probability of each component given each datum, (data, components).

        Args:
            X: (data, features).
        """
        return self._map_chunks(X, lambda kernel, prepared: chunk_responsibilities(kernel, prepared).mT)

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """Return the Bayesian information criterion, nats; lower is better.

        Args:
            X: (data, features).
            sample_weight: number of times that each datum counts, (data,); by default 1. Weights that are scaled to
                the sum 1 are no counts: the criterion needs the number of data, which is their sum.
        """
        count = self._count_data(X, sample_weight)
        return -2 * self.score(X, sample_weight=sample_weight) * count + self._n_parameters() * math.log(count)

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """Return Akaike's information criterion, nats; lower is better.

        Args:
            X: (data, features).
            sample_weight: as for `bic`.
        """
        count = self._count_data(X, sample_weight)
        return -2 * self.score(X, sample_weight=sample_weight) * count + 2 * self._n_parameters()

    def _count_data(self, X: Any, sample_weight: Any) -> float:
        """Return the number of data, or the sum of the sample weights."""
        weights = read_sample_weight(sample_weight, len(X))
        if weights is None:
            return len(X)
        count = float(weights.sum())
        if count <= 1 < int((weights > 0).sum()):
            raise InputError(
                f"sample_weight needs the number of times that each datum counts; got weights of the sum {count:.6g} "
                "for more than one datum. Multiply them by the number of data."
            )
        return count

    def impute(self, X: Any) -> Any:
        """Return X with each missing value replaced by its expectation given the observed values of its row.

        A row without any observed value gets the mean of the mixture.

        Args:
            X: (data, features), NaN where a value is missing.

        Returns:
            (data, features).

        Raises:
            InputError: for infinite values, or another number of features than that of the fitted data.
        """
        check_is_fitted(self)
        fitted = self._mixture(torch.device("cpu"))
        x, output = read_data(self, X, reset=False)
        check_finite(x, has_missing=True)
        data = self._standardise(x, fitted)
        standardiser = data.standardiser
        kernel = MissingValuesKernel(standardiser.standardise(on_device(fitted, data.rows.device)), torch.float64)
        parts = (kernel.impute(u).mT for u, _ in data.chunks(kernel.chunk_size, kernel.dtype))
        values = _join(parts, len(x)) * standardiser.scale + standardiser.shift
        return output.convert(torch.where(x.isnan(), values.to(x.device), x.double()))

    def dense_covariances(self) -> Any:
        """Return the covariances as matrices for every covariance type, (components, features, features)."""
        check_is_fitted(self)
        mixture = self._mixture(torch.device("cpu"))
        dense = mixture.family.to_dense(mixture.covariances, mixture.components, mixture.features)
        return self._output_format().convert(dense)

    def sample(self, n_samples: int = 1) -> tuple[Any, Any]:
        """Draw data from the mixture, in the order of the components.

        Args:
            n_samples: number of draws.

        Returns:
            The draws, (n_samples, features), and the component of each, (n_samples,).

        Raises:
            InputError: for fewer than one draw.
        """
        check_is_fitted(self)
        if not is_whole(n_samples) or n_samples < 1:
            raise InputError(f"Invalid value for 'n_samples': {n_samples} . The sampling requires at least one sample.")
        random = check_random_state(self.random_state)
        mixture = self._mixture(torch.device("cpu"))
        weights = mixture.weights.numpy()
        counts = random.multinomial(n_samples, weights / weights.sum())
        drawn = [_draw_component(random, mixture, component, int(count)) for component, count in enumerate(counts)]
        x = torch.from_numpy(np.vstack(drawn))
        components = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
        output = self._output_format()
        return output.convert(x, torch.float64), output.convert(components, torch.int64)

    def _standardise(self, x: Tensor, mixture: Mixture) -> StandardisedChunks:
        """Return data in the standardised coordinates of a mixture, on the device of the estimator."""
        device = find_device(self.device, x.device)
        standardiser = replace(standardiser_of_mixture(on_device(mixture, device)), rows=len(x))
        return StandardisedChunks(ArrayRows(x, device=device), standardiser)

    def _prepare(self, X: Any) -> _PredictionInputs:
        """Check data, and choose the kernel of the fitted parameters for them."""
        check_is_fitted(self)
        fitted = self._mixture(torch.device("cpu"))
        x, output = read_data(self, X, reset=False)
        data = self._standardise(x, fitted)
        has_missing = self.missing == "marginalise"
        if not bool(x.sum().isfinite()):
            check_finite(x, has_missing=has_missing)
        mixture = data.standardiser.standardise(on_device(fitted, data.rows.device))
        kernel: EStepKernel
        if has_missing and bool(x.isnan().any()):
            kernel = MissingValuesKernel(mixture, torch.float64)
        else:
            products = default_products(self.matmul)
            kernel = choose_kernel(mixture, data.standardiser.mean_square, torch.float64, products)
        return _PredictionInputs(x, output, data, kernel)

    def _map_chunks(
        self, X: Any, compute: Callable[[EStepKernel, Tensor], Tensor], dtype: torch.dtype | None = None
    ) -> Any:
        """Return the results of a function of kernel and prepared chunk, (batch, ...), for all data.

        Args:
            X: (data, features).
            compute: the function.
            dtype: of the results; by default that of the data.
        """
        inputs = self._prepare(X)
        parts = (compute(inputs.kernel, prepared) for prepared in inputs.prepared_chunks())
        return inputs.output.convert(_join(parts, len(inputs.x)), dtype)


def _join(parts: Iterator[Tensor], rows: int) -> Tensor:
    """Return the results of all chunks as one tensor, (rows, ...).

    Each part is copied at once. A list of many small tensors between the large temporary ones of the chunks would keep
    the allocator from using their memory again.

    Args:
        parts: the results of the chunks in order, (batch, ...); at least one.
        rows: the number of data.
    """
    whole, start = torch.empty(0), 0
    for part in parts:
        if start == 0:
            whole = part.new_empty(rows, *part.shape[1:])
        whole[start : start + len(part)] = part
        start += len(part)
    return whole


def _draw_component(random: np.random.RandomState, mixture: Mixture, component: int, count: int) -> np.ndarray:
    """Return draws from a component, (count, features), the same as those of scikit-learn for the same random state."""
    mean = mixture.means[component].numpy()
    covariances = mixture.covariances.numpy()
    if mixture.family.name == "tied":
        return random.multivariate_normal(mean, covariances, count)
    if mixture.family.name == "full":
        return random.multivariate_normal(mean, covariances[component], count)
    return mean + random.standard_normal(size=(count, len(mean))) * np.sqrt(covariances[component])
