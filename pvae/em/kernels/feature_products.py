"""The two matrix products of `FeatureKernel`, each by the fastest library for the size of a chunk."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.products import ProductChoices
from pvae.products.libraries import ATEN, PRODUCTS, Product

__all__ = ["FeatureProducts"]

#: From this number of features for each component on, responsibilities are copied to a layout that is faster to read.
FEATURES_PER_COMPONENT = 8


class FeatureProducts:
    """The products of natural parameters and phi, and of responsibilities and phi; the latter are added up.

    Args:
        natural_parameters: (components, phi_size).
        products: choose the library of each product.

    Attributes:
        sums: sum of responsibilities times phi over the chunks, in the dtype of the arithmetic; a view of shape
            (components, phi_size).
    """

    def __init__(self, natural_parameters: Tensor, products: ProductChoices) -> None:
        self._natural_parameters = natural_parameters
        self._products = products
        components, size = natural_parameters.shape
        is_on_cpu = natural_parameters.device.type == "cpu"
        is_chosen = is_on_cpu and products.matmul == "auto"
        self._copies = is_chosen and components * FEATURES_PER_COMPONENT <= size
        # The second product is faster with the smaller dimension first. A product in blocks copies its second matrix.
        self._is_transposed = (
            self._copies or size <= components or (is_chosen and natural_parameters.dtype == torch.float64)
        )
        shape = (size, components) if self._is_transposed else (components, size)
        self._sums = natural_parameters.new_zeros(shape)
        self._new_sums = torch.empty_like(self._sums)
        self.sums = self._sums.mT if self._is_transposed else self._sums
        self._multiply: dict[int, tuple[Product, Tensor]] = {}
        self._add: dict[int, Product] = {}

    def logits(self, phi: Tensor) -> Tensor:
        """Return natural parameters times phi in memory that the next chunk overwrites, (components, batch).

        Args:
            phi: (phi_size, batch).
        """
        batch = phi.shape[1]
        if batch not in self._multiply:
            result = phi.new_empty(len(self._natural_parameters), batch)
            self._multiply[batch] = self._products.product_of(self._natural_parameters, phi), result
        multiply, result = self._multiply[batch]
        return multiply(self._natural_parameters, phi, None, result)

    def add(self, responsibilities: Tensor, phi: Tensor) -> None:
        """Add responsibilities times phi to the sums.

        Args:
            responsibilities: (components, batch).
            phi: (phi_size, batch).
        """
        left, right = responsibilities, phi.mT
        if self._is_transposed:
            left, right = phi, responsibilities.mT.contiguous() if self._copies else responsibilities.mT
        batch = phi.shape[1]
        if batch not in self._add:
            self._add[batch] = self._products.product_of(left, right)
        multiply = self._add[batch]
        if multiply is PRODUCTS[ATEN]:
            self._sums.addmm_(left, right)
        else:
            self._sums.add_(multiply(left, right, None, self._new_sums))
