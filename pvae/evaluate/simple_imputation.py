"""Imputation of missing entries without a model, as a baseline, and a score of imputed entries."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.errors import InputError
from pvae.evaluate.base import Estimate

__all__ = ["filled_log_likelihood", "mean_filling", "nearest_neighbour_filling"]

#: The number of rows that are compared with all training data at once, which limits the memory.
_ROWS_AT_ONCE = 500


def mean_filling(train: Batch, batch: Batch) -> Tensor:
    """Return x with each missing entry replaced by the mean of this entry over the training data, in the shape of x.

    Args:
        train: training data; if they have a ``mask``, only their observed entries count.
        batch: data with ``x`` and ``mask`` (1 observed, 0 missing).

    Example:
        >>> import pvae, torch
        >>> train = pvae.Batch(x=torch.tensor([[0.0, 2.0], [1.0, 4.0]]))
        >>> batch = pvae.Batch(x=torch.tensor([[9.0, 9.0]]), mask=torch.tensor([[1.0, 0.0]]))
        >>> pvae.evaluate.mean_filling(train, batch)
        tensor([[9., 3.]])
    """
    x, mask = _flat_x_and_mask(batch)
    return torch.where(mask > 0, x, _mean(train)).reshape(batch.x.shape)


def nearest_neighbour_filling(train: Batch, batch: Batch) -> Tensor:
    """Return x with its missing entries taken from the training datum that is nearest in the observed entries.

    Distances are mean squares over the entries that are observed in both. Entries that the nearest datum misses too,
    and all entries of a datum without observed entries, are replaced by the mean over the training data.

    Args:
        train: training data; if they have a ``mask``, only their observed entries count.
        batch: data with ``x`` and ``mask`` (1 observed, 0 missing).

    Returns:
        The imputed data, in the shape of x.

    Example:
        >>> import pvae, torch
        >>> train = pvae.Batch(x=torch.tensor([[0.0, 2.0], [1.0, 4.0]]))
        >>> batch = pvae.Batch(x=torch.tensor([[0.9, 9.0]]), mask=torch.tensor([[1.0, 0.0]]))
        >>> pvae.evaluate.nearest_neighbour_filling(train, batch)
        tensor([[0.9000, 4.0000]])
    """
    x, mask = _flat_x_and_mask(batch)
    train_x, train_mask = _flat_x_and_mask(train)
    mean = _mean(train)
    imputed = []
    for rows, rows_mask in zip(x.split(_ROWS_AT_ONCE), mask.split(_ROWS_AT_ONCE), strict=True):
        observed = rows * rows_mask
        # Sums of squared differences over common entries, shape (rows, training data), by the binomial formula.
        row_squares = (observed * rows) @ train_mask.T
        products = observed @ (train_x * train_mask).T
        train_squares = rows_mask @ (train_x.square() * train_mask).T
        squares = row_squares - 2 * products + train_squares
        common = rows_mask @ train_mask.T
        nearest = (squares / common.clamp_min(1)).masked_fill(common == 0, torch.inf).argmin(1)
        from_nearest = (train_mask[nearest] > 0) & (rows_mask.sum(1, keepdim=True) > 0)
        imputed.append(torch.where(from_nearest, train_x[nearest], mean))
    return torch.where(mask > 0, x, torch.cat(imputed)).reshape(batch.x.shape)


def filled_log_likelihood(filled: Tensor, batch: Batch, least: float = 0.01) -> Estimate:
    """Return the mean log-likelihood of the missing entries of x in {0, 1}, in nats per missing entry.

    An imputed value is used as the probability of 1, clamped to [least, 1 - least]. Without the clamp, one wrong pixel
    of a nearest neighbour would give minus infinity. For each datum the sum is divided by the number of missing
    entries, as in `missing_log_likelihood`; data without missing entries are left out.

    Args:
        filled: x with imputed entries, in the shape of x.
        batch: data with a complete ``x`` and ``mask`` (1 observed, 0 missing).
        least: the least probability of either value.

    Raises:
        InputError: if x has other values than 0 and 1, or no entry is missing.

    Example:
        >>> import pvae, torch
        >>> from pvae.evaluate import filled_log_likelihood, mean_filling
        >>> train = pvae.Batch(x=torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
        >>> batch = pvae.Batch(x=torch.tensor([[1.0, 1.0]]), mask=torch.tensor([[0.0, 1.0]]))
        >>> round(filled_log_likelihood(mean_filling(train, batch), batch).value, 3)  # log 0.5
        -0.693
    """
    x, mask = _flat_x_and_mask(batch)
    if not bool(((x == 0) | (x == 1)).all()):
        raise InputError(
            "filled_log_likelihood needs x in {0, 1}; these data have other values. Binarise the data, for example "
            "with binarise='static'."
        )
    probability = filled.reshape(x.shape).to(x).clamp(least, 1 - least)
    log_likelihoods = torch.where(x > 0, probability, 1 - probability).log().double()
    missing = (1 - mask).double()
    count = missing.sum(1)
    if not bool((count > 0).any()):
        raise InputError(
            "filled_log_likelihood needs data with missing entries. Nothing is missing in these data; load them with a "
            "mask, for example mask='block'."
        )
    return Estimate.mean_of(((log_likelihoods * missing).sum(1) / count)[count > 0])


def _flat_x_and_mask(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return x and its mask, both of shape (batch, entries); without a mask all entries are observed."""
    x = batch["x"].flatten(1)
    mask = batch["mask"].reshape(x.shape).to(x.dtype) if "mask" in batch else torch.ones_like(x)
    return x, mask


def _mean(train: Batch) -> Tensor:
    """Return the mean of the observed values of each entry, shape (entries,); 0 if an entry is never observed."""
    x, mask = _flat_x_and_mask(train)
    return (x * mask).sum(0) / mask.sum(0).clamp_min(1)
