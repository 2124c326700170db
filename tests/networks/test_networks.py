"""Networks: their formulas, their shapes, and leading dimensions that change nothing."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from pvae.errors import InputError
from pvae.networks import (
    ACTIVATIONS,
    MLP,
    ConvDecoder,
    ConvEncoder,
    GatedMLP,
    ResidualBlock,
    activation_layer,
    initialise,
)

IMAGES = [(8, 8), (28, 20), (28, 28), (1, 28, 28), (3, 7, 5), (1, 1), (2, 3, 16)]

pytestmark = pytest.mark.usefixtures("seeded")


def test_mlp_agrees_with_its_formula():
    network = MLP(5, 2, hidden=(4, 3), activation="softplus").double()
    x = torch.randn(7, 5, dtype=torch.float64)
    first, _, second, _, last = network
    h = torch.log1p(torch.exp(x @ first.weight.T + first.bias))
    h = torch.log1p(torch.exp(h @ second.weight.T + second.bias))
    torch.testing.assert_close(network(x), h @ last.weight.T + last.bias, rtol=1e-12, atol=1e-12)


def test_mlp_without_outputs_ends_with_the_activation():
    network = MLP(5, hidden=(4, 3), activation="relu")
    assert network.out_features == 3
    assert network(torch.randn(100, 5)).min() == 0


def test_mlp_without_hidden_layers_is_linear():
    network = MLP(5, 2, hidden=()).double()
    x, y = torch.randn(2, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(network(x + y), network(x) + network(y), rtol=1e-12, atol=1e-12)
    assert MLP(5, hidden=()).out_features == 5


def test_gated_mlp_agrees_with_its_formula():
    network = GatedMLP(5, 2, hidden=(4,)).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(7, 5, dtype=torch.float64)
    gate, last = network
    linear = x @ gate.linear.weight.T + gate.linear.bias
    h = linear / (1 + torch.exp(-(x @ gate.gate.weight.T + gate.gate.bias)))
    torch.testing.assert_close(network(x), h @ last.weight.T + last.bias, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", IMAGES)
def test_convolutions_have_the_documented_shapes(shape):
    encoder, decoder = ConvEncoder(shape), ConvDecoder(4, shape)
    height, width = shape[-2:]
    assert encoder(torch.randn(2, *shape)).shape == (2, encoder.out_features)
    assert encoder.out_features == 64 * math.ceil(height / 4) * math.ceil(width / 4)
    assert decoder.out_features == (32, math.ceil(height / 2), math.ceil(width / 2))
    assert decoder(torch.randn(2, 4)).shape == (2, *decoder.out_features)
    assert ConvEncoder(shape, 9, hidden=(2,))(torch.randn(2, *shape)).shape == (2, 9)


def test_convolutional_encoder_agrees_with_sums_by_hand():
    encoder = ConvEncoder((3, 4), hidden=(2,), activation="tanh").double()
    x, weight = torch.randn(3, 4, dtype=torch.float64), encoder.layers[0].weight
    h = torch.zeros(2, 2, 2, dtype=torch.float64)
    for filter_, row, column, i, j in itertools.product(range(2), range(2), range(2), range(3), range(3)):
        above, left = 2 * row + i - 1, 2 * column + j - 1
        if 0 <= above < 3 and 0 <= left < 4:
            h[filter_, row, column] += weight[filter_, 0, i, j] * x[above, left]
    torch.testing.assert_close(encoder(x[None])[0], h.tanh().flatten(), rtol=1e-12, atol=1e-12)


def moved(network):
    """The network with every parameter drawn, so that residual blocks do something."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


@pytest.mark.parametrize("shape", IMAGES)
def test_residual_networks_have_the_shapes_of_plain_ones(shape):
    encoder, decoder = ConvEncoder(shape, blocks=1), ConvDecoder(4, shape, blocks=1)
    assert encoder(torch.randn(2, *shape)).shape == (2, ConvEncoder(shape).out_features)
    assert decoder(torch.randn(2, 4)).shape == (2, *ConvDecoder(4, shape).out_features)


@pytest.mark.parametrize("initialisation", ["glorot", "he", "default"])
def test_residual_networks_start_as_plain_ones(initialisation):
    """With the same weights where the plain ones have layers, the output is the same, bit for bit."""
    style = {"hidden": (3, 2), "initialisation": initialisation, "activation": "tanh"}
    for make, shape in ((ConvEncoder, (2, 5, 6)), (lambda *_, **kw: ConvDecoder(4, (5, 6), **kw), (4,))):
        plain, residual = make(shape, **style), make(shape, blocks=2, **style)
        assert sum(isinstance(each, ResidualBlock) for each in residual.modules()) == 4
        own = [each for each in residual.layers if not isinstance(each, ResidualBlock)]
        for one, other in zip(plain.layers, own, strict=True):
            one.load_state_dict(other.state_dict())
        x = torch.randn(7, *shape)
        assert torch.equal(residual(x), plain(x))
        assert not torch.equal(moved(residual)(x), plain(x))


