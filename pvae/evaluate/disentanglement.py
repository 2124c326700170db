"""Disentanglement of latent units by the known factors of the data: MIG and DCI scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.evaluated_data import ModelOrRun
from pvae.evaluate.evaluation_context import evaluation_context
from pvae.programs.queries import codes_of_data, encode, joined

__all__ = ["Disentanglement", "disentanglement", "importance_scores", "mutual_information_gap"]


@dataclass(frozen=True)
class Disentanglement:
    """How closely single latent units correspond to single factors; all scores are from 0 to 1, and 1 is best.

    Attributes:
        mig: the mutual information gap, a mean over factors.
        disentanglement: D of DCI. It is 1 if each unit predicts one factor only; units are weighted by importance.
        completeness: C of DCI. It is 1 if each factor is predicted by one unit only; a mean over factors.
        informativeness: I of DCI. The accuracy of the factors predicted from held-out codes, a mean over factors.
        importance: the importance of each unit for the prediction of each factor, shape (units, factors).
        mutual_information: the mutual information of each unit and factor, nats, shape (units, factors).

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> factors = torch.arange(40).reshape(-1, 1) % 4
        >>> scores = pvae.evaluate.disentanglement(model, x.repeat(10, 1), factors)
        >>> 0 <= scores.mig <= 1, scores.importance.shape
        (True, torch.Size([2, 1]))
    """

    mig: float
    disentanglement: float
    completeness: float
    informativeness: float
    importance: Tensor
    mutual_information: Tensor


def disentanglement(
    model: ModelOrRun, data: Any = None, factors: Tensor | None = None, *, bins: int = 20, **where: Any
) -> Disentanglement:
    """Compute scores of the codes of a model by the known factors of the data.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split) or a `Batch`, with a field ``factors`` of whole numbers, shape (data, factors).
        factors: the factors, shape (data, factors), if the data have no such field.
        bins: the number of equally wide bins of a unit's values, for the mutual information.
        where: ``limit``, ``seed``, ``device``, ``split``, ``fields``; see `pvae.evaluate`. The random forests use the
            same seed.

    Raises:
        InputError: if there are no factors, or a factor is constant.
    Sources: Chen et al., Isolating Sources of Disentanglement, arXiv:1802.04942, equation 6, with mean codes in bins as
    in Locatello et al., arXiv:1811.12359; Eastwood & Williams, A Framework for the Quantitative Evaluation of
    Disentangled Representations, ICLR 2018, with random forests.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> factors = torch.arange(40).reshape(-1, 1) % 4
        >>> 0 <= pvae.evaluate.disentanglement(model, x.repeat(10, 1), factors).informativeness <= 1
        True
    """
    with evaluation_context(model, data, needs_density=False, **where) as context:
        size = context.batch.size
        known_factors = context.batch.get("factors") if factors is None else context.rows_of(factors)
        if known_factors is None:
            raise InputError(
                f"Disentanglement needs the factors of the data; the data have {', '.join(context.batch)}. Add a field "
                "'factors', or pass factors=."
            )
        programs = context.programs.bound_to(context.batch)
        codes_by_site = codes_of_data(encode(context.model, context.batch, context.fields), programs)
    codes = joined(codes_by_site).double().cpu()
    values = torch.as_tensor(known_factors).reshape(size, -1).long().cpu()
    constant = [column for column in range(values.shape[1]) if len(values[:, column].unique()) < 2]
    if constant:
        raise InputError(
            f"A factor needs at least two values. Factor {constant[0]} has one value only in these data; leave it out."
        )
    mig, mutual_information = mutual_information_gap(codes, values, bins=bins)
    importance, accuracy = _forest_importances(codes.numpy(), values.numpy(), where.get("seed", 0))
    disentangled, complete = importance_scores(importance)
    return Disentanglement(mig, disentangled, complete, accuracy, importance, mutual_information)


def mutual_information_gap(codes: Tensor, factors: Tensor, *, bins: int = 20) -> tuple[float, Tensor]:
    """Return the mutual information gap, and the mutual information of each unit and factor.

    The gap of a factor is its mutual information with the best unit minus its mutual information with the second best
    unit, divided by the entropy of the factor. The result is the mean over factors.

    Args:
        codes: shape (data, units), at least two units.
        factors: whole numbers, shape (data, factors).
        bins: the number of equally wide bins between the smallest and the largest value of a unit.

    Returns:
        The gap, from 0 to 1, and the mutual information in nats, shape (units, factors).

    Raises:
        InputError: if there is one unit only.
    """
    if codes.shape[1] < 2:
        raise InputError(
            f"A mutual information gap needs at least two latent units; got {codes.shape[1]}. Use a model with more."
        )
    low, high = codes.min(0).values, codes.max(0).values
    bins = require_whole(bins, "bins")
    binned = ((codes - low) / (high - low).clamp_min(1e-12) * bins).long().clamp(max=bins - 1)
    rows = []
    for unit in binned.T:
        rows.append(torch.stack([_mutual_information(unit, factor) for factor in factors.T]))
    information = torch.stack(rows)
    entropy = torch.stack([_mutual_information(factor, factor) for factor in factors.T])
    largest = information.topk(2, 0).values
    return float(((largest[0] - largest[1]) / entropy).mean()), information


def _mutual_information(first: Tensor, second: Tensor) -> Tensor:
    """Return the mutual information of two discrete variables, each of shape (data,), in nats."""
    _, first = first.unique(return_inverse=True)
    _, second = second.unique(return_inverse=True)
    joint = torch.zeros(int(first.max()) + 1, int(second.max()) + 1, dtype=torch.float64)
    joint.index_put_((first, second), torch.ones(len(first), dtype=torch.float64), accumulate=True)
    joint /= len(first)
    independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return torch.where(joint > 0, joint * (joint.clamp_min(1e-300) / independent).log(), 0.0).sum()


def importance_scores(importance: Tensor) -> tuple[float, float]:
    """Return disentanglement and completeness of a matrix of importances.

    The disentanglement of a unit is 1 minus the entropy of its row, divided by the largest possible entropy; the result
    is the mean over units, weighted by their share of all importance. The completeness of a factor is the same quantity
    for its column; the result is the plain mean over factors. A factor that no unit predicts counts 0.

    Args:
        importance: numbers that are not negative, shape (units, factors).
    """
    importance = importance.double()
    units, factors = importance.shape
    rows = importance / importance.sum(1, keepdim=True).clamp_min(1e-300)
    columns = importance / importance.sum(0, keepdim=True).clamp_min(1e-300)
    weights = importance.sum(1) / importance.sum().clamp_min(1e-300)
    disentangled = 1.0 - torch.special.entr(rows).sum(1) / math.log(max(factors, 2))
    complete = 1.0 - torch.special.entr(columns).sum(0) / math.log(max(units, 2))
    complete = torch.where(importance.sum(0) > 0, complete, 0.0)
    return float((weights * disentangled).sum()), float(complete.mean())


def _forest_importances(codes: np.ndarray, factors: np.ndarray, seed: int) -> tuple[Tensor, float]:
    """Return importances by a random forest for each factor, and the mean accuracy on held-out data.

    Args:
        codes: shape (data, units).
        factors: shape (data, factors).
        seed: the seed of the split into two halves, and of the forests.

    Returns:
        The importances, shape (units, factors), and the accuracy.
    """
    from sklearn.ensemble import RandomForestClassifier

    # The halves are random. In data in the order of a grid, every second row may miss values of a factor.
    held_out = np.random.default_rng(seed).permutation(len(codes)) % 2 == 1
    columns, accuracies = [], []
    for values in factors.T:
        # Each split considers all units, because a random subset of units may contain no useful one.
        forest = RandomForestClassifier(100, random_state=seed, max_depth=12, max_features=None)
        forest.fit(codes[~held_out], values[~held_out])
        columns.append(forest.feature_importances_)
        accuracies.append(forest.score(codes[held_out], values[held_out]))
    return torch.as_tensor(np.stack(columns, 1)), float(np.mean(accuracies))
