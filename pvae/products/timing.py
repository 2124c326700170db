"""Find the library that computes a kind of product fastest, or the fastest of several ways, with a few timed calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from pvae.products.kind_of_product import ProductKind
from pvae.products.libraries import (
    ATEN,
    BLOCKS,
    ONEDNN,
    PRODUCTS_IN_COMPILED_CODE,
    PRODUCTS_IN_ROW,
    is_offered,
)
from pvae.products.numpy_products import MOST_IN_BLOCK, warnings_silenced

__all__ = ["fastest_library", "fastest_way"]

#: torch's own product is replaced only by a library that takes less than this share of its time, and saves some
#: seconds: among the other operations of a step, a call of another library takes a little longer than among its own
#: calls.
_LARGEST_SHARE = 0.95
_LEAST_SAVING, _LEAST_SAVING_IN_COMPILED_CODE = 5e-6, 1e-6
#: The time for the calls of all libraries together, in seconds, and the number of calls of each.
_SECONDS = 4e-3
_FEWEST_ROUNDS, _MOST_ROUNDS = 4, 30
#: The number of blocks of a product that may be computed in blocks.
_MOST_BLOCKS = 20
#: The rounding errors of a product, in units of the last place of the sum of the absolute values of its terms.
_ULPS = 64


def fastest_library(kind: ProductKind) -> str:
    """Return the name of the fastest library for a kind of product.

    If two are equally fast, torch's own product is chosen. A library that fails, or with a result that differs from
    torch's by more than rounding, is left out. The global random generators do not change.

    Args:
        kind: the kind of the product.
    """
    with torch.no_grad(), warnings_silenced():
        arguments = _example(kind)
        expected = PRODUCTS_IN_ROW[ATEN](*arguments, None)
        names = [name for name in PRODUCTS_IN_ROW if name == ATEN or _is_right(name, kind, arguments, expected)]
        if names == [ATEN]:
            return ATEN
        products = PRODUCTS_IN_COMPILED_CODE if kind.is_compiled else PRODUCTS_IN_ROW
        out = torch.empty_like(expected) if kind.is_compiled else None
        calls = {name: partial(products[name], *arguments, out) for name in names}
        return _fastest(calls, _LEAST_SAVING_IN_COMPILED_CODE if kind.is_compiled else _LEAST_SAVING)


def fastest_way(calls: Mapping[str, Callable[[], object]]) -> str:
    """Return the name of the call that takes the shortest time. The first wins ties.

    Args:
        calls: functions that compute the same, by name.
    """
    with torch.no_grad(), warnings_silenced():
        return _fastest(calls, _LEAST_SAVING)


def _fastest(calls: Mapping[str, Callable[[], object]], least_saving: float) -> str:
    """Return the name of the fastest call, or the first name if another one saves too little time."""
    seconds = _least_seconds(calls)
    first = next(iter(calls))
    best = min(seconds, key=lambda name: seconds[name])
    limit = min(_LARGEST_SHARE * seconds[first], seconds[first] - least_saving)
    return best if seconds[best] < limit else first


def _example(kind: ProductKind) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return matrices of a kind: a, b, and the bias or None."""
    generator = torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int, layout: str) -> Tensor:
        shape = [rows, columns] if layout == "n" else [columns, rows]
        shape = [kind.batch, *shape] if kind.batch else shape
        values = torch.randn(shape, generator=generator, dtype=kind.dtype, device="cpu")
        return values if layout == "n" else values.mT

    a, b = matrix(kind.rows, kind.inner, kind.left), matrix(kind.inner, kind.columns, kind.right)
    bias = torch.randn(kind.columns, generator=generator, dtype=kind.dtype, device="cpu") if kind.has_bias else None
    return a, b, bias


def _is_right(
    library: str, kind: ProductKind, arguments: tuple[Tensor, Tensor, Tensor | None], expected: Tensor
) -> bool:
    """Return whether a library is available, and its result equals torch's up to rounding."""
    try:
        if not is_offered(library, kind.dtype) or (kind.batch and library in (ONEDNN, BLOCKS)):
            return False
        if library == BLOCKS and not _may_gain_by_blocks(kind):
            return False
        result = PRODUCTS_IN_ROW[library](*arguments, None)
    except Exception:  # a library may be built without an operation, which torch does not report
        return False
    a, b, bias = arguments
    sizes = torch.matmul(a.abs(), b.abs())
    if bias is not None:
        sizes += bias.abs()
    tolerance = _ULPS * torch.finfo(kind.dtype).eps * sizes
    return result.dtype == expected.dtype and bool(((result - expected).abs() <= tolerance).all())


def _may_gain_by_blocks(kind: ProductKind) -> bool:
    """Return whether a product has a few parts of the size for which OpenBLAS uses other code."""
    multiplications = kind.rows * kind.inner * kind.columns
    return not kind.is_compiled and MOST_IN_BLOCK < multiplications <= _MOST_BLOCKS * MOST_IN_BLOCK


def _least_seconds(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the shortest time of each call; they take turns."""
    seconds = dict.fromkeys(calls, float("inf"))
    begun = time.perf_counter()
    for round_number in range(_MOST_ROUNDS):
        for name, call in calls.items():
            seconds[name] = min(seconds[name], _seconds_of(call))
        if round_number + 1 >= _FEWEST_ROUNDS and time.perf_counter() - begun > _SECONDS:
            break
    return seconds


def _seconds_of(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun
