"""A codebook for vector-quantised models: the nearest code of a vector, and the vector of a code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.runtime import effectful
from torch import Tensor, nn

from pvae.checks import require_number, require_whole
from pvae.errors import InputError
from pvae.names import unknown

__all__ = ["NearestCode", "Quantiser"]

# usage below which the moving average of a code is not reliable, so that the code does not change
_SMALLEST_USAGE = 1e-6


class NearestCode(dist.Categorical):
    """A Categorical with probability 1 on one value. Drawing it uses no random numbers."""

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return the value, shape sample_shape + batch_shape."""
        code: Tensor = self.logits.argmax(-1)
        return code.expand(*sample_shape, *code.shape)


@effectful(type="pvae_assign")
def _assign(quantiser: Quantiser, h: Tensor, event_dim: int) -> Any:
    """Return q(k given x); a Pyro handler of the objective handles this call."""
    k = quantiser.nearest(h).unsqueeze(-1)
    logits = h.new_full((*h.shape[:-1], quantiser.codes), -torch.inf)
    return NearestCode(logits=logits.scatter(-1, k, 0.0)).to_event(event_dim)


@effectful(type="pvae_embed")
def _embed(quantiser: Quantiser, k: Tensor) -> Tensor:
    """Return the codes; a Pyro handler of the objective handles this call."""
    return quantiser.codebook[k]


class Quantiser(nn.Module):
    """A codebook e_1, ..., e_K for the two programs of a vector-quantised model.

    The guide draws ``k = pyro.sample("k", quantiser(h))`` for the vectors h of the encoder, and the model decodes
    ``quantiser.embed(k)``. The codes are a discrete latent variable, so any objective can score them. With the
    objective `pvae.VectorQuantised`, which handles the two calls, the gradient goes straight through from ``embed(k)``
    to h.

    Args:
        codes: K, the number of codes.
        latent: size of a code.
        codebook: ``"gradient"``: the codes are parameters; or ``"average"``: each code is the moving average of the
            vectors assigned to it, which `pvae.VectorQuantised` updates in training.
        decay: decay of the moving averages.
        restart: with averages, a code to which fewer vectors per step are assigned, in the moving average, is replaced
            by a random vector of the batch; None never replaces a code.

    Raises:
        InputError: for an argument that cannot be used.
    Sources: van den Oord, Vinyals & Kavukcuoglu, Neural Discrete Representation Learning, arXiv:1711.00937, section 3
        and appendix A.1 (averages); Dhariwal et al., Jukebox, arXiv:2005.00341, section 3 (restarts).

    Example:
        >>> import pvae, torch
        >>> quantiser = pvae.Quantiser(codes=6, latent=2)
        >>> codes = quantiser.embed(torch.tensor([4, 1]))
        >>> quantiser(codes).sample()  # the codes that are nearest to these two codes
        tensor([4, 1])
    """

    codebook: Tensor
    usage: Tensor
    sums: Tensor

    def __init__(
        self,
        codes: int,
        latent: int,
        *,
        codebook: str = "gradient",
        decay: float = 0.99,
        restart: float | None = None,
    ) -> None:
        super().__init__()
        codes, latent = require_whole(codes, "codes"), require_whole(latent, "latent")
        if codebook not in ("gradient", "average"):
            raise unknown("codebook", str(codebook), ("gradient", "average"))
        self.codes, self.latent, self.averages = codes, latent, codebook == "average"
        self.decay = float(require_number(decay, "decay", least=0, below=1))
        self.restart = _checked_restart(restart, self.averages)
        start = torch.empty(codes, latent).uniform_(-1 / codes, 1 / codes)
        if not self.averages:
            self.codebook = nn.Parameter(start)
            return
        self.register_buffer("codebook", start)
        self.register_buffer("usage", torch.ones(codes))
        self.register_buffer("sums", start.clone())

    @torch.no_grad()
    def nearest(self, h: Tensor) -> Tensor:
        """Return the index of the code nearest to each vector (the first, if several are), (..., latent) to (...)."""
        return (self.codebook.square().sum(-1) - 2 * h @ self.codebook.mT).argmin(-1)

    def forward(self, h: Tensor, event_dim: int = 1) -> Any:
        """Return q(k given x), which has probability 1 on the nearest code of each vector.

        Args:
            h: vectors of the encoder, shape (..., *positions, latent).
            event_dim: number of dimensions of `positions`, which are event dimensions; 0 for one code per datum.
        """
        return _assign(self, h, event_dim)

    def embed(self, k: Tensor) -> Tensor:
        """Return the vectors of codes: from indices, shape (...), to (..., latent)."""
        return _embed(self, k)

    @torch.no_grad()
    def initialise_from(self, h: Tensor) -> None:
        """Set each code to a random vector; different codes get different vectors if there are enough.

        Args:
            h: vectors of the encoder, shape (..., latent).
        """
        flat = h.reshape(-1, self.latent)
        rows = torch.randperm(len(flat), device=h.device)[torch.arange(self.codes, device=h.device) % len(flat)]
        self.codebook.copy_(flat[rows])
        if self.averages:
            self.usage.fill_(1.0)
            self.sums.copy_(self.codebook)

    @torch.no_grad()
    def advance(self, h: Tensor, k: Tensor) -> None:
        """Update the moving averages with the vectors of one training step, and restart codes that are not used.

        Args:
            h: vectors of the encoder, shape (..., latent).
            k: their codes, shape (...).
        """
        if not self.averages:
            return
        h = h.reshape(-1, self.latent).to(self.sums)
        assigned = (k.reshape(-1, 1) == torch.arange(self.codes, device=k.device)).to(h)
        usage = self.decay * self.usage + (1 - self.decay) * assigned.sum(0)
        sums = self.decay * self.sums + (1 - self.decay) * assigned.mT @ h
        is_used = (usage > _SMALLEST_USAGE).unsqueeze(-1)
        codebook = torch.where(is_used, sums / usage.clamp_min(_SMALLEST_USAGE).unsqueeze(-1), self.codebook)
        if self.restart is not None:
            is_dead = usage < self.restart
            vectors = h[torch.randint(len(h), (self.codes,), device=h.device)]
            usage = torch.where(is_dead, torch.ones_like(usage), usage)
            codebook = torch.where(is_dead.unsqueeze(-1), vectors, codebook)
            sums = torch.where(is_dead.unsqueeze(-1), vectors, sums)
        self.usage.copy_(usage)
        self.sums.copy_(sums)
        self.codebook.copy_(codebook)


def _checked_restart(restart: float | None, averages: bool) -> float | None:
    if restart is None:
        return None
    advice = "It is a number of vectors per step; None never restarts a code."
    checked = require_number(restart, "restart", above=0, below=1, advice=advice)
    if not averages:
        raise InputError("restart needs codebook='average'; with codebook='gradient', leave restart out.")
    return float(checked)
