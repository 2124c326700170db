"""The VampPrior, a mixture of the posteriors at learned pseudo-inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.checks import require_sizes, require_whole
from pvae.errors import InputError
from pvae.names import unknown

__all__ = ["VampPrior"]

_INPUTS = ("data", "learned", "unbounded")
# The smallest initial distance of pseudo-inputs from the ends of the range, as a share of it: at the ends, the sigmoid
# has no gradient.
_MARGIN = 0.01


class _PosteriorMixture(dist.MixtureSameFamily):
    """The mixture of posteriors, with a clear error for posteriors that cannot score a given z."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(z), shape (...), in nats."""
        try:
            return super().log_prob(value)
        except (KeyError, NotImplementedError) as error:
            raise InputError(
                "A VampPrior scores z under q(z given u) of every pseudo-input, but this posterior can score only its "
                "own draws. Use a posterior with an inverse, such as 'full' or 'flow', or another prior."
            ) from error


class VampPrior(nn.Module):
    """The prior p(z) = 1/K sum_k q(z given u_k): the encoder's own posteriors at K pseudo-inputs u.

    With all training data as pseudo-inputs it is the aggregate posterior, the optimal prior for the encoder and these
    data; fewer, learned pseudo-inputs reduce overfitting. Pseudo-inputs belong to theta. The encoder belongs to phi
    although the prior uses it too, so its gradient comes from both programs.

    Args:
        latent: number of latent dimensions.
        components: K, the number of pseudo-inputs. The default is 100; the source uses 500, at five times the cost.
        data_shape: shape of one x as an input of the encoder.
        inputs: ``"learned"``, kept in the range of the training data by a sigmoid; ``"unbounded"``, learned without
            limits; or ``"data"``, fixed training data.

    Raises:
        InputError: for an unknown word, or a number that is not positive; in `initialise_from`, for fewer data than
            pseudo-inputs; in training, if ``inputs="data"`` has no data yet, or the posterior cannot score a z that it
            did not draw.
    Source: Tomczak & Welling, VAE with a VampPrior, arXiv:1705.07120, equation 9.

    Example:
        >>> import pvae, torch
        >>> model = pvae.VAE(4, latent=2, hidden=8, prior=pvae.VampPrior(2, components=5, data_shape=(4,)))
        >>> model.sample(3).shape
        torch.Size([3, 4])
    """

    takes_posterior = True
    low: Tensor
    high: Tensor
    values: Tensor
    logits: Tensor

    def __init__(
        self, latent: int, components: int = 100, *, data_shape: int | Sequence[int], inputs: str = "learned"
    ) -> None:
        super().__init__()
        self.latent = require_whole(latent, "latent")
        self.components = require_whole(components, "components")
        if inputs not in _INPUTS:
            raise unknown("inputs of a VampPrior", str(inputs), _INPUTS)
        self.inputs = inputs
        self.data_shape = require_sizes(data_shape, "data_shape")
        values = torch.randn(components, *self.data_shape)
        if inputs == "data":
            self.register_buffer("values", values)
        else:
            self.values = nn.Parameter(values)
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.ones(()))
        self.register_buffer("logits", torch.zeros(components), persistent=False)
        self._has_data = inputs != "data"

    @property
    def pseudo_inputs(self) -> Tensor:
        """The pseudo-inputs u, shape (components,) + data_shape, in the units of x."""
        return self.low + (self.high - self.low) * self.values.sigmoid() if self.inputs == "learned" else self.values

    def forward(self, context: Callable[[Tensor], Any]) -> dist.TorchDistribution:
        """Return p(z), with batch shape () and event shape (latent,).

        Args:
            context: a function from x, shape (batch,) + data_shape, to q(z given x).

        Raises:
            InputError: with ``inputs="data"``, if gradients are computed before `initialise_from` was called.
        """
        # pvae.fit traces the programs without gradients before it calls initialise_from
        if not self._has_data and torch.is_grad_enabled():
            raise InputError("A VampPrior with inputs='data' needs data. Call initialise_from(x), as pvae.fit does.")
        return _PosteriorMixture(torch.distributions.Categorical(logits=self.logits), context(self.pseudo_inputs))

    @torch.no_grad()
    def initialise_from(self, x: Tensor) -> None:
        """Set the pseudo-inputs to data, evenly spaced over the rows.

        Args:
            x: data, shape (data,) + data_shape.

        Raises:
            InputError: if there are fewer data than pseudo-inputs.
        """
        if len(x) < self.components:
            raise InputError(
                f"A VampPrior of {self.components} pseudo-inputs needs at least {self.components} data; got {len(x)}. "
                f"Choose components={len(x)} or fewer."
            )
        rows = torch.arange(self.components, device=x.device) * len(x) // self.components
        start = x[rows].reshape(self.values.shape).to(self.values)
        if self.inputs == "learned":
            self.low.copy_(x.min())
            self.high.copy_(x.max())
            width = (self.high - self.low).clamp_min(torch.finfo(start.dtype).tiny)
            start = ((start - self.low) / width).clamp(_MARGIN, 1 - _MARGIN).logit()
        self.values.copy_(start)
        self._has_data = True

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._has_data = True

    def extra_repr(self) -> str:
        """Return the settings for the repr."""
        size = math.prod(self.data_shape)
        return f"latent={self.latent}, components={self.components}, inputs={self.inputs!r}, size={size}"
