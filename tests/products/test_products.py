"""Every library gives the product of the matrices, in odd shapes and layouts, and the choice between them is kept."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx

from pvae.errors import InputError
from pvae.products import ProductChoices, ProductKind, replace_products
from pvae.products.kind_of_product import kind_of
from pvae.products.libraries import (
    PRODUCTS,
    PRODUCTS_IN_COMPILED_CODE,
    PRODUCTS_IN_ROW,
    blas_of,
    is_offered,
)
from pvae.products.numpy_products import multiply_in_blocks
from pvae.products.timing import fastest_library

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "rows": lambda matrix: matrix.clone(),
    "columns": lambda matrix: matrix.t().contiguous().t(),
    "every second row": lambda matrix: matrix.repeat_interleave(2, 0)[::2],
    "every second column": lambda matrix: matrix.repeat_interleave(2, 1)[:, ::2],
    "part of wider rows": lambda matrix: torch.cat([matrix, matrix], 1)[:, : matrix.shape[1]],
    "expanded": lambda matrix: matrix[:1].expand_as(matrix) if matrix.shape[0] else matrix,
}
SIZES = [*itertools.product((1, 3, 17), repeat=3), (0, 3, 17), (3, 0, 17), (3, 17, 0), (0, 0, 0)]
#: Each layout of one matrix beside both usual layouts of the other.
PAIRS = [(left, right) for left, right in itertools.product(LAYOUTS, repeat=2) if {left, right} & {"rows", "columns"}]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for each test."""
    monkeypatch.setenv("PVAE_CACHE", str(tmp_path))
    return tmp_path / "products"


