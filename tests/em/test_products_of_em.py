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
from pvae.em.kernels.base import exp_, responsibilities_
from pvae.em.kernels.feature_kernel import FeatureKernel
from pvae.em.kernels.feature_products import BlockedProducts, SeparateProducts, make_feature_products
from pvae.em.kernels.whitened_kernel import WhitenedKernel
from pvae.em.rows.row_sources import ArrayRows
from pvae.em.rows.standardise import fit_standardiser
from pvae.em.rows.standardised_chunks import StandardisedChunks
from pvae.errors import InputError
from pvae.process_group import ProcessGroup
from pvae.products import ProductChoices, ProductKind
from pvae.products.libraries import BLOCKS_OF_SCIPY, EACH_ALONE, TRANSPOSED_BLOCKS, is_offered

WAYS = (EACH_ALONE, BLOCKS_OF_SCIPY, TRANSPOSED_BLOCKS)


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
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("kernel_class", "way"), [*((FeatureKernel, way) for way in WAYS), (WhitenedKernel, EACH_ALONE)]
)
def test_each_way_gives_the_statistics_of_torch(kernel_class, way, kind, dtype, timed, monkeypatch) -> None:
    monkeypatch.setattr(f"{kernel_class.__module__}.CHUNK_BYTES", 0)
    monkeypatch.setattr("pvae.em.kernels.feature_products.MOST_IN_BLOCK", 5 * 128 * 6)  # six features in each block
    monkeypatch.setattr(ProductChoices, "choose_way", lambda self, name, make_calls: way)
    components = 5
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
    assert timed or way != EACH_ALONE or (kind in ("diag", "spherical") and kernel_class is WhitenedKernel)
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("transposes", [False, True])
@pytest.mark.parametrize("most", [1, 200, 10**6])  # one feature in a block, two or more, all
def test_products_in_blocks_are_the_products(most, transposes, dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvae.em.kernels.feature_products.MOST_IN_BLOCK", most)
    generator = torch.Generator().manual_seed(0)
    # whole numbers: sums and products are exact in both dtypes
    natural_parameters = torch.randint(-9, 10, (4, 11), generator=generator).to(dtype)
    products = BlockedProducts(natural_parameters, 20, transposes=transposes)
    sums = torch.zeros(4, 11, dtype=dtype)
    for rows in (20, 20, 7, 1):
        phi = torch.randint(-9, 10, (11, rows), generator=generator).to(dtype)
        responsibilities = torch.randint(0, 5, (4, rows), generator=generator).to(dtype)
        assert torch.equal(products.logits(phi), natural_parameters @ phi)
        products.add(responsibilities, phi)
        sums += responsibilities @ phi.mT
        assert torch.equal(products.sums, sums)
    products.sums.zero_()  # as after a flush
    products.add(responsibilities, phi)
    assert torch.equal(products.sums, responsibilities @ phi.mT)


def test_the_way_is_measured_once_and_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    if not is_offered(BLOCKS_OF_SCIPY, torch.float64):
        pytest.skip("the BLAS of SciPy is not OpenBLAS, or has other threads than torch")
    monkeypatch.setenv("PVAE_CACHE", str(tmp_path))
    asked: list[list[str]] = []

    def fastest(calls) -> str:
        asked.append(list(calls))
        for call in calls.values():
            call()
        return TRANSPOSED_BLOCKS

    monkeypatch.setattr("pvae.products.product_choices.fastest_way", fastest)
    natural_parameters = torch.zeros(3, 7, dtype=torch.float64)
    products = ProductChoices()
    made = [make_feature_products(natural_parameters, 128, products) for _ in range(2)]
    made.append(make_feature_products(natural_parameters, 128, ProductChoices()))  # from the file
    assert asked == [list(WAYS)]
    assert [type(each) for each in made] == [BlockedProducts] * 3
    record = products.record()
    assert record["choices"][f"features-3x7x128-float64-{torch.get_num_threads()}"] == TRANSPOSED_BLOCKS
    monkeypatch.setenv("PVAE_CACHE", str(tmp_path / "empty"))
    recorded = ProductChoices(recorded=record)
    assert not recorded.foreign
    assert isinstance(make_feature_products(natural_parameters, 128, recorded), BlockedProducts)
    assert isinstance(make_feature_products(natural_parameters, 128, ProductChoices("aten")), SeparateProducts)
    assert isinstance(make_feature_products(natural_parameters, 10**6, ProductChoices()), SeparateProducts)
    assert len(asked) == 1


@pytest.mark.parametrize("highest", [0.0, -500.0, -570.0, -580.0, -800.0, -1e5, 500.0, 580.0, 800.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_responsibilities_are_exact_for_densities_of_any_size(highest: float, dtype: torch.dtype) -> None:
    random = np.random.default_rng(0)
    logits = torch.as_tensor(random.normal(size=(4, 9)) * 20).to(dtype)
    logits[:, 0] += highest - logits[:, 0].max()
    logits[2, 1] = -1e6  # a component without this datum
    weights = torch.as_tensor(random.exponential(size=9)).to(dtype)
    values, shares = logits.clone(), torch.softmax(logits.double(), 0)
    found = responsibilities_(values, weights)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    assert_allclose(found, torch.logsumexp(logits.double(), 0), rtol=tolerance, atol=tolerance)
    assert_allclose(values, (shares * weights).where(shares > 1e-19, 0.0), rtol=tolerance, atol=1e-19)
    assert values[2, 1] == 0


def test_exp_agrees_with_torch_on_all_values_that_a_logit_can_have() -> None:
    for dtype in (torch.float32, torch.float64):
        values = torch.linspace(-60, 0, 10_007, dtype=dtype)
        assert_allclose(exp_(values.clone()), values.exp(), rtol=4 * torch.finfo(dtype).eps)


def test_an_unknown_matmul_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"'matmul' parameter.*'auto', 'aten'.*Got 'fast'"):
        GaussianMixture(2, matmul="fast").fit(blobs(50))
