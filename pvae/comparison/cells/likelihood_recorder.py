"""`LikelihoodRecorder`: the exact log-likelihood of a Gaussian mixture after each epoch of a training."""

from __future__ import annotations

from typing import Any

import torch

from pvae.comparison.cells.training_summary import CurvePoint
from pvae.data import Splits
from pvae.models.mixture import GMM

__all__ = ["LikelihoodRecorder"]


class LikelihoodRecorder:
    """A callback of `pvae.fit` that records the exact log-likelihood of the training data after each epoch.

    It records only Gaussian mixtures, because other models have no exact log-likelihood. If the mixture has a prior on
    its parameters, the log-density of the prior per datum is added, because training maximises the sum.

    Args:
        splits: the data.

    Attributes:
        points: (epoch, log-likelihood in nats per datum, training time in seconds).
    """

    def __init__(self, splits: Splits) -> None:
        self.points: list[CurvePoint] = []
        self._train = splits.train

    def __call__(self, record: dict[str, Any], model: Any) -> None:
        """Record the log-likelihood after an epoch, if the model is a Gaussian mixture.

        Args:
            record: the record of the epoch by `pvae.fit`.
            model: the model.
        """
        if not isinstance(model, GMM):
            return
        x = self._train.x.to(model.means)
        value = float(model.log_evidence(x).double().mean()) + _log_prior_per_datum(model, len(x))
        self.points.append(CurvePoint(record["epoch"], value, record["seconds"]))


@torch.no_grad()
def _log_prior_per_datum(model: GMM, data: int) -> float:
    return float(model.log_prior().double()) / data
