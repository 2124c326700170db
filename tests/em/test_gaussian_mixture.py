"""`GaussianMixture` beside scikit-learn's, closed forms and golden numbers, and its interface."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mixture_data import KINDS, blobs, initial, quietly
from numpy.testing import assert_allclose
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Theirs

from pvae.em import GaussianMixture, bound, maximise, mixture_of, responsibilities
from pvae.errors import InputError

STARTS = ("kmeans", "k-means++", "random", "random_from_data")
Y = np.array([-2.1, -1.9, -2, -1.7, 1.8, 2.2, 2, 0.1])[:, None]


def assert_same(ours, theirs, x, tol: float = 1e-9) -> None:
    """The same parameters, likelihoods and predictions, in relative error."""
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=tol, atol=tol, err_msg=name)
    assert_allclose(ours.score_samples(x), theirs.score_samples(x), rtol=tol, atol=tol)
    assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), rtol=tol, atol=tol)
    assert_allclose(
        [ours.score(x), ours.bic(x), ours.aic(x)], [theirs.score(x), theirs.bic(x), theirs.aic(x)], rtol=tol
    )
    assert (ours.predict(x) == theirs.predict(x)).all()
    assert (ours.converged_, ours.n_iter_) == (theirs.converged_, theirs.n_iter_)


# ---- comparison with scikit-learn


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("features", [1, 3, 6])
def test_the_same_initial_parameters_give_the_fit_of_scikit_learn(kind: str, features: int) -> None:
    x = blobs(features=features)
    settings = {"covariance_type": kind, "tol": 1e-7, "max_iter": 40, **initial(x, kind, 4)}
    ours, theirs = quietly(GaussianMixture(4, **settings), x), quietly(Theirs(4, **settings), x)
    assert_same(ours, theirs, x)
    assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=0, atol=1e-12)


# With these initialisations scikit-learn's tied covariance depends on the origin; ours is the covariance of all data.
SAME_STARTS = [
    (k, s) for k in KINDS for s in STARTS if (k, s) not in (("tied", "k-means++"), ("tied", "random_from_data"))
]


@pytest.mark.parametrize(("kind", "start"), SAME_STARTS)
def test_the_same_random_state_gives_the_fit_of_scikit_learn(kind: str, start: str) -> None:
    x = blobs()
    settings = {"covariance_type": kind, "init_params": start, "random_state": 3, "n_init": 2, "tol": 1e-6}
    ours, theirs = quietly(GaussianMixture(4, **settings), x), quietly(Theirs(4, **settings), x)
    assert_same(ours, theirs, x, tol=1e-8)
    assert_allclose(ours.sample(50)[0], theirs.sample(50)[0], rtol=1e-7, atol=1e-7)
    # The first bound differs where the initial weights of scikit-learn do not sum to one.
    assert_allclose(ours.lower_bounds_[1:], theirs.lower_bounds_[1:], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_as_accurate_as_scikit_learn(kind: str) -> None:
    x = blobs(3000, 5, 12)
    start = initial(x, kind, 5)
    settings = {"covariance_type": kind, "tol": 0, "max_iter": 15}
    exact = quietly(Theirs(5, **settings, **start), x)
    narrow = {name: value.astype(np.float32) for name, value in start.items()}
    theirs = quietly(Theirs(5, **settings, **narrow), x.astype(np.float32))
    ours = quietly(GaussianMixture(5, **settings, **narrow), x.astype(np.float32))
    assert ours.means_.dtype == ours.score_samples(x.astype(np.float32)).dtype == np.float32
    error = abs(ours.lower_bound_ - exact.lower_bound_)
    assert error < 1e-4 and error <= max(abs(theirs.lower_bound_ - exact.lower_bound_), 2e-6)
    assert_allclose(ours.means_, exact.means_, rtol=0, atol=2e-4)


# ---- closed forms and golden numbers


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_em_on_eight_numbers_reproduces_the_golden_numbers(kind: str) -> None:
    shape = (2, 1, 1) if kind == "full" else (2, 1) if kind == "diag" else (2,)
    start = {"weights_init": [0.5, 0.5], "means_init": [[-1.0], [1.0]], "precisions_init": np.ones(shape)}
    run = quietly(GaussianMixture(2, covariance_type=kind, reg_covar=0, tol=0, max_iter=11, **start), Y)
    golden = {0: -15.853250, 1: -13.091548, 2: -11.923477, 5: -8.529144, 10: -8.529144}
    assert_allclose([8 * run.lower_bounds_[i] for i in golden], list(golden.values()), rtol=0, atol=5e-7)
    assert min(np.diff(run.lower_bounds_)) > -1e-12
    first = quietly(GaussianMixture(2, covariance_type=kind, reg_covar=0, tol=0, max_iter=1, **start), Y)
    assert_allclose(first.weights_, [0.552493, 1 - 0.552493], rtol=0, atol=5e-7)
    assert_allclose(first.means_[:, 0], [-1.669927, 1.614772], rtol=0, atol=5e-7)
    assert_allclose(first.covariances_.ravel(), [0.564759, 0.794160], rtol=0, atol=5e-7)


def test_the_steps_as_functions_reproduce_the_golden_numbers() -> None:
    mixture = mixture_of([0.5, 0.5], [[-1.0], [1.0]], [1.0, 1.0], "spherical")
    log_likelihoods = []
    for _ in range(11):
        shares, log_likelihood = responsibilities(Y, mixture)
        log_likelihoods.append(float(log_likelihood.sum()))
        mixture = maximise(Y, shares, covariance_type="spherical")
    golden = {0: -15.853250, 1: -13.091548, 2: -11.923477, 5: -8.529144, 10: -8.529144}
    assert_allclose([log_likelihoods[i] for i in golden], list(golden.values()), rtol=0, atol=5e-7)


def test_with_a_restricted_q_the_bound_rises_and_the_likelihood_falls() -> None:
    start = {"weights_init": [0.5, 0.5], "means_init": [[-1.0], [1.0]], "precisions_init": np.ones((2, 1, 1))}
    best = quietly(GaussianMixture(2, reg_covar=0, tol=0, max_iter=30, **start), Y)
    mixture = mixture_of(best.weights_, best.means_, best.covariances_)
    fixed = np.where(Y < 0, [[0.8, 0.2]], [[0.2, 0.8]])
    after = maximise(Y, fixed)
    bounds = [float(bound(Y, fixed, parameters).sum()) for parameters in (mixture, after)]
    likelihoods = [float(responsibilities(Y, parameters)[1].sum()) for parameters in (mixture, after)]
    assert_allclose(bounds, [-240.97, -16.15], rtol=0, atol=5e-3)
    assert_allclose(likelihoods, [-8.53, -15.88], rtol=0, atol=5e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_one_component_is_the_mean_and_covariance(kind: str) -> None:
    x = blobs(200, 3, 4)
    run = GaussianMixture(1, covariance_type=kind, reg_covar=0).fit(x)
    covariance = np.cov(x.T, bias=True)
    wanted = {
        "full": covariance[None],
        "tied": covariance,
        "diag": np.diag(covariance)[None],
        "spherical": np.array([np.diag(covariance).mean()]),
    }[kind]
    assert_allclose(run.means_[0], x.mean(0), rtol=1e-12)
    assert_allclose(run.covariances_, wanted, rtol=1e-12, atol=1e-14)
    if kind == "full":
        normal = stats.multivariate_normal(x.mean(0), covariance)
        assert_allclose(run.score_samples(x), normal.logpdf(x), rtol=1e-11)
        assert run.lower_bound_ == pytest.approx(-0.5 * (np.linalg.slogdet(2 * np.pi * covariance)[1] + 4), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_densities_are_those_of_scipy(kind: str) -> None:
    x = blobs(50, 3, 3)
    run = GaussianMixture(3, covariance_type=kind, random_state=0).fit(blobs(300, 3, 3))
    dense = {
        "full": run.covariances_,
        "tied": [run.covariances_] * 3,
        "diag": [np.diag(variances) for variances in run.covariances_] if kind == "diag" else None,
        "spherical": [variance * np.eye(3) for variance in run.covariances_],
    }[kind]
    parts = [
        w * stats.multivariate_normal(m, c).pdf(x) for w, m, c in zip(run.weights_, run.means_, dense, strict=True)
    ]
    assert_allclose(run.score_samples(x), np.log(np.sum(parts, 0)), rtol=1e-11, atol=1e-11)
    assert_allclose(run.predict_proba(x), (np.array(parts) / np.sum(parts, 0)).T, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_never_falls(kind: str) -> None:
    x = blobs(400, 5, 3, seed=2)
    run = quietly(GaussianMixture(5, covariance_type=kind, reg_covar=0, tol=0, max_iter=60, random_state=1), x)
    assert min(np.diff(run.lower_bounds_)) > -1e-12


def test_the_gap_of_the_bound_is_the_divergence_of_q_from_the_posterior() -> None:
    x = blobs(60, 3, 2)
    mixture = mixture_of([0.2, 0.5, 0.3], x[:3], [np.eye(2), 2 * np.eye(2), [[1.0, 0.5], [0.5, 2.0]]])
    posterior, log_likelihood = responsibilities(x, mixture)
    assert_allclose(bound(x, posterior, mixture), log_likelihood, rtol=1e-13)
    other = torch.softmax(torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 1)
    divergence = (other * (other.log() - posterior.log())).sum(1)
    assert_allclose(log_likelihood - bound(x, other, mixture), divergence, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_no_other_parameters_have_a_higher_bound(kind: str) -> None:
    x, random = blobs(80, 3, 2), np.random.default_rng(0)
    shares = random.dirichlet(np.ones(3), size=80)
    best = maximise(x, shares, covariance_type=kind)
    highest = float(bound(x, shares, best).sum())
    for _ in range(20):
        factor = float(np.exp(0.1 * random.normal()))
        weights = random.dirichlet(200 * best.weights.numpy())
        means = best.means.numpy() + 0.05 * random.normal(size=best.means.shape)
        for other in (
            mixture_of(weights, best.means, best.covariances, kind),
            mixture_of(best.weights, means, best.covariances, kind),
            mixture_of(best.weights, best.means, best.covariances * factor, kind),
        ):
            assert float(bound(x, shares, other).sum()) < highest


# ---- the interface


def test_defaults_and_attributes_are_those_of_scikit_learn() -> None:
    ours, theirs = GaussianMixture().get_params(), Theirs().get_params()
    assert {name: ours[name] for name in theirs} == theirs
    quietly(GaussianMixture(2, random_state=0), blobs())
    fitted = set(vars(quietly(Theirs(2, random_state=0), blobs())))
    assert fitted <= set(vars(quietly(GaussianMixture(2, random_state=0), blobs())))


def test_warm_start_continues_the_last_fit() -> None:
    x = blobs()
    whole = quietly(GaussianMixture(4, random_state=0, max_iter=6, tol=0), x)
    parts = GaussianMixture(4, random_state=0, max_iter=3, tol=0, warm_start=True)
    quietly(quietly(parts, x), x)
    assert_allclose(parts.means_, whole.means_, rtol=1e-11)
    assert_allclose(parts.lower_bounds_, whole.lower_bounds_[3:], rtol=1e-12)


def test_pipelines_and_grid_searches_accept_the_estimator() -> None:
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = blobs()
    pipeline = make_pipeline(StandardScaler(), GaussianMixture(4, random_state=0))
    search = GridSearchCV(pipeline, {"gaussianmixture__n_components": [1, 4]}, cv=3)
    assert quietly(search, x).best_params_ == {"gaussianmixture__n_components": 4}
    copied = clone(GaussianMixture(4, reg_covar="relative", empty="reseed"))
    assert (copied.reg_covar, copied.empty) == ("relative", "reseed")


def test_a_fit_that_does_not_converge_gives_a_warning() -> None:
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        GaussianMixture(4, max_iter=1, random_state=0).fit(blobs())


def test_public_parameters_that_the_user_sets_are_used() -> None:
    x = blobs()
    run = GaussianMixture(2, random_state=0).fit(x)
    run.means_ = run.means_ + 1
    theirs = Theirs(2, random_state=0).fit(x)
    theirs.means_ = theirs.means_ + 1
    assert_allclose(run.score_samples(x), theirs.score_samples(x), rtol=1e-10)
    run.means_[0] -= 1
    theirs.means_[0] -= 1
    assert_allclose(run.score_samples(x), theirs.score_samples(x), rtol=1e-10)


def test_pickling_keeps_the_fit() -> None:
    import pickle

    x = blobs()
    run = GaussianMixture(3, random_state=0).fit(x)
    assert_allclose(pickle.loads(pickle.dumps(run)).score_samples(x), run.score_samples(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_components": 0}, "n_components.*whole number from 1 up.*Got 0"),
        ({"n_components": True}, "Got True"),
        ({"covariance_type": "round"}, "'full', 'tied', 'diag', 'spherical'.*Got 'round'"),
        ({"reg_covar": -1}, "number from 0 up or 'relative'"),
        ({"reg_covar": "absolute"}, "Got 'absolute'"),
        ({"tol": float("nan")}, "Got nan"),
        ({"init_params": "magic"}, "Got 'magic'"),
        ({"empty": "drop"}, "'keep', 'reseed'"),
        ({"missing": "drop"}, "'error', 'marginalise'"),
        ({"device": "moon"}, "device needs a name"),
        ({"dtype": "int8"}, "float32' or 'float64"),
        ({"weights_init": [0.5, 0.6]}, "normalized"),
        ({"means_init": [[0.0]]}, "should have the shape of"),
        ({"precisions_init": -np.ones((2, 3, 3))}, "positive-definite"),
        ({"distributed": True}, "init_process_group"),
        ({"covariance_prior": [1.0, 2.0]}, r"\(3,\) positive numbers"),
        ({"covariance_prior": 1.0, "degrees_of_freedom_prior": 1.0}, "more than 2"),
    ],
)
def test_invalid_parameters_raise_an_error_of_one_line(settings: dict, words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        GaussianMixture(**{"n_components": 2, **settings}).fit(blobs())
    assert "\n" not in str(raised.value)
