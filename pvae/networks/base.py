"""Activations and initialisations of networks, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from pvae.names import require_known

__all__ = ["ACTIVATIONS", "INITIALISATIONS", "activation_layer", "initialise"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
}
_WEIGHTS: dict[str, Callable[[Tensor], Tensor] | None] = {
    "glorot": nn.init.xavier_uniform_,
    "he": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    "default": None,
}
INITIALISATIONS = tuple(_WEIGHTS)


def activation_layer(name: str) -> nn.Module:
    """Return an activation as a layer.

    Args:
        name: a name of `ACTIVATIONS`.

    Raises:
        InputError: if the name is not known; the message gives the nearest known name.
    """
    require_known("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]()


def initialise(module: nn.Module, initialisation: str) -> None:
    """Draw new weights for every linear and convolutional layer inside a module, in place.

    Args:
        module: any module; layers of other kinds do not change.
        initialisation: ``"glorot"`` (uniform, biases of 0: Glorot & Bengio 2010), ``"he"`` (normal, biases of 0:
            He et al. 2015, for rectifiers) or ``"default"``, which keeps the weights that PyTorch drew.

    Raises:
        InputError: if the name is not known; the message gives the nearest known name.
    """
    require_known("initialisation", initialisation, _WEIGHTS)
    draw = _WEIGHTS[initialisation]
    if draw is None:
        return
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            draw(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
