"""The densities of a topic model: counts of the words of a document, and a prior that approximates a Dirichlet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pvae.checks import require_positive, require_whole
from pvae.errors import InputError

__all__ = ["BagOfWords", "DirichletLaplace", "log_coefficient"]


class BagOfWords(dist.TorchDistribution):
    """The multinomial distribution of the counts of words, with a separate total for each document.

    The probability is of the counts given their total: log p(x) = log n! - sum log x_v! + sum x_v log p_v. It sums to 1
    over all counts with the total n. A total of 0 has probability 1. Draws and the mean have the total `total`;
    log-probabilities are conditional on the total of the value itself.

    Args:
        log_probs: logarithm of the probability of each word, (..., words); the probabilities sum to 1.
        total: the number of words of each document, whole numbers, (...).
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(self, log_probs: Tensor, total: Tensor) -> None:
        self.log_probs, self.total = log_probs, total
        batch = torch.broadcast_shapes(log_probs.shape[:-1], total.shape)
        super().__init__(batch, log_probs.shape[-1:], validate_args=False)

    @property
    def support(self) -> Any:
        """Counts 0, 1, 2, ..."""
        return constraints.independent(constraints.nonnegative_integer, 1)

    @property
    def mean(self) -> Tensor:
        """The expected counts, (..., words)."""
        return self.total.unsqueeze(-1) * self.log_probs.exp()

    @property
    def variance(self) -> Tensor:
        """The variance of each count, (..., words)."""
        probabilities = self.log_probs.exp()
        return self.total.unsqueeze(-1) * probabilities * (1 - probabilities)

    def expand(self, batch_shape: Any, _instance: Any = None) -> BagOfWords:
        """Return the distribution with another batch shape, to which its own broadcasts."""
        shape = torch.Size(batch_shape)
        return BagOfWords(self.log_probs.expand(shape + self.event_shape), self.total.expand(shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Return draws of the counts, shape sample_shape + (..., words), in the dtype of the probabilities."""
        shape = torch.Size(sample_shape) + self.batch_shape
        rows = self.log_probs.detach().exp().expand(shape + self.event_shape).reshape(-1, self.event_shape[0])
        totals = self.total.expand(shape).reshape(-1)
        counts = torch.zeros_like(rows)
        longest = int(totals.max()) if totals.numel() else 0
        if longest:
            words = torch.multinomial(rows, longest, replacement=True)
            is_word = torch.arange(longest, device=rows.device) < totals.unsqueeze(-1)
            counts.scatter_add_(-1, words, is_word.to(rows.dtype))
        return counts.reshape(shape + self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of counts (..., words) given their total, (...), in nats."""
        return log_coefficient(value) + (value * self.log_probs).sum(-1)


def log_coefficient(counts: Tensor) -> Tensor:
    """Return log n! - sum log x_v!, the logarithm of the number of orders of the words of a document, (...).

    Args:
        counts: the counts of words, (..., words).
    """
    return torch.lgamma(counts.sum(-1) + 1) - torch.lgamma(counts + 1).sum(-1)


class DirichletLaplace(nn.Module):
    """A Gaussian prior p(z), for which softmax(z) approximates a Dirichlet distribution (Laplace's approximation).

    In the basis of the softmax, the Dirichlet with concentrations a_k is approximated by independent Gaussians with the
    mean log a_k - mean of log a, and the variance (1 - 2 / K) / a_k + mean of (1 / a) / K, for K topics.

    Args:
        topics: K, at least 2.
        concentration: a positive number for all topics, or one for each.

    Raises:
        InputError: for fewer than 2 topics, or concentrations that are not positive or not one for each topic.
    Source: Srivastava & Sutton, Autoencoding Variational Inference For Topic Models, arXiv:1703.01488, section 3.2; the
        approximation is from Hennig et al. 2012.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, topics: int, concentration: float | Sequence[float]) -> None:
        super().__init__()
        advice = "With one topic all documents have the same words, and there is nothing to infer."
        topics = require_whole(topics, "topics", least=2, advice=advice)
        is_sequence = isinstance(concentration, Sequence) and not isinstance(concentration, str)
        given: Any = concentration if is_sequence else [concentration] * topics
        if len(given) != topics:
            raise InputError(
                f"concentration needs one number, or one for each of {topics} topics; got {len(given)} numbers. Give "
                f"{topics}."
            )
        checked = [require_positive(value, "concentration", advice="For example concentration=0.5.") for value in given]
        numbers = torch.tensor(checked, dtype=torch.float64)
        inverse = 1 / numbers
        variance = inverse * (1 - 2 / topics) + inverse.mean() / topics
        loc = numbers.log() - numbers.log().mean()
        # Buffers follow the device and dtype of the module; these constants are not saved in checkpoints.
        self.register_buffer("loc", loc.to(torch.get_default_dtype()), persistent=False)
        self.register_buffer("scale", variance.sqrt().to(torch.get_default_dtype()), persistent=False)

    def forward(self, context: Tensor | None = None) -> dist.TorchDistribution:
        """Return p(z) with batch shape () and event shape (topics,); `context` is not used."""
        return dist.Normal(self.loc, self.scale).to_event(1)
