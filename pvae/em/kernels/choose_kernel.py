"""The choice of an E-step kernel by speed and accuracy."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.em.base import Mixture
from pvae.em.kernels.base import EStepKernel
from pvae.em.kernels.component_kernel import ComponentKernel
from pvae.em.kernels.feature_kernel import FeatureKernel
from pvae.em.kernels.whitened_kernel import WhitenedKernel
from pvae.products import ProductChoices

__all__ = ["choose_kernel"]

#: Largest rounding error of a log-density that `FeatureKernel` may make: mean over the data, and in any component.
FEATURE_ERROR = {torch.float64: (1e-9, 1e-6), torch.float32: (1e-4, 1e-3)}
#: Largest rounding error of a whitened coordinate in float32.
WHITENED_ERROR = 1e-5
#: Up to this number of features, `FeatureKernel` in float64 is faster for full covariances than any float32 kernel.
FEW_FEATURES = 8
#: From this number of features for each component on, `ComponentKernel` is faster than `FeatureKernel`.
FEATURES_PER_COMPONENT = 3


def choose_kernel(mixture: Mixture, mean_square: Tensor, dtype: torch.dtype, products: ProductChoices) -> EStepKernel:
    """Return the fastest kernel that is accurate for a mixture.

    Args:
        mixture: the parameters, in the coordinates of the chunks.
        mean_square: mean square of each feature in these coordinates, (features,).
        dtype: of the arithmetic; float64 replaces it where float32 is not accurate enough.
        products: compute the matrix products.
    """
    # The squares that the features kernel adds are of size |u|^2 P and cancel to about 1, where P is a precision. The
    # deviations that the whitened kernel takes are of size |u| P^(1/2).
    squares = (mixture.family.precision_diagonal(mixture.whitening) * mean_square).sum(-1)
    mean = float((mixture.weights * squares).sum())
    worst = float(squares.max())
    if dtype == torch.float32:
        kernel = _float32_kernel(mixture, mean, worst, products)
        if kernel is not None:
            return kernel
    if not _is_feature_kernel_accurate(mean, worst, torch.float64):
        return WhitenedKernel(mixture, torch.float64, products)
    # The features of a datum cost more than its products with all components if components are few.
    if mixture.family.name == "full" and mixture.components * FEATURES_PER_COMPONENT < mixture.features:
        is_on_cpu = mixture.means.device.type == "cpu"
        return ComponentKernel(mixture, products) if is_on_cpu else WhitenedKernel(mixture, torch.float64, products)
    return FeatureKernel(mixture, torch.float64, products)


def _float32_kernel(mixture: Mixture, mean: float, worst: float, products: ProductChoices) -> EStepKernel | None:
    """Return the fastest accurate kernel in float32, or None where float64 is faster or float32 is not accurate."""
    is_full = mixture.family.name == "full"
    if is_full and mixture.features <= FEW_FEATURES:
        return None
    if not is_full and _is_feature_kernel_accurate(mean, worst, torch.float32):
        return FeatureKernel(mixture, torch.float32, products)
    if torch.finfo(torch.float32).eps * worst**0.5 <= WHITENED_ERROR:
        return WhitenedKernel(mixture, torch.float32, products)
    return None


def _is_feature_kernel_accurate(mean: float, worst: float, dtype: torch.dtype) -> bool:
    eps = torch.finfo(dtype).eps
    largest_mean, largest_worst = FEATURE_ERROR[dtype]
    return eps * mean <= largest_mean and eps * worst <= largest_worst
