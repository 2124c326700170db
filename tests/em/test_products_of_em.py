"""Matrix products of each library give the statistics that torch's products give, in every layout of the kernels."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from mixture_data import KINDS, blobs, initial, quietly
from numpy.testing import assert_allclose

from pvae.em import GaussianMixture, maximise
from pvae.em.base import Statistics
from pvae.em.e_step import EStep
from pvae.em.kernels.base import exp_
from pvae.em.kernels.feature_kernel import FeatureKernel
from pvae.em.kernels.whitened_kernel import WhitenedKernel
from pvae.em.rows.row_sources import ArrayRows
from pvae.em.rows.standardise import fit_standardiser
from pvae.em.rows.standardised_chunks import StandardisedChunks
from pvae.errors import InputError
from pvae.process_group import ProcessGroup
from pvae.products import ProductChoices, ProductKind


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, tmp_path) -> list[ProductKind]:
    """Let NumPy win every timing of float64, and oneDNN of float32, also for small products; the kinds asked for."""
    monkeypatch.setenv("PVAE_CACHE", str(tmp_path))
    kinds: list[ProductKind] = []

    def fastest(kind: ProductKind) -> str:
        kinds.append(kind)
        return "onednn" if kind.dtype == torch.float32 and not kind.batch else "numpy"

    monkeypatch.setattr("pvae.products.product_choices.fastest_library", fastest)
    monkeypatch.setattr("pvae.products.product_choices._FEWEST_REPEATED", 0)
    return kinds


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("components", [3, 5])  # with 3, responsibilities are copied; with 5, they are not
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernel_class", [FeatureKernel, WhitenedKernel])
def test_each_library_gives_the_statistics_of_torch(kernel_class, kind, components, dtype, timed, monkeypatch) -> None:
    monkeypatch.setattr(f"{kernel_class.__module__}.CHUNK_BYTES", 0)
    x = blobs(600, components, 6)
    weights = torch.as_tensor(np.random.default_rng(1).exponential(size=600))
    rows = ArrayRows(torch.as_tensor(x), weights)
    standardiser = fit_standardiser(rows, one_scale=kind == "spherical", has_missing=False)
    e_step = EStep(StandardisedChunks(rows, standardiser), dtype, False, ProcessGroup())
    shares = np.random.default_rng(2).dirichlet(np.ones(components), size=600)
    mixture = standardiser.standardise(maximise(x, shares, covariance_type=kind))
    by_torch = e_step.statistics(kernel_class(mixture, dtype, ProductChoices("aten")))
    assert not timed
    monkeypatch.setattr(f"{kernel_class.__module__}.FLUSH_ROWS", 300)
    fast = e_step.statistics(kernel_class(mixture, dtype, ProductChoices()))
    assert timed or (kind in ("diag", "spherical") and kernel_class is WhitenedKernel)
    for field in fields(Statistics):
        expected = getattr(by_torch, field.name)
        tolerance = 200 * torch.finfo(dtype).eps * float(expected.abs().max())
        assert_allclose(getattr(fast, field.name), expected, rtol=0, atol=tolerance, err_msg=field.name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_and_its_predictions_agree_with_those_by_torch(kind: str, timed: list[ProductKind]) -> None:
    x = blobs(400)
    settings = {"covariance_type": kind, "max_iter": 20, **initial(x, kind, 4)}
    by_torch = quietly(GaussianMixture(4, matmul="aten", **settings), x)
    expected = by_torch.lower_bounds_, by_torch.score_samples(x), by_torch.predict_proba(x)
    assert not timed
    fast = quietly(GaussianMixture(4, **settings), x)
    for value, of_torch in zip(
        (fast.lower_bounds_, fast.score_samples(x), fast.predict_proba(x)), expected, strict=True
    ):
        assert_allclose(value, of_torch, rtol=1e-10, atol=1e-12)
    assert timed


def test_exp_agrees_with_torch_on_all_values_that_a_logit_can_have() -> None:
    for dtype in (torch.float32, torch.float64):
        values = torch.linspace(-60, 0, 10_007, dtype=dtype)
        assert_allclose(exp_(values.clone()), values.exp(), rtol=4 * torch.finfo(dtype).eps)


def test_an_unknown_matmul_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"'matmul' parameter.*'auto', 'aten'.*Got 'fast'"):
        GaussianMixture(2, matmul="fast").fit(blobs(50))
