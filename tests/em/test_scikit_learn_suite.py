"""The tests of scikit-learn for GaussianMixture and for estimators, run on the GaussianMixture of pvae."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import numpy as np
import pytest

from pvae.em import GaussianMixture

#: Tests that are not run, with the reason.
EXCEPTIONS = {
    **dict.fromkeys(
        (
            "test_suffstat_sk_full",
            "test_suffstat_sk_tied",
            "test_suffstat_sk_diag",
            "test_gaussian_suffstat_sk_spherical",
            "test_compute_log_det_cholesky",
            "test_gaussian_mixture_log_probabilities",
        ),
        "tests private functions of scikit-learn, and no estimator",
    ),
    "test_gaussian_mixture_precisions_init": "calls the private _initialize and _set_parameters",
    "test_gaussian_mixture_all_init_does_not_estimate_gaussian_parameters": "counts calls of a private function",
    "test_gaussian_mixture_array_api_compliance": "needs array_api_dispatch; tensors are taken without it",
    "test_gaussian_mixture_raises_where_array_api_not_implemented": "every start works for tensors",
}


def theirs(name: str) -> ModuleType:
    """A copy of a test module of scikit-learn, in which GaussianMixture is that of pvae."""
    spec = importlib.util.find_spec(f"sklearn.mixture.tests.{name}")
    if spec is None or spec.origin is None:
        pytest.skip("scikit-learn came without its tests", allow_module_level=True)
    copied = importlib.util.spec_from_file_location(f"theirs_{name}", spec.origin)
    module = importlib.util.module_from_spec(copied)
    copied.loader.exec_module(module)
    module.GaussianMixture = GaussianMixture
    return module


@pytest.fixture(params=[np.float64, np.float32], ids=["float64", "float32"])
def global_dtype(request: pytest.FixtureRequest) -> type:
    return request.param


@pytest.fixture
def global_random_seed() -> int:
    return 42


MODULES = [theirs("test_gaussian_mixture"), theirs("test_mixture")]
FOUND = {name: test for module in MODULES for name, test in vars(module).items() if name.startswith("test_")}
for _name, _test in FOUND.items():
    if _name not in EXCEPTIONS and _name not in (
        "test_gaussian_mixture_n_iter",
        "test_mixture_n_components_greater_than_n_samples_error",
    ):
        globals()[_name] = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")(_test)


@pytest.mark.parametrize(
    "name", ["test_gaussian_mixture_n_iter", "test_mixture_n_components_greater_than_n_samples_error"]
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_of_any_mixture_passes(name: str) -> None:
    # These tests are parametrised by instances of scikit-learn's class, so that ours is passed here. They assert.
    FOUND[name](GaussianMixture())


def test_the_exceptions_are_tests_that_exist() -> None:
    assert set(EXCEPTIONS) <= set(FOUND)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_the_estimator_checks_pass(kind: str) -> None:
    from sklearn.utils.estimator_checks import check_estimator

    check_estimator(GaussianMixture(covariance_type=kind))
