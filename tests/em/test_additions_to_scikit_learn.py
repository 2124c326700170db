"""Additions to scikit-learn: weights, missing values, priors, tensors, batches, streams, processes, functions."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy import stats

from pvae.em import GaussianMixture, bound, maximise, mixture_of, responsibilities
from pvae.errors import InputError

KINDS = ("full", "tied", "diag", "spherical")
ALL = pytest.mark.parametrize("kind", KINDS)
RANDOM = np.random.default_rng(7)
MEANS = np.array([[-3.0, 0.0, 1.0], [3.0, 1.0, -1.0], [0.0, -4.0, 0.0]])
ROOTS = np.eye(3) + 0.4 * RANDOM.normal(size=(3, 3, 3))


def drawn(count: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    which = random.integers(3, size=count)
    return MEANS[which] + np.einsum("nij,nj->ni", ROOTS[which], random.normal(size=(count, 3)))


X = drawn(400, 0)
START = {"means_init": MEANS, "weights_init": [0.3, 0.3, 0.4]}


def fit(x, components: int = 3, weights=None, **more) -> GaussianMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GaussianMixture(components, **{"random_state": 0, **more}).fit(x, sample_weight=weights)


def dense(found: GaussianMixture) -> np.ndarray:
    """Covariances as matrices, (components, features, features)."""
    k, d = found.means_.shape
    c = found.covariances_
    kinds = {
        "full": lambda: c,
        "tied": lambda: np.repeat(c[None], k, 0),
        "diag": lambda: np.stack([np.diag(e) for e in c]),
    }
    return kinds.get(found.covariance_type, lambda: c[:, None, None] * np.eye(d))()


def holes(x: np.ndarray, share: float, seed: int = 3) -> np.ndarray:
    """Data with values missing at random; each row has an observed value."""
    absent = np.random.default_rng(seed).random(x.shape) < share
    absent[np.arange(len(x)), np.random.default_rng(seed + 1).integers(x.shape[1], size=len(x))] = False
    return np.where(absent, np.nan, x)


# ---- sample weights


@ALL
@pytest.mark.parametrize("start", ["kmeans", "k-means++", "random_from_data"])
def test_weight_zero_excludes_a_datum(kind: str, start: str) -> None:
    x = np.r_[X, [[1e3, 1e3, 1e3]] * 5]
    weights = np.r_[np.ones(400), np.zeros(5)]
    with_them = fit(x, weights=weights, covariance_type=kind, init_params=start)
    assert with_them.n_effective_.sum() == pytest.approx(400)
    assert abs(with_them.means_).max() < 20


@ALL
def test_the_scale_of_weights_does_not_matter(kind: str) -> None:
    weights = np.random.default_rng(0).exponential(size=400)
    one, other = (fit(X, weights=w, covariance_type=kind, **START) for w in (weights, 1000 * weights))
    assert_allclose(one.lower_bounds_, other.lower_bounds_, rtol=1e-11)
    assert_allclose(one.score(X, sample_weight=weights), np.average(one.score_samples(X), weights=weights))
    assert one.score(X, sample_weight=weights) >= one.lower_bound_


@pytest.mark.parametrize(
    ("weights", "words"),
    [(np.ones(3), r"shape \(400,\)"), (-np.ones(400), "row 0"), (np.zeros(400), "above zero"), ([np.nan] * 400, "nan")],
)
def test_invalid_weights_raise_an_error(weights, words: str) -> None:
    with pytest.raises(InputError, match=words):
        fit(X, weights=weights)


# ---- missing values


def marginal(x: np.ndarray, found: GaussianMixture) -> np.ndarray:
    """log p of the observed values, by SciPy."""
    result = []
    for row in x:
        seen = ~np.isnan(row)
        parts = [
            w * stats.multivariate_normal(m[seen], c[np.ix_(seen, seen)]).pdf(row[seen])
            for w, m, c in zip(found.weights_, found.means_, dense(found), strict=True)
        ]
        result.append(np.log(np.sum(parts)))
    return np.array(result)


@ALL
def test_missing_values_are_marginalised_exactly(kind: str) -> None:
    x = holes(X, 0.4)
    found = fit(x, missing="marginalise", covariance_type=kind, tol=0, max_iter=6, **START)
    assert_allclose(found.score_samples(x), marginal(x, found), rtol=1e-10)
    assert min(np.diff(found.lower_bounds_)) > -1e-12
    again = fit(x, missing="marginalise", covariance_type=kind, tol=0, max_iter=7, **START)
    assert again.lower_bound_ == pytest.approx(found.score(x), abs=1e-12)


@ALL
def test_without_missing_values_nothing_changes(kind: str) -> None:
    plain = fit(X, covariance_type=kind, **START)
    other = fit(X, missing="marginalise", covariance_type=kind, **START)
    assert_allclose(other.lower_bounds_, plain.lower_bounds_, rtol=1e-12)
    assert_allclose(other.covariances_, plain.covariances_, rtol=1e-9, atol=1e-12)


def test_one_component_with_missing_values_is_at_a_stationary_point() -> None:
    # With one of two features sometimes missing, the likelihood factorises into a regression with an exact maximum.
    x = X[:, :2].copy()
    x[::3, 1] = np.nan
    both = ~np.isnan(x[:, 1])
    slope, offset = np.polyfit(x[both, 0], x[both, 1], 1)
    rest = np.mean((x[both, 1] - slope * x[both, 0] - offset) ** 2)
    m, v = x[:, 0].mean(), x[:, 0].var()
    found = fit(x, 1, missing="marginalise", reg_covar=0, tol=0, max_iter=300)
    assert_allclose(found.means_, [[m, slope * m + offset]], rtol=1e-9)
    assert_allclose(found.covariances_[0], [[v, slope * v], [slope * v, rest + slope**2 * v]], rtol=1e-9)


@ALL
def test_imputation_is_the_conditional_mean(kind: str) -> None:
    x = holes(X, 0.3)
    found = fit(x, missing="marginalise", covariance_type=kind)
    filled, row = found.impute(x), int(np.isnan(x).sum(1).argmax())
    assert_allclose(filled[~np.isnan(x)], x[~np.isnan(x)])
    seen, gone = ~np.isnan(x[row]), np.isnan(x[row])
    shares, means = [], []
    for w, m, c in zip(found.weights_, found.means_, dense(found), strict=True):
        shares.append(w * stats.multivariate_normal(m[seen], c[np.ix_(seen, seen)]).pdf(x[row, seen]))
        gain = np.linalg.solve(c[np.ix_(seen, seen)], x[row, seen] - m[seen])
        means.append(m[gone] + c[np.ix_(gone, seen)] @ gain)
    assert_allclose(filled[row, gone], np.average(means, axis=0, weights=shares), rtol=1e-9)
    nothing = np.full((1, 3), np.nan)
    assert_allclose(found.impute(nothing)[0], found.weights_ @ found.means_, rtol=1e-9)
    assert_allclose(found.predict_proba(nothing)[0], found.weights_, rtol=1e-9)


# ---- priors


@ALL
def test_map_parameters_are_a_maximum_of_likelihood_and_prior(kind: str) -> None:
    x, scale, degrees, alpha = X[:60], np.diag([1.0, 2.0, 3.0]), 5.0, 3.0
    settings = {"weight_concentration_prior": alpha, "covariance_prior": scale, "degrees_of_freedom_prior": degrees}
    found = fit(x, covariance_type=kind, reg_covar=0, tol=0, max_iter=500, **settings, **START)
    assert min(np.diff(found.lower_bounds_)) > -1e-12

    def posterior(weights, means, covariances) -> float:
        mixture = mixture_of(weights / weights.sum(), means, covariances, kind)
        total = float(responsibilities(x, mixture)[1].sum()) + (alpha - 1) * np.log(weights / weights.sum()).sum()
        matrices = mixture.family.to_dense(mixture.covariances, 3, 3).numpy()[: 1 if kind == "tied" else None]
        return total + sum(stats.invwishart(degrees, scale).logpdf(matrix) for matrix in matrices)

    best = posterior(found.weights_, found.means_, found.covariances_)
    random = np.random.default_rng(0)
    for size in (1e-2, 1e-3):
        for _ in range(20):
            weights = found.weights_ * np.exp(size * random.normal(size=3))
            means = found.means_ + size * random.normal(size=(3, 3))
            factor = np.exp(size * random.normal(size=(3, 1, 1)[: found.covariances_.ndim] if kind != "tied" else ()))
            for parameters in (
                (weights, found.means_, found.covariances_),
                (found.weights_, means, found.covariances_),
                (found.weights_, found.means_, found.covariances_ * factor),
            ):
                assert posterior(*parameters) < best + 1e-9


def test_a_prior_makes_singular_data_regular() -> None:
    found = fit(np.ones((20, 2)), 1, reg_covar=0, covariance_prior=2.0, degrees_of_freedom_prior=2.0)
    assert_allclose(found.covariances_[0], 2 * np.eye(2) / (20 + 2 + 3), rtol=1e-12)


# ---- tensors


@ALL
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_tensors_give_tensors(kind: str, dtype: torch.dtype) -> None:
    x = torch.as_tensor(X, dtype=dtype)
    ours, arrays = fit(x, covariance_type=kind), fit(x.numpy(), covariance_type=kind)
    named = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "n_effective_")
    for name in named:
        value = getattr(ours, name)
        assert isinstance(value, torch.Tensor) and value.dtype == dtype and value.device == x.device
        assert_allclose(value, getattr(arrays, name), rtol=0, atol=0)
    for method in ("score_samples", "predict", "predict_proba", "impute"):
        value = getattr(ours, method)(x)
        assert isinstance(value, torch.Tensor)
        assert_allclose(value, getattr(arrays, method)(x.numpy()), rtol=0, atol=0)
    assert isinstance(ours.score(x), float) and isinstance(ours.bic(x), float)
    assert all(isinstance(values, torch.Tensor) for values in ours.sample(5))


def test_parameters_have_no_gradient() -> None:
    x = torch.as_tensor(X).requires_grad_()
    assert not fit(x).means_.requires_grad


def test_dtype_may_be_chosen() -> None:
    found = fit(X, dtype="float32")
    assert found.means_.dtype == np.float32
    assert_allclose(found.means_, fit(X).means_, rtol=0, atol=1e-4)
    assert fit(X.astype(np.float32), dtype=np.float64).means_.dtype == np.float64


@pytest.mark.cuda
@ALL
def test_cuda_gives_the_fit_of_the_cpu(kind: str) -> None:
    x = torch.as_tensor(X)
    cuda, cpu = fit(x.cuda(), covariance_type=kind, **START), fit(x, covariance_type=kind, **START)
    assert cuda.means_.device.type == "cuda"
    assert_allclose(cuda.means_.cpu(), cpu.means_, rtol=1e-9, atol=1e-9)
    assert_allclose(cuda.lower_bounds_, cpu.lower_bounds_, rtol=1e-11)
    assert_allclose(fit(X, covariance_type=kind, device="cuda", **START).means_, cpu.means_, rtol=1e-9, atol=1e-9)


def test_a_missing_device_raises_an_error() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(InputError, match="CUDA device"):
        fit(X, device="cuda")


# ---- files, batches and streams


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_memory_mapped_file_gives_the_same_fit(tmp_path: Path, dtype: type) -> None:
    np.save(tmp_path / "x.npy", X.astype(dtype))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert_allclose(fit(mapped).means_, fit(X.astype(dtype)).means_, rtol=0, atol=0)


@ALL
def test_batches_give_the_fit_of_the_whole(kind: str) -> None:
    settings = {"covariance_type": kind, "random_state": 0, "tol": 1e-8}
    whole = fit(X, **settings)
    parts = [X[:150], X[150:151], X[151:]]
    for source in (parts, lambda: iter(parts), [(torch.as_tensor(part), None) for part in parts]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = GaussianMixture(3, **settings).fit_batches(source)
        assert_allclose(found.means_, whole.means_, rtol=1e-9, atol=1e-9)
        assert_allclose(found.lower_bounds_, whole.lower_bounds_, rtol=1e-11)
        assert_allclose(found.score_samples(X), whole.score_samples(X), rtol=1e-9)


def test_batches_that_cannot_be_iterated_again_or_differ_in_shape_raise_an_error() -> None:
    with pytest.raises(InputError, match="partial_fit"):
        GaussianMixture(3).fit_batches(iter([X]))
    with pytest.raises(InputError, match=r"Batch 1 needs the shape \(rows, 3\)"):
        GaussianMixture(3).fit_batches([X, X[:, :2]])
    with pytest.raises(InputError, match="got none"):
        GaussianMixture(3).fit_batches([])


def test_initial_parameters_from_a_sample_lead_to_the_same_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvae.em.initialisation.initial_mixture.MAX_ROWS", 300)
    sampled, whole = fit(X, tol=1e-8), fit(X, tol=1e-8)
    assert_allclose(sampled.lower_bound_, whole.lower_bound_, rtol=1e-9)


@ALL
def test_a_stream_comes_close_to_a_fit_by_passes(kind: str) -> None:
    x = drawn(6000, 1)
    best = fit(x, covariance_type=kind, tol=1e-6)
    stream = GaussianMixture(3, covariance_type=kind, random_state=0)
    for batch in np.split(x, 60):
        stream.partial_fit(batch)
    assert stream.n_iter_ == 60 and stream.n_effective_.sum() == pytest.approx(6000)
    assert best.score(x) - stream.score(x) < 0.01
    # All data in one batch are one step of EM.
    once = GaussianMixture(3, covariance_type=kind, random_state=0, **START).partial_fit(x)
    assert_allclose(once.means_, fit(x, covariance_type=kind, max_iter=1, **START).means_, rtol=1e-9)


def test_a_stream_takes_tiny_batches_and_missing_values() -> None:
    x = holes(drawn(3000, 1), 0.1)
    stream = GaussianMixture(3, missing="marginalise", random_state=0)
    stream.partial_fit(x[:60])
    for batch in np.split(x[60:], 294):
        stream.partial_fit(batch)
    assert stream.score(x) > fit(x, missing="marginalise").score(x) - 0.05


def test_other_features_or_a_first_batch_that_is_too_small_raise_an_error() -> None:
    stream = GaussianMixture(3).partial_fit(X)
    with pytest.raises(InputError, match="3 features"):
        stream.partial_fit(X[:, :2])
    with pytest.raises(InputError, match="n_samples = 2"):
        GaussianMixture(3).partial_fit(X[:2])


# ---- processes

PROCESS = """
import os, sys, warnings
import numpy as np, torch
import torch.distributed as dist
from pvae.em import GaussianMixture
warnings.simplefilter("ignore")
torch.set_num_threads(1)
rank, folder = int(os.environ["RANK"]), sys.argv[1]
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
x, out = np.load(f"{folder}/x.npy"), {}
own = x[:150] if rank == 0 else x[150:]
for kind, precisions in np.load(f"{folder}/precisions.npz").items():
    settings = {"covariance_type": kind, "distributed": True, "tol": 1e-8, "random_state": rank}
    start = {"means_init": x[:3], "weights_init": [0.3, 0.3, 0.4], "precisions_init": precisions}
    started, free = GaussianMixture(3, **settings, **start).fit(own), GaussianMixture(3, **settings).fit(own)
    out |= {f"{kind}.{name}": getattr(started, name) for name in ("means_", "covariances_", "lower_bounds_")}
    out |= {f"{kind}.free": [free.lower_bound_, free.n_iter_, free.means_.sum()]}
