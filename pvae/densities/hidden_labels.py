"""Labels that are known for some data and hidden for others, in the two programs of a semi-supervised model."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = ["GivenLabel", "label_posterior"]


def label_posterior(logits: Tensor, y: Tensor) -> dist.Categorical:
    """Return q(y given x) where a label is hidden, and all mass on the label where it is known.

    For the guide's label site. What is impossible has probability 0 exactly, and neither value nor gradient; known
    labels give `logits` no gradient.

    Args:
        logits: of the classifier, shape (batch, classes).
        y: labels, shape (batch,); -1 where they are hidden. What is no class leaves q(y given x) as it is, for
            `GivenLabel` to refuse.
    """
    label = torch.arange(logits.shape[-1], device=y.device) == y.unsqueeze(-1)
    all_mass = torch.where(label, 0.0, -math.inf).to(logits.dtype)
    return dist.Categorical(logits=torch.where(label.any(-1, keepdim=True), all_mass, logits))


class GivenLabel(dist.TorchDistribution):
    """What the data say of a label: the label itself, or -1 where it is hidden.

    For an observed site of the model beside its label site: log-density 0 where the data say nothing or the same, and
    minus infinity elsewhere. So log p(x, y) is scored where y is known, and log p(x) where it is hidden. Which labels
    are hidden is taken as given, and must not depend on what they are.

    Args:
        label: the label site's value, of any shape.
        classes: number of classes, 0 to classes - 1.
        dtype: of log-densities, by default torch's own; Pyro's `TraceEnum_ELBO` needs it to be the other sites'.
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
        """The classes, and -1."""
        return constraints.integer_interval(-1, self.classes - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GivenLabel:
        """Return the distribution with another batch shape."""
        return GivenLabel(self.label.expand(batch_shape), self.classes, dtype=self.dtype, validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return the label: nothing is hidden."""
        return self.label.expand(torch.Size(sample_shape) + self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return 0 where `value` is the label or below 0, minus infinity elsewhere."""
        if self._validate_args:
            self._validate_sample(value)
        agrees = (value < 0) | (value == self.label)
        return torch.where(agrees, 0.0, -math.inf).to(self.dtype)