def matrices(rows: int, inner: int, columns: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Two matrices of fixed random numbers."""
    draw = torch.Generator().manual_seed(rows + 100 * inner + 10_000 * columns)
    return torch.randn(rows, inner, generator=draw, dtype=dtype), torch.randn(
        inner, columns, generator=draw, dtype=dtype
    )


def planted(monkeypatch: pytest.MonkeyPatch, library: str) -> list[ProductKind]:
    """Let a library win every timing; return the kinds that are timed."""
    timed: list[ProductKind] = []

    def fastest(kind: ProductKind) -> str:
        timed.append(kind)
        return library

    monkeypatch.setattr("pvae.products.product_choices.fastest_library", fastest)
    return timed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("library", PRODUCTS)
def test_each_library_gives_the_product_in_odd_shapes_and_layouts(library: str, dtype: torch.dtype) -> None:
    if not is_offered(library, dtype):
        pytest.skip(f"{library} is not offered for {dtype} here")
    for sizes, (left, right) in itertools.product(SIZES, PAIRS):
        exact_a, exact_b = matrices(*sizes)
        # a change of the dtype would make expanded and strided matrices contiguous
        a, b = LAYOUTS[left](exact_a.to(dtype)), LAYOUTS[right](exact_b.to(dtype))
        bias = torch.linspace(-1, 1, sizes[2], dtype=dtype)
        terms = a.double()[:, :, None] * b.double()[None]
        bound = 64 * torch.finfo(dtype).eps * (terms.abs().sum(1) + bias.double().abs())
        into = torch.full((sizes[0], sizes[2]), torch.nan, dtype=dtype)
        for added, out in ((None, None), (bias, None), (bias, into)):
            result = PRODUCTS[library](a, b, added, out)
            exact = terms.sum(1) if added is None else terms.sum(1) + bias.double()
            assert result.shape == exact.shape and result.dtype == dtype and result.is_contiguous()
            assert bool(((result.double() - exact).abs() <= bound).all())
            assert out is None or result.data_ptr() == into.data_ptr()


@pytest.mark.parametrize("library", PRODUCTS)
def test_infinite_and_undefined_numbers_stay_so(library: str, recwarn: pytest.WarningsRecorder) -> None:
    a, b = matrices(3, 17, 3, torch.float32)
    a[0, 0], a[1, 3] = torch.inf, torch.nan
    if is_offered(library, torch.float32):
        assert torch.equal(PRODUCTS[library](a, b, None, None).isfinite(), torch.mm(a, b).isfinite())
    assert not recwarn.list


@pytest.mark.parametrize("library", [name for name in PRODUCTS if is_offered(name, torch.float64)])
def test_gradients_are_those_of_torch(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, library)
    products = ProductChoices()
    a, b = matrices(100, 110, 120)
    bias, weight = torch.ones(120, dtype=torch.float64), torch.linspace(-1, 1, 120, dtype=torch.float64)
    leaves = [tensor.requires_grad_() for tensor in (bias, a, b)]
    ours = torch.autograd.grad((products.addmm(*leaves).sin() * weight).sum(), leaves, create_graph=True)
    theirs = torch.autograd.grad((torch.addmm(*leaves).sin() * weight).sum(), leaves, create_graph=True)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)
    second = [torch.autograd.grad(first[1].square().sum(), leaves[2])[0] for first in (ours, theirs)]
    torch.testing.assert_close(*second, rtol=1e-12, atol=1e-10)


def test_a_choice_is_made_once_and_kept_on_disk(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = planted(monkeypatch, "numpy")
    a, b = matrices(100, 110, 120)
    first = ProductChoices()
    first.mm(a, b), first.mm(a, b), first.mm(a.t().contiguous().t(), b), first.addmm(b[0], a, b)
    assert [str(kind).rsplit("-", 1)[0] for kind in timed] == [
        "mm-100x110x120-float64-nn",
        "mm-100x110x120-float64-tn",
        "addmm-100x110x120-float64-nn",
    ]
    later = ProductChoices()
    later.mm(a, b)
    assert len(timed) == 3 and list(later.record()["choices"].values()) == ["numpy"]
    assert len(list(cache.glob("*.json"))) == 1


@pytest.mark.parametrize(
    "damage", ["cut", "text", "list", "machine", "library", "list of libraries", "folder", "file for the folder"]
)
def test_a_damaged_or_foreign_file_of_choices_is_made_again(
    damage: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = planted(monkeypatch, "numpy")
    a, b = matrices(100, 110, 120)
    ProductChoices().mm(a, b)
    (path,) = cache.glob("*.json")
    content: dict[str, Any] = json.loads(path.read_text())
    if damage == "cut":
        path.write_text(path.read_text()[:-20])
    elif damage == "text":
        path.write_bytes(b"\xff\x00")
    elif damage == "list":
        path.write_text("[1, 2]")
    elif damage == "machine":
        path.write_text(json.dumps({**content, "machine": {**content["machine"], "processor": "another"}}))
    elif damage in ("library", "list of libraries"):
        library = "os" if damage == "library" else ["numpy"]
        path.write_text(json.dumps({**content, "choices": dict.fromkeys(content["choices"], library)}))
    else:
        path.unlink()
        if damage == "folder":
            path.mkdir()
        else:
            shutil.rmtree(cache)
            cache.write_text("")
    torch.testing.assert_close(ProductChoices().mm(a, b), a @ b, rtol=0, atol=1e-12)
    assert len(timed) == 2


def test_recorded_choices_come_before_the_file_and_those_of_another_machine_are_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = matrices(100, 110, 120)
    planted(monkeypatch, "numpy")
    first = ProductChoices()
    first.mm(a, b)
    record = json.loads(json.dumps(first.record()))
    aten = {**record, "choices": dict.fromkeys(record["choices"], "aten")}
    again = ProductChoices(recorded=aten)
    again.mm(a, b)
    assert again.record() == aten and not again.foreign
    foreign = ProductChoices(recorded={**aten, "machine": {**record["machine"], "torch": "1.0"}})
    foreign.mm(a, b)
    assert foreign.record() == record
    assert foreign.foreign == f"torch {torch.__version__} in place of 1.0"
    assert ProductChoices("aten", recorded=record).record() == {}


def test_torch_computes_what_the_other_libraries_do_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = planted(monkeypatch, "numpy")
    products = ProductChoices()
    a, b = matrices(100, 110, 120)
    wide = a.expand(2, 100, 110)
    assert torch.equal(vmap(products.mm, (0, None))(wide, b)[1], vmap(torch.mm, (0, None))(wide, b)[1])
    assert torch.equal(products.mm(a.half(), b.half()), a.half() @ b.half())
    assert torch.equal(products.mm(a[:2, :2], b[:2, :2]), a[:2, :2] @ b[:2, :2])
    assert torch.equal(products.mm(a[:1].expand_as(a), b), a[:1].expand_as(a) @ b)
    assert products.mm(a.to("meta"), b.to("meta")).is_meta
    assert any(
        node.target is torch.ops.aten.mm.default for node in make_fx(lambda x, y: products.mm(x, y))(a, b).graph.nodes
    )
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(a, a)
        tangent = torch.autograd.forward_ad.unpack_dual(products.mm(dual, b)).tangent
        assert tangent is not None and torch.equal(tangent, a @ b)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        products.mm(a, a)
    assert torch.equal(ProductChoices("aten").mm(a, b), a @ b)
    assert not timed
    with pytest.raises(InputError, match="matmul"):
        ProductChoices("mkl")


def test_numpy_is_offered_only_with_the_threads_of_torch() -> None:
    blas, threads = blas_of("numpy"), torch.get_num_threads()
    if blas is None:
        pytest.skip("the BLAS of NumPy is not known")
    former = blas.num_threads
    try:
        blas.set_num_threads(threads)
        assert is_offered("numpy", torch.float64)
        blas.set_num_threads(threads + 1)
        assert blas.num_threads == threads or not is_offered("numpy", torch.float64)
    finally:
        blas.set_num_threads(former)


def test_the_timing_takes_the_fastest_right_library_and_torch_at_a_tie(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = ProductKind(30, 40, 20, torch.float32, "n", "t", True, torch.get_num_threads())
    seconds = {"aten": 1.0, "onednn": 0.97, "numpy": 2.0}
    monkeypatch.setattr("pvae.products.timing.is_offered", lambda library, dtype: True)
    monkeypatch.setattr(
        "pvae.products.timing._seconds_of",
        lambda call: next(seconds[name] for name, own in PRODUCTS_IN_ROW.items() if own is call.func),
    )
    state = torch.get_rng_state()
    assert fastest_library(kind) == "aten"
    assert torch.equal(torch.get_rng_state(), state)
    seconds["onednn"] = 0.9
    assert fastest_library(kind) == "onednn"
    seconds["numpy"] = 0.8
    assert fastest_library(kind) == "numpy"
    seconds.update({name: 1e-6 * value for name, value in seconds.items()})
    assert fastest_library(kind) == "aten"  # nothing to gain
    seconds.update({name: 1e6 * value for name, value in seconds.items()})
    assert fastest_library(kind) == "numpy"
    right = PRODUCTS_IN_ROW["numpy"]
    monkeypatch.setitem(PRODUCTS_IN_ROW, "numpy", lambda *arguments: right(*arguments) * (1 + 1e-4))
    assert fastest_library(kind) == "onednn"

    def failing(*_: object) -> Tensor:
        raise RuntimeError("not built")

    monkeypatch.setitem(PRODUCTS_IN_ROW, "onednn", failing)
    assert fastest_library(kind) == "aten"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("has_bias", [False, True])
def test_every_kind_can_be_timed(
    dtype: torch.dtype, has_bias: bool, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr("pvae.products.timing._LARGEST_SHARE", 1e9)
    monkeypatch.setattr("pvae.products.timing._LEAST_SAVING", -1e9)
    monkeypatch.setattr("pvae.products.timing._seconds_of", lambda call: float(call.func is PRODUCTS["aten"]))
    for left, right in itertools.product("nt", repeat=2):
        kind = ProductKind(7, 30, 5, dtype, left, right, has_bias, torch.get_num_threads())
        others = [name for name in PRODUCTS if name != "aten" and is_offered(name, dtype)]
        assert fastest_library(kind) == (others[0] if others else "aten")


def test_the_choice_for_compiled_code_is_made_by_the_functions_that_it_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvae.products.timing.is_offered", lambda library, dtype: True)
    fast = {"graph": PRODUCTS_IN_ROW["onednn"], "compiled": PRODUCTS_IN_COMPILED_CODE["numpy"]}
    monkeypatch.setattr("pvae.products.timing._seconds_of", lambda call: float(call.func not in fast.values()))
    kind = ProductKind(30, 40, 20, torch.float32, "n", "t", True, torch.get_num_threads())
    compiled = replace(kind, is_compiled=True)
    assert [fastest_library(kind), fastest_library(compiled)] == ["onednn", "numpy"]
    assert str(compiled) == f"compiled-{kind}"
    a, b = matrices(30, 40, 20)
    into, bias = torch.empty(30, 20, dtype=torch.float64), torch.ones(20, dtype=torch.float64)
    result = PRODUCTS_IN_COMPILED_CODE["numpy"](a, b, bias, into)
    assert result is into  # without the bias, which the compiler adds
    torch.testing.assert_close(result, a @ b, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "sizes", [(7, 11, 90), (90, 7, 11), (11, 90, 7), (13, 97, 101), (1, 2000, 1), (40, 40, 40), (0, 3, 5)]
)
def test_a_product_in_blocks_is_the_product(sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvae.products.numpy_products.MOST_IN_BLOCK", 800)
    exact_a, exact_b = matrices(*sizes)
    for left, right in itertools.product(LAYOUTS, repeat=2):
        a, b = LAYOUTS[left](exact_a), LAYOUTS[right](exact_b)
        into = torch.full((sizes[0], sizes[2]), torch.nan, dtype=torch.float64)
        assert multiply_in_blocks(a, b, into) is into
        torch.testing.assert_close(into, a @ b, rtol=1e-12, atol=1e-12)
        assert torch.equal(multiply_in_blocks(a, b, None), into)


def test_blocks_are_timed_for_products_of_a_few_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_offered("blocks", torch.float64):
        pytest.skip("the BLAS of NumPy is not OpenBLAS")
    monkeypatch.setattr(
        "pvae.products.timing._seconds_of", lambda call: float(call.func is not PRODUCTS_IN_ROW["blocks"])
    )
    found = {}
    for columns in (10, 500, 20_000):
        kind = kind_of(
            torch.empty(50, 150, dtype=torch.float64), torch.empty(150, columns, dtype=torch.float64), fewest=0
        )
        assert kind is not None
        found[columns] = [fastest_library(kind), fastest_library(replace(kind, is_compiled=True))]
    assert found == {10: ["aten", "aten"], 500: ["blocks", "aten"], 20_000: ["aten", "aten"]}


def test_a_large_product_counts_as_a_smaller_one() -> None:
    kind = kind_of(torch.empty(10**6, 64), torch.empty(64, 50))
    assert kind is not None and (kind.rows, kind.inner, kind.columns) == (31250, 64, 50)


def test_the_products_of_a_graph_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, "numpy")
    a, b = matrices(100, 110, 120)
    bias, row = torch.ones(120, dtype=torch.float64), torch.ones(1, 120, dtype=torch.float64)

    def function(x: Tensor) -> tuple[Tensor, ...]:
        return torch.addmm(bias, x, b), x @ b, torch.addmm(row, x, b), torch.addmm(bias, x, b, beta=2), x[:2] @ b[:, :2]

    graph = make_fx(function)(a)
    products = ProductChoices()
    kinds = replace_products(graph, products)
    assert sorted(str(kind).split("-")[0] for kind in kinds) == ["addmm", "mm"]
    assert sum(node.target is PRODUCTS_IN_ROW["numpy"] for node in graph.graph.nodes) == 2
    for mine, expected in zip(graph(a), function(a), strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)
    products.use_aten(kinds)
    assert not replace_products(make_fx(function)(a), products)


@pytest.mark.parametrize("library", ["aten", "numpy"])
@pytest.mark.parametrize(("left", "right"), [*itertools.product((False, True), repeat=2)])
def test_a_batched_product_is_the_product_of_each_pair(
    library: str, left: bool, right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = planted(monkeypatch, library)
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, 40, 40, generator=draw, dtype=torch.float64) for _ in range(2))
    a, b = (a.mT if left else a), (b.mT if right else b)
    into = torch.full((4, 40, 40), torch.nan, dtype=torch.float64)
    product = ProductChoices().product_of(a, b)
    expected = torch.stack([a[i] @ b[i] for i in range(4)])
    for out in (None, into):
        torch.testing.assert_close(product(a, b, None, out), expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(into, expected, rtol=1e-13, atol=1e-13)
    layouts = ("t" if left else "n") + ("t" if right else "n")
    assert [str(kind) for kind in timed] == [f"bmm4-40x40x40-float64-{layouts}-{torch.get_num_threads()}"]


def test_batched_kinds_are_timed_in_their_shape_and_never_by_onednn() -> None:
    for dtype in (torch.float32, torch.float64):
        a = torch.randn(3, 50, 40, dtype=dtype)
        kind = kind_of(a, a.mT, fewest=0)
        assert kind is not None and fastest_library(kind) in ("aten", "numpy")
        assert ProductChoices("aten").product_of(a, a.mT) is PRODUCTS["aten"]
