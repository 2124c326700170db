"""A two-sample test by the accuracy of a cross-fitted classifier, with an exact permutation p-value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pvae.errors import InputError

__all__ = ["ClassifierTest", "classifier_test", "features_of"]

Floats = NDArray[np.float64]

#: The largest number of principal components with squares and products as features.
_MOST_COMPONENTS = 20

#: The penalty of the regression, relative to the number of training data.
_RIDGE = 1e-3


@dataclass(frozen=True)
class ClassifierTest:
    """The result of a classifier that distinguishes two samples.

    Attributes:
        accuracy: the share of right labels on data that the classifier was not fitted to, the mean of both samples.
        error: its standard error.
        p_value: the share of permutations of the labels with at least this accuracy; the observed labels are counted
            too.
        permutations: the number of random permutations.
    """

    accuracy: float
    error: float
    p_value: float
    permutations: int


def features_of(first: Floats, second: Floats) -> Floats:
    """Return numbers, squares and products of both samples, shape (draws, features), the first sample first.

    Units without spread are left out. If there are more than 20 units, they are replaced by the first 20 principal
    components of both samples together, so the features do not depend on the labels.

    Args:
        first: shape (draws, units).
        second: shape (draws, units).
    """
    joined = np.concatenate([first, second])
    spread = joined.std(0)
    scaled = (joined - joined.mean(0))[:, spread > 0] / spread[spread > 0]
    if scaled.shape[1] > _MOST_COMPONENTS:
        _, _, directions = np.linalg.svd(scaled, full_matrices=False)
        scaled = scaled @ directions[:_MOST_COMPONENTS].T
        scaled = scaled / np.maximum(scaled.std(0), 1e-12)
    rows, columns = np.triu_indices(scaled.shape[1])
    return np.concatenate([np.ones((len(scaled), 1)), scaled, scaled[:, rows] * scaled[:, columns]], 1)


def classifier_test(
    first: Floats, second: Floats, *, permutations: int = 500, folds: int = 5, seed: int = 0
) -> ClassifierTest:
    """Test whether two samples come from the same distribution, by a classifier of x.

    The classifier is Fisher's linear discriminant on the numbers, squares and products of x, by least squares with a
    small penalty. Each fold is classified by the fit to the other folds. The fit is linear in the labels, so each
    permutation of the labels is fitted too, and the p-value is exact.

    Args:
        first: shape (draws, units).
        second: shape (draws, units); with the same number of draws, a guess has an accuracy of 1/2.
        permutations: the number of random permutations of the labels.
        folds: the number of folds.
        seed: the seed of the folds and of the permutations.

    Raises:
        InputError: if the samples differ in units, or have fewer draws than folds.
    Source: Lopez-Paz & Oquab, Revisiting Classifier Two-Sample Tests, arXiv:1610.06545; a p-value that counts the
        observed statistic among the permuted is exact: Phipson & Smyth, arXiv:1603.05766.
    """
    if first.ndim != 2 or first.shape[1:] != second.shape[1:] or min(len(first), len(second)) < folds:
        raise InputError(
            f"classifier_test needs two samples of the same units, shape (draws, units), with at least {folds} draws "
            f"each; got shapes {first.shape} and {second.shape}."
        )
    features, generator = features_of(first, second), np.random.default_rng(seed)
    labels = np.repeat([1.0, -1.0], [len(first), len(second)])
    columns = [labels, *[generator.permutation(labels) for _ in range(permutations)]]
    right = _right_labels(features, np.stack(columns, 1), generator.permutation(len(labels)) % folds)
    is_first = np.stack(columns, 1) > 0
    per_sample = [np.where(mask, right, 0.0).sum(0) / mask.sum(0) for mask in (is_first, ~is_first)]
    accuracy = 0.5 * (per_sample[0] + per_sample[1])
    as_good = int((accuracy[1:] >= accuracy[0] - 1e-12).sum())
    shares = [(float(share[0]), len(sample)) for share, sample in zip(per_sample, (first, second), strict=True)]
    error = 0.5 * math.sqrt(sum(share * (1 - share) / count for share, count in shares))
    return ClassifierTest(float(accuracy[0]), error, (1 + as_good) / (1 + permutations), permutations)


def _right_labels(features: Floats, labels: Floats, fold: NDArray[np.int64]) -> Floats:
    """Return whether each label is predicted by the fit to the other folds, shape (draws, labellings).

    Args:
        features: shape (draws, features).
        labels: 1 or -1, shape (draws, labellings).
        fold: the fold of each draw, shape (draws,).
    """
    right = np.empty_like(labels)
    for index in range(fold.max() + 1):
        test = fold == index
        x = features[~test]
        penalty = _RIDGE * len(x) * np.eye(x.shape[1])
        penalty[0, 0] = 0.0
        weights = np.linalg.solve(x.T @ x + penalty, x.T @ labels[~test])
        right[test] = (features[test] @ weights > 0) == (labels[test] > 0)
    return right
