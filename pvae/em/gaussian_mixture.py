"""`GaussianMixture`: scikit-learn's estimator, fitted by this library's EM."""

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

from pvae.em.base import Mixture
from pvae.em.families import FAMILIES
from pvae.em.fitting import Fit, Given, Watch, each, fit_rows, ranges, status_of
from pvae.em.inputs import Form, initial, read, read_weights
from pvae.em.predictor import MixturePredictor
from pvae.em.row_sources import ArrayRows, BatchRows, Rows
from pvae.em.settings import check_settings, device_of, dtype_of
from pvae.em.streams import Stream
from pvae.errors import InputError

__all__ = ["GaussianMixture"]

NOT_CONVERGED = (
    "Best performing initialization did not converge. Try different init parameters, or increase max_iter, tol, or "
    "check for degenerate data."
)


class GaussianMixture(MixturePredictor):
    """A mixture of Gaussians fitted by EM, with the interface of ``sklearn.mixture.GaussianMixture``.

    From the same initial parameters it finds scikit-learn's parameters and log-likelihood, faster. What it
    takes beyond scikit-learn stands below the line; its defaults change nothing. NumPy in, NumPy out; tensors in,
    tensors out, on their device.

    Args:
        n_components: number of components.
        covariance_type: ``"full"``, ``"tied"``, ``"diag"`` or ``"spherical"``.
        tol: EM has converged where the bound changes by less, nats per datum.
        reg_covar: added to each variance; ``"relative"`` adds a millionth of each feature's variance, and measures
            distance for the start in standard deviations, so that units do not matter.
        max_iter: most steps of EM.
        n_init: number of starts, of which the best run is kept.
        init_params: where to start: ``"kmeans"``, ``"k-means++"``, ``"random"`` or ``"random_from_data"``.
        weights_init: initial weights, (components,).
        means_init: initial means, (components, features).
        precisions_init: initial precisions, in the shape of the covariances.
        random_state: a seed, a ``RandomState``, or None.
        warm_start: go on from the last fit.
        verbose: 1 or 2 prints how a fit goes.
        verbose_interval: steps between two lines.
        tol_relative: EM has also converged where a step gains less than this share of all that was gained.
        empty: ``"keep"`` leaves a component without data as it is, ``"reseed"`` moves it to the datum of the lowest
            density, once.
        missing: ``"marginalise"`` takes NaN as missing, and integrates it out exactly.
        device: where to work, such as ``"cuda"``; by default where the data are.
        dtype: ``"float32"`` or ``"float64"``, of the work and the results; by default the data's.
        distributed: the processes of ``torch.distributed`` each hold a part of the data, and fit one mixture.
        weight_concentration_prior: of a Dirichlet prior of the weights, at least 1.
        covariance_prior: scale of an inverse Wishart prior of the covariances: a number, (features,) or (features,
            features). With it EM finds the posterior's mode.
        degrees_of_freedom_prior: of the inverse Wishart prior, by default the number of features.
        merge: a number in (0, 1), such as 0.9: components whose posteriors overlap by more are merged after EM, into
            one of their weight and moments, and EM goes on. The overlap of two is the cosine of their posteriors of
            all data: 1 where one could take the place of both.
        split_merge: moves to try that merge two components and split a third, before giving up; 5 is usual. The
            bound is never lower than without. Three components are needed.

    Attributes after a fit, beside scikit-learn's (``weights_``, ``means_``, ``covariances_``, ``precisions_``,
    ``precisions_cholesky_``, ``converged_``, ``n_iter_``, ``lower_bound_``, ``lower_bounds_``): ``n_effective_``, the
    summed responsibilities (components,); ``status_``, a word for each component (fitted, regularised, floored,
    merged, reseeded, empty); ``log_likelihoods_``, the history without the prior; ``merged_``, the numbers that the
    components merged into each had; ``split_merges_``, the moves that were kept. Merging makes components fewer than
    ``n_components``, and continues the history, in which the bound may fall there.

    Raises:
        InputError: a ``ValueError``, in one line, for data or parameters that cannot be used.

    Source: Dempster, Laird & Rubin, Maximum likelihood from incomplete data via the EM algorithm, JRSS B 39, 1977.
    """

    # Who watches is no data that a pipeline could route.
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
        self.device = device
        self.dtype = dtype
        self.distributed = distributed
        self.weight_concentration_prior = weight_concentration_prior
        self.covariance_prior = covariance_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.merge, self.split_merge = merge, split_merge

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, *, watch: Watch | None = None) -> GaussianMixture:
        """Fit the mixture to X by EM; return it.

        Args:
            X: (data, features).
            y: for scikit-learn's sake.
            sample_weight: how often each datum counts, (data,); by default once.
            watch: called after each step with the number of the start, from 0, that of the step, from 1, the bound in
                nats per datum, and False; once more with True when the start has ended. Runs of EM after splits and
                merges count on.
        """
        check_settings(self.get_params(deep=False))
        x, form = read(self, X, reset=True, least=1 if self.distributed else 2)
        weights = read_weights(sample_weight, len(x))
        rows = ArrayRows(x, weights, device_of(self.device, x.device))
        return self._fit(rows, form, watch)

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit the mixture to X, and return the most probable component of each datum, (data,)."""
        return self.fit(X, y, sample_weight).predict(X)

    def fit_batches(self, batches: Iterable[Any] | Callable[[], Iterable[Any]]) -> GaussianMixture:
        """Fit the mixture to data that come in batches, (rows, features) each, and need not fit into memory.

        Each step of EM is exact: it runs through all batches. A batch may be a tuple whose first entry is x.

        Args:
            batches: an iterable that can be run through many times, or a function that returns an iterator.
        """
        check_settings(self.get_params(deep=False))
        rows = BatchRows(batches, device_of(self.device, torch.device("cpu")))
        self.n_features_in_ = rows.features
        return self._fit(rows, Form(False, rows.dtype, torch.device("cpu")))

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> GaussianMixture:
        """Take in a batch of a stream by stepwise EM; return the mixture.

        Statistics move towards the batch's by (t + 2)^-0.6 at batch t. The first batch must hold at least one datum
        for each component; the more it holds, the better the start.
        Source: Liang & Klein, Online EM for unsupervised models, NAACL 2009.
        """
        check_settings(self.get_params(deep=False))
        stream = getattr(self, "_stream", None)
        x, form = read(self, X, reset=stream is None)
        weights = read_weights(sample_weight, len(x))
        rows = ArrayRows(x, weights, device_of(self.device, x.device))
        if stream is None:
            stream = self._stream = Stream(rows, self._given(rows, form))
        mixture = stream.take(rows)
        self._publish(mixture, form)
        self.n_iter_, self.converged_ = stream.batches, False
        self.lower_bounds_ = self.log_likelihoods_ = stream.bounds
        self.lower_bound_ = stream.bounds[-1]
        self.n_effective_ = form.give(stream.counts)
        return self

    def _given(self, rows: Rows, form: Form) -> Given:
        family = FAMILIES[self.covariance_type]
        partial = initial(
            family, self.n_components, rows.features, self.weights_init, self.means_init, self.precisions_init
        )
        again = self.warm_start and hasattr(self, "converged_")
        warm = (self._mixture(rows.device), self.lower_bound_) if again else None
        random = check_random_state(self.random_state)
        dtype = dtype_of(self.dtype, form.dtype)
        return Given(family, self.get_params(deep=False), partial, warm, random, dtype)

    def _fit(self, rows: Rows, form: Form, watch: Watch | None = None) -> GaussianMixture:
        given = replace(self._given(rows, form), watch=watch)
        self.__dict__.pop("_stream", None)
        try:
            fit = fit_rows(rows, given)
        except torch.cuda.OutOfMemoryError as error:
            raise _out_of_memory(rows) from error
        form = Form(form.tensors, given.dtype, form.device)
        self._publish(fit.mixture, form)
        run = fit.run
        self.converged_, self.n_iter_ = run.converged, len(run.bounds)
        self.lower_bounds_, self.log_likelihoods_ = run.bounds, run.log_likelihoods
        self.lower_bound_ = run.bounds[-1] if run.bounds else -np.inf
        self.n_effective_ = form.give(run.counts)
        self.merged_, self.split_merges_ = fit.merged, fit.moves
        self.status_, low = status_of(fit)
        self._warn(fit, low)
        return self

    def _publish(self, mixture: Mixture, form: Form) -> None:
        """Set the fitted parameters in the form of the data, and keep them in float64 too."""
        self._precise = mixture
        self.weights_ = form.give(mixture.weights)
        self.means_ = form.give(mixture.means)
        self.covariances_ = form.give(mixture.covariances)
        self.precisions_cholesky_ = form.give(mixture.whitening)
        matrices = mixture.family.name in ("full", "tied")
        whitening = mixture.whitening
        self.precisions_ = form.give(whitening @ whitening.mT if matrices else whitening.square())

    def _warn(self, fit: Fit, low: Tensor) -> None:
        run = fit.run
        if not run.converged and self.max_iter > 0:
            warnings.warn(NOT_CONVERGED, ConvergenceWarning, stacklevel=4)
        for line in _remarks(fit, low, self.reg_covar):
            warnings.warn(line, RuntimeWarning, stacklevel=4)


def _remarks(fit: Fit, low: Tensor, reg_covar: float | str) -> list[str]:
    """What a person should know of a fit, a line each."""
    run, lines = fit.run, []
    if run.falls:
        lines.append(
            f"The bound fell in {len(run.falls)} of {len(run.bounds)} steps, by up to {max(run.falls):.3g} nats per "
            "datum: reg_covar moves the covariances away from their maximum; reg_covar='relative' moves them less."
        )
    if bool(run.empty.any()):
        lines.append(
            f"Components {ranges(list(each(run.empty)))} have no data, and kept their parameters; use fewer "
            "components, or empty='reseed'."
        )
    if bool(run.floored.any()):
        lines.append(
            f"The covariances of components {ranges(list(each(run.floored)))} collapsed, and were raised to the "
            "least that is positive definite; use fewer components, or a larger reg_covar."
        )
    if bool(low.any()) and not isinstance(reg_covar, str):
        lines.append(
            f"Components {ranges(list(each(low.any(1))))} have variances under ten times reg_covar={reg_covar:g} in "
            f"features {ranges(list(each(low.any(0))))}, where it decides and not the data; reg_covar='relative' "
            "follows the scale of each feature."
        )
    return lines


def _out_of_memory(rows: Rows) -> InputError:
    return InputError(
        f"{rows.device} has not enough memory for this fit; free some, use device='cpu', or fewer components or "
        "features."
    )
