"""Spectral normalisation of the layers of networks."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

__all__ = ["normalise_spectrally"]

#: the layers with a weight matrix, or with a kernel that is treated as a matrix
_LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def normalise_spectrally(*networks: nn.Module) -> None:
    """Divide the weight of each linear layer and convolution of networks by its largest singular value, in place.

    A linear layer then never increases distances. For a convolution this is the singular value of its kernel as a
    matrix, so distances may increase. One power iteration at each use in training mode updates the singular vectors,
    which are buffers. They follow the weights with a delay, so the estimate of the value may be too small; it is never
    too large.

    Args:
        networks: modules with layers.

    Source: Miyato et al., Spectral Normalization for Generative Adversarial Networks, arXiv:1802.05957.
    """
    for network in networks:
        for layer in list(network.modules()):
            if isinstance(layer, _LAYERS):
                spectral_norm(layer)
