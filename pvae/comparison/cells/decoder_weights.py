"""The decoder of a model for the explorer of a report: the weights of a multilayer perceptron, or decoded pictures."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from pvae.batch import Batch
from pvae.models.base import BaseVAE
from pvae.models.rendering import traverse
from pvae.networks import MLP

__all__ = ["decoder_arrays"]

_MOST_NUMBERS = 100_000  # of a decoder: 540 kB in a page
_MOST_UNITS, _STEPS, _RANGE = 8, 13, 3.0
_TOLERANCE = 1e-5
_ACTIVATIONS = {
    nn.Tanh: "tanh",
    nn.ReLU: "relu",
    nn.Sigmoid: "sigmoid",
    nn.Softplus: "softplus",
    nn.SiLU: "silu",
    nn.ELU: "elu",
}
_OUTPUTS = {"sigmoid": torch.sigmoid, "identity": lambda values: values}


def decoder_arrays(model: object, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the arrays with which the explorer of a report decodes values of z.

    For a small multilayer perceptron they are the weights of the decoder: ``decoder.0.weight``, ``decoder.0.bias``, and
    so on, after a comparison with the mean of p(x given z) at random z. For another decoder they are ``traversals``,
    the mean of x while each of the first units changes, shape (units, steps, *x), if x is a picture.

    Args:
        model: the trained latent model.
        batch: data; the first datum gives shapes and conditions.

    Returns:
        The arrays by name, and for weights the names of the activations after each layer.
    """
    layers = _layers_of(model)
    if layers:
        activations = _matching_activations(model, layers)
        if activations is not None:
            linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
            arrays = {f"decoder.{index}.weight": layer.weight for index, layer in enumerate(linear)}
            arrays |= {f"decoder.{index}.bias": layer.bias for index, layer in enumerate(linear)}
            return {name: array.detach().float() for name, array in arrays.items()}, {"activations": activations}
    values = torch.linspace(-_RANGE, _RANGE, _STEPS)
    return {"traversals": traverse(model, batch, values)[:_MOST_UNITS].float()}, {}


def _layers_of(model: object) -> list[nn.Module]:
    """Return the layers from z to the output of a small decoder; empty if it is not a plain multilayer perceptron."""
    if not isinstance(model, BaseVAE) or type(model.decoder) is not MLP:
        return []
    head = [module for module in model.likelihood.modules() if isinstance(module, nn.Linear)]
    layers = [*model.decoder, *head]
    known = all(isinstance(layer, nn.Linear) or type(layer) in _ACTIVATIONS for layer in layers)
    size = sum(parameter.numel() for layer in layers for parameter in layer.parameters())
    # the decoder of a model of sequences is for one time step
    is_of_all_x = len(head) == 1 and head[0].out_features == math.prod(model.data_shape)
    return layers if known and is_of_all_x and size <= _MOST_NUMBERS else []


def _matching_activations(model: Any, layers: list[nn.Module]) -> list[str] | None:
    """Return the activations with which the layers compute the mean of p(x given z); None if there are none."""
    hidden = [
        _ACTIVATIONS.get(type(after), "identity") for layer, after in pairwise(layers) if isinstance(layer, nn.Linear)
    ]
    parameter = next(model.parameters())
    first = next(layer for layer in layers if isinstance(layer, nn.Linear))
    z = torch.randn(16, first.in_features).to(parameter)
    with torch.no_grad():
        mean = model.decode(z).mean.reshape(16, -1)
        output = nn.Sequential(*layers)(z)
        for name, function in _OUTPUTS.items():
            found = function(output)
            if found.shape == mean.shape and torch.allclose(found, mean, rtol=0, atol=_TOLERANCE):
                return [*hidden, name]
    return None
