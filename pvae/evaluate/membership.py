"""`membership`: how well the ELBO distinguishes training data from test data, and when they are memorised."""

from __future__ import annotations

import math
from typing import Any

import torch

from pvae.data import Splits
from pvae.data.streams.stored_batch import StoredBatch
from pvae.errors import InputError
from pvae.evaluate.base import Estimate
from pvae.evaluate.evaluated_data import ModelOrRun
from pvae.evaluate.evidence import elbo

__all__ = [
    "FEW_PARTICLES",
    "MEMORISED",
    "MOST_MEMBERSHIP",
    "describe_memorised",
    "is_memorised",
    "membership",
    "training_elbo",
]

MEMORISED = "training data memorised"

FEW_PARTICLES = 50
"""The number of draws of z for each training datum; the ELBO does not depend on it in expectation."""

MOST_MEMBERSHIP = 0.7
"""An area under the curve above this counts as memorised training data. It is a convention of pvae: 0.5 is not a
difference, and two normal distributions with equal variances and means that differ by 0.74 standard deviations give
0.7."""


def membership(train: Estimate, test: Estimate) -> Estimate:
    """Return the probability that a training datum has a larger value than a test datum, with its standard error.

    It is the area under the receiver operating characteristic of an attack that guesses from the value which data were
    used in the training. Ties count half. It is 0.5 if training and test data have the same distribution of values.

    Args:
        train: a value of each training datum, such as the ELBO.
        test: the same value of each test datum.

    Returns:
        The probability, with the error of DeLong and the number of test data as its count.

    Raises:
        InputError: if an estimate has no pointwise values.
    Sources: DeLong, DeLong & Clarke-Pearson, Biometrics 44 (1988) (the error); van den Burg & Williams, On
        Memorization in Probabilistic Deep Generative Models, arXiv:2106.03216.

    Example:
        >>> import torch
        >>> from pvae.evaluate import mean_of, membership
        >>> train, test = mean_of(torch.tensor([-1.0, -2.0, -4.0])), mean_of(torch.tensor([-3.0, -5.0]))
        >>> round(membership(train, test).value, 3)  # in 5 of the 6 pairs the training datum has the larger value
        0.833
    """
    if train.pointwise is None or test.pointwise is None:
        raise InputError("membership needs estimates with the value of each datum. Evaluate the model again.")
    larger = train.pointwise.unsqueeze(1) > test.pointwise
    equal = train.pointwise.unsqueeze(1) == test.pointwise
    wins = larger.double() + 0.5 * equal.double()
    by_train, by_test = wins.mean(1), wins.mean(0)
    if min(len(by_train), len(by_test)) < 2:
        return Estimate(float(wins.mean()), math.nan, len(by_test))
    variance = by_train.var() / len(by_train) + by_test.var() / len(by_test)
    return Estimate(float(wins.mean()), float(torch.sqrt(variance)), len(by_test))


def is_memorised(found: Estimate | None) -> bool:
    """Return whether the ELBO distinguishes training data from test data, by two standard errors.

    Args:
        found: the result of `membership`; None if it is not known.
    """
    return found is not None and found.value - 2.0 * found.error > MOST_MEMBERSHIP


def describe_memorised(place: str) -> str:
    """Return the sentence about memorised training data, without a full stop.

    Args:
        place: a text that names the model, with the share of the pairs.
    """
    return f"training data are memorised {place}: a training datum has a larger ELBO than a test datum in most pairs"


def _has_hidden_labels(data: Splits) -> bool:
    """Return whether labels of training data in memory are hidden, which is -1 in the data."""
    return not isinstance(data.train, StoredBatch) and "y" in data.train and bool((data.train["y"] < 0).any())


def training_elbo(
    model: ModelOrRun, data: Any, count: int, particles: int, *, split: str = "test", **where: Any
) -> Estimate | None:
    """Return the ELBO of the same number of training data as test data, for `membership`.

    It is None if there are no training data, if their labels were hidden or entries were left out by a mask, because
    their ELBOs are then not comparable, or if they cannot be evaluated, such as a stream with random transforms.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: the data of the evaluation.
        count: the number of test data.
        particles: the number of draws of z per training datum.
        split: the split that was evaluated; there is no result for another one than the test split.
        where: ``chunk``, ``seed``, ``device``, ``fields``, ``data_plate``; see `pvae.evaluate`.
    """
    if not isinstance(data, Splits) or split != "test":
        return None
    if data.labels is not None or data.mask != "none" or "mask" in data.train or _has_hidden_labels(data):
        return None
    try:
        return elbo(model, data, particles, **{**where, "split": "train", "limit": count})
    except InputError:
        return None