def test_residual_block_agrees_with_its_formula():
    block = moved(ResidualBlock(2, activation="tanh")).double()
    h = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    inner = nn.functional.conv2d(h.tanh(), block.first.weight, block.first.bias, padding=1)
    by_hand = h + nn.functional.conv2d(inner.tanh(), block.last.weight, block.last.bias, padding=1)
    torch.testing.assert_close(block(h), by_hand, rtol=1e-12, atol=1e-12)


def test_blocks_learn_from_their_start():
    network = ConvEncoder((5, 6), hidden=(2,), blocks=1)
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    x = torch.randn(9, 5, 6)
    for _ in range(2):  # the first convolution of a block gets its first gradient once the last has moved
        optimiser.zero_grad()
        network(x).square().sum().backward()
        optimiser.step()
    block = network.layers[1]
    assert all(parameter.grad.abs().max() > 0 for parameter in block.parameters())


NETWORKS = {
    "mlp": (lambda: MLP(6, 3, hidden=(4,)), (6,)),
    "gated": (lambda: GatedMLP(6, 3, hidden=(4,)), (6,)),
    "encoder": (lambda: ConvEncoder((5, 6), hidden=(2, 3)), (5, 6)),
    "encoder of colours": (lambda: ConvEncoder((2, 5, 6), 4, hidden=(2, 3)), (2, 5, 6)),
    "decoder": (lambda: ConvDecoder(6, (5, 6), hidden=(3, 2)), (6,)),
    "residual encoder": (lambda: moved(ConvEncoder((2, 5, 6), 4, hidden=(2, 3), blocks=2)), (2, 5, 6)),
    "residual decoder": (lambda: moved(ConvDecoder(6, (5, 6), hidden=(3, 2), blocks=2)), (6,)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_leading_dimensions_equal_a_loop(name):
    make, shape = NETWORKS[name]
    network = make().double()
    x = torch.randn(3, 2, 4, *shape, dtype=torch.float64)
    looped = torch.stack([torch.stack([network(x[i, j]) for j in range(2)]) for i in range(3)])
    torch.testing.assert_close(network(x), looped, rtol=1e-12, atol=1e-12)
    one = network(x[0, 0, 0])
    torch.testing.assert_close(one, looped[0, 0, 0], rtol=1e-12, atol=1e-12)
    assert one.shape == (network.out_features if isinstance(network.out_features, tuple) else (network.out_features,))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_is_the_function_of_its_name(name):
    x = torch.linspace(-3, 3, 11, dtype=torch.float64)
    torch.testing.assert_close(activation_layer(name)(x), getattr(nn.functional, name)(x))


def test_glorot_draws_uniformly_within_its_bound_and_zeroes_biases():
    network = MLP(300, 200, hidden=(400,))
    for layer in (network[0], network[2]):
        bound = math.sqrt(6 / (layer.in_features + layer.out_features))
        assert layer.weight.abs().max() <= bound
        # the variance of a uniform square is (4/45) bound^4
        error = math.sqrt(4 / 45) * bound**2 / math.sqrt(layer.weight.numel())
        assert abs(layer.weight.square().mean() - bound**2 / 3) < 4.5 * error
        assert layer.bias.abs().max() == 0


def test_he_draws_normally_with_its_variance():
    weight = MLP(300, 200, hidden=(), initialisation="he")[0].weight
    variance = 2 / 300
    assert abs(weight.square().mean() - variance) < 4.5 * variance * math.sqrt(2 / weight.numel())
    assert weight.abs().max() > 3.5 * math.sqrt(variance)


def test_default_leaves_pytorchs_own_draw():
    torch.manual_seed(1)
    network = MLP(4, 3, hidden=(), initialisation="default")
    torch.manual_seed(1)
    layer = nn.Linear(4, 3)
    assert torch.equal(network[0].weight, layer.weight)
    assert torch.equal(network[0].bias, layer.bias)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MLP(3, activation="tahn"), "did you mean 'tanh'"),
        (lambda: MLP(3, initialisation="glorto"), "did you mean 'glorot'"),
        (lambda: initialise(nn.Linear(1, 1), "H"), "Unknown initialisation 'H'"),
        (lambda: ConvEncoder((784,)), r"\(height, width\)"),
        (lambda: ConvDecoder(3, (1, 1, 8, 8)), r"\(height, width\)"),
        (lambda: ConvDecoder(3, (8, 8), hidden=()), "at least one"),
        (lambda: ConvEncoder((8, 8), blocks=-1), "blocks needs a whole number of at least 0; got -1"),
    ],
)
def test_bad_arguments_are_named(make, said):
    with pytest.raises(InputError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)
