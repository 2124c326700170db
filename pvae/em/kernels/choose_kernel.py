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

#: Largest rounding error of a log-density that `FeatureKernel` may make: mean over the data, and in any component. In
#: float32, the covariances then have errors of about a third of the latter, relative to themselves.
FEATURE_ERROR = {torch.float64: (1e-9, 1e-6), torch.float32: (1e-4, 1e-3)}
#: Largest rounding error of a whitened coordinate in float32.
WHITENED_ERROR = 1e-5
#: For full covariances, the features of a datum cost more than its products with all components if components are few.
#: From these numbers of features for each component on, the kernels on deviations are faster: than `FeatureKernel` in
#: the same dtype, and `WhitenedKernel` in float32 than `FeatureKernel` in float64.
FEATURES_PER_COMPONENT = 9
FEATURES_PER_COMPONENT_OF_FLOAT32 = 3


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
    if _has_few_components(mixture, FEATURES_PER_COMPONENT):
        is_on_cpu = mixture.means.device.type == "cpu"
        return ComponentKernel(mixture, products) if is_on_cpu else WhitenedKernel(mixture, torch.float64, products)
    return FeatureKernel(mixture, torch.float64, products)


def _float32_kernel(mixture: Mixture, mean: float, worst: float, products: ProductChoices) -> EStepKernel | None:
    """Return the fastest accurate kernel in float32, or None where float64 is faster or float32 is not accurate."""
    is_accurate = _is_feature_kernel_accurate(mean, worst, torch.float32)
    if is_accurate and not _has_few_components(mixture, FEATURES_PER_COMPONENT):
        return FeatureKernel(mixture, torch.float32, products)
    is_faster = mixture.family.name != "full" or _has_few_components(mixture, FEATURES_PER_COMPONENT_OF_FLOAT32)
    if is_faster and torch.finfo(torch.float32).eps * worst**0.5 <= WHITENED_ERROR:
        return WhitenedKernel(mixture, torch.float32, products)
    return None


def _has_few_components(mixture: Mixture, features_per_component: int) -> bool:
    """Return whether full covariances have at least so many features for each component."""
    return mixture.family.name == "full" and mixture.components * features_per_component <= mixture.features


def _is_feature_kernel_accurate(mean: float, worst: float, dtype: torch.dtype) -> bool:
    eps = torch.finfo(dtype).eps
    largest_mean, largest_worst = FEATURE_ERROR[dtype]
    return eps * mean <= largest_mean and eps * worst <= largest_worst
