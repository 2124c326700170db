"""The transitions of a sequence model: from one time step to the prior of z at the next time step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pvae.errors import InputError
from pvae.models.stochastic_layer import StochasticLayer
from pvae.networks import MLP, initialise
from pvae.networks.recurrent import RecurrentCell

__all__ = ["MarkovTransition", "RecurrentTransition", "Transition"]

_SMALLEST_SCALE = 1e-3


class Transition(nn.Module, ABC):
    """p(z_t given the state), and the state of the next time step.

    Attributes:
        start: the state before the first time step, shape (state,); a parameter.
        reads_data: whether the next state depends on the data of the time step.
    """

    start: nn.Parameter
    reads_data: bool

    @abstractmethod
    def forward(self, state: Tensor) -> dist.TorchDistribution:
        """Return p(z_t given the state), batch shape (...), event shape (latent,).

        Args:
            state: the state before the time step, shape (..., state).
        """

    @abstractmethod
    def advance(self, state: Tensor, z: Tensor, features: Tensor | None) -> Tensor:
        """Return the state after a time step, shape (..., state).

        Args:
            state: the state before the time step, shape (..., state).
            z: the latent vector of the time step, shape (..., latent).
            features: the encoder's features of the data of the time step, (..., features); None if the state does not
                depend on data.
        """


class MarkovTransition(Transition):
    """The gated transition of a deep Markov model; the state is z of the previous time step.

    For each unit, a gate mixes a linear and a nonlinear function of the state:
    loc = (1 - gate) * linear + gate * proposal, and the scale is a softplus of a linear layer of relu(proposal). The
    linear function starts as the identity.

    Args:
        latent: size of z.
        hidden: sizes of the hidden layers of gate and proposal; () makes them linear.
        style: activation and initialisation.

    Source: Krishnan, Shalit & Sontag, Structured Inference Networks for Nonlinear State Space Models,
        arXiv:1609.09869, section 5.
    """

    reads_data = False

    def __init__(self, latent: int, hidden: tuple[int, ...], **style: Any) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(latent))
        self.gate = MLP(latent, latent, hidden=hidden, **style)
        self.proposal = MLP(latent, latent, hidden=hidden, **style)
        self.linear, self.scale = nn.Linear(latent, latent), nn.Linear(latent, latent)
        initialise(self.scale, style["initialisation"])
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, state: Tensor) -> dist.TorchDistribution:
        """Return p(z_t given z of the previous time step), batch shape (...), event shape (latent,)."""
        gate, proposal = self.gate(state).sigmoid(), self.proposal(state)
        loc = (1 - gate) * self.linear(state) + gate * proposal
        return dist.Normal(loc, softplus(self.scale(proposal.relu())) + _SMALLEST_SCALE).to_event(1)

    def advance(self, state: Tensor, z: Tensor, features: Tensor | None) -> Tensor:
        """Return z, the next state, shape (..., latent)."""
        return z


class RecurrentTransition(Transition):
    """The transition of a variational recurrent network; the state is the state of a GRU that reads x and z.

    Args:
        features: size of the encoder's features of the data of one time step.
        latent: size of z.
        state: size of the state.
        hidden: sizes of the hidden layers from the state to p(z_t given the state), and from z to the GRU.
        style: activation and initialisation.

    Source: Chung et al., A Recurrent Latent Variable Model for Sequential Data, arXiv:1506.02216, section 3.
    """

    reads_data = True

    def __init__(self, features: int, latent: int, state: int, hidden: tuple[int, ...], **style: Any) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(state))
        self.prior = StochasticLayer(state, latent, hidden, **style)
        self.code = MLP(latent, hidden=hidden, **style)
        self.cell = RecurrentCell(features + self.code.out_features, state)

    def forward(self, state: Tensor) -> dist.TorchDistribution:
        """Return p(z_t given the state), batch shape (...), event shape (latent,)."""
        return self.prior(state)

    def advance(self, state: Tensor, z: Tensor, features: Tensor | None) -> Tensor:
        """Return the next state of the GRU, shape (..., state)."""
        code = self.code(z)
        if features is None:
            raise InputError("A recurrent transition reads the features of the data; got none. Pass them.")
        leading = torch.broadcast_shapes(code.shape[:-1], features.shape[:-1])
        inputs = [features.expand(*leading, features.shape[-1]), code.expand(*leading, code.shape[-1])]
        return self.cell(torch.cat(inputs, -1), state)