np.savez(f"{folder}/{rank}.npz", **out)
dist.destroy_process_group()
"""


def test_two_processes_give_the_fit_of_one(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    wide = np.diag(X.std(0) ** -2)
    precisions = {"full": np.repeat(wide[None], 3, 0), "tied": wide, "spherical": np.full(3, 0.1)}
    precisions["diag"] = np.repeat(np.diag(wide)[None], 3, 0)
    np.savez(tmp_path / "precisions.npz", **precisions)
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    processes = [subprocess.Popen(command, env={**os.environ, "RANK": str(rank)}) for rank in (0, 1)]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    first, second = (np.load(tmp_path / f"{rank}.npz") for rank in (0, 1))
    for name in first.files:
        assert_allclose(first[name], second[name], rtol=0, atol=0)
    for kind, precision in precisions.items():
        start = {"means_init": X[:3], "weights_init": [0.3, 0.3, 0.4], "precisions_init": precision}
        one = fit(X, covariance_type=kind, tol=1e-8, **start)
        assert_allclose(first[f"{kind}.means_"], one.means_, rtol=1e-11, atol=1e-11)
        assert_allclose(first[f"{kind}.covariances_"], one.covariances_, rtol=1e-11, atol=1e-11)
        assert_allclose(first[f"{kind}.lower_bounds_"], one.lower_bounds_, rtol=1e-13)
        assert first[f"{kind}.free"][0] == pytest.approx(fit(X, covariance_type=kind, tol=1e-8).lower_bound_, abs=1e-6)


# ---- the steps as functions


def test_a_weight_in_the_m_step_equals_repeated_data() -> None:
    shares = np.random.default_rng(0).dirichlet(np.ones(2), size=400)
    counts = np.random.default_rng(1).integers(0, 3, size=400)
    one = maximise(X, shares, sample_weight=counts)
    other = maximise(np.repeat(X, counts, 0), np.repeat(shares, counts, 0))
    assert_allclose(one.covariances, other.covariances, rtol=1e-11)
    assert_allclose(one.weights, other.weights, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: responsibilities(X[:, :2], m), r"shape \(data, 3\)"),
        (lambda m: bound(X, np.ones((2, 1)), m), r"shape \(400, 1\)"),
        (lambda m: maximise(X, -np.ones((400, 1))), "numbers from 0 up"),
        (lambda m: maximise(X, np.ones((400, 1)), covariance_type="ful"), "full"),
        (lambda m: mixture_of([1.0], [[0.0, 0.0]], [1.0], "diag"), r"covariances \(1, 2\)"),
        (lambda m: mixture_of([1.0], [[0.0, 0.0]], [[1.0, -1.0]], "diag"), "positive definite"),
    ],
)
def test_inputs_that_do_not_fit_raise_an_error(call, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call(maximise(X, np.ones((400, 1))))
