"""Merging of near-duplicate components, and split-and-merge EM: closed forms, a known local optimum, never worse."""

from __future__ import annotations

import warnings
from itertools import combinations

import numpy as np
import pytest
import sklearn.mixture
import torch
from numpy.testing import assert_allclose
from scipy import special, stats
from sklearn.base import clone

from pvae.em import GaussianMixture, mixture_of, responsibilities
from pvae.em.e_step import EStep
from pvae.em.em_options import EMOptions
from pvae.em.merging import merge_components
from pvae.em.merging.combine import combine_groups
from pvae.em.merging.merge_components import _group_overlapping
from pvae.em.merging.posterior_summary import summarise_posteriors
from pvae.em.merging.split_merge import _candidate_moves, _run_partial_em, _split_component
from pvae.em.prior import Prior
from pvae.em.rows.row_sources import ArrayRows
from pvae.em.rows.standardise import Standardiser
from pvae.em.rows.standardised_chunks import StandardisedChunks
from pvae.errors import InputError
from pvae.process_group import ProcessGroup

KINDS = ("full", "tied", "diag", "spherical")
ALL = pytest.mark.parametrize("kind", KINDS)


def fit(x, components: int = 3, weights=None, **more) -> GaussianMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GaussianMixture(components, **{"random_state": 0, **more}).fit(x, sample_weight=weights)


