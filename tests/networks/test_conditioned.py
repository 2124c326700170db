"""A condition enters the first layer: by hand, over leading dimensions, and not at all where it is zero."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from pvae.errors import InputError
from pvae.networks import MLP, Conditioned, ConvDecoder, ConvEncoder, GatedMLP

NETWORKS = {
    "mlp": (lambda: MLP(6, hidden=(5, 4)), (6,)),
    "linear": (lambda: MLP(6, hidden=()), (6,)),
    "gated": (lambda: GatedMLP(6, hidden=(5, 4)), (6,)),
    "conv": (lambda: ConvEncoder((2, 5, 6), hidden=(3, 2)), (2, 5, 6)),
    "deconv": (lambda: ConvDecoder(6, (5, 4), hidden=(3, 2)), (6,)),
}

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("leading", [(7,), (2, 7)])
def test_a_condition_of_zeros_changes_no_bit(name, leading):
    make, event = NETWORKS[name]
    network = make()
    conditioned, x = Conditioned(network, 3), torch.randn(*leading, *event)
    assert torch.equal(conditioned(x, torch.zeros(7, 3)), network(x))
    assert not torch.equal(conditioned(x, torch.ones(7, 3)), network(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_leading_dimensions_of_input_and_condition_broadcast(name):
    make, event = NETWORKS[name]
    conditioned, x = Conditioned(make(), 3).double(), torch.randn(7, *event).double()
    condition = torch.eye(3).double().unsqueeze(1)  # one value of a label at a time, beside all data
    together = conditioned(x, condition)
    for row, each in zip(together, condition, strict=True):
        torch.testing.assert_close(row, conditioned(x, each.expand(7, 3)))


def test_mlp_agrees_with_the_formula():
    network = MLP(6, hidden=(5, 4))
    conditioned = Conditioned(network, 3).double()
    x, c = torch.randn(7, 6).double(), torch.randn(7, 3).double()
    first = (network[0](x) + c @ conditioned.layer.weight.T).tanh()
    torch.testing.assert_close(conditioned(x, c), network[2](first).tanh(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 5, 6), (5, 6)])
def test_an_image_beside_an_image_enters_by_a_convolution(shape):
    network = ConvEncoder(shape, hidden=(3,))
    conditioned = Conditioned(network, None).double()
    x, mask = torch.randn(7, *shape).double(), torch.randn(7, *shape).double().round()
    image = (7, *(1, *shape)[-3:])
    first = network.layers[0](x.reshape(image)) + conv2d(
        mask.reshape(image), conditioned.layer.weight, stride=2, padding=1
    )
    torch.testing.assert_close(conditioned(x, mask), first.relu().flatten(1), rtol=1e-12, atol=1e-12)
    assert torch.equal(conditioned(x, torch.zeros_like(x)), network(x))


def test_a_vector_beside_a_vector_has_its_size():
    conditioned = Conditioned(MLP(6, hidden=(5,)), None)
    assert conditioned.layer.weight.shape == (5, 6)


def test_what_takes_no_condition_is_refused():
    with pytest.raises(InputError, match="features needs a whole number of at least 1; got 0"):
        Conditioned(MLP(6), 0)
    network = nn.Sequential(nn.Tanh())
    network.in_features = network.out_features = 6
    with pytest.raises(InputError, match="begins with Tanh"):
        Conditioned(network, 3)
