"""One chunk of data under one mixture: log-likelihoods, responsibilities and sufficient statistics.

Two routes give the same numbers. *Features* takes two matrix products on exponential-family features for all
components at once. *Whitened* takes one product for each component, in that component's own coordinates, where
narrow or far components lose no digits. Everything is laid out (components, batch): sums over the first
dimension vectorise, where sums over a short last one do not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from pvae.em.base import Mixture, Statistics

__all__ = ["Features", "Route", "Whitened", "make_route", "shares_"]

#: Chunks that stay in a core's cache, in bytes.
FEATURE_BYTES, WHITENED_BYTES = 1 << 20, 1 << 20
#: Logits further below the largest than this are raised to it before exp, and the shares set to 0 after: exp takes many
#: times longer where its result is denormal or 0, and so does arithmetic on denormals.
LOWEST_LOGIT, LOWEST_SHARE = -60.0, 1e-20
#: float32 sums are flushed to float64 after so many data.
FLUSH = 16384
#: Rounding of a log-density that the features route may make: on average over the data, and in the worst component.
FEATURE_ERROR = {torch.float64: (1e-9, 1e-6), torch.float32: (1e-4, 1e-3)}
#: Rounding of a whitened coordinate that float32 may make.
WHITENED_ERROR = 1e-5


#: Memory for a chunk's features, with views of it, by the chunk's shape: written over and over.
Scratch = dict[torch.Size, tuple[Tensor, Tensor, list[tuple[Tensor, Tensor, Tensor]]]]


def shares_(logits: Tensor, weights: Tensor | None) -> Tensor:
    """Turn logits, (components, batch), into weighted responsibilities in place; return log p(x), (batch,)."""
    highest = logits.amax(0)
    total = logits.sub_(highest).clamp_min_(LOWEST_LOGIT).exp_().sum(0)
    logits.mul_(total.reciprocal() if weights is None else weights / total)
    functional.threshold(logits, LOWEST_SHARE, 0.0, inplace=True)
    return highest.add_(total.log_())


class Route(ABC):
    """One mixture, prepared to meet chunks of data.

    Args:
        mixture: in the coordinates of the chunks.
        dtype: of the chunks, and of the work on them.
    """

    def __init__(self, mixture: Mixture, dtype: torch.dtype) -> None:
        self.mixture, self.dtype = mixture, dtype
        self.log_likelihood = torch.zeros((), dtype=torch.float64, device=mixture.means.device)
        self.weight = torch.zeros_like(self.log_likelihood)

    @property
    @abstractmethod
    def chunk(self) -> int:
        """How many data make a chunk."""

    @property
    def width(self) -> int:
        """How many numbers stand for a datum in a prepared chunk."""
        return self.mixture.features

    def prepare(self, u: Tensor, scratch: Scratch | None = None) -> Tensor:
        """Return a chunk, (features, batch), as the other methods take it, (width, batch).

        It is the same for any mixture of the family. Where there is a scratch, the next chunk may overwrite it.
        """
        return u

    @abstractmethod
    def logits(self, prepared: Tensor) -> Tensor:
        """Return log w_k p(u given k), (components, batch), up to what `correction` adds."""

    def correction(self, prepared: Tensor) -> Tensor | None:
        """Return what all logits of a datum lack, (batch,), or None."""
        return None

    @abstractmethod
    def add(self, prepared: Tensor, weights: Tensor | None) -> None:
        """Add a chunk to the statistics."""

    @abstractmethod
    def statistics(self, outer: Tensor | None) -> Statistics:
        """Return the statistics of all chunks added; `outer` is the data's summed x x' where it is needed."""

    def _count(self, log_likelihoods: Tensor, weights: Tensor | None) -> None:
        weighted = log_likelihoods if weights is None else log_likelihoods * weights
        self.log_likelihood += weighted.sum(dtype=torch.float64)
        self.weight += log_likelihoods.numel() if weights is None else weights.sum(dtype=torch.float64)


class Features(Route):
    """The route of exponential-family features."""

    def __init__(self, mixture: Mixture, dtype: torch.dtype) -> None:
        super().__init__(mixture, dtype)
        self.theta = mixture.family.natural(mixture).to(dtype)
        # Whichever way around the product of responsibilities and features is faster.
        self.turned = self.width <= mixture.components
        self.totals = torch.zeros_like(self.theta.mT if self.turned else self.theta, dtype=torch.float64)
        self.recent = self.totals if dtype == torch.float64 else torch.zeros_like(self.totals, dtype=dtype)
        self.unflushed = 0

    @property
    def chunk(self) -> int:
        per_datum = (self.mixture.components + self.width) * self.dtype.itemsize
        return max(128, _budget(FEATURE_BYTES, self.theta) // per_datum)

    @property
    def width(self) -> int:
        return self.mixture.family.width(self.mixture.features)

    def prepare(self, u: Tensor, scratch: Scratch | None = None) -> Tensor:
        family = self.mixture.family
        if scratch is not None and u.shape in scratch:
            kept, phi, products = scratch[u.shape]
            kept.copy_(u)
            for left, right, place in products:
                torch.mul(left, right, out=place)
            return phi
        phi = u.new_empty(self.width, u.shape[1])
        family.write(u, phi)
        if scratch is not None and family.name == "full":
            kept = phi[1 : 1 + len(u)]
            scratch[u.shape] = kept, phi, family.products(kept, phi)
        return phi

    def logits(self, prepared: Tensor) -> Tensor:
        return self.theta @ prepared

    def correction(self, prepared: Tensor) -> Tensor | None:
        if not self.mixture.family.outer:
            return None
        return -0.5 * (self.mixture.whitening.to(prepared.dtype).mT @ prepared[1:]).square().sum(0)

    def add(self, prepared: Tensor, weights: Tensor | None) -> None:
        shares = self.theta @ prepared
        self._count(shares_(shares, weights), weights)
        if self.turned:
            self.recent.addmm_(prepared, shares.mT)
        else:
            self.recent.addmm_(shares, prepared.mT)
        self.unflushed += prepared.shape[1]
        if self.unflushed >= FLUSH:
            self._flush()

    def _flush(self) -> None:
        if self.recent is not self.totals:
            self.totals += self.recent
            self.recent.zero_()
        self.unflushed = 0

    def statistics(self, outer: Tensor | None) -> Statistics:
        self._flush()
        mixture = self.mixture
        totals = self.totals.mT.contiguous() if self.turned else self.totals
        first, second = mixture.family.moments(totals, mixture.features, outer)
        log_likelihood = self.log_likelihood
        if outer is not None:
            precision = mixture.whitening @ mixture.whitening.mT
            log_likelihood = log_likelihood - 0.5 * (precision * outer).sum()
        about = torch.zeros_like(mixture.means)
        return Statistics(totals[:, 0], first, second, about, log_likelihood, self.weight)


class Whitened(Route):
    """The route of whitened coordinates."""

    def __init__(self, mixture: Mixture, dtype: torch.dtype) -> None:
        super().__init__(mixture, dtype)
        self.means = mixture.means.to(dtype).unsqueeze(2)
        self.whitening = mixture.whitening.to(dtype)
        self.constant = mixture.log_scale().to(dtype).unsqueeze(1)
        family = mixture.family
        shape = family.shape(mixture.components, mixture.features)
        self.counts = torch.zeros_like(mixture.weights)
        self.first = torch.zeros_like(mixture.means)
        self.second = torch.zeros(shape, dtype=torch.float64, device=self.means.device)
        self.recent = [torch.zeros_like(each, dtype=dtype) for each in (self.counts, self.first, self.second)]
        self.unflushed = 0

    @property
    def chunk(self) -> int:
        per_datum = self.mixture.components * self.mixture.features * self.dtype.itemsize
        return max(32, 2 * self.mixture.features, _budget(WHITENED_BYTES, self.means) // per_datum)

    def _whitened(self, u: Tensor) -> Tensor:
        # The difference is taken first: far from the origin W'u - W'm would lose what the whitening gains.
        return self.mixture.family.whiten(u - self.means, self.whitening)

    def _logits(self, y: Tensor) -> Tensor:
        return torch.sub(self.constant, y.square().sum(1), alpha=0.5)

    def logits(self, prepared: Tensor) -> Tensor:
        return self._logits(self._whitened(prepared))

    def add(self, prepared: Tensor, weights: Tensor | None) -> None:
        y = self._whitened(prepared)
        shares = self._logits(y)
        self._count(shares_(shares, weights), weights)
        weighted = y * shares.unsqueeze(1)
        self.recent[0] += shares.sum(1)
        self.recent[1] += weighted.sum(2)
        self.recent[2] += self.mixture.family.second(y, weighted)
        self.unflushed += prepared.shape[1]
        if self.unflushed >= FLUSH:
            self._flush()

    def _flush(self) -> None:
        for total, recent in zip((self.counts, self.first, self.second), self.recent, strict=True):
            total += recent
            recent.zero_()
        self.unflushed = 0

    def statistics(self, outer: Tensor | None) -> Statistics:
        self._flush()
        mixture = self.mixture
        first, second = mixture.family.colour(self.first, self.second, mixture.roots)
        return Statistics(self.counts, first, second, mixture.means, self.log_likelihood, self.weight)


def make_route(mixture: Mixture, spread: Tensor, dtype: torch.dtype) -> Route:
    """Return the fastest route that is accurate for a mixture.

    Args:
        mixture: in the coordinates of the chunks.
        spread: mean square of each feature in these coordinates, (features,).
        dtype: what the work should be done in; float64 takes its place where float32 is not enough.
    """
    family, features = mixture.family, mixture.features
    # Squares of size |u|^2 P cancel to about 1 in the features, distances of size |u| P^(1/2) in the whitening.
    squares = (family.precision_diagonal(mixture.whitening) * spread).sum(-1)
    mean, worst = float((mixture.weights * squares).sum()), float(squares.max())

    def fine(dtype: torch.dtype) -> bool:
        eps, (most, most_of_one) = torch.finfo(dtype).eps, FEATURE_ERROR[dtype]
        return eps * mean <= most and eps * worst <= most_of_one

    full = family.name == "full"
    if dtype == torch.float32 and not (full and features <= 8):
        if not full and fine(torch.float32):
            return Features(mixture, torch.float32)
        if torch.finfo(dtype).eps * worst**0.5 <= WHITENED_ERROR:
            return Whitened(mixture, torch.float32)
    few = full and mixture.components * 4 < features
    return Features(mixture, torch.float64) if fine(torch.float64) and not few else Whitened(mixture, torch.float64)


def _budget(bytes_: int, like: Tensor) -> int:
    return bytes_ if like.device.type == "cpu" else bytes_ * 256
