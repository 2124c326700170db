"""What networks share: activations by name and how weights are drawn."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from pvae.names import unknown

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
    """Return the activation of this name, as a layer.

    Raises:
        InputError: if the name is not known; the nearest known one is named.
    """
    if name not in ACTIVATIONS:
        raise unknown("activation", str(name), ACTIVATIONS)
    return ACTIVATIONS[name]()


def initialise(module: nn.Module, initialisation: str) -> None:
    """Draw the weights of every linear and convolutional layer inside `module` afresh, in place.

    Args:
        module: any module; layers of other kinds are left alone.
        initialisation: ``"glorot"`` (uniform, zero biases: Glorot & Bengio 2010), ``"he"`` (normal, zero
            biases: He et al. 2015, for rectifiers) or ``"default"`` (PyTorch's own, which is left as it is).

    Raises:
        InputError: if the name is not known; the nearest known one is named.
    """
    if initialisation not in _WEIGHTS:
        raise unknown("initialisation", str(initialisation), _WEIGHTS)
    draw = _WEIGHTS[initialisation]
    if draw is None:
        return
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            draw(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
