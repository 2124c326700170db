"""Identities of the derivations that no objective's own test states: why not plain weights, and which KL is larger."""

from __future__ import annotations

import exact
import numpy as np
import pytest
import torch
from forcing import Forced

import pvae

DOUBLE = torch.float64
NODES = torch.linspace(-8, 8, 121, dtype=DOUBLE)


NOISE = torch.cartesian_prod(NODES, NODES)
MASS = torch.softmax(-0.5 * (NOISE**2).sum(1), 0)  # of each point: sums over rows are integrals

GUIDES = [  # mean and variance of q, gradient of the ELBO in the mean: precision (posterior mean - mean)
    (np.array([0.6, -0.1]), np.array([0.35, 0.3]), np.array([-1.320, 0.636])),
    (np.array([0.3, 0.4]), np.array([0.5, 0.15]), np.array([0.98, -2.304])),
]


@pytest.mark.parametrize(("mean", "variance", "golden"), GUIDES)
def test_plain_importance_sampling_cannot_train_a_guide(
    mean: np.ndarray, variance: np.ndarray, golden: np.ndarray
) -> None:
    """The pathwise gradient of w has mean 0 and a variance; the same code on log w has the ELBO's."""
    rows = len(NOISE)  # a mean of q of its own for each row: one backward pass gives a gradient per draw
    model = exact.LinearGaussianModel(np.tile(mean, (rows, 1)), np.tile(variance, (rows, 1)))
    x = torch.tensor(exact.A_X).expand(rows, -1)
    with Forced(noise={"z": NOISE}):
        log_w = pvae.log_weights(model, {"x": x}, particles=1).log_w[0]
    leaves = [model.q_loc, model.q_log_scale]
    plain, of_log = (
        torch.cat(torch.autograd.grad(each.sum(), leaves, retain_graph=True), 1) for each in (log_w.exp(), log_w)
    )
    known, mass = exact.LinearGaussian(), MASS
    evidence = np.exp(known.log_evidence())
    assert float(mass @ log_w.detach().exp()) == pytest.approx(evidence, rel=1e-8)
    np.testing.assert_allclose(mass @ plain, 0, atol=1e-8 * evidence)
    assert (mass @ plain**2 > 0.1 * evidence**2).all()
    in_mean = known.precision @ (known.posterior()[0] - mean)
    np.testing.assert_allclose(in_mean, golden, atol=1e-12)
    in_log_scale = 1 - variance * np.diag(known.precision)
    np.testing.assert_allclose(mass @ of_log, [*in_mean, *in_log_scale], rtol=1e-9)


FREQUENCY = np.array([0.4, 0.3, 0.2, 0.1])


@pytest.mark.parametrize(
    ("logits", "golden"),
    [
        (exact.C_LOGITS, (0.2725877324, 0.0101618806, 0.2624258518)),
        (np.zeros((4, 3)), (0.3027005215, 0.0101618806, 0.2925386408)),
    ],
    ids=["given logits", "a flat guide"],
)
def test_the_joint_divergence_is_the_larger_one(logits: np.ndarray, golden: tuple[float, float, float]) -> None:
    """Joint KL = marginal KL + mean KL of the guide to the posterior, through the log weights of every z."""
    x = torch.arange(4).repeat_interleave(3)
    every_z = torch.arange(3).repeat(4)  # at each x
    with Forced({"z": every_z}), torch.no_grad():
        weights = pvae.log_weights(exact.DiscreteModel(logits), {"x": x}, particles=1)
    log_q, log_w = (each.numpy().reshape(4, 3) for each in (weights.log_guide[0], weights.log_w[0]))
    log_p = (weights.log_joint[0].numpy()).reshape(4, 3)
    share, log_evidence = FREQUENCY[:, None] * np.exp(log_q), np.logaddexp.reduce(log_p, axis=1)
    joint = (share * (np.log(FREQUENCY)[:, None] - log_w)).sum()
    marginal = (FREQUENCY * (np.log(FREQUENCY) - log_evidence)).sum()
    gap = (share * (log_q - log_p + log_evidence[:, None])).sum()
    np.testing.assert_allclose((joint, marginal, gap), golden, atol=1e-10)
    np.testing.assert_allclose(joint, marginal + gap, rtol=1e-12)
    np.testing.assert_allclose(log_evidence, exact.Discrete(logits).log_evidence(), rtol=1e-12)
