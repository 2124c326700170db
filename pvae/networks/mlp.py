"""Multilayer perceptrons with and without gates."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pvae.networks.base import activation_layer, initialise

__all__ = ["MLP", "GatedMLP"]


class MLP(nn.Sequential):
    """A multilayer perceptron: linear layers, with the activation after each hidden layer.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the output of a last linear layer without activation. None leaves this layer out: the
            network ends with the last hidden layer, and a density adds its own linear layer.
        hidden: sizes of the hidden layers, in order.
        activation: a name of `ACTIVATIONS`.
        initialisation: a name of `INITIALISATIONS`, see `initialise`.

    Raises:
        InputError: for an unknown name.

    Shapes: (..., in_features) to (..., out_features). The attribute ``out_features`` is the size of the output.

    Example:
        >>> import pvae, torch
        >>> network = pvae.MLP(4, 3, hidden=(16, 16), activation="relu")
        >>> network(torch.zeros(5, 4)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int | None = None,
        *,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        initialisation: str = "glorot",
    ) -> None:
        super().__init__()
        self.in_features, size = in_features, in_features
        for width in hidden:
            self.extend([nn.Linear(size, width), activation_layer(activation)])
            size = width
        if out_features is not None:
            self.append(nn.Linear(size, out_features))
        self.out_features = size if out_features is None else out_features
        initialise(self, initialisation)


class _GatedLayer(nn.Module):
    """A linear layer times a gate: (W x + b) * sigmoid(V x + c)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.gate = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Return linear(x) times the gate, shape (..., out_features)."""
        return self.linear(x) * self.gate(x).sigmoid()


class GatedMLP(nn.Sequential):
    """A multilayer perceptron of gated layers, h = (W x + b) * sigmoid(V x + c), without another activation.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the output of a last linear layer without gate. None leaves this layer out: the network
            ends with the last hidden layer, and a density adds its own linear layer.
        hidden: sizes of the hidden layers, in order.
        initialisation: a name of `INITIALISATIONS`, see `initialise`.

    Raises:
        InputError: for an unknown name.

    Shapes: (..., in_features) to (..., out_features).
    Source: Dauphin et al., Language Modeling with Gated Convolutional Networks, arXiv:1612.08083; as in
    Tomczak & Welling, VAE with a VampPrior, arXiv:1705.07120.

    Example:
        >>> import pvae, torch
        >>> network = pvae.GatedMLP(4, 3, hidden=(16, 16))
        >>> network(torch.zeros(5, 4)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int | None = None,
        *,
        hidden: Sequence[int] = (200, 200),
        initialisation: str = "glorot",
    ) -> None:
        super().__init__()
        self.in_features, size = in_features, in_features
        for width in hidden:
            self.append(_GatedLayer(size, width))
            size = width
        if out_features is not None:
            self.append(nn.Linear(size, out_features))
        self.out_features = size if out_features is None else out_features
        initialise(self, initialisation)