def parameters(kind: str, components: int = 4, features: int = 3, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Weights, means and covariances of a mixture."""
    random = np.random.default_rng(seed)
    weights, means = random.dirichlet(np.ones(components)), random.normal(size=(components, features))
    roots = random.normal(size=(components, features, features))
    full = roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(features)
    diagonal = random.gamma(3.0, size=(components, features))
    return weights, means, {"full": full, "tied": full[0], "diag": diagonal, "spherical": diagonal[:, 0]}[kind]


def dense(kind: str, covariances: np.ndarray, components: int, features: int) -> np.ndarray:
    """Covariances as matrices, by their definition."""
    if kind == "tied":
        return np.broadcast_to(covariances, (components, features, features))
    if kind == "diag":
        return np.stack([np.diag(variances) for variances in covariances])
    return covariances if kind == "full" else covariances[:, None, None] * np.eye(features)


# ---- merging


@ALL
@pytest.mark.parametrize("groups", [[[0], [1, 3], [2]], [[0, 2], [1, 3]], [[0, 1, 2, 3]], [[0], [1], [2], [3]]])
def test_a_merge_keeps_the_moments_that_the_family_has(kind: str, groups: list[list[int]]) -> None:
    w, m, c = parameters(kind)
    found = combine_groups(mixture_of(w, m, c, kind), groups)
    full, weights, means, moments = dense(kind, c, 4, 3), [], [], []
    for group in groups:
        share = w[group] / w[group].sum()
        mean = share @ m[group]
        away = m[group] - mean
        moments.append(np.einsum("k,kij->ij", share, full[group] + away[:, :, None] * away[:, None]))
        weights.append(w[group].sum())
        means.append(mean)
    kept = {
        "full": np.stack(moments),
        "tied": np.einsum("k,kij->ij", weights, moments),
        "diag": np.stack([np.diag(matrix) for matrix in moments]),
        "spherical": np.array([np.trace(matrix) / 3 for matrix in moments]),
    }[kind]
    assert_allclose(found.weights, weights, rtol=1e-12)
    assert_allclose(found.means, means, rtol=1e-12, atol=1e-14)
    assert_allclose(found.covariances, kept, rtol=1e-12, atol=1e-13)
    whitened = found.whitening @ found.whitening.mT if kind in ("full", "tied") else found.whitening**2
    assert_allclose(whitened, np.linalg.inv(kept) if kind in ("full", "tied") else 1 / kept, rtol=1e-9)


BLOBS = np.random.default_rng(1).normal(size=(300, 2)) + np.repeat([[-4.0, 0.0], [4.0, 1.0], [0.0, 6.0]], 100, 0)


@ALL
def test_identical_components_become_one_for_any_weights(kind: str) -> None:
    # Without steps of EM, the result is the merge alone, of two components that differ in weight.
    means = np.array([[-4.0, 0.0], [4.0, 1.0], [-4.0, 0.0]])
    precisions = {
        "full": np.stack([np.eye(2)] * 3),
        "tied": np.eye(2),
        "diag": np.ones((3, 2)),
        "spherical": np.ones(3),
    }
    start = {"weights_init": [0.1, 0.5, 0.4], "means_init": means, "precisions_init": precisions[kind]}
    found = fit(BLOBS, covariance_type=kind, max_iter=0, merge=0.999999, **start)
    assert_allclose(found.weights_, [0.5, 0.5], rtol=1e-12)
    assert_allclose(found.means_, means[:2], rtol=1e-12, atol=1e-12)
    assert_allclose(found.precisions_, precisions[kind][:2] if kind != "tied" else np.eye(2), rtol=1e-12, atol=1e-12)
    assert found.merged_ == [[0, 2], [1]] and found.status_ == ["merged", "fitted"]


TWINS = {"means_init": [[-4.0, 0.0]] * 2, "weights_init": [0.3, 0.7], "precisions_init": [np.eye(2)] * 2}


def test_duplicates_of_one_normal_merge_to_its_closed_form() -> None:
    x = BLOBS[:100]
    weights = np.random.default_rng(2).exponential(size=100)
    found = fit(x, 2, weights, **TWINS, merge=0.9, reg_covar=0)
    mean = np.average(x, axis=0, weights=weights)
    assert found.merged_ == [[0, 1]] and found.weights_ == pytest.approx([1.0], abs=1e-12)
    assert_allclose(found.means_, [mean], rtol=1e-12)
    assert_allclose(found.covariances_[0], np.cov(x.T, aweights=weights, bias=True), rtol=1e-12)


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.9])
def test_a_round_merges_by_the_summed_posteriors(threshold: float) -> None:
    logits = np.random.default_rng(5).normal(size=(40, 3)) @ np.random.default_rng(6).normal(size=(3, 9))
    r = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    # The reference adds the columns themselves, and compares them again.
    columns, expected = [*r.T], [[number] for number in range(9)]
    while len(columns) > 1:
        unit = np.array([column / np.linalg.norm(column) for column in columns])
        cosine = np.triu(unit @ unit.T, 1)
        i, j = np.unravel_index(cosine.argmax(), cosine.shape)
        if cosine[i, j] <= threshold:
            break
        columns[i] = columns[i] + columns.pop(j)
        expected[i] = expected[i] + expected.pop(j)
    assert _group_overlapping(torch.as_tensor(r.T @ r), threshold) == expected and 1 <= len(expected) < 9


@ALL
def test_all_results_of_a_merged_mixture_have_fewer_components(kind: str) -> None:
    found = fit(BLOBS, 6, covariance_type=kind, merge=0.3, max_iter=300)
    k = len(found.weights_)
    assert k < 6 and found.means_.shape == (k, 2) and len(found.status_) == len(found.merged_) == k
    assert sorted(number for group in found.merged_ for number in group) == list(range(6))
    assert found.predict_proba(BLOBS).shape == (300, k) and found.n_effective_.sum() == pytest.approx(300)
    size = {"full": 3 * k, "tied": 3, "diag": 2 * k, "spherical": k}[kind] + 2 * k + k - 1
    assert found.bic(BLOBS) == pytest.approx(-2 * found.score(BLOBS) * 300 + size * np.log(300), rel=1e-12)
    assert set(found.sample(2000)[1]) <= set(range(k))
    assert len(found.lower_bounds_) == found.n_iter_ and found.n_components == 6
    # The merged mixture is a fixed point of EM with this number of components.
    again = fit(
        BLOBS, k, covariance_type=kind, max_iter=1,
        weights_init=found.weights_, means_init=found.means_, precisions_init=found.precisions_,
    )  # fmt: skip
    assert again.lower_bound_ == pytest.approx(found.score(BLOBS), abs=1e-10)
    r, _ = responsibilities(BLOBS, mixture_of(found.weights_, found.means_, found.covariances_, kind))
    r = r.numpy()
    cosine = (r.T @ r) / np.linalg.norm(r, axis=0) / np.linalg.norm(r, axis=0)[:, None] - np.eye(k)
    assert cosine.max() <= 0.3


def test_components_below_the_threshold_are_not_merged() -> None:
    apart = fit(BLOBS, 3, merge=0.5)
    assert apart.merged_ == [[0], [1], [2]] and apart.status_ == ["fitted"] * 3
    np.testing.assert_array_equal(apart.means_, fit(BLOBS, 3).means_)


def test_merged_numbers_are_those_of_the_first_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = iter([[[0], [1, 3], [2]], [[0, 1], [2]], [[0], [1]]])
    monkeypatch.setattr(merge_components, "_group_overlapping", lambda gram, threshold: next(rounds))
    found = fit(BLOBS, 4, merge=0.5)
    assert found.merged_ == [[0, 1, 3], [2]] and found.status_ == ["merged", "fitted"]


def test_values_may_be_missing_where_components_merge() -> None:
    x = BLOBS.copy()
    x[::4, 1] = np.nan
    found = fit(x, 2, **TWINS, merge=0.9, missing="marginalise", tol=1e-9, max_iter=500)
    alone = fit(x, 1, missing="marginalise", tol=1e-9, max_iter=500)
    assert found.merged_ == [[0, 1]] and found.score(x) == pytest.approx(alone.score(x), abs=1e-8)


# ---- split and merge


DRAW = np.random.default_rng(4)
SLANTED, SMALL = DRAW.normal(size=(200, 2)) @ [[1.0, 0.6], [0.0, 0.5]], 3 + 0.4 * DRAW.normal(size=(60, 2))
CROWD = np.r_[SLANTED, SMALL, DRAW.uniform(-6, 6, (60, 2))]


def unscaled_e_step(x: np.ndarray) -> EStep:
    """Passes over data in their own coordinates."""
    one = torch.ones(x.shape[1], dtype=torch.float64)
    standardiser = Standardiser(0 * one, one, one, one, one, float(len(x)), len(x))
    return EStep(StandardisedChunks(ArrayRows(torch.as_tensor(x)), standardiser), torch.float64, False, ProcessGroup())


@ALL
def test_the_order_of_moves_is_that_of_the_source(kind: str) -> None:
    found = fit(CROWD, 4, covariance_type=kind, tol=0, max_iter=3000, reg_covar=0)
    mixture = mixture_of(found.weights_, found.means_, found.covariances_, kind)
    r = found.predict_proba(CROWD)
    share = r / r.sum(0)
    log_densities = np.column_stack([
        stats.multivariate_normal(m, c).logpdf(CROWD)
        for m, c in zip(found.means_, found.dense_covariances(), strict=True)
    ])  # fmt: skip
    # Ueda et al.: the divergence of the data of a component, weighted by their shares, from its density.
    divergence = (special.xlogy(share, share) - share * log_densities).sum(0)
    e_step, options = unscaled_e_step(CROWD), EMOptions(0.0, None, 1, torch.zeros(2).double(), Prior(), False)
    summary = summarise_posteriors(e_step, mixture, options)
    assert np.ptp(divergence) > 0.1
    assert_allclose(summary.misfit - np.log(320), divergence, atol=1e-6)
    assert summary.bound == pytest.approx(found.score(CROWD), abs=1e-12)
    cosine = r.T @ r / np.linalg.norm(r, axis=0) / np.linalg.norm(r, axis=0)[:, None]
    assert_allclose(summary.overlap(), cosine - np.eye(4), atol=1e-12)
    moves = list(_candidate_moves(summary))
    pairs = sorted(combinations(range(4), 2), key=lambda pair: -cosine[pair])
    assert moves == [(i, j, k) for i, j in pairs for k in sorted({0, 1, 2, 3} - {i, j}, key=lambda k: -divergence[k])]


def test_partial_em_keeps_the_posteriors_of_the_other_components() -> None:
    w, m, c = parameters("full", 5, 2)
    old, index = mixture_of(w, m, c), [3, 0, 4]
    w, m, c = parameters("full", 3, 2, seed=1)
    options = EMOptions(0.0, None, 7, torch.zeros(2).double(), Prior(), False)
    found = _run_partial_em(unscaled_e_step(CROWD), old, torch.tensor(index), mixture_of(w, m, c), options)
    total = responsibilities(CROWD, old)[0].numpy()[:, index].sum(1)
    for _ in range(7):
        densities = [p * stats.multivariate_normal(*rest).pdf(CROWD) for p, *rest in zip(w, m, c, strict=True)]
        density = np.column_stack(densities)
        r = density / density.sum(1, keepdims=True) * total[:, None]
        w, m = r.sum(0) / r.sum(), r.T @ CROWD / r.sum(0)[:, None]
        c = np.stack([np.cov(CROWD.T, aweights=weights, bias=True) for weights in r.T])
    assert_allclose(found.weights, w, rtol=1e-9)
    assert_allclose(found.means, m, rtol=1e-8)
    assert_allclose(found.covariances, c, rtol=1e-8, atol=1e-10)


@ALL
def test_a_split_keeps_weight_mean_and_covariance(kind: str) -> None:
    one = mixture_of(*parameters(kind, 1, 3), kind)
    halves = _split_component(one, torch.tensor([0.3, -1.0, 0.5]).double())
    again = combine_groups(halves, [[0, 1]])
    assert abs(halves.means[0] - halves.means[1]).max() > 0.1
    assert_allclose(halves.weights, [0.5, 0.5], rtol=1e-15)
    assert_allclose(again.means, one.means, rtol=1e-12)
    if kind != "tied":
        assert_allclose(again.covariances, one.covariances, rtol=1e-12, atol=1e-13)


# Two components share the first cluster, and the third component covers the other two clusters.
TRUTH = np.array([[-20.0, 0.0], [20.0, 5.0], [20.0, -5.0]])
TRAP = np.random.default_rng(3).normal(size=(300, 2)) + np.repeat(TRUTH, 100, 0)
STUCK = {"means_init": [[-20.5, 0.0], [-19.5, 0.0], [20.0, 0.0]], "max_iter": 300}


@ALL
@pytest.mark.parametrize("missing", ["error", "marginalise"])
def test_split_and_merge_leaves_a_known_local_optimum(kind: str, missing: str) -> None:
    x = TRAP.copy()
    if missing == "marginalise":
        x[::7, 1] = np.nan
    settings = {"covariance_type": kind, "missing": missing, "tol": 1e-6}
    stuck = fit(x, **settings, **STUCK)
    best = fit(x, **settings, means_init=TRUTH, max_iter=300)
    free = fit(x, **settings, **STUCK, split_merge=5)
    assert stuck.score(x) < best.score(x) - 0.1
    assert free.score(x) == pytest.approx(best.score(x), abs=1e-5)
    order = free.means_[np.lexsort((-free.means_[:, 1], free.means_[:, 0] > 0))]
    assert_allclose(order, best.means_, atol=1e-2)
    assert [(move.merged, move.split) for move in free.split_merges_] == [((0, 1), 2)]
    gain = free.split_merges_[0].gain
    assert gain == pytest.approx(free.score(x) - stuck.score(x), abs=1e-9)


def test_split_and_merge_works_on_weighted_data_and_tensors() -> None:
    x = np.r_[TRAP, [[500.0, 500.0]] * 3]
    weights = np.r_[np.full(300, 2.0), np.zeros(3)]
    free = fit(torch.as_tensor(x), weights=weights, **STUCK, split_merge=5)
    best = fit(TRAP, means_init=TRUTH)
    assert free.score(torch.as_tensor(TRAP)) == pytest.approx(best.score(TRAP), abs=1e-4)


@pytest.mark.parametrize("seed", range(10))
def test_split_and_merge_is_never_worse(seed: int) -> None:
    settings = {
        "init_params": "random_from_data",
        "random_state": seed,
        "max_iter": 20,
        "covariance_type": KINDS[seed % 4],
    }
    plain, moved = fit(CROWD, 5, **settings), fit(CROWD, 5, **settings, split_merge=3)
    assert moved.score(CROWD) >= plain.score(CROWD) and moved.lower_bound_ >= plain.lower_bound_
    rise = sum(move.gain for move in moved.split_merges_)
    assert moved.score(CROWD) - plain.score(CROWD) == pytest.approx(rise, abs=1e-9)
    if not moved.split_merges_:
        np.testing.assert_array_equal(moved.means_, plain.means_)
    again = fit(CROWD, 5, **settings, split_merge=3)
    np.testing.assert_array_equal(again.means_, moved.means_)


def test_two_components_have_no_third_to_split() -> None:
    assert fit(BLOBS, 2, split_merge=5).split_merges_ == []


# ---- as options


def test_without_these_options_nothing_more_is_drawn() -> None:
    ours, theirs = np.random.RandomState(0), np.random.RandomState(0)
    fit(CROWD, 4, init_params="random", random_state=ours)
    sklearn.mixture.GaussianMixture(4, init_params="random", random_state=theirs).fit(CROWD)
    assert ours.uniform() == theirs.uniform()


@ALL
def test_without_these_options_no_bit_changes(kind: str) -> None:
    plain = fit(CROWD, 4, covariance_type=kind, n_init=2, init_params="random")
    other = fit(CROWD, 4, covariance_type=kind, n_init=2, init_params="random", merge=None, split_merge=0)
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(other, name))
    assert plain.lower_bounds_ == other.lower_bounds_ and plain.split_merges_ == []
    assert plain.merged_ == [[0], [1], [2], [3]]


def test_the_options_are_parameters_of_the_estimator() -> None:
    made = GaussianMixture(3, merge=0.9, split_merge=5)
    assert clone(made).get_params() == made.get_params()
    assert made.set_params(merge=None, split_merge=2).get_params()["split_merge"] == 2
    assert (GaussianMixture().merge, GaussianMixture().split_merge) == (None, 0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"merge": 0.0}, r"None or a number in \(0, 1\)"),
        ({"merge": 1}, r"None or a number in \(0, 1\)"),
        ({"merge": True}, "Got True"),
        ({"split_merge": -1}, "whole number from 0 up"),
        ({"split_merge": 2.5}, "Got 2.5"),
    ],
)
def test_invalid_options_raise_an_error(settings: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        fit(BLOBS, **settings)


@pytest.mark.parametrize("settings", [{"merge": 0.9}, {"split_merge": 1}])
def test_a_stream_accepts_neither_option(settings: dict) -> None:
    with pytest.raises(InputError, match="fit_batches"):
        GaussianMixture(2, **settings).partial_fit(BLOBS)


def test_batches_accept_both_options() -> None:
    parts = [TRAP[i::3] for i in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        free = GaussianMixture(3, **STUCK, split_merge=5, merge=0.9, random_state=0).fit_batches(parts)
    assert free.score(TRAP) == pytest.approx(fit(TRAP, means_init=TRUTH).score(TRAP), abs=1e-4)
