"""The status of each fitted component, and warnings about a fit."""

from __future__ import annotations

from torch import Tensor, tensor

from pvae.em.fit_mixture import EMFit

__all__ = ["find_regularised", "find_status", "format_ranges", "list_warnings", "true_indices"]


def find_regularised(fit: EMFit) -> Tensor:
    """Return where a variance is below ten times the regularisation, (components, features) bool.

    The variance is that of a feature given the features before it, so that it shows narrow directions too.
    """
    run = fit.run
    components, features = run.mixture.means.shape
    # The square of a diagonal entry of the Cholesky factor is the variance given the features before.
    roots = fit.mixture.family.to_dense(run.mixture.roots, components, features).diagonal(dim1=1, dim2=2)
    return roots.square() < 10 * fit.options.regularisation


def find_status(fit: EMFit, is_regularised: Tensor) -> list[str]:
    """Return one word for each component; where several apply, the last in this list.

    The words are fitted, regularised (a variance is below ten times the regularisation), floored (the covariance had
    no Cholesky factor), merged (it replaces several components), reseeded, and empty.

    Args:
        fit: the result of a fit.
        is_regularised: the result of `find_regularised`, (components, features).
    """
    run = fit.run
    masks = {
        "regularised": is_regularised.any(1),
        "floored": run.is_floored,
        "merged": tensor([len(numbers) > 1 for numbers in fit.merged]),
        "reseeded": run.is_reseeded,
        "empty": run.is_empty,
    }
    status = ["fitted"] * run.mixture.components
    for word, mask in masks.items():
        for component in true_indices(mask):
            status[component] = word
    return status


def list_warnings(fit: EMFit, is_regularised: Tensor, reg_covar: float | str) -> list[str]:
    """Return warnings about a fit, one line each.

    Args:
        fit: the result of a fit.
        is_regularised: the result of `find_regularised`, (components, features).
        reg_covar: the parameter of the estimator.
    """
    run = fit.run
    lines = []
    if run.falls:
        lines.append(
            f"The bound fell in {len(run.falls)} of {len(run.bounds)} steps, by up to {max(run.falls):.3g} nats per "
            "datum, because reg_covar moves the covariances away from their maximum. reg_covar='relative' moves them "
            "less."
        )
    if bool(run.is_empty.any()):
        lines.append(
            f"Components {format_ranges(true_indices(run.is_empty))} have no data and kept their parameters. Use "
            "fewer components, or empty='reseed'."
        )
    if bool(run.is_floored.any()):
        lines.append(
            f"The covariances of components {format_ranges(true_indices(run.is_floored))} collapsed and were raised to "
            "the least that is positive definite. Use fewer components, or a larger reg_covar."
        )
    if bool(is_regularised.any()) and not isinstance(reg_covar, str):
        lines.append(
            f"Components {format_ranges(true_indices(is_regularised.any(1)))} have variances below ten times "
            f"reg_covar={reg_covar:g} in features {format_ranges(true_indices(is_regularised.any(0)))}: reg_covar, not "
            "the data, determines these variances. reg_covar='relative' follows the scale of each feature."
        )
    return lines


def format_ranges(numbers: list[int], limit: int = 8) -> str:
    """Return ascending numbers as text, such as "0-2, 7".

    >>> format_ranges([0, 1, 2, 7])
    '0-2, 7'

    Args:
        numbers: in ascending order.
        limit: largest number of ranges; "..." replaces the ranges after them.
    """
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1].append(number)
        else:
            ranges.append([number])
    texts = [str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in ranges]
    return ", ".join(texts[:limit]) + (", ..." if len(texts) > limit else "")


def true_indices(mask: Tensor) -> list[int]:
    """Return the indices of the True entries of a mask, (entries,) bool."""
    indices: list[int] = mask.nonzero().flatten().tolist()
    return indices
