"""The public parameters alone determine a mixture: set by hand, after `set_params`, weighted, pickled and saved."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.mixture
import sklearn.utils
import torch
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import load, save

from pvae import GaussianMixture, InputError

KINDS = ["full", "tied", "diag", "spherical"]
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(200, 3)) * [1, 2, 0.5] + 4 * (np.arange(200) % 2)[:, None]


def fitted(kind: str = "full", dtype: Any = np.float64, **settings: Any) -> GaussianMixture:
    return GaussianMixture(2, covariance_type=kind, random_state=0, **settings).fit(X.astype(dtype))


def theirs(mixture: GaussianMixture) -> sklearn.mixture.GaussianMixture:
    """Return the same mixture of scikit-learn, by its covariances."""
    other = sklearn.mixture.GaussianMixture(2, covariance_type=mixture.covariance_type, random_state=0)
    other.weights_, other.means_, other.covariances_ = mixture.weights_, mixture.means_, mixture.covariances_
    other.precisions_cholesky_ = sklearn.mixture._gaussian_mixture._compute_precision_cholesky(
        np.asarray(mixture.covariances_, dtype=np.float64), mixture.covariance_type
    )
    return other


# Parameters set by hand


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_place", [True, False])
def test_changed_covariances_are_those_of_every_method(kind: str, in_place: bool) -> None:
    mixture = fitted(kind)
    if in_place:
        mixture.covariances_[...] *= 9
    else:
        mixture.covariances_ = mixture.covariances_ * 9
    other = theirs(mixture)
    assert_allclose(mixture.score_samples(X), other.score_samples(X), rtol=1e-9)
    assert_allclose(mixture.predict_proba(X), other.predict_proba(X), atol=1e-9)
    assert_allclose(mixture.bic(X), other.bic(X), rtol=1e-9)
    assert_allclose(mixture.sample(50)[0], other.sample(50)[0], rtol=1e-9)
    # what follows from the covariances follows them
    assert_allclose(mixture.precisions_cholesky_, other.precisions_cholesky_, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["covariances_", "precisions_", "precisions_cholesky_"])
def test_a_mixture_is_built_from_any_one_parameter_of_its_covariances(kind: str, name: str) -> None:
    source = fitted(kind)
    built = GaussianMixture(2, covariance_type=kind)
    built.weights_, built.means_ = source.weights_, source.means_
    setattr(built, name, getattr(source, name))
    assert_allclose(built.score_samples(X), source.score_samples(X), rtol=1e-9)
    assert_allclose(built.score(torch.as_tensor(X)), source.score(X), rtol=1e-9)
    for other in ("covariances_", "precisions_", "precisions_cholesky_"):
        assert_allclose(getattr(built, other), getattr(source, other), rtol=1e-9, atol=1e-12)
    assert built.n_features_in_ == 3


def test_whole_numbers_near_the_fitted_means_are_used_as_they_are() -> None:
    mixture = fitted()
    mixture.means_ = np.trunc(mixture.means_).astype(int)
    assert_allclose(mixture.score_samples(X), theirs(mixture).score_samples(X), rtol=1e-9)


def test_results_of_float32_data_keep_the_precision_of_the_fit() -> None:
    single = fitted(dtype=np.float32)
    double = GaussianMixture(2, random_state=0).fit(X.astype(np.float32).astype(np.float64))
    assert single.means_.dtype == np.float32
    assert_allclose(single.score_samples(X), double.score_samples(X), rtol=1e-4)
    single.means_ += 1
    double.means_ += 1
    assert_allclose(single.score_samples(X), double.score_samples(X), rtol=1e-4)


SYMMETRIC = np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"weights_": [0.5, 0.6]}, "sum"),
        ({"weights_": [0.5, 0.25, 0.25]}, "shape of"),
        ({"covariances_": -np.ones((2, 3, 3))}, "positive"),
        ({"covariances_": np.stack([SYMMETRIC] * 2)}, "symmetric"),
        ({"covariances_": np.full((2, 3, 3), np.nan)}, "finite"),
        ({"covariances_": np.ones((2, 3))}, "shape"),
        ({"precisions_cholesky_": np.stack([SYMMETRIC.T] * 2)}, "upper triangular"),
        ({"covariances_": np.stack([np.eye(3)] * 2), "precisions_": np.stack([2 * np.eye(3)] * 2)}, "contradict"),
        (
            {"covariances_": np.stack([np.eye(3)] * 2), "precisions_cholesky_": np.stack([2 * np.eye(3)] * 2)},
            "contradict",
        ),
        ({"means_": np.ones((2, 4)), "covariances_": np.stack([np.eye(4)] * 2)}, "features"),
    ],
)
def test_what_is_no_mixture_is_refused(values: dict[str, Any], words: str) -> None:
    mixture = fitted()
    for name, value in values.items():
        setattr(mixture, name, np.asarray(value))
    for use in (mixture.score, mixture.predict, mixture.impute, mixture.bic, lambda _: mixture.sample()):
        with pytest.raises(InputError, match=words):
            use(X)


def test_incomplete_parameters_are_named() -> None:
    mixture = GaussianMixture(1)
    mixture.weights_, mixture.means_ = np.ones(1), np.zeros((1, 2))
    with pytest.raises(InputError, match="needs weights_, means_, and covariances_"):
        mixture.score(np.zeros((1, 2)))


# Settings that change after the fit


@pytest.mark.parametrize("kind", KINDS)
def test_another_covariance_type_than_that_of_the_fit_is_refused(kind: str) -> None:
    for other in set(KINDS) - {kind}:
        mixture = fitted(kind).set_params(covariance_type=other, warm_start=True)
        uses = (mixture.score, mixture.aic, mixture.impute, mixture.fit)
        for use in (*uses, lambda _, m=mixture: m.sample(2), lambda _, m=mixture: m.dense_covariances()):
            with pytest.raises(InputError, match="covariance_type"):
                use(X)
        again = mixture.set_params(warm_start=False).fit(X)
        assert_allclose(again.score(X), fitted(other).score(X), rtol=1e-12)


def test_a_continued_fit_keeps_its_number_of_components_and_features() -> None:
    mixture = fitted(warm_start=True)
    with pytest.raises(InputError, match="n_components is 3"):
        mixture.set_params(n_components=3).fit(X)
    with pytest.raises(InputError, match="2 features"):
        mixture.set_params(n_components=2).fit(X[:, :2])


def test_a_continued_fit_starts_at_the_parameters_that_were_set() -> None:
    mixture = fitted(warm_start=True)
    mixture.means_ = mixture.means_ + 1
    start = GaussianMixture(
        2, tol=1e9, weights_init=mixture.weights_, means_init=mixture.means_, precisions_init=mixture.precisions_
    ).fit(X)
    with warnings.catch_warnings():
        # The bound of the first fit is not that of the new parameters, so that the first step is no fall.
        warnings.simplefilter("error")
        mixture.set_params(tol=1e9).fit(X)
    assert mixture.n_iter_ == start.n_iter_ == 2
    assert_allclose(mixture.means_, start.means_, rtol=1e-9)


def test_a_stream_refuses_parameters_that_its_statistics_do_not_follow() -> None:
    stream = GaussianMixture(2, random_state=0).partial_fit(X[:100])
    stream.means_ += 1
    with pytest.raises(InputError, match="partial_fit continues"):
        stream.partial_fit(X[100:])
    with pytest.raises(InputError, match="covariance_type"):
        stream.set_params(covariance_type="diag").partial_fit(X[100:])


def test_a_new_fit_forgets_names_and_results_of_the_last_one() -> None:
    mixture = GaussianMixture(2, random_state=0).fit(pd.DataFrame(X, columns=list("abc")))
    mixture.fit_batches([X[:100], X[100:]])
    assert not hasattr(mixture, "feature_names_in_")
    mixture.partial_fit(X)
    assert not hasattr(mixture, "status_") and not hasattr(mixture, "merged_")


# Weighted data


@pytest.mark.parametrize("kind", KINDS)
def test_weighted_criteria_are_those_of_the_repeated_data(kind: str) -> None:
    counts = RANDOM.integers(0, 5, size=len(X))
    repeated = np.repeat(X, counts, axis=0)
    mixture = GaussianMixture(2, covariance_type=kind, random_state=0).fit(X, sample_weight=counts)
    other = theirs(mixture)
    assert_allclose(mixture.bic(X, sample_weight=counts), other.bic(repeated), rtol=1e-10)
    assert_allclose(mixture.aic(X, sample_weight=counts), other.aic(repeated), rtol=1e-10)
    assert_allclose(mixture.bic(X, 1.0), mixture.bic(X), rtol=1e-12)


def test_weights_of_the_sum_one_are_no_counts() -> None:
    mixture = fitted()
    with pytest.raises(InputError, match="counts"):
        mixture.bic(X, sample_weight=np.full(len(X), 1 / len(X)))


# Estimators that are kept


def tensors_in(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(tensors_in, value.values()))
    if isinstance(value, list | tuple):
        return any(map(tensors_in, value))
    return isinstance(value, torch.Tensor | torch.dtype | torch.device)


@pytest.mark.parametrize("method", ["fit", "partial_fit", "fit_batches"])
def test_an_estimator_of_arrays_keeps_no_tensor_and_survives_a_pickle(method: str) -> None:
    mixture = GaussianMixture(2, random_state=0)
    getattr(mixture, method)([X] if method == "fit_batches" else X)
    assert not tensors_in(vars(mixture))
    again = pickle.loads(pickle.dumps(mixture))
    assert_array_equal(again.score_samples(X), mixture.score_samples(X))
    if method == "partial_fit":
        assert_array_equal(again.partial_fit(X + 1).means_, mixture.partial_fit(X + 1).means_)


def test_missing_values_are_allowed_where_the_parameter_says_so() -> None:
    for missing, allowed in {"error": False, "marginalise": True}.items():
        assert sklearn.utils.get_tags(GaussianMixture(missing=missing)).input_tags.allow_nan is allowed


# Files


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_saved_mixture_is_loaded_bit_for_bit(tmp_path: Path, kind: str, dtype: Any) -> None:
    frame = pd.DataFrame(X.astype(dtype), columns=["length", "width", "height"])
    settings = {"means_init": X[:2], "dtype": dtype, "missing": "marginalise", "split_merge": 0}
    mixture = GaussianMixture(2, covariance_type=kind, random_state=0, **settings).fit(frame)
    mixture.save(tmp_path / "mixture.safetensors")
    again = GaussianMixture.load(tmp_path / "mixture.safetensors")
    holes = frame.mask(RANDOM.random(X.shape) < 0.2)
    for method in ("score_samples", "predict", "predict_proba", "impute"):
        assert_array_equal(getattr(again, method)(holes), getattr(mixture, method)(holes))
    assert_array_equal(again.sample(7)[0], mixture.sample(7)[0])
    assert set(vars(again)) == set(vars(mixture)) and again.means_.dtype == dtype
    for name in ("lower_bounds_", "status_", "merged_", "converged_", "n_iter_"):
        assert getattr(again, name) == getattr(mixture, name)
    assert_array_equal(again.n_effective_, mixture.n_effective_)
    with pytest.raises(InputError, match="feature names"):
        again.predict(frame[["width", "length", "height"]])


def test_what_was_set_by_hand_is_saved(tmp_path: Path) -> None:
    mixture = fitted()
    mixture.covariances_ *= 4
    mixture.save(tmp_path / "m.safetensors")
    assert_allclose(GaussianMixture.load(tmp_path / "m.safetensors").score(X), theirs(mixture).score(X), rtol=1e-9)


def test_a_random_generator_is_not_written(tmp_path: Path) -> None:
    mixture = GaussianMixture(2, random_state=np.random.RandomState(0)).fit(X)
    with pytest.warns(RuntimeWarning, match="random_state=None"):
        mixture.save(tmp_path / "m.safetensors")
    assert GaussianMixture.load(tmp_path / "m.safetensors").random_state is None


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "parameters", "setting", "result", "weights", "missing"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "m.safetensors"
    fitted().save(path)
    content = path.read_bytes()
    arrays = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["pvae.GaussianMixture"]
    record = json.loads(header)
    if damage == "parameters":
        arrays["covariances"] = 2 * arrays["covariances"]
    elif damage == "weights":
        arrays["weights"] = arrays["weights"] + 1
    elif damage == "setting":
        record["settings"]["covariance_type"] = "round"
    elif damage == "result":
        record["results"]["lower_bounds_"] = ["high"]
    elif damage == "missing":
        del arrays["means"]
    written = {"cut": content[:200], "empty": b"", "other": save({"w": np.ones(2)})}
    path.write_bytes(written.get(damage, save(arrays, {"pvae.GaussianMixture": json.dumps(record)})))
    with pytest.raises(InputError, match=r"m\.safetensors"):
        GaussianMixture.load(path)


def test_means_with_squares_that_overflow_are_refused():
    with pytest.raises(InputError, match="'means' should be at most 1e\\+150 in absolute value"):
        GaussianMixture(2, means_init=np.full((2, 3), 1e200)).fit(np.random.default_rng(0).normal(size=(20, 3)))
