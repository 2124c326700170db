"""Networks of sequences: a recurrent cell for any leading dimensions, and a reader backwards in time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pvae.networks.base import initialise

__all__ = ["BackwardReader", "RecurrentCell", "StepReader"]


class RecurrentCell(nn.Module):
    """One step of a gated recurrent unit (GRU), for inputs and states with any leading dimensions.

    Args:
        in_features: size of the input.
        state: size of the state.

    Shapes: (..., in_features) and (..., state), with leading dimensions that broadcast, to (..., state).
    Source: Cho et al., Learning Phrase Representations using RNN Encoder-Decoder, arXiv:1406.1078.
    """

    def __init__(self, in_features: int, state: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, state
        self.cell = nn.GRUCell(in_features, state)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """Return the next state, shape (..., state)."""
        # The fused operation of PyTorch has no rule for tensors without data, so that it cannot be traced on a device.
        inputs = linear(x, self.cell.weight_ih, self.cell.bias_ih).chunk(3, -1)
        states = linear(state, self.cell.weight_hh, self.cell.bias_hh).chunk(3, -1)
        reset = (states[0] + inputs[0]).sigmoid()
        update = (states[1] + inputs[1]).sigmoid()
        candidate = (inputs[2] + reset * states[2]).tanh()
        return (state - candidate) * update + candidate


class BackwardReader(nn.Module):
    """A GRU that reads sequences from their ends to their starts.

    Args:
        in_features: size of the features of one time step.
        state: size of its state.

    Shapes: features (batch, time, in_features) and present (batch, time), True before the end of each sequence, or None
    if all are complete; to (batch, time, state). The output at t depends only on the features from t to the end of the
    sequence; after the end it is 0.
    """

    def __init__(self, in_features: int, state: int) -> None:
        super().__init__()
        self.out_features, self.cell = state, RecurrentCell(in_features, state)

    def forward(self, features: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the state at each time step, shape (batch, time, state)."""
        state = features.new_zeros(features.shape[0], self.out_features)
        states = []
        for t in reversed(range(features.shape[1])):
            following = self.cell(features[:, t], state)
            state = following if present is None else torch.where(present[:, t, None], following, state)
            states.append(state)
        return torch.stack(states[::-1], 1)


class StepReader(nn.Module):
    """A linear layer of the features of each single time step, as a replacement of a `BackwardReader`.

    Args:
        in_features: size of the features of one time step.
        state: size of the output.
        initialisation: a name of `pvae.networks.INITIALISATIONS`.

    Shapes: (batch, time, in_features) and (batch, time), which is not used, to (batch, time, state).
    """

    def __init__(self, in_features: int, state: int, *, initialisation: str) -> None:
        super().__init__()
        self.out_features, self.layer = state, nn.Linear(in_features, state)
        initialise(self.layer, initialisation)

    def forward(self, features: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the output at each time step, shape (batch, time, state)."""
        return self.layer(features)
