"""A codebook that both programs use: vectors become the nearest code, and codes become vectors again."""

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

# below it an average says no more of where a code should be
_FORGOTTEN = 1e-6


class NearestCode(dist.Categorical):
    """A Categorical with all probability on one value, which a draw gives without randomness."""

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return the value, shape sample_shape + batch_shape."""
        chosen: Tensor = self.logits.argmax(-1)
        return chosen.expand(*sample_shape, *chosen.shape)


@effectful(type="pvae_assign")
def _assign(quantiser: Quantiser, h: Tensor, event_dim: int) -> Any:
    k = quantiser.nearest(h).unsqueeze(-1)
    logits = h.new_full((*h.shape[:-1], quantiser.codes), -torch.inf)
    return NearestCode(logits=logits.scatter(-1, k, 0.0)).to_event(event_dim)


@effectful(type="pvae_embed")
def _embed(quantiser: Quantiser, k: Tensor) -> Tensor:
    return quantiser.codebook[k]


class Quantiser(nn.Module):
    """A codebook e_1, ..., e_K for the two programs of a vector-quantised model.

    The guide draws ``k = pyro.sample("k", quantiser(h))`` for the encoder's vectors h, and the model decodes
    ``quantiser.embed(k)``: the codes are a discrete latent variable, and any objective may score them. Under the
    objective `pvae.VectorQuantised`, which follows the two calls, the gradient passes straight from ``embed(k)`` to h.

    Args:
        codes: number K of codes.
        latent: size of a code.
        codebook: ``"gradient"``: the codes are parameters; or ``"average"``: each is the moving average of the vectors
            assigned to it, which `pvae.VectorQuantised` moves on in training.
        decay: of the moving averages.
        restart: with averages, a code that is assigned fewer vectors a step, on (moving) average, is put on one of the
            batch's vectors, drawn at random; None never does so.

    Raises:
        InputError: for an argument that cannot be used.
    Sources: van den Oord, Vinyals & Kavukcuoglu, Neural Discrete Representation Learning, arXiv:1711.00937, section 3
        and appendix A.1 (averages); Dhariwal et al., Jukebox, arXiv:2005.00341, section 3 (restarts).
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
        """Return the index of the code nearest to each vector (the first of several), (..., latent) to (...)."""
        return (self.codebook.square().sum(-1) - 2 * h @ self.codebook.mT).argmin(-1)

    def forward(self, h: Tensor, event_dim: int = 1) -> Any:
        """Return q(k given x), which has probability 1 on the nearest code of each vector.

        Args:
            h: the encoder's vectors, shape (..., *positions, latent).
            event_dim: number of dimensions of `positions`, which are the event; 0 for one code per datum.
        """
        return _assign(self, h, event_dim)

    def embed(self, k: Tensor) -> Tensor:
        """Return the codes of these indices, shape (...) to (..., latent)."""
        return _embed(self, k)

    @torch.no_grad()
    def initialise_from(self, h: Tensor) -> None:
        """Put each code on a vector of its own of `h`, shape (..., latent), drawn at random; in turn if h has fewer."""
        flat = h.reshape(-1, self.latent)
        chosen = torch.randperm(len(flat), device=h.device)[torch.arange(self.codes, device=h.device) % len(flat)]
        self.codebook.copy_(flat[chosen])
        if self.averages:
            self.usage.fill_(1.0)
            self.sums.copy_(self.codebook)

    @torch.no_grad()
    def advance(self, h: Tensor, k: Tensor) -> None:
        """Move the averages on by the vectors of one step of training, and restart codes that are out of use.

        Args:
            h: the encoder's vectors, shape (..., latent).
            k: their codes, shape (...).
        """
        if not self.averages:
            return
        h = h.reshape(-1, self.latent).to(self.sums)
        assigned = (k.reshape(-1, 1) == torch.arange(self.codes, device=k.device)).to(h)
        usage = self.decay * self.usage + (1 - self.decay) * assigned.sum(0)
        sums = self.decay * self.sums + (1 - self.decay) * assigned.mT @ h
        kept = (usage > _FORGOTTEN).unsqueeze(-1)
        codebook = torch.where(kept, sums / usage.clamp_min(_FORGOTTEN).unsqueeze(-1), self.codebook)
        if self.restart is not None:
            dead = usage < self.restart
            fresh = h[torch.randint(len(h), (self.codes,), device=h.device)]
            usage = torch.where(dead, torch.ones_like(usage), usage)
            codebook = torch.where(dead.unsqueeze(-1), fresh, codebook)
            sums = torch.where(dead.unsqueeze(-1), fresh, sums)
        self.usage.copy_(usage)
        self.sums.copy_(sums)
        self.codebook.copy_(codebook)


def _checked_restart(restart: float | None, averages: bool) -> float | None:
    if restart is None:
        return None
    advice = "It is a number of vectors per step; None never restarts a code."
    checked = require_number(restart, "restart", above=0, below=1, advice=advice)
    if not averages:
        raise InputError("restart is for codebook='average': a code that a gradient moves has no count of its vectors.")
    return float(checked)
