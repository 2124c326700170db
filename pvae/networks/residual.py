"""Residual blocks of convolutions, which start as the identity."""

from __future__ import annotations

from torch import Tensor, nn

from pvae.networks.base import activation_layer

__all__ = ["ResidualBlock", "start_as_identity"]


class ResidualBlock(nn.Module):
    """A residual block, h + conv(act(conv(act(h)))). The last convolution starts at 0, so the block is the identity.

    There is no normalisation. Batch normalisation would mix the particles and the data of a batch, and a log weight
    would then depend on other data. A block that starts as the identity keeps the scale of its input, so a network
    of a few blocks trains without normalisation.

    Args:
        filters: number of feature maps of input and output.
        activation: a name of `ACTIVATIONS`.

    Raises:
        InputError: for an unknown name.

    Shapes: (batch, filters, height, width) to the same shape.
    Source: He et al., Identity Mappings in Deep Residual Networks, arXiv:1603.05027 (activation first); Zhang,
    Dauphin & Ma, Fixup Initialization, arXiv:1901.09321 (no normalisation, last layer at 0).
    """

    def __init__(self, filters: int, *, activation: str = "relu") -> None:
        super().__init__()
        self.first_activation, self.first = activation_layer(activation), nn.Conv2d(filters, filters, 3, padding=1)
        self.last_activation, self.last = activation_layer(activation), nn.Conv2d(filters, filters, 3, padding=1)
        start_as_identity(self)

    def forward(self, h: Tensor) -> Tensor:
        """Return the feature maps after the block, shape (batch, filters, height, width)."""
        return h + self.last(self.last_activation(self.first(self.first_activation(h))))


def start_as_identity(module: nn.Module) -> None:
    """Set the last convolution of every residual block inside a module to 0, in place."""
    for block in module.modules():
        if isinstance(block, ResidualBlock):
            for parameter in block.last.parameters():
                nn.init.zeros_(parameter)
