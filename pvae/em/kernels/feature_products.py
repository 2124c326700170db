"""The two matrix products of `FeatureKernel`, in the fastest of several ways for the size of a chunk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.linalg.blas
import torch
from torch import Tensor

from pvae.products import ProductChoices
from pvae.products.libraries import ATEN, BLOCKS_OF_SCIPY, EACH_ALONE, PRODUCTS, TRANSPOSED_BLOCKS, Product, is_offered
from pvae.products.numpy_products import MOST_IN_BLOCK

__all__ = ["BlockedProducts", "FeatureProducts", "SeparateProducts", "make_feature_products"]


class FeatureProducts(ABC):
    """The products of natural parameters and phi, and of responsibilities and phi; the latter are added up.

    Attributes:
        sums: sum of responsibilities times phi over the chunks, in the dtype of the arithmetic; a view of shape
            (components, phi_size).
    """

    sums: Tensor

    @abstractmethod
    def logits(self, phi: Tensor) -> Tensor:
        """Return natural parameters times phi in memory that the next chunk overwrites, (components, batch).

        Args:
            phi: (phi_size, batch).
        """

    @abstractmethod
    def add(self, responsibilities: Tensor, phi: Tensor) -> None:
        """Add responsibilities times phi to the sums.

        Args:
            responsibilities: (components, batch).
            phi: (phi_size, batch).
        """


class SeparateProducts(FeatureProducts):
    """Each of the two products by the fastest library for its shape.

    Args:
        natural_parameters: (components, phi_size).
        products: choose the library of each product.
    """

    def __init__(self, natural_parameters: Tensor, products: ProductChoices) -> None:
        self._natural_parameters = natural_parameters
        self._products = products
        components, size = natural_parameters.shape
        # The second product is faster with the smaller dimension first. A product in blocks copies its second matrix.
        is_chosen = natural_parameters.device.type == "cpu" and products.matmul == "auto"
        self._is_transposed = size <= components or (is_chosen and natural_parameters.dtype == torch.float64)
        shape = (size, components) if self._is_transposed else (components, size)
        self._sums = natural_parameters.new_zeros(shape)
        self._new_sums = torch.empty_like(self._sums)
        self.sums = self._sums.mT if self._is_transposed else self._sums
        self._multiply: dict[int, tuple[Product, Tensor]] = {}
        self._add: dict[int, Product] = {}

    def logits(self, phi: Tensor) -> Tensor:
        """Return natural parameters times phi, (components, batch)."""
        batch = phi.shape[1]
        if batch not in self._multiply:
            result = phi.new_empty(len(self._natural_parameters), batch)
            self._multiply[batch] = self._products.product_of(self._natural_parameters, phi), result
        multiply, result = self._multiply[batch]
        return multiply(self._natural_parameters, phi, None, result)

    def add(self, responsibilities: Tensor, phi: Tensor) -> None:
        """Add responsibilities times phi to the sums."""
        left, right = (phi, responsibilities.mT) if self._is_transposed else (responsibilities, phi.mT)
        batch = phi.shape[1]
        if batch not in self._add:
            self._add[batch] = self._products.product_of(left, right)
        multiply = self._add[batch]
        if multiply is PRODUCTS[ATEN]:
            self._sums.addmm_(left, right)
        else:
            self._sums.add_(multiply(left, right, None, self._new_sums))


class BlockedProducts(FeatureProducts):
    """Both products by the BLAS of SciPy, in blocks of phi that OpenBLAS multiplies by its code for small matrices.

    This code does not copy the matrices, and is up to twice as fast. Each block is added to the result by the BLAS
    itself, which `numpy.matmul` cannot do.

    Args:
        natural_parameters: (components, phi_size), on the CPU.
        rows: number of data in a chunk; other numbers are possible, and slower.
        transposes: whether the responsibilities are transposed before the second product. This costs a copy, and the
            product of many features is then faster.
    """

    def __init__(self, natural_parameters: Tensor, rows: int, *, transposes: bool) -> None:
        components, size = natural_parameters.shape
        self._natural_parameters = np.ascontiguousarray(natural_parameters.numpy().T)
        self._sums = np.zeros_like(self._natural_parameters)
        self.sums = torch.from_numpy(self._sums).mT
        self._transposes = transposes
        is_double = natural_parameters.dtype == torch.float64
        self._gemm: Callable[..., Any] = scipy.linalg.blas.dgemm if is_double else scipy.linalg.blas.sgemm
        longest = max(1, MOST_IN_BLOCK // (components * rows))
        count = -(-size // longest)
        self._blocks = list(pairwise(size * part // count for part in range(count + 1)))
        self._memory: dict[int, tuple[Tensor, np.ndarray]] = {}

    def _memory_of(self, batch: int) -> tuple[Tensor, np.ndarray]:
        """Return memory for logits, (components, batch), and for transposed responsibilities, (batch, components)."""
        if batch not in self._memory:
            components = self.sums.shape[0]
            logits = torch.empty(components, batch, dtype=self.sums.dtype)
            self._memory[batch] = logits, np.empty((batch, components), self._sums.dtype)
        return self._memory[batch]

    def logits(self, phi: Tensor) -> Tensor:
        """Return natural parameters times phi, (components, batch)."""
        logits, _ = self._memory_of(phi.shape[1])
        # BLAS takes matrices with contiguous columns: the transposes of those here
        columns, result = phi.numpy().T, logits.numpy().T
        for start, end in self._blocks:
            natural_parameters = self._natural_parameters[start:end].T
            self._gemm(1.0, columns[:, start:end], natural_parameters, float(start > 0), result, 0, 1, 1)
        return logits

    def add(self, responsibilities: Tensor, phi: Tensor) -> None:
        """Add responsibilities times phi to the sums."""
        columns, left = phi.numpy().T, responsibilities.numpy().T
        if self._transposes:
            _, transposed = self._memory_of(phi.shape[1])
            np.copyto(transposed, left)
            left = transposed.T
        is_transposed = not self._transposes
        for start, end in self._blocks:
            self._gemm(1.0, left, columns[:, start:end], 1.0, self._sums[start:end].T, is_transposed, 0, 1)


def make_feature_products(natural_parameters: Tensor, rows: int, products: ProductChoices) -> FeatureProducts:
    """Return the two products in the way that is the fastest for chunks of a size on this machine.

    Args:
        natural_parameters: (components, phi_size).
        rows: number of data in a chunk.
        products: choose the way, and the library of each separate product.
    """
    components, size = natural_parameters.shape
    dtype = natural_parameters.dtype
    is_chosen = natural_parameters.device.type == "cpu" and products.matmul == "auto"
    if not is_chosen or components * rows > MOST_IN_BLOCK or not is_offered(BLOCKS_OF_SCIPY, dtype):
        return SeparateProducts(natural_parameters, products)

    def make(way: str) -> FeatureProducts:
        if way == EACH_ALONE:
            return SeparateProducts(natural_parameters, products)
        return BlockedProducts(natural_parameters, rows, transposes=way == TRANSPOSED_BLOCKS)

    def make_calls() -> dict[str, Callable[[], None]]:
        phi = torch.ones(size, rows, dtype=dtype)
        return {way: _make_call(make(way), phi) for way in (EACH_ALONE, BLOCKS_OF_SCIPY, TRANSPOSED_BLOCKS)}

    name = f"features-{components}x{size}x{rows}-{str(dtype).removeprefix('torch.')}-{torch.get_num_threads()}"
    return make(products.choose_way(name, make_calls))


def _make_call(feature_products: FeatureProducts, phi: Tensor) -> Callable[[], None]:
    """Return a function that computes both products once."""

    def call() -> None:
        feature_products.add(feature_products.logits(phi), phi)

    return call
