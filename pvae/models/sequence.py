"""The sequence VAE: a latent vector for each time step, with a Markov or a recurrent transition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.densities.padding import PaddedStep
from pvae.models.base import code_of
from pvae.models.direct_calls import takes_data
from pvae.models.forecast import Forecast, resample
from pvae.models.sequence_parts import BaseSequenceVAE
from pvae.models.sequence_steps import masked_step, present_steps, zero_ended
from pvae.weights import log_weights

__all__ = ["SequenceVAE"]


class SequenceVAE(BaseSequenceVAE):
    """A VAE of sequences: a latent vector z_t for each time step t, and x_t ~ likelihood given z_t.

    With ``transition="markov"`` it is a deep Markov model: z_t ~ p(z_t given z_(t-1)), x_t ~ p(x_t given z_t). With
    ``"recurrent"`` it is a variational recurrent network: a GRU reads z and x of all earlier time steps, and z_t
    and x_t depend on its state too.

    Sequences may have different lengths: the field ``lengths`` has the number of time steps of each. Later
    entries of x are padding: they are never read, and add nothing to the log weight. The sites are ``z0``, ``z1``, ...
    and ``x0``, ``x1``, ...; both programs take ``(x, lengths)``, or ``(x)`` if all sequences are complete.

    Args:
        data_shape: (time, features) of one x, or for example (time, height, width) for convolutions; (time,) for one
            number at each time step.
        transition: ``"markov"`` or ``"recurrent"``.
        inference: ``"smoothing"``: q(z_t) depends on z_(t-1), or on the state of the recurrent network, and on the data
            from t on, by a GRU that reads the sequence backwards. The true posterior depends on the same variables.
            With ``"filtering"``, q(z_t) depends on x_t instead of the data from t on, as in the paper of the recurrent
            network.
        latent: size of each z_t.
        state: size of the states of the recurrent networks.
        between: sizes of the hidden layers from one time step to the next; 0 or () makes them linear.
        posterior: the posterior of z_t, a name of `pvae.densities.POSTERIORS`, or a density as a module, with a context
            of size `state`.
        parts: ``hidden``, ``network``, ``activation``, ``initialisation``, ``output_bias`` and ``likelihood``, as for
            `VAE`, of the encoder and the decoder of one time step.

    Raises:
        InputError: for an argument that cannot be used; in use, for lengths that are not whole numbers from 1 to the
            number of time steps.
    Source: Krishnan, Shalit & Sontag, Structured Inference Networks for Nonlinear State Space Models, arXiv:1609.09869;
        Chung et al., A Recurrent Latent Variable Model for Sequential Data, arXiv:1506.02216.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model = pvae.SequenceVAE((5, 3), latent=2, hidden=8, state=8, between=8)
        >>> data = pvae.Batch(x=torch.ones(4, 5, 3), lengths=torch.tensor([5, 2, 3, 1]))
        >>> pvae.log_weights(model, data, particles=7).log_w.shape
        torch.Size([7, 4])
        >>> model.sample(6).shape
        torch.Size([6, 5, 3])
        >>> model.forecast(data["x"], data["lengths"], steps=2, n=10).draws.shape
        torch.Size([10, 4, 2, 3])
    """

    def model(self, x: Tensor, lengths: Tensor | None = None) -> None:
        """Generate the sequences step by step, and observe x.

        Args:
            x: the data, (batch,) + data_shape, or flat; of any value after the end of a sequence.
            lengths: the number of time steps of each sequence, (batch,); None if all are complete.
        """
        observed, present = self.steps(x, self._event_shape), present_steps(lengths, x, self.time)
        state: Tensor = self.transition.start
        features: Tensor | None = None
        with pyro.plate("data", x.shape[0]):
            for t in range(self.time):
                seen = observed[:, t]
                with masked_step(present, t):
                    z = pyro.sample(f"z{t}", self.transition(state))
                density = self.decode_step(z, state)
                if present is not None:
                    density = PaddedStep(density, present[:, t])
                value = pyro.sample(f"x{t}", density, obs=seen)
                if value is not seen:  # it is simulated
                    state = self.advance(state, z, value, None if present is None else present[:, t])
                elif t + 1 < self.time:  # no density depends on the state after the last step
                    if features is None and self.transition.reads_data:
                        features = self.features(x, present)
                    state = self.transition.advance(state, z, None if features is None else features[:, t])

    def guide(self, x: Tensor, lengths: Tensor | None = None) -> None:
        """Infer z of each time step, given z of the earlier ones and the data.

        Args:
            x: the data, (batch,) + data_shape, or flat; of any value after the end of a sequence.
            lengths: the number of time steps of each sequence, (batch,); None if all are complete.
        """
        present = present_steps(lengths, x, self.time)

        def draw(t: int, density: TorchDistribution) -> Tensor:
            with masked_step(present, t):
                return pyro.sample(f"z{t}", density)

        with pyro.plate("data", x.shape[0]):
            self._infer(x, present, draw)

    def _infer(
        self, x: Tensor, present: Tensor | None, choose: Callable[[int, TorchDistribution], Tensor]
    ) -> list[Tensor]:
        """Return a value of z for each time step, (batch, latent) each.

        Args:
            x: the data, (batch,) + data_shape, or flat.
            present: True before the end of each sequence, (batch, time); None if all are complete.
            choose: a function that returns a value from the number of a time step and the posterior of its z.
        """
        return self.inference.infer(self.features(x, present), present, self.transition, choose)

    @torch.no_grad()
    @takes_data
    def codes(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the mean of q(z_t) given the earlier means, (batch, time, latent); it has no meaning after the end.

        Args:
            x: the data, (batch,) + data_shape, or flat.
            lengths: the number of time steps of each sequence, (batch,); None if all are complete.
        """
        present = present_steps(lengths, x, self.time)
        return torch.stack(self._infer(x, present, lambda t, density: code_of(density)), 1)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the mean of x given `codes`, shape (batch,) + data_shape, with 0 after the end of a sequence.

        Args:
            x: the data, (batch,) + data_shape, or flat.
            lengths: the number of time steps of each sequence, (batch,); None if all are complete.
        """
        codes, present = self.codes(x, lengths).unbind(1), present_steps(lengths, x, self.time)
        states = self.states(x, codes, lengths)
        means = [self.decode_step(z, state).mean for z, state in zip(codes, states[:-1], strict=True)]
        return zero_ended(torch.stack(means, 1), present, len(self._event_shape)).reshape(len(x), *self.data_shape)

    @torch.no_grad()
    def sample(self, n: int, *, lengths: Any = None, mean: bool = False) -> Tensor:
        """Return new sequences, shape (n,) + data_shape, with 0 after the end of each.

        Args:
            n: number of sequences, at least 0.
            lengths: one length for all, or one for each, (n,); by default all are complete.
            mean: whether to return the mean of each x_t given the draws of z_t and of earlier steps; otherwise draws of
                x.
        """
        start = self.transition.start.expand(require_whole(n, "n", least=0), -1)
        x = self._continue(start, self.time, mean=mean)
        if lengths is not None:
            tensor = torch.as_tensor(lengths, device=start.device)
            present = present_steps(tensor.expand(n) if tensor.dim() == 0 else tensor, x, self.time)
            x = zero_ended(x, present, len(self._event_shape))
        return x.reshape(n, *self.data_shape)

    @torch.no_grad()
    @takes_data
    def forecast(
        self, x: Tensor, lengths: Tensor | None = None, *, steps: int = 1, n: int = 100, particles: int = 100
    ) -> Forecast:
        """Return draws of the time steps after the end of each sequence, from p(later x given x).

        The state at the end is drawn from the posterior by weighted draws of the guide; then the model continues from
        it. With few particles the draws follow the guide rather than the posterior.

        Args:
            x: the data, (batch,) + data_shape, or flat; of any value after the end of a sequence.
            lengths: the number of time steps of each sequence, (batch,); None if all are complete.
            steps: number of time steps after the end.
            n: number of draws for each sequence.
            particles: number of weighted draws of the guide for each sequence.

        Raises:
            InputError: if no draw of a sequence has a weight above 0.
        """
        steps, n = require_whole(steps, "steps"), require_whole(n, "n")
        batch = Batch(x=x) if lengths is None else Batch(x=x, lengths=lengths)
        values, sizes = resample(log_weights(self, batch, require_whole(particles, "particles")), n)
        draws = self._continue(self.states(x, values, lengths)[-1], steps, mean=False)
        return Forecast(draws.reshape(n, len(x), steps, *self.data_shape[1:]), sizes)

    @takes_data
    def continued(self, x: Tensor, lengths: Tensor, *, n: int = 100, particles: int = 100) -> Tensor:
        """Return sequences with forecasts from their ends to the last time step, shape (n, batch) + data_shape.

        Args:
            x: the data, (batch,) + data_shape, or flat; of any value after the end of a sequence.
            lengths: the number of time steps of each sequence, (batch,).
            n: number of draws for each sequence.
            particles: number of weighted draws of the guide for each sequence, as for `forecast`.

        Raises:
            InputError: if no draw of a sequence has a weight above 0.
        """
        steps = self.time - int(lengths.min())
        complete = self.steps(x, self._step_shape).expand(n, -1, -1, *self._step_shape)
        if steps:
            draws = self.forecast(x, lengths, steps=steps, n=n, particles=particles).draws.reshape(
                n, len(x), steps, *self._step_shape
            )
            later = torch.arange(self.time, device=x.device) - lengths.unsqueeze(-1)
            index = later.clamp(0, steps - 1).reshape(1, len(x), self.time, *[1] * len(self._step_shape))
            forecasts = draws.gather(2, index.expand(complete.shape))
            complete = torch.where(later.ge(0).reshape(index.shape), forecasts.to(complete.dtype), complete)
        return complete.reshape(n, len(x), *self.data_shape)

    def _continue(self, state: Tensor, steps: int, *, mean: bool) -> Tensor:
        """Return data of `steps` time steps after a state (..., state), shape (..., steps, *event)."""
        values = []
        for _ in range(steps):
            z = self.transition(state).sample()
            density = self.decode_step(z, state)
            value = density.sample()
            values.append(density.mean if mean else value)
            state = self.advance(state, z, value)
        return torch.stack(values, -1 - len(self._event_shape))
