"""The E-step kernels, the standardised coordinates and the chunks of data: equal to their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mixture_data import KINDS, blobs, initial, quietly
from numpy.testing import assert_allclose

from pvae.em import GaussianMixture, maximise, responsibilities
from pvae.em.covariances.families import FAMILIES
from pvae.em.e_step import EStep
from pvae.em.kernels.component_kernel import ComponentKernel
from pvae.em.kernels.feature_kernel import FeatureKernel
from pvae.em.kernels.whitened_kernel import WhitenedKernel
from pvae.em.m_step import m_step
from pvae.em.prior import Prior
from pvae.em.rows.row_sources import ArrayRows
from pvae.em.rows.standardise import fit_standardiser
from pvae.em.rows.standardised_chunks import StandardisedChunks
from pvae.process_group import ProcessGroup


def make_e_step(x: np.ndarray, kind: str, weights=None, dtype=torch.float64) -> EStep:
    rows = ArrayRows(torch.as_tensor(x), None if weights is None else torch.as_tensor(weights))
    standardiser = fit_standardiser(rows, one_scale=kind == "spherical", has_missing=False)
    return EStep(StandardisedChunks(rows, standardiser), dtype, False, ProcessGroup())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_all_kernels_return_the_moments_of_their_definition(
    kind: str, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = blobs(700, 3, 4)
    weights = np.random.default_rng(1).exponential(size=700) if weighted else None
    e_step = make_e_step(x, kind, weights)
    standardiser, family = e_step.data.standardiser, FAMILIES[kind]
    parameters = maximise(x, np.random.default_rng(2).dirichlet(np.ones(3), size=700), covariance_type=kind)
    mixture = standardiser.standardise(parameters)
    shares, log_likelihood = responsibilities(x, parameters)
    w = np.ones(700) if weights is None else weights
    u = (x - standardiser.shift.numpy()) / standardiser.scale.numpy()
    r = shares.numpy() * w[:, None]
    second = np.einsum("nk,ni,nj->kij", r, u, u)
    kernels = [FeatureKernel(mixture, torch.float64), WhitenedKernel(mixture, torch.float64)]
    if kind == "full":
        monkeypatch.setattr("pvae.em.kernels.component_kernel.CHUNK_BYTES", 0)
        kernels.append(ComponentKernel(mixture))
    for kernel in kernels:
        statistics = e_step.statistics(kernel)
        origins = statistics.origins
        first = statistics.first_moments + statistics.counts[:, None] * origins
        moved = family.shift_second_moments(
            statistics.second_moments, statistics.first_moments, statistics.counts, -origins
        )
        assert_allclose(statistics.counts, r.sum(0), rtol=1e-12)
        assert_allclose(first, r.T @ u, rtol=1e-11, atol=1e-11)
        assert_allclose(moved, family.from_dense(torch.as_tensor(second)), rtol=1e-11, atol=1e-10)
        total = float(statistics.log_likelihood) - standardiser.log_scale() * w.sum()
        assert total == pytest.approx(float(log_likelihood.numpy() @ w), rel=1e-12)


@pytest.mark.parametrize(
    ("features", "components", "smallest", "expected"),
    [
        (6, 3, 0.3, (FeatureKernel, torch.float32)),
        (6, 3, 1e-3, (FeatureKernel, torch.float64)),  # too narrow for float32
        (27, 3, 0.3, (WhitenedKernel, torch.float32)),  # few components: deviations cost less than features
        (27, 9, 0.02, (WhitenedKernel, torch.float32)),  # too narrow for features, and not for deviations
        (27, 3, 1e-3, (ComponentKernel, torch.float64)),
    ],
)
def test_the_kernel_of_float32_is_accurate(features: int, components: int, smallest: float, expected: tuple) -> None:
    random = np.random.default_rng(0)
    deviations = np.append(np.ones(features - 1), smallest)
    x = random.normal(size=(components, features)) + random.normal(size=(400, components, features)) * deviations
    x = (x @ np.linalg.qr(random.normal(size=(features, features)))[0]).reshape(-1, features)
    shares = np.tile(np.eye(components), (400, 1))
    parameters = maximise(x, shares)
    updates = {}
    for dtype in (torch.float32, torch.float64):
        e_step = make_e_step(x, "full", dtype=dtype)
        mixture = e_step.data.standardiser.standardise(parameters)
        kernel = e_step.make_kernel(mixture) if dtype == torch.float32 else WhitenedKernel(mixture, dtype)
        if dtype == torch.float32:
            assert (type(kernel), kernel.dtype) == expected
        updates[dtype] = m_step(e_step.statistics(kernel), mixture, torch.zeros(features).double(), Prior()).mixture
    exact, found = updates[torch.float64], updates[torch.float32]
    # in the coordinates in which each exact covariance is the identity
    errors = exact.whitening.mT @ (found.covariances - exact.covariances) @ exact.whitening
    assert float(errors.abs().max()) < 1e-3
    offsets = exact.whitening.mT @ (found.means - exact.means).unsqueeze(2)
    assert float(offsets.abs().max()) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_data_too_large_to_keep_give_the_same_bounds(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = blobs(3000)
    settings = {"covariance_type": kind, "tol": 1e-7, **initial(x, kind, 4)}
    kept = quietly(GaussianMixture(4, **settings), x)
    monkeypatch.setattr("pvae.em.rows.standardised_chunks.KEPT_BYTES", 0)
    assert_allclose(quietly(GaussianMixture(4, **settings), x).lower_bounds_, kept.lower_bounds_, rtol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_overwritten_memory_has_the_same_features(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The features themselves are compared: EM would repeat a wrong step by the other kernel.
    monkeypatch.setattr("pvae.em.rows.standardised_chunks.KEPT_BYTES", 0)
    monkeypatch.setattr("pvae.em.kernels.feature_kernel.CHUNK_BYTES", 0)
    e_step = make_e_step(x := blobs(300), kind)
    parameters = maximise(x, np.random.default_rng(2).dirichlet(np.ones(3), size=300), covariance_type=kind)
    kernel = FeatureKernel(e_step.data.standardiser.standardise(parameters), torch.float64)
    for _ in range(2):
        pairs = zip(
            e_step.data.chunks(kernel.chunk_size, torch.float64), e_step.data.prepared_chunks(kernel), strict=True
        )
        for (u, _), (prepared, _) in pairs:
            expected = torch.empty(kernel.prepared_size, u.shape[1], dtype=torch.float64)
            kernel.mixture.family.write_phi(u, expected)
            assert torch.equal(prepared, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_unstandardise_inverts_standardise(kind: str) -> None:
    x = blobs(100, 3, 3) * [1.0, 100.0, 1e-3]
    standardiser = make_e_step(x, kind).data.standardiser
    mixture = maximise(x, np.random.default_rng(0).dirichlet(np.ones(3), size=100), covariance_type=kind)
    again = standardiser.unstandardise(standardiser.standardise(mixture))
    for name in ("means", "covariances", "whitening", "roots"):
        assert_allclose(getattr(again, name), getattr(mixture, name), rtol=1e-11, atol=1e-14)
