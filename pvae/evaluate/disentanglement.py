"""Do single latent units stand for single factors? MIG and DCI, where the factors of the data are known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.evaluation_context import prepared
from pvae.programs.queries import encode, joined

__all__ = ["Disentanglement", "disentanglement", "importance_scores", "mutual_information_gap"]


@dataclass(frozen=True)
class Disentanglement:
    """How far single latent units stand for single factors; 1 is best, all are shares.

    Attributes:
        mig: the mutual information gap, a mean over factors.
        disentanglement: D of DCI: whether a unit tells of one factor only, weighted by how much it tells.
        completeness: C of DCI: whether one unit tells all that is told of a factor, a mean over factors.
        informativeness: I of DCI: accuracy of the factors predicted on held-out codes, a mean over factors.
        importance: how much each unit counts in the prediction of each factor, shape (units, factors).
        mutual_information: of each unit and factor, nats, shape (units, factors).
    """

    mig: float
    disentanglement: float
    completeness: float
    informativeness: float
    importance: Tensor
    mutual_information: Tensor


def disentanglement(
    model: Any, data: Any, factors: Tensor | None = None, *, bins: int = 20, **where: Any
) -> Disentanglement:
    """Judge the codes of a model against the known factors of the data.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split), or a `Batch`, whose field ``factors`` holds whole numbers (data, factors).
        factors: the factors, where the data have no such field.
        bins: of a unit's values, equally wide, for the mutual information.
        where: ``limit``, ``seed``, ``device``, ``split``, ``fields`` of `prepared`; the seed is the forests' too.

    Raises:
        InputError: if there are no factors, or they are constant.
    Sources: Chen et al., Isolating Sources of Disentanglement, arXiv:1802.04942, equation 6, with mean codes in bins as
    in Locatello et al., arXiv:1811.12359; Eastwood & Williams, A Framework for the Quantitative Evaluation of
    Disentangled Representations, ICLR 2018, with random forests.
    """
    with prepared(model, data, **where) as setting:
        size = setting.batch.size
        known = setting.batch.get("factors") if factors is None else factors[:size]
        if known is None:
            raise InputError("Disentanglement needs the factors of the data: a field 'factors', or factors=.")
        found = encode(setting.model, setting.batch, setting.fields)
    codes = joined(found).double().cpu()
    values = torch.as_tensor(known).reshape(size, -1).long().cpu()
    constant = [column for column in range(values.shape[1]) if len(values[:, column].unique()) < 2]
    if constant:
        raise InputError(f"Factor {constant[0]} has one value only in these data; leave it out.")
    mig, information = mutual_information_gap(codes, values, bins=bins)
    importance, accuracy = _forests(codes.numpy(), values.numpy(), where.get("seed", 0))
    unit, factor = importance_scores(importance)
    return Disentanglement(mig, unit, factor, accuracy, importance, information)


def mutual_information_gap(codes: Tensor, factors: Tensor, *, bins: int = 20) -> tuple[float, Tensor]:
    """Return the mutual information gap, and the mutual information of each unit and factor in nats.

    For each factor: how much more the best unit tells of it than the second best, as a share of its entropy.

    Args:
        codes: shape (data, units), at least two units.
        factors: whole numbers, shape (data, factors).
        bins: of a unit's values, equally wide between its extremes.

    Raises:
        InputError: if there is one unit only.
    """
    if codes.shape[1] < 2:
        raise InputError("A gap needs at least two latent units; there is one.")
    low, high = codes.min(0).values, codes.max(0).values
    bins = require_whole(bins, "bins")
    placed = ((codes - low) / (high - low).clamp_min(1e-12) * bins).long().clamp(max=bins - 1)
    information = torch.stack([torch.stack([_information(unit, factor) for factor in factors.T]) for unit in placed.T])
    entropy = torch.stack([_information(factor, factor) for factor in factors.T])
    best = information.topk(2, 0).values
    return float(((best[0] - best[1]) / entropy).mean()), information


def _information(first: Tensor, second: Tensor) -> Tensor:
    """Mutual information of two discrete variables, nats."""
    _, first = first.unique(return_inverse=True)
    _, second = second.unique(return_inverse=True)
    joint = torch.zeros(int(first.max()) + 1, int(second.max()) + 1, dtype=torch.float64)
    joint.index_put_((first, second), torch.ones(len(first), dtype=torch.float64), accumulate=True)
    joint /= len(first)
    apart = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return torch.where(joint > 0, joint * (joint.clamp_min(1e-300) / apart).log(), 0.0).sum()


def importance_scores(importance: Tensor) -> tuple[float, float]:
    """Return disentanglement and completeness of a matrix of importances, shape (units, factors), not negative.

    Each is 1 minus the entropy of a row or column, in units of its maximum: rows weighted by their share of all
    importance, each column as any other. A unit that tells nothing has no weight; a factor that none tells of counts 0.
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


def _forests(codes: np.ndarray, factors: np.ndarray, seed: int) -> tuple[Tensor, float]:
    """Importances by a random forest for each factor, shape (units, factors), and the mean held-out accuracy."""
    from sklearn.ensemble import RandomForestClassifier

    # at random: data in the order of a grid have only some values of a factor in every second row
    held = np.random.default_rng(seed).permutation(len(codes)) % 2 == 1
    columns, scores = [], []
    for values in factors.T:
        # all units at each split: among random ones an idle unit is taken for want of a better
        forest = RandomForestClassifier(100, random_state=seed, max_depth=12, max_features=None).fit(
            codes[~held], values[~held]
        )
        columns.append(forest.feature_importances_)
        scores.append(forest.score(codes[held], values[held]))
    return torch.as_tensor(np.stack(columns, 1)), float(np.mean(scores))
