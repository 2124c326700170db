"""The posterior of a sequence model, one time step after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pvae.densities import part
from pvae.models.transitions import Transition
from pvae.names import unknown
from pvae.networks import initialise
from pvae.networks.recurrent import BackwardReader, StepReader

__all__ = ["INFERENCES", "StepPosterior"]

INFERENCES = ("smoothing", "filtering")


class StepPosterior(nn.Module):
    """q(z_t given the state before t and the data), for each time step.

    The context of the posterior is the mean of two vectors: tanh of a linear layer of the state, and the output of a
    network that reads the data.

    Args:
        inference: ``"smoothing"``: the network reads the sequence backwards; ``"filtering"``: it reads only x_t.
        features: size of the encoder's features of one time step.
        transition: the transition of the model.
        state: size of both vectors.
        latent: size of z_t.
        posterior: a name of `pvae.densities.POSTERIORS`, or a density as a module.
        style: activation and initialisation.

    Raises:
        InputError: for an unknown name.
    Source: Krishnan, Shalit & Sontag, Structured Inference Networks for Nonlinear State Space Models,
        arXiv:1609.09869, section 4.
    """

    def __init__(
        self,
        inference: str,
        features: int,
        transition: Transition,
        *,
        state: int,
        latent: int,
        posterior: str | nn.Module,
        **style: Any,
    ) -> None:
        super().__init__()
        if inference not in INFERENCES:
            raise unknown("inference", str(inference), INFERENCES)
        initialisation = style["initialisation"]
        self.reader: nn.Module
        if inference == "smoothing":
            self.reader = BackwardReader(features, state)
        else:
            self.reader = StepReader(features, state, initialisation=initialisation)
        self.past = nn.Linear(len(transition.start), state)
        initialise(self.past, initialisation)
        self.density = part("posterior", posterior, state, latent, **style)
        # The state of a recurrent transition is the same in both programs.
        self.start = None if transition.reads_data else nn.Parameter(torch.zeros(latent))

    def infer(
        self,
        features: Tensor,
        present: Tensor | None,
        transition: Transition,
        choose: Callable[[int, TorchDistribution], Tensor],
    ) -> list[Tensor]:
        """Return a value of z for each time step, (..., batch, latent) each.

        Args:
            features: the encoder's features of the data, (batch, time, features).
            present: True before the end of each sequence, (batch, time); None if all are complete.
            transition: the transition of the model.
            choose: a function that returns a value from the number of a time step and the posterior of its z.
        """
        seen = self.reader(features, present)
        state: Tensor = transition.start if self.start is None else self.start
        values: list[Tensor] = []
        for t in range(features.shape[1]):
            values.append(choose(t, self.density((self.past(state).tanh() + seen[:, t]) / 2)))
            state = transition.advance(state, values[-1], features[:, t])
        return values
