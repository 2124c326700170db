"""Distributions of labels that are known for some data and hidden for others, for semi-supervised models."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = ["GivenLabel", "label_posterior"]


def label_posterior(logits: Tensor, y: Tensor) -> dist.Categorical:
    """Return the distribution of a guide's label site: q(y given x) for hidden labels, and one label for known labels.

    A known label has probability 1 and the other classes have exactly 0, so `logits` get no gradient from it.

    Args:
        logits: logits of the classifier, shape (batch, classes).
        y: labels, shape (batch,); -1 for hidden labels. A label that is not a class is treated as hidden, because
            `GivenLabel` rejects it.

    Returns:
        A distribution with batch shape (batch,).
    """
    is_label = torch.arange(logits.shape[-1], device=y.device) == y.unsqueeze(-1)
    known_logits = torch.where(is_label, 0.0, -math.inf).to(logits.dtype)
    return dist.Categorical(logits=torch.where(is_label.any(-1, keepdim=True), known_logits, logits))


class GivenLabel(dist.TorchDistribution):
    """The distribution of an observed label, for given values of the label site; the value -1 means a hidden label.

    It belongs to an observed site of the model, in addition to the label site. Its log-density is 0 if the observed
    label is hidden or equals the value of the label site, and minus infinity otherwise. The model then scores log p(x,
    y) for a known y and log p(x) for a hidden y. Whether a label is hidden must not depend on the label.

    Args:
        label: the value of the label site, of any shape.
        classes: number of classes; labels are 0 to classes - 1.
        dtype: dtype of log-densities, by default PyTorch's default dtype. Pyro's `TraceEnum_ELBO` needs the same dtype
            for all sites.
        validate_args: whether to check parameters and values; None for PyTorch's default.
    """

    has_rsample = False
    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, label: Tensor, classes: int, *, dtype: torch.dtype | None = None, validate_args: bool | None = None
    ) -> None:
        self.label, self.classes, self.dtype = label, classes, dtype or torch.get_default_dtype()
        super().__init__(label.shape, torch.Size(), validate_args=validate_args)

    @property
    def support(self) -> Any:
        """The classes, and -1 for a hidden label."""
        return constraints.integer_interval(-1, self.classes - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GivenLabel:
        """Return the distribution with another batch shape."""
        return GivenLabel(self.label.expand(batch_shape), self.classes, dtype=self.dtype, validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return the value of the label site, shape sample_shape + batch shape; a draw does not hide labels."""
        return self.label.expand(torch.Size(sample_shape) + self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return 0 if `value` is the label or negative, and minus infinity otherwise, in the shape of the label."""
        if self._validate_args:
            self._validate_sample(value)
        agrees = (value < 0) | (value == self.label)
        return torch.where(agrees, 0.0, -math.inf).to(self.dtype)
