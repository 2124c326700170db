"""Real data against data of the model: exact typicality gaps, the best classifier, and the level of the tests."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import Planted
from scipy.stats import norm
from stats import assert_close_in_sigmas

from pvae import InputError
from pvae.evaluate import resemblance
from pvae.evaluate.resemblance_tests.classifier_test import classifier_test
from pvae.evaluate.resemblance_tests.resemblance_record import resemblance_of

pytestmark = pytest.mark.usefixtures("own_store")


def exact_gap(variance: float) -> float:
    """E[log p(x)] over data with another variance of x given z, minus that over data of the model."""
    known = Planted().known
    shared = known.weight @ known.weight.T
    model, real = shared + known.variance * np.eye(3), shared + variance * np.eye(3)
    return float(-0.5 * (np.trace(np.linalg.solve(model, real)) - 3))


@pytest.mark.parametrize(("variance", "golden"), [(0.25, 0.0), (0.3, -0.127138), (0.35, -0.254276), (0.5, -0.635689)])
def test_the_typicality_gap_is_that_of_the_closed_form(variance: float, golden: float) -> None:
    assert exact_gap(variance) == pytest.approx(golden, abs=1e-6)
    model = Planted()
    data = model.draw(4000, variance=variance, seed=1)
    found = resemblance(model, data, 1, limit=None, permutations=19, progress=False)  # log p(x) is exact
    assert_close_in_sigmas(found.value, golden, found.error)
    assert (found.status == "fine") == (variance == 0.25)
    assert found.cost == 4000 * 3


def test_the_classifier_reaches_the_best_accuracy_for_a_shift_of_the_mean() -> None:
    model = Planted()
    known = model.known
    covariance = known.weight @ known.weight.T + known.variance * np.eye(3)
    shift = np.array([0.5, 0.0, 0.0])
    best = norm.cdf(0.5 * np.sqrt(shift @ np.linalg.solve(covariance, shift)))
    assert best == pytest.approx(0.631069, abs=1e-6)
    real, generated = model.draw(6000, seed=1).numpy() + shift, model.draw(6000, seed=2).numpy()
    found = classifier_test(real, generated, permutations=99)
    assert found.p_value == 0.01
    assert_close_in_sigmas(found.accuracy, best, found.error, sigmas=3.0)


def test_equal_samples_are_rejected_at_the_level() -> None:
    generator = np.random.default_rng(0)
    tests = [classifier_test(*generator.standard_normal((2, 40, 3)), permutations=39, seed=seed) for seed in range(200)]
    rejected = np.mean([test.p_value <= 0.1 for test in tests])
    assert abs(rejected - 0.1) < 4.5 * np.sqrt(0.09 / 200)
    assert min(test.p_value for test in tests) >= 1 / 40
    # The data were not fitted to, so the accuracy is that of a guess.
    assert_close_in_sigmas(*_with_exact([test.accuracy for test in tests], 0.5))


def _with_exact(values: list[float], exact: float) -> tuple[float, float, float]:
    """Return the mean of values, what it estimates, and its standard error."""
    return float(np.mean(values)), exact, float(np.std(values, ddof=1) / np.sqrt(len(values)))


def test_a_gap_of_either_sign_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 300, 2, generator=generator, dtype=torch.float64)
    log_p = torch.randn(2, 300, generator=generator, dtype=torch.float64)
    for shift in (-1.0, 1.0):
        found = resemblance_of((log_p[0] + shift, log_p[1]), (x[0], x[1]), permutations=19)
        assert found.status == "bad"
        assert found.adjusted["typicality gap"] < 1e-6 < found.adjusted["classifier"]
    assert resemblance_of((log_p[0], log_p[1]), (x[0], x[1]), permutations=19).status == "fine"


def test_rounding_is_no_gap() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 50, 2, generator=generator, dtype=torch.float64)
    log_p = -5.0 + 1e-9 * torch.arange(50, dtype=torch.float64)
    assert resemblance_of((log_p + 1e-7, log_p), (x[0], x[1]), permutations=19).typicality_p == 1.0
    assert resemblance_of((log_p + 1e-3, log_p), (x[0], x[1]), permutations=19).typicality_p < 1e-9


def test_samples_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(InputError, match="same units"):
        classifier_test(np.zeros((10, 2)), np.zeros((10, 3)))
    with pytest.raises(InputError, match="permutations"):
        resemblance(Planted(), torch.zeros(10, 3), permutations=2, progress=False)
