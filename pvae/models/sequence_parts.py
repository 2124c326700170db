"""The parts of a sequence VAE: encoder and decoder of one time step, transition and posterior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pvae.checks import require_sizes, require_whole
from pvae.errors import InputError
from pvae.models.base import BaseVAE, NetworkParts, initialise_density, network_kind
from pvae.models.datum_shapes import reshape_data
from pvae.models.sequence_guide import StepPosterior
from pvae.models.sequence_steps import check_lengths, check_sequence_shape, present_steps, zero_ended
from pvae.models.transitions import MarkovTransition, RecurrentTransition, Transition
from pvae.names import unknown
from pvae.networks import Conditioned

__all__ = ["BaseSequenceVAE"]

TRANSITIONS = ("markov", "recurrent")


class BaseSequenceVAE(BaseVAE):
    """The parts of a `SequenceVAE`, which writes the two programs and documents the arguments."""

    encoder: Any
    decoder: Any

    def __init__(
        self,
        data_shape: int | Sequence[int],
        *,
        transition: str = "markov",
        inference: str = "smoothing",
        latent: int = 16,
        state: int = 64,
        between: int | Sequence[int] = 64,
        posterior: str | nn.Module = "diagonal",
        **parts: Unpack[NetworkParts],
    ) -> None:
        shape = check_sequence_shape(data_shape)
        if transition not in TRANSITIONS:
            raise unknown("transition", str(transition), TRANSITIONS)
        state = require_whole(state, "state")
        advice = "For example between=64; 0 means no hidden layer."
        hidden = require_sizes(between, "between", zero=True, advice=advice)
        super().__init__(shape[1:] or (1,), latent=latent, **parts)
        self.data_shape, self.time, self._step_shape = shape, shape[0], self.data_shape
        activation = parts.get("activation") or network_kind(parts.get("network", "mlp")).activation or "tanh"
        style: dict[str, Any] = {"activation": activation, "initialisation": self.initialisation}
        del self.prior, self.posterior  # the prior is the transition, and the posterior has another context
        features: int = self.encoder.out_features
        self.transition: Transition
        if transition == "markov":
            self.transition = MarkovTransition(self.latent, hidden, **style)
        else:
            self.transition = RecurrentTransition(features, self.latent, state, hidden, **style)
            self.decoder = Conditioned(self.decoder, state, initialisation=self.initialisation)
        self.inference = StepPosterior(
            inference, features, self.transition, state=state, latent=self.latent, posterior=posterior, **style
        )

    def decode_step(self, z: Tensor, state: Tensor) -> TorchDistribution:
        """Return p(x_t given z_t and the state before t), with batch shape (...).

        Its events have the shape of one step.

        Args:
            z: the latent vector of the time step, (..., latent).
            state: the state of the transition before it, (..., state). A Markov transition does not use it.
        """
        return self.likelihood(self.decoder(z, state) if self.transition.reads_data else self.decoder(z))

    def advance(self, state: Tensor, z: Tensor, value: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the state of the transition after a time step, (..., state).

        Args:
            state: the state before it, (..., state).
            z: the latent vector of the time step, (..., latent).
            value: the data of the time step, (..., batch, *event).
            present: True for the sequences that have not ended, (batch,); None for all.
        """
        if not self.transition.reads_data:
            return self.transition.advance(state, z, None)
        clean = zero_ended(value, present, len(self._event_shape)).to(z.dtype)
        leading = clean.shape[: clean.dim() - len(self._event_shape)]
        return self.transition.advance(state, z, self.encoder(clean.reshape(*leading, *self._input_shape)))

    def features(self, x: Tensor, present: Tensor | None) -> Tensor:
        """Return the encoder's features of all time steps, computed at once, shape (batch, time, features).

        Args:
            x: the data, (batch,) + data_shape, or flat.
            present: True before the end of each sequence, (batch, time); None if all are complete.
        """
        steps = zero_ended(self.steps(x, self._input_shape), present, len(self._input_shape))
        features: Tensor = self.encoder(steps)
        return features

    def steps(self, x: Tensor, step_shape: tuple[int, ...]) -> Tensor:
        """Return data as (batch, time) + step_shape, a view if possible.

        Args:
            x: the data, (batch,) + data_shape, or flat.
            step_shape: the shape of one time step.
        """
        return reshape_data(x, self.data_shape, self.data_shape).reshape(x.shape[0], self.time, *step_shape)

    def states(self, x: Tensor, values: Sequence[Tensor], lengths: Tensor | None = None) -> list[Tensor]:
        """Return the state before each time step and the one at the end, (..., batch, state) each.

        A sequence that has ended keeps its last state.

        Args:
            x: the data, (batch,) + data_shape, or flat.
            values: z of each time step, (..., batch, latent) each.
            lengths: the number of time steps of each sequence, (batch,); None if all are complete.
        """
        observed, present = self.steps(x, self._event_shape), present_steps(lengths, x, self.time)
        states = [self.transition.start.expand(*values[0].shape[:-1], -1)]
        for t, z in enumerate(values):
            is_present = None if present is None else present[:, t]
            state = self.advance(states[-1], z, observed[:, t], is_present)
            states.append(state if is_present is None else torch.where(is_present.unsqueeze(-1), state, states[-1]))
        return states

    def encode(self, x: Tensor, *context: Tensor) -> TorchDistribution:
        """Raise InputError, because there is one z for each time step.

        Raises:
            InputError: always; `codes` returns the means.
        """
        raise InputError(
            "A sequence has one z for each time step, not a single z. Use codes(x, lengths) for the means of all."
        )

    def prior_density(self) -> TorchDistribution:
        """Raise InputError, because the prior of each z depends on the previous time step.

        Raises:
            InputError: always; `sample` draws sequences.
        """
        raise InputError("The prior of each z depends on the previous time step. Use sample(n), or model.transition.")

    def theta(self) -> list[nn.Parameter]:
        """Return the parameters of the model; with a recurrent transition also those of the encoder."""
        modules = [self.transition, self.decoder, self.likelihood]
        return list(nn.ModuleList([*modules, *([self.encoder] if self.transition.reads_data else [])]).parameters())

    def check_data(self, batch: Mapping[str, Tensor]) -> None:
        """Check the lengths of sequences.

        Args:
            batch: the data, with x and, if sequences are padded, lengths.

        Raises:
            InputError: for lengths that are not whole numbers from 1 to the number of time steps.
        """
        if "lengths" in batch:
            check_lengths(batch["lengths"], len(batch["x"]), self.time)

    def initialise_from(self, batch: Mapping[str, Tensor]) -> None:
        """Initialise the likelihood's output bias from the training data before the ends of sequences; only once.

        Args:
            batch: the training data, with x and, if sequences are padded, lengths.

        Raises:
            InputError: for lengths that are not whole numbers from 1 to the number of time steps.
        """
        self.check_data(batch)
        if self.initialised:
            return
        if self._bias_from_data:
            steps = self.steps(batch["x"], self._event_shape)
            present = present_steps(batch.get("lengths"), batch["x"], self.time)
            initialise_density(self.likelihood, steps.flatten(0, 1) if present is None else steps[present])
        self.initialised.fill_(True)
