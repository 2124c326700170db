"""A network that classifies data after it has standardised them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pvae.networks import MLP

__all__ = ["ClassifierNetwork"]


class ClassifierNetwork(nn.Module):
    """q(component given x) by a network of x, standardised by mean and standard deviation of the training data.

    Args:
        features: number of features of a datum.
        components: number of components of the mixture.
        hidden: sizes of the hidden layers.

    Shapes: (batch, features) to logits (batch, components).
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, features: int, components: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.network = MLP(features, components, hidden=hidden)
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))

    @torch.no_grad()
    def initialise_from(self, x: Tensor) -> None:
        """Set mean and standard deviation from data, (data, features); a constant feature keeps the deviation 1."""
        deviation = x.double().std(0, correction=0)
        self.centre.copy_(x.double().mean(0))
        self.spread.copy_(torch.where(deviation > 0, deviation, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of q(component given x), shape (batch, components), for x of shape (batch, features)."""
        return self.network((x - self.centre) / self.spread)
