"""Networks: functions from tensors to tensors. Every network accepts any leading dimensions (particles, batch)."""

from pvae.networks.base import ACTIVATIONS, INITIALISATIONS, activation_layer, initialise
from pvae.networks.conditioned import Conditioned
from pvae.networks.convolutional import ConvDecoder, ConvEncoder, doubling, image_shape
from pvae.networks.corruption import NOISES, GaussianNoise, MaskingNoise, noise
from pvae.networks.mlp import MLP, GatedMLP
from pvae.networks.residual import ResidualBlock
from pvae.networks.spatial_transformer import cut_box, paste_box
from pvae.networks.spectral import normalise_spectrally

__all__ = [
    "ACTIVATIONS",
    "INITIALISATIONS",
    "MLP",
    "NOISES",
    "Conditioned",
    "ConvDecoder",
    "ConvEncoder",
    "GatedMLP",
    "GaussianNoise",
    "MaskingNoise",
    "ResidualBlock",
    "activation_layer",
    "cut_box",
    "doubling",
    "image_shape",
    "initialise",
    "noise",
    "normalise_spectrally",
    "paste_box",
]
