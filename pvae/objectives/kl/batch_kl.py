"""`BatchKLObjective`: objectives that are a non-smooth function of the mean KL divergence of a batch."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from torch import Tensor

from pvae.batch import Batch
from pvae.objectives.kl.kl_by_unit import kl_of_units
from pvae.objectives.weights_objective import WeightsObjective
from pvae.weights import LogWeights

__all__ = ["BatchKLObjective", "batch_mean"]


def batch_mean(values: Tensor, weights: LogWeights) -> Tensor:
    """Return the mean over data, weighted by the scale of each datum, shape (...).

    Args:
        values: shape (..., batch).
        weights: the weights of the batch, which hold the scale.
    """
    if not isinstance(weights.scale, Tensor) or not weights.scale.dim():
        return values.mean(-1)
    return (values * weights.scale).sum(-1) / weights.scale.sum()


class BatchKLObjective(WeightsObjective):
    """An objective with a maximum or an absolute value of the mean KL of a batch.

    The mean of such a function is not the function of the mean, so noise in the mean KL is a bias of value and
    gradient. The mean has noise if the KL has no closed form, and if a batch does not hold all data. `biased` reports
    this in use.
    """

    _data_size: int | None = None

    def look_at(self, data: Mapping[str, Tensor]) -> None:
        """Read the number of training data; `pvae.fit` calls this once, before training.

        Args:
            data: the training data, as named tensors.
        """
        if isinstance(data, Batch):
            # an iterable data set has an unknown number of data, so no batch is known to hold all of them
            self._data_size = data.known_size or sys.maxsize
        else:
            self._data_size = max((len(tensor) for tensor in data.values()), default=None)

    def kl_by_unit(self, weights: LogWeights) -> Mapping[str, Tensor]:
        """Return the KL terms of the units of each latent site, and set `biased` by how they are computed.

        Args:
            weights: the weights of a batch.

        Returns:
            Tensors by site, shape (particles, batch, units), in nats, differentiable.
        """
        by_site, sampled = kl_of_units(weights, self.data_plate)
        batch = weights.log_joint.shape[-1]
        self.biased = self._reason(sampled, batch, max(weights.count, self._data_size or 0))
        return by_site

    def _reason(self, sampled: Sequence[str], batch: int, data: int) -> str:
        """Return why the gradient is biased, or an empty text.

        Args:
            sampled: the sites with a KL that depends on draws.
            batch: the number of data in the batch.
            data: the number of all data, if it is known.
        """
        reasons = [self._reason_of_bias()]
        if sampled:
            reasons.append(f"a non-smooth function of the KL of site {sampled[0]!r}, which is estimated from draws")
        if batch < data:
            reasons.append(f"a non-smooth function of the mean KL of {batch} data, not of all {data}")
        return "; ".join(filter(None, reasons))
