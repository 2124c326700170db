"""`EMA`: a moving average of the parameters over the steps of a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pvae.callbacks.base import Callback
from pvae.checks import require_number
from pvae.errors import InputError

__all__ = ["EMA"]


class EMA(Callback):
    """Keeps an exponential moving average of all trained parameters; the training itself does not use it.

    After the first step the average is theta_1, the parameters; after step k it is decay times the previous average,
    plus (1 - decay) theta_k. It is saved in checkpoints, so that a resumed training continues it with identical bits.

    Args:
        decay: the weight of the previous average, from 0 to less than 1; 0.999 averages over about the last 1000 steps.

    Attributes:
        averages: the averages by the names of the parameters; empty before the first step.

    Raises:
        InputError: if the decay is outside its range.

    Source: Polyak & Juditsky, Acceleration of Stochastic Approximation by Averaging, SIAM J. Control 30(4), 1992.

    Example:
        >>> import pvae, torch
        >>> data = pvae.load_data(torch.eye(8), validation=0, test=0)
        >>> ema = pvae.callbacks.EMA(decay=0.9)
        >>> run = pvae.fit("vae:latent=1:hidden=2", data, epochs=2, callbacks=[ema], step="eager", progress=False)
        >>> with ema.applied():
        ...     bound = pvae.evaluate.elbo(run, data.train, particles=10)
        >>> len(ema.averages) == len(list(run.model.parameters()))
        True
    """

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = require_number(decay, "decay", least=0.0, below=1.0, advice="0.999 is usual.")
        self.averages: dict[str, Tensor] = {}
        self._parameters: dict[str, Tensor] = {}
        self._is_restored = False

    def on_start(self, config: Mapping[str, Any], model: Any) -> None:
        """Start a new average, unless a checkpoint has one."""
        if not self._is_restored:
            self.averages = {}
        self._parameters, self._is_restored = {}, False

    @torch.no_grad()
    def on_step(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        """Move the average towards the parameters."""
        self._parameters = dict(parameters)
        for name, parameter in parameters.items():
            average = self.averages.get(name)
            if average is None:
                self.averages[name] = parameter.detach().clone()
            elif average.shape != parameter.shape:
                raise InputError(
                    f"The average of {name} in the checkpoint has shape {tuple(average.shape)}, but the parameter has "
                    f"{tuple(parameter.shape)}. Restore the checkpoint from a copy, or train without EMA."
                )
            else:
                self.averages[name] = average.to(parameter.device).lerp_(parameter, 1.0 - self.decay)

    def state(self) -> dict[str, Tensor]:
        """Return the averages for a checkpoint."""
        return dict(self.averages)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load the averages of a checkpoint."""
        self.averages = {name: average.clone() for name, average in state.items()}
        self._is_restored = bool(state)

    def on_end(self, run: Any) -> None:
        """Forget the averages at the next training."""
        self._is_restored = False

    def on_error(self, error: BaseException) -> None:
        """Forget the averages at the next training."""
        self._is_restored = False

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Set the parameters of the trained model to their averages inside a block, and restore them after it.

        Raises:
            InputError: if no step has been taken since the training started.
        """
        before = {name: parameter.detach().clone() for name, parameter in self._trained().items()}
        self.copy_to_model()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(before[name])

    def copy_to_model(self) -> None:
        """Set the parameters of the trained model to their averages.

        Raises:
            InputError: if no step has been taken since the training started.
        """
        with torch.no_grad():
            for name, parameter in self._trained().items():
                parameter.copy_(self.averages[name])

    def _trained(self) -> dict[str, Tensor]:
        if not self._parameters:
            raise InputError("EMA has no average yet. Give it to pvae.fit as callbacks=[ema], and train for a step.")
        return self._parameters
