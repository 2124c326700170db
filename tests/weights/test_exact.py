"""The oracles agree with their golden numbers, and the Pyro programs of tests/support/exact.py with the oracles."""

from __future__ import annotations

import exact
import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from stats import assert_close_in_sigmas, mean_and_error

A = exact.LinearGaussian()


def log_w(latent_model, x, particles):
    """One log weight for each particle and datum, by plain Pyro, drawing from the guide."""
    rows = []
    for _ in range(particles):
        guide = poutine.trace(latent_model.guide).get_trace(x)
        model = poutine.trace(poutine.replay(latent_model.model, trace=guide)).get_trace(x)
        guide.compute_log_prob(), model.compute_log_prob()
        sites = [(trace, site) for trace in (model, guide) for site in trace.stochastic_nodes + trace.observation_nodes]
        rows.append(sum((1 if trace is model else -1) * trace.nodes[name]["log_prob"] for trace, name in sites))
    return torch.stack(rows)


def test_linear_gaussian_has_its_golden_numbers():
    assert A.log_evidence() == pytest.approx(-3.6252584092, abs=1e-10)
    mean, cov = A.posterior()
    np.testing.assert_allclose(mean, [0.442686, 0.019788], atol=1e-6)
    np.testing.assert_allclose(cov, [[0.112367, -0.014134], [-0.014134, 0.159011]], atol=1e-6)
    assert A.elbo(*exact.A_PRIOR) == pytest.approx(-9.1773740579, abs=1e-10)
    assert A.elbo(*exact.A_Q1) == pytest.approx(-5.0148794163, abs=1e-10)
    assert A.kl_to_posterior(*exact.A_Q1) == pytest.approx(1.3896210071, abs=1e-10)
    assert A.elbo(*A.best_diagonal()) == pytest.approx(-3.6308803939, abs=1e-10)
    assert A.chi2(*exact.A_Q1) == pytest.approx(2.694866, abs=1e-6)


@pytest.mark.parametrize(
    ("alpha", "golden"), [(-0.2, -3.465486), (0.25, -3.856865), (0.5, -4.138514), (0.75, -4.500218)]
)
def test_linear_gaussian_has_its_golden_renyi_bounds(alpha, golden):
    assert A.renyi(alpha, *exact.A_Q1) == pytest.approx(golden, abs=1e-6)


def test_linear_gaussian_renyi_goes_over_into_evidence_and_elbo():
    assert A.renyi(0.0, *exact.A_Q1) == pytest.approx(A.log_evidence(), abs=1e-12)
    assert A.renyi(1 - 1e-6, *exact.A_Q1) == pytest.approx(A.elbo(*exact.A_Q1), abs=1e-4)


def test_linear_gaussian_elbo_gradient_agrees_with_differences():
    mean, variance = exact.A_Q1
    in_mean, in_log_scale = A.elbo_gradient(mean, variance)
    for unit, step in enumerate(np.eye(2) * 1e-5):
        high, low = A.elbo(mean + step, variance), A.elbo(mean - step, variance)
        assert (high - low) / 2e-5 == pytest.approx(in_mean[unit], rel=1e-6)
        high, low = (A.elbo(mean, variance * np.exp(2 * sign * step)) for sign in (1, -1))
        assert (high - low) / 2e-5 == pytest.approx(in_log_scale[unit], rel=1e-6)


def test_categorical_has_its_golden_numbers():
    c = exact.Discrete()
    np.testing.assert_allclose(np.exp(c.log_evidence()), [0.43, 0.28, 0.16, 0.13], atol=1e-12)
    np.testing.assert_allclose(c.elbo(), [-1.359795, -1.326773, -1.981763, -2.141395], atol=1e-6)
    np.testing.assert_allclose(c.elbo_gradient()[0], [0.476419, -0.208464, -0.267955], atol=1e-6)
    assert [c.iwae(k) for k in (1, 2, 3, 4)] == pytest.approx([-1.359795, -1.145814, -1.046178, -0.991762], abs=1e-6)
    assert [c.renyi(a)[0] for a in (-1, 0, 0.5, 2)] == pytest.approx(
        [-0.512873, -0.843970, -1.094991, -1.727624], abs=1e-6
    )


def test_two_layer_elbo_is_below_its_evidence():
    chain = exact.TwoLayer()
    for x in chain.x:
        assert chain.elbo(x) < chain.log_evidence(x)


def test_linear_gaussian_programs_score_as_their_closed_form():
    torch.manual_seed(0)
    x = torch.tensor(np.tile(exact.A_X, (50_000, 1)))
    with pyro.get_param_store().scope():
        value, error = mean_and_error(log_w(exact.LinearGaussianModel(), x, 1)[0])
        assert_close_in_sigmas(value, A.elbo(*exact.A_Q1), error, effect=A.kl_to_posterior(*exact.A_Q1))
        # at the best diagonal q the average weight is p(x), and its spread is small
        best = exact.LinearGaussianModel(*A.best_diagonal())
        ratio, error = mean_and_error((log_w(best, x, 1)[0] - A.log_evidence()).exp())
        assert_close_in_sigmas(ratio, 1.0, error, effect=1)


def test_two_layer_programs_score_as_the_chain():
    torch.manual_seed(0)
    chain = exact.TwoLayer()
    with pyro.get_param_store().scope():
        for x in chain.x:
            batch = torch.tensor(np.tile(x, (100_000, 1)))
            value, error = mean_and_error(log_w(exact.TwoLayerModel(), batch, 1)[0])
            assert_close_in_sigmas(value, chain.elbo(x), error, effect=chain.log_evidence(x) - chain.elbo(x))


def test_discrete_programs_score_as_their_enumeration():
    torch.manual_seed(0)
    with pyro.get_param_store().scope():
        for x, golden in enumerate(exact.Discrete().elbo()):
            value, error = mean_and_error(log_w(exact.DiscreteModel(), torch.full((50_000,), x), 1)[0])
            assert_close_in_sigmas(value, golden, error, effect=1)


def test_sigma_assertion_fails_where_it_should():
    assert_close_in_sigmas(1.0, 1.04, 0.01)
    with pytest.raises(AssertionError, match="off"):
        assert_close_in_sigmas(1.0, 1.05, 0.01)
    with pytest.raises(AssertionError, match="Too few"):
        assert_close_in_sigmas(1.0, 1.0, 0.01, effect=0.5)
    with pytest.raises(AssertionError, match="finite"):
        assert_close_in_sigmas(float("nan"), 1.0, 0.01)
    with pytest.raises(AssertionError, match="positive"):
        assert_close_in_sigmas(1.0, 1.0, 0.0)
