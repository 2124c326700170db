"""A prior of sequences of codes: each code has a Categorical given the codes before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor, nn
from torch.distributions import constraints

from pvae.checks import require_whole
from pvae.errors import InputError

__all__ = ["AutoregressiveCategorical", "AutoregressivePrior"]


class AutoregressiveCategorical(TorchDistribution):
    """The distribution of sequences of codes k_1, ..., k_P: p(k) = prod_p p(k_p given k_1, ..., k_(p-1)).

    Args:
        prior: the network that returns the logits of all positions.
        batch_shape: the batch shape; all sequences have the same distribution.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(self, prior: AutoregressivePrior, batch_shape: Sequence[int] = ()) -> None:
        self.prior = prior
        super().__init__(Size(batch_shape), Size([prior.positions]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Whole numbers from 0 to codes - 1 at each position."""
        return constraints.independent(constraints.integer_interval(0, self.prior.codes - 1), 1)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> AutoregressiveCategorical:
        """Return the distribution with another batch shape."""
        return AutoregressiveCategorical(self.prior, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of codes, shape (...), in nats, for values of shape (..., positions)."""
        value = value.expand(*torch.broadcast_shapes(value.shape[:-1], self.batch_shape), self.prior.positions).long()
        logits = self.prior.logits(value.reshape(-1, self.prior.positions))
        chosen = logits.log_softmax(-1).gather(-1, value.reshape(-1, self.prior.positions, 1))
        return chosen.sum((-2, -1)).reshape(value.shape[:-1])

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return sequences, shape sample_shape + batch_shape + (positions,), drawn one position after the other."""
        shape = Size(sample_shape) + self.batch_shape
        codes = torch.zeros(math.prod(shape), self.prior.positions, dtype=torch.long, device=self.prior.start.device)
        for position in range(self.prior.positions):
            logits = self.prior.logits(codes)[:, position]
            codes[:, position] = torch.distributions.Categorical(logits=logits).sample()
        return codes.reshape(*shape, self.prior.positions)


class _CausalBlock(nn.Module):
    """A layer of a causal transformer, with normalisation before each part.

    Shapes: (batch, positions, width) to the same. A position depends on itself and on earlier positions.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.next_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, h: Tensor) -> Tensor:
        parts = self.attention(self.norm(h)).chunk(3, -1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for part in parts)
        attended = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        h = h + self.mixed(attended.transpose(-3, -2).flatten(-2))
        return h + self.network(self.next_norm(h))


class AutoregressivePrior(nn.Module):
    """A prior p(k) of the codes of all positions, by a causal transformer.

    The logits of a position depend on the position and on the codes before it. The network runs once to score a
    sequence, and once for each position to draw one.

    Args:
        positions: number of codes of one datum.
        codes: number of different codes.
        width: number of features of the transformer.
        layers: number of layers.
        heads: number of heads of attention, which divides the width.

    Raises:
        InputError: for a number that is not a positive whole number, or heads that do not divide the width.
    Sources: van den Oord, Vinyals & Kavukcuoglu, Neural Discrete Representation Learning, arXiv:1711.00937, section
    3.3 (an autoregressive prior of codes); Vaswani et al., Attention Is All You Need, arXiv:1706.03762.
    """

    def __init__(self, positions: int, codes: int, *, width: int = 64, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.positions, self.codes = require_whole(positions, "positions"), require_whole(codes, "codes")
        width, heads = require_whole(width, "width"), require_whole(heads, "heads")
        if width % heads:
            raise InputError(
                f"heads needs to divide width; got heads={heads} and width={width}. Use heads=1, for example."
            )
        self.start = nn.Parameter(0.1 * torch.randn(width))
        self.embedding = nn.Embedding(codes, width)
        self.places = nn.Parameter(0.1 * torch.randn(positions, width))
        self.blocks = nn.Sequential(*[_CausalBlock(width, heads) for _ in range(require_whole(layers, "layers"))])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, codes)

    def forward(self, context: Tensor | None = None) -> AutoregressiveCategorical:
        """Return p(k), with batch shape () and event shape (positions,); `context` is not used."""
        return AutoregressiveCategorical(self)

    def logits(self, codes: Tensor) -> Tensor:
        """Return the logits of each position given the codes before it.

        Args:
            codes: whole numbers, shape (batch, positions); the last position is not used.

        Returns:
            Shape (batch, positions, codes).
        """
        start = self.start.expand(len(codes), 1, -1)
        before = torch.cat([start, self.embedding(codes[:, :-1])], 1)
        return self.head(self.norm(self.blocks(before + self.places)))
