"""Data on which a simple EM fails: a fit succeeds, gives a warning, or raises an error that names the place."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats
from sklearn.mixture import GaussianMixture as Theirs

from pvae.em import GaussianMixture
from pvae.errors import InputError

KINDS = ("full", "tied", "diag", "spherical")
ALL = pytest.mark.parametrize("kind", KINDS)
RANDOM = np.random.default_rng(0)
X = 4 * RANDOM.normal(size=(3, 3))[RANDOM.integers(3, size=300)] + RANDOM.normal(size=(300, 3))


def fit(x, components: int = 3, **more) -> GaussianMixture:
    """A fit, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GaussianMixture(components, random_state=0, **more).fit(x)


def fit_and_warnings(x, components: int = 3, **more) -> tuple[GaussianMixture, list[str]]:
    """A fit and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = GaussianMixture(components, random_state=0, **more).fit(x)
    return found, [str(warning.message) for warning in caught]


def error_line(x, components: int = 3, **more) -> str:
    """The error of a fit, which must be one line."""
    with pytest.raises(InputError) as error:
        GaussianMixture(components, random_state=0, **more).fit(x)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- too few data, or equal data


@ALL
def test_identical_points_leave_one_component_and_give_a_warning(kind: str) -> None:
    found, lines = fit_and_warnings(np.ones((50, 2)), covariance_type=kind)
    assert sorted(found.status_) == ["empty", "empty", "regularised"]
    assert any("Components 1-2 have no data" in line for line in lines)
    # The density at the mean of a normal with variance reg_covar.
    assert found.lower_bound_ == pytest.approx(stats.norm.logpdf(0, 0, 1e-3) * 2, abs=1e-9)


@ALL
def test_without_regularisation_identical_points_name_component_and_feature(kind: str) -> None:
    assert "Component 0" in (line := error_line(np.ones((50, 2)), reg_covar=0, covariance_type=kind))
    assert "feature 0" in line and "reg_covar" in line


@ALL
def test_duplicates_and_as_many_data_as_components_are_fitted_with_a_warning(kind: str) -> None:
    for x, components in ((np.repeat(X[:10], 20, 0), 10), (X[:5], 5)):
        found, lines = fit_and_warnings(x, components, covariance_type=kind)
        assert set(found.status_) == {"regularised"}
        assert any("below ten times reg_covar=1e-06 in features 0-2" in line for line in lines)
        assert_allclose(np.sort(found.means_, 0), np.sort(np.unique(x, axis=0), 0), rtol=1e-12)


def test_too_few_data_raise_an_error_with_their_number() -> None:
    assert "n_components = 3, n_samples = 2" in error_line(X[:2])
    assert "1 sample" in error_line(X[:1], 1)
    assert "0 sample" in error_line(X[:0], 1)
    assert "1D array" in error_line(X[:, 0], 1) and "Reshape" in error_line(X[:, 0], 1)
    assert "(300,)" in error_line(torch.as_tensor(X[:, 0]))
    assert "1 sample" in error_line(torch.as_tensor(X[:1]), 1)


@ALL
def test_a_constant_feature_is_named(kind: str) -> None:
    x = np.c_[X, np.full(300, 7.0)]
    found, lines = fit_and_warnings(x, covariance_type=kind)
    assert_allclose(found.means_[:, 3], 7.0, rtol=1e-12)
    if kind != "spherical":
        assert any("in features 3: reg_covar, not the data, determines" in line for line in lines)
        assert "feature 3" in error_line(x, reg_covar=0, covariance_type=kind)
    # The constant feature adds its own density and does not change the rest.
    if kind in ("full", "diag"):
        alone = fit(X, covariance_type=kind)
        assert found.lower_bound_ - alone.lower_bound_ == pytest.approx(stats.norm.logpdf(0, 0, 1e-3), abs=1e-6)


def test_more_features_than_data_give_a_warning_or_an_error_without_regularisation() -> None:
    x = np.random.default_rng(1).normal(size=(6, 20))
    found, lines = fit_and_warnings(x, 2)
    assert set(found.status_) == {"regularised"} and np.isfinite(found.score_samples(x)).all()
    assert any("reg_covar" in line for line in lines)
    assert "Component" in error_line(x, 2, reg_covar=0)


# ---- scales and offsets


@ALL
def test_with_relative_regularisation_units_and_origin_do_not_matter(kind: str) -> None:
    more = {"covariance_type": kind, "reg_covar": "relative", "tol": 1e-6}
    plain = fit(X, **more)
    factors = np.full(3, 1e-4) if kind == "spherical" else np.array([1e-4, 1.0, 1e6])
    for scale, shift in ((factors, 0.0), (np.ones(3), 1e4)):
        other = fit(X * scale + shift, **more)
        assert other.n_iter_ == plain.n_iter_
        assert other.lower_bound_ + np.log(scale).sum() == pytest.approx(plain.lower_bound_, abs=1e-9)
        assert_allclose((other.means_ - shift) / scale, plain.means_, rtol=1e-9, atol=1e-9)
        assert_allclose(other.weights_, plain.weights_, rtol=1e-9)
        assert_allclose(other.predict_proba(X * scale + shift), plain.predict_proba(X), rtol=0, atol=1e-9)


@ALL
def test_small_units_under_absolute_regularisation_give_a_warning(kind: str) -> None:
    found, lines = fit_and_warnings(X * 1e-4, covariance_type=kind)
    assert set(found.status_) == {"regularised"}
    assert any("reg_covar='relative'" in line for line in lines)


@ALL
@pytest.mark.parametrize("offset", [1e4, 1e6, 1e8])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_an_offset_far_larger_than_the_spread_costs_no_digits(kind: str, offset: float, dtype: type) -> None:
    x = (0.1 * X + offset).astype(dtype)
    # The difference of the stored data and the offset is exact in float64.
    near = x.astype(np.float64) - offset
    found, exact = (fit(data, covariance_type=kind, reg_covar=1e-4) for data in (x, near))
    assert found.n_iter_ == exact.n_iter_
    assert found.lower_bound_ == pytest.approx(exact.lower_bound_, abs=1e-4 if dtype == np.float32 else 1e-8)
    assert_allclose(
        found.score_samples(x), exact.score_samples(near), rtol=0, atol=1e-3 if dtype == np.float32 else 1e-5
    )
    tolerance = np.finfo(dtype).eps * offset + 1e-5
    assert_allclose(found.means_ - offset, exact.means_, rtol=0, atol=tolerance)


def test_diagonal_covariances_lose_no_digits_where_those_of_scikit_learn_do() -> None:
    x = 0.1 * X + 1e6
    exact = fit(0.1 * X, covariance_type="diag")
    theirs = Theirs(3, covariance_type="diag", random_state=0).fit(x)
    assert_allclose(fit(x, covariance_type="diag").covariances_, exact.covariances_, rtol=1e-6)
    assert abs(theirs.covariances_ / exact.covariances_ - 1).max() > 0.005


@ALL
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_clusters_a_hundred_thousand_deviations_apart(kind: str, dtype: type) -> None:
    random = np.random.default_rng(2)
    x = random.normal(size=(200, 2)) + np.repeat([[0.0], [1e5]], 100, 0)
    found = fit(x.astype(dtype), 2, covariance_type=kind)
    order = np.argsort(found.means_[:, 0])
    parts = [x[:100], x[100:]]
    near = {"rtol": 1e-6, "atol": 1e-2 if dtype == np.float32 else 1e-9}
    assert_allclose(found.means_[order], [part.mean(0) for part in parts], **near)
    if kind == "full":
        wanted = [np.cov(part.T, bias=True) + 1e-6 * np.eye(2) for part in parts]
        assert_allclose(found.covariances_[order], wanted, rtol=5e-3 if dtype == np.float32 else 1e-8, atol=5e-3)


@ALL
def test_an_outlier_gets_its_own_component_and_changes_no_other(kind: str) -> None:
    x = X.copy()
    x[0] = 1e8
    found, clean = fit(x, 2, covariance_type=kind), fit(X[1:], 1, covariance_type=kind)
    rest = int(np.argmax(found.weights_))
    assert_allclose(found.means_[rest], clean.means_[0], rtol=1e-7)
    if kind != "tied":
        assert_allclose(found.covariances_[rest], clean.covariances_[0], rtol=1e-6)


# ---- invalid values, and dtypes


def test_nan_and_infinity_are_counted_and_named() -> None:
    x = X.copy()
    x[5, 1], x[7, 0], x[9, 2] = np.nan, np.inf, np.nan
    for data in (x, torch.as_tensor(x)):
        line = error_line(data)
        assert "2 NaN, 1 infinity" in line and "row 5, column 1" in line and "marginalise" in line
    fitted = fit(X)
    for method in (fitted.score_samples, fitted.predict, fitted.predict_proba, fitted.score):
        with pytest.raises(InputError, match="row 5, column 1"):
            method(x)


def test_infinity_is_not_missing() -> None:
    x = X.copy()
    x[7, 0] = -np.inf
    assert "1 infinity, the first in row 7, column 0" in error_line(x, missing="marginalise")
    x[:, 0] = np.nan
    assert "column 0 has none" in error_line(x, missing="marginalise")


def test_values_whose_squares_overflow_are_named() -> None:
    x = X.copy()
    x[3, 2] = 1e200
    assert "1 too large, the first in row 3, column 2 (1e+200)" in error_line(x)


@ALL
def test_integers_and_half_precision_give_the_same_fit(kind: str) -> None:
    whole = np.random.default_rng(3).integers(0, 9, size=(200, 2))
    assert_allclose(fit(whole, covariance_type=kind).means_, fit(whole * 1.0, covariance_type=kind).means_)
    half = X.astype(np.float16)
    assert_allclose(fit(half, covariance_type=kind).means_, fit(half * 1.0, covariance_type=kind).means_)
    tensor = fit(torch.as_tensor(half), covariance_type=kind)
    assert tensor.means_.dtype == torch.float32
    assert_allclose(tensor.means_, fit(half.astype(np.float64), covariance_type=kind).means_, rtol=1e-4, atol=1e-4)


# ---- components that lose their data, or all but one datum


@ALL
def test_an_empty_component_keeps_its_parameters(kind: str) -> None:
    start = np.r_[X[:2], [[1e6, 1e6, 1e6]]]
    found, lines = fit_and_warnings(X, covariance_type=kind, means_init=start, weights_init=[0.3, 0.3, 0.4])
    assert found.status_[2] == "empty" and found.weights_[2] == 0
    assert_allclose(found.means_[2], 1e6)
    assert any("Components 2 have no data" in line for line in lines)
    assert np.isfinite(found.score_samples(X)).all()
    other = fit(X, 2, covariance_type=kind, means_init=start[:2], weights_init=[0.5, 0.5], tol=1e-9, max_iter=300)
    assert other.lower_bound_ >= found.lower_bound_ - 1e-3


@ALL
def test_an_empty_component_is_reseeded_on_request(kind: str) -> None:
    start = np.r_[X[:2], [[1e6, 1e6, 1e6]]]
    more = {"covariance_type": kind, "means_init": start, "weights_init": [0.3, 0.3, 0.4]}
    kept, moved = fit(X, **more), fit(X, empty="reseed", **more)
    assert moved.status_[2] == "reseeded" and moved.weights_[2] > 0
    assert moved.lower_bound_ > kept.lower_bound_


@ALL
def test_a_component_that_collapses_is_floored_and_named(kind: str) -> None:
    x = np.r_[X, [[50.0, 50, 50]]]
    start = {"means_init": [[0, 0, 0], [49, 49, 49]], "weights_init": [0.5, 0.5]}
    found, lines = fit_and_warnings(x, 2, covariance_type=kind, reg_covar=0, **start)
    assert np.isfinite(found.lower_bound_) and np.isfinite(found.covariances_).all()
    if kind != "tied":
        assert found.status_[1] == "floored" and any("components 1 collapsed" in line for line in lines)
        assert_allclose(found.means_[0], X.mean(0), rtol=1e-9)


def test_a_bound_that_falls_gives_a_warning_and_is_no_convergence() -> None:
    found, lines = fit_and_warnings(X * 1e-4, covariance_type="diag", tol=0.1)
    falls = np.diff(found.lower_bounds_) < -1e-8
    assert falls.any() and any(f"fell in {falls.sum()} of {found.n_iter_} steps" in line for line in lines)
    assert not falls[-1]


def test_out_of_memory_on_a_device_raises_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("pvae.em.gaussian_mixture.fit_mixture", full)
    assert "not enough memory" in error_line(X) and "device='cpu'" in error_line(X)


# ---- symmetries, for many shapes


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, int, str, np.random.Generator]:
    """Data of some shape, scale and dtype, a number of components and a kind."""
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    components, features = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    count = draw(st.integers(20, 120))
    x = 3 * random.normal(size=(components, features))[random.integers(components, size=count)]
    x = (x + random.normal(size=(count, features))) * 10 ** random.uniform(-3, 3, size=features)
    x += draw(st.sampled_from([0.0, 100.0])) * x.std(0)
    x = x.astype(draw(st.sampled_from([np.float64, np.float64, np.float32])))
    return x, components, draw(st.sampled_from(KINDS)), random


def started(x: np.ndarray, components: int, kind: str, random: np.random.Generator) -> dict:
    """Settings of a few steps under relative regularisation from fixed parameters."""
    precision = x.astype(np.float64).std(0) ** -2
    precisions = {
        "full": np.diag(precision)[None].repeat(components, 0),
        "tied": np.diag(precision),
        "diag": precision[None].repeat(components, 0),
        "spherical": np.full(components, precision.min()),
    }
    start = {"weights_init": random.dirichlet(np.full(components, 9.0)), "means_init": x[:components]}
    loop = {"reg_covar": "relative", "tol": 0, "max_iter": 4}
    return {"n_components": components, "covariance_type": kind, "precisions_init": precisions[kind], **loop, **start}


def run(x: np.ndarray, arguments: dict, weights: np.ndarray | None = None) -> GaussianMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GaussianMixture(**arguments).fit(x, sample_weight=weights)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(problems())
def test_a_fit_is_finite_and_monotone_and_its_methods_agree(problem: tuple) -> None:
    x, components, kind, random = problem
    found = run(x, started(x, components, kind, random))
    rounding = 1e-4 if x.dtype == np.float32 else 1e-7
    assert min(np.diff(found.lower_bounds_), default=0) > -rounding
    shares = found.predict_proba(x)
    assert np.isfinite(found.score_samples(x)).all() and (found.status_.count("floored") == 0)
    assert_allclose(shares.sum(1), 1, rtol=1e-5)
    assert_allclose(found.weights_.sum(), 1, rtol=1e-5)
    assert (found.predict(x) == shares.argmax(1)).mean() > 0.99
    assert found.score(x) >= found.lower_bound_ - rounding


@settings(max_examples=40, deadline=None, derandomize=True)
@given(problems())
def test_the_order_of_rows_and_of_components_does_not_matter(problem: tuple) -> None:
    x, components, kind, random = problem
    arguments = started(x, components, kind, random)
    found, rows, order = run(x, arguments), random.permutation(len(x)), random.permutation(components)
    moved = {name: arguments[name][order] for name in ("means_init", "weights_init")}
    other = run(x[rows], {**arguments, **moved})
    loose = 2e-3 if x.dtype == np.float32 else 1e-7
    assert_allclose(other.lower_bound_, found.lower_bound_, rtol=loose, atol=loose)
    scale = x.astype(np.float64).std(0)
    assert_allclose(other.means_ / scale, found.means_[order] / scale, rtol=loose, atol=10 * loose)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(problems())
def test_a_weight_equals_repeated_data(problem: tuple) -> None:
    x, components, kind, random = problem
    x = x.astype(np.float64)
    counts = random.integers(0, 4, size=len(x))
    counts[:components] += 1
    arguments = started(x, components, kind, random)
    weighted, repeated = run(x, arguments, counts), run(np.repeat(x, counts, 0), arguments)
    assert_allclose(weighted.lower_bounds_, repeated.lower_bounds_, rtol=1e-9, atol=1e-9)
    assert_allclose(weighted.means_, repeated.means_, rtol=1e-7, atol=1e-7 * x.std())
    assert_allclose(weighted.n_effective_.sum(), counts.sum())


# ---- memory


MEMORY = """
import pathlib, re, warnings
import numpy as np, torch
from pvae.em import GaussianMixture
torch.set_num_threads(1)
warnings.simplefilter("ignore")
x = np.random.default_rng(0).standard_normal((1_000_000, 4), dtype=np.float32)
mixtures = [GaussianMixture(3, max_iter=2), GaussianMixture(20, max_iter=2, init_params="random_from_data")]
for mixture in mixtures:
    mixture.fit(x[:5000])


def peak():
    # Not getrusage: a process inherits the maximum of the process that started it.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) / 1024


before = peak()
for mixture in mixtures:
    mixture.fit(x)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the memory figures of Linux")
def test_a_million_rows_need_little_memory_beside_the_data() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    print(done.stdout)
    assert float(done.stdout) < 64
