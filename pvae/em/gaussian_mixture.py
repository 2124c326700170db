"""`GaussianMixture`: the estimator of scikit-learn, fitted by the EM of this library."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.metadata_routing import UNUSED
from torch import Tensor

from pvae.em.check_parameters import check_parameters, find_device, find_dtype
from pvae.em.component_status import find_regularised, find_status, list_warnings
from pvae.em.covariances.families import FAMILIES
from pvae.em.fit_mixture import EMFit, FitInputs, WarmStart, fit_mixture
from pvae.em.predictor import MixturePredictor
from pvae.em.read_inputs import OutputFormat, read_data, read_initial_parameters, read_sample_weight
from pvae.em.rows.row_sources import ArrayRows, BatchRows, RowSource
from pvae.em.run_reports import Watch
from pvae.em.stepwise_em import StepwiseEM
from pvae.errors import InputError

__all__ = ["GaussianMixture"]

#: The message of scikit-learn, which people search for.
NOT_CONVERGED = (
    "Best performing initialization did not converge. Try different init parameters, or increase max_iter, tol, or "
    "check for degenerate data."
)


class GaussianMixture(MixturePredictor):
    """A mixture of Gaussians fitted by EM, with the interface of ``sklearn.mixture.GaussianMixture``.

    From the same initial parameters it finds the parameters and log-likelihood that scikit-learn finds. The arguments
    from ``tol_relative`` on are additions to scikit-learn's; their defaults do not change its results. Results are
    NumPy arrays if the data are arrays, and tensors on the same device if the data are tensors.

    Args:
        n_components: number of components.
        covariance_type: ``"full"``, ``"tied"``, ``"diag"`` or ``"spherical"``.
        tol: EM has converged if a step changes the bound by less, nats per datum.
        reg_covar: added to each variance. ``"relative"`` adds a millionth of the variance of each feature, and k-means
            then measures distance in standard deviations, so that units do not matter.
        max_iter: largest number of steps of EM.
        n_init: number of starts, of which the best run is kept.
        init_params: the initialisation: ``"kmeans"``, ``"k-means++"``, ``"random"`` or ``"random_from_data"``.
        weights_init: initial weights, (components,).
        means_init: initial means, (components, features).
        precisions_init: initial precisions, in the shape of the covariances.
        random_state: a seed, a ``RandomState``, or None.
        warm_start: continue from the last fit.
        verbose: 1 prints the progress of a fit, 2 adds times and changes of the bound.
        verbose_interval: number of steps between two printed lines.
        tol_relative: EM has also converged if a step changes the bound by at most this share of its rise since the
            first step.
        empty: ``"keep"`` leaves a component without data as it is, ``"reseed"`` moves it to the datum with the lowest
            density, once.
        missing: ``"marginalise"`` treats NaN as a missing value, and integrates it out exactly.
        device: the device of the arithmetic, such as ``"cuda"``; by default that of the data.
        dtype: ``"float32"`` or ``"float64"``, of the arithmetic and the results; by default that of the data.
        distributed: the processes of ``torch.distributed`` each hold a part of the data, and fit one mixture.
        weight_concentration_prior: concentration of a Dirichlet prior of the weights, at least 1.
        covariance_prior: scale of an inverse Wishart prior of the covariances: a number, (features,) or (features,
            features). EM then finds the posterior mode.
        degrees_of_freedom_prior: of the inverse Wishart prior, by default the number of features.
        merge: a number in (0, 1), such as 0.9. Components with posteriors that overlap by more are merged after EM:
            one component with their weight and moments replaces them, and EM continues. The overlap of two components
            is the cosine between their posteriors of all data: 1 if one could replace both.
        split_merge: number of moves without success after which split-and-merge ends; 5 is usual. A move merges two
            components and splits a third, and is kept if the bound rises. It needs three components.
        matmul: ``"auto"`` computes matrix products by the fastest library for each shape, ``"aten"`` by torch alone.

    The attributes after a fit are those of scikit-learn (``weights_``, ``means_``, ``covariances_``, ``precisions_``,
    ``precisions_cholesky_``, ``converged_``, ``n_iter_``, ``lower_bound_``, ``lower_bounds_``) and: ``n_effective_``,
    the sums of the responsibilities, (components,); ``status_``, one word for each component (fitted, regularised,
    floored, merged, reseeded, empty); ``log_likelihoods_``, the history without the prior; ``merged_``, for each
    component the numbers of the components that were merged into it; ``split_merges_``, the moves that were kept. After
    merging there are fewer than ``n_components`` components, and the history continues: the bound may fall there.

    Raises:
        InputError: a ``ValueError`` with a message of one line, for data or parameters that cannot be used.

    Source: Dempster, Laird & Rubin, Maximum likelihood from incomplete data via the EM algorithm, JRSS B 39, 1977.

    Example:
        >>> import numpy as np
        >>> import pvae
        >>> x = np.array([[0.0], [0.2], [0.1], [5.0], [5.2], [5.1]])
        >>> mixture = pvae.GaussianMixture(2, random_state=0).fit(x)
        >>> np.sort(mixture.means_.ravel()).round(2)
        array([0.1, 5.1])
        >>> mixture.predict_proba([[0.1]]).shape
        (1, 2)
    """

    # `watch` is no data: exclude it from metadata routing.
    __metadata_request__fit: ClassVar = {"watch": UNUSED}

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float | str = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        tol_relative: float | None = None,
        empty: str = "keep",
        missing: str = "error",
        device: Any = None,
        dtype: Any = None,
        distributed: bool = False,
        weight_concentration_prior: float | None = None,
        covariance_prior: Any = None,
        degrees_of_freedom_prior: float | None = None,
        merge: float | None = None,
        split_merge: int = 0,
        matmul: str = "auto",
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init, self.means_init, self.precisions_init = weights_init, means_init, precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose, self.verbose_interval = verbose, verbose_interval
        self.tol_relative = tol_relative
        self.empty = empty
        self.missing = missing
        self.device, self.dtype = device, dtype
        self.distributed = distributed
        self.weight_concentration_prior = weight_concentration_prior
        self.covariance_prior = covariance_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.merge, self.split_merge, self.matmul = merge, split_merge, matmul

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, *, watch: Watch | None = None) -> GaussianMixture:
        """Fit the mixture to X by EM.

        Args:
            X: (data, features).
            y: not used; part of the interface of scikit-learn.
            sample_weight: number of times that each datum counts, (data,); by default 1.
            watch: called after each step with the number of the run, from 0, that of the step, from 1, the bound in
                nats per datum, and False; once more with True when the run has ended. Runs of EM after splits and
                merges have the next numbers.

        Returns:
            The estimator itself.

        Raises:
            InputError: for data or parameters that cannot be used.
        """
        check_parameters(self.get_params(deep=False))
        x, output = read_data(self, X, reset=True, min_rows=1 if self.distributed else 2)
        weights = read_sample_weight(sample_weight, len(x))
        rows = ArrayRows(x, weights, find_device(self.device, x.device))
        return self._fit(rows, output, watch)

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit the mixture to X, and return the number of the most probable component of each datum, (data,).

        Args:
            X: (data, features).
            y: not used; part of the interface of scikit-learn.
            sample_weight: number of times that each datum counts, (data,); by default 1.
        """
        return self.fit(X, y, sample_weight).predict(X)

    def fit_batches(self, batches: Iterable[Any] | Callable[[], Iterable[Any]]) -> GaussianMixture:
        """Fit the mixture to data that come in batches, and need not fit into memory.

        Each step of EM is exact: it reads all batches.

        Args:
            batches: an iterable that can be iterated many times, or a function that returns an iterator. A batch is
                (rows, features), or a tuple that has it as first entry.

        Returns:
            The estimator itself.

        Raises:
            InputError: for data or parameters that cannot be used, or an iterable that can be iterated only once.
        """
        check_parameters(self.get_params(deep=False))
        rows = BatchRows(batches, find_device(self.device, torch.device("cpu")))
        self.n_features_in_ = rows.features
        self.__dict__.pop("feature_names_in_", None)
        return self._fit(rows, OutputFormat(False, rows.dtype, torch.device("cpu")))

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> GaussianMixture:
        """Update the mixture with a batch of a stream, by stepwise EM.

        At batch t the running statistics move towards those of the batch by the step size (t + 2)^-0.6. The first
        batch must have at least one datum for each component; more data give a better start.

        Args:
            X: the batch, (data, features).
            y: not used; part of the interface of scikit-learn.
            sample_weight: number of times that each datum counts, (data,); by default 1.

        Returns:
            The estimator itself.

        Raises:
            InputError: for data or parameters that cannot be used.

        Source: Liang & Klein, Online EM for unsupervised models, NAACL 2009.
        """
        check_parameters(self.get_params(deep=False))
        kept = getattr(self, "_stream", None)
        if kept is not None:
            self._check_continues()
        x, output = read_data(self, X, reset=kept is None)
        weights = read_sample_weight(sample_weight, len(x))
        rows = ArrayRows(x, weights, find_device(self.device, x.device))
        inputs = self._fit_inputs(rows, output)
        stream = StepwiseEM.start(rows, inputs) if kept is None else StepwiseEM.continued(kept, inputs, rows.device)
        self._publish(stream.update(rows), output)
        self._stream = stream.to_arrays()
        for name in ("status_", "merged_", "split_merges_"):
            self.__dict__.pop(name, None)  # of an earlier fit
        self.n_iter_ = stream.batches
        self.converged_ = False
        self.lower_bounds_ = self.log_likelihoods_ = stream.bounds
        self.lower_bound_ = stream.bounds[-1]
        self.n_effective_ = output.convert(stream.counts)
        return self

    def _fit_inputs(self, rows: RowSource, output: OutputFormat) -> FitInputs:
        family = FAMILIES[self.covariance_type]
        initial = read_initial_parameters(
            family, self.n_components, rows.features, self.weights_init, self.means_init, self.precisions_init
        )
        warm_start = None
        if self.warm_start and hasattr(self, "converged_"):
            mixture = self._mixture(rows.device)
            self._check_components()
            warm_start = WarmStart(mixture, -np.inf if self._kept["by_hand"] else self.lower_bound_)
        random = check_random_state(self.random_state)
        dtype = find_dtype(self.dtype, output.dtype)
        return FitInputs(family, self.get_params(deep=False), initial, warm_start, random, dtype)

    def _fit(self, rows: RowSource, output: OutputFormat, watch: Watch | None = None) -> GaussianMixture:
        inputs = replace(self._fit_inputs(rows, output), watch=watch)
        self.__dict__.pop("_stream", None)
        try:
            fit = fit_mixture(rows, inputs)
        except torch.cuda.OutOfMemoryError as error:
            raise InputError(
                f"{rows.device} has not enough memory for this fit. Free some memory, use device='cpu', or use fewer "
                "components or features."
            ) from error
        output = OutputFormat(output.is_tensor, inputs.dtype, output.device)
        is_regularised = find_regularised(fit)
        self._publish(fit.mixture, output)
        self._set_history(fit)
        self.n_effective_ = output.convert(fit.run.counts)
        self.status_ = find_status(fit, is_regularised)
        self._warn(fit, is_regularised)
        return self

    def _set_history(self, fit: EMFit) -> None:
        run = fit.run
        self.converged_ = run.converged
        self.n_iter_ = len(run.bounds)
        self.lower_bounds_ = run.bounds
        self.log_likelihoods_ = run.log_likelihoods
        self.lower_bound_ = run.bounds[-1] if run.bounds else -np.inf
        self.merged_ = fit.merged
        self.split_merges_ = fit.moves

    def _warn(self, fit: EMFit, is_regularised: Tensor) -> None:
        """Warn at the line that called `fit` or `fit_batches`."""
        if not fit.run.converged and self.max_iter > 0:
            warnings.warn(NOT_CONVERGED, ConvergenceWarning, stacklevel=4)
        for line in list_warnings(fit, is_regularised, self.reg_covar):
            warnings.warn(line, RuntimeWarning, stacklevel=4)
