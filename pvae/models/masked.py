"""The masked VAE: entries of x are missing, in training and in use; what is observed is all that is scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent

from pvae.errors import InputError
from pvae.models.base import Amortised, Parts, shaped
from pvae.models.imputation import Imputation, impute
from pvae.networks import Conditioned

__all__ = ["MaskedVAE"]


class MaskedVAE(Amortised):
    """A VAE of data with missing entries, which fills them in: q(z given what is observed), log p(what is observed).

    z ~ prior, x ~ likelihood(decoder(z)), scored on the entries where mask = 1. Both programs take ``(x, mask)``, and
    never look at x where mask = 0; without a mask, all is observed. A datum with nothing observed counts 0, and its z
    is drawn from the prior as far as the guide has learnt it. The sites are ``z`` and ``x``.

    Entries have to be missing at random: that one is missing may depend on what is observed, and not on its own value.

    Args:
        data_shape: shape of one x, and of one mask.
        encode_mask: whether the encoder sees the mask beside x * mask. It enters the first layer as mask - 1, so that
            with everything observed the model is the VAE, bit for bit.
        parts: ``latent``, ``hidden``, ``network``, ``activation``, ``initialisation``, ``output_bias``, ``prior``,
            ``posterior`` and ``likelihood``, as for `VAE`.

    Raises:
        InputError: as `VAE`; in use, for a mask of another shape than x, or a likelihood whose entries cannot be
            left out one by one.
    Source: Mattei & Frellsen, MIWAE, arXiv:1812.02633; Ivanov, Figurnov & Vetrov, Variational Autoencoder with
    Arbitrary Conditioning, arXiv:1806.02382 (masks drawn in training); Nazabal et al., Handling Incomplete
    Heterogeneous Data using VAEs, arXiv:1807.03653 (zeros for what is missing).
    """

    def __init__(self, data_shape: int | tuple[int, ...], *, encode_mask: bool = True, **parts: Unpack[Parts]) -> None:
        super().__init__(data_shape, **parts)
        if not isinstance(encode_mask, bool):
            raise InputError(f"encode_mask is true or false; got {encode_mask!r}.")
        self.encode_mask = encode_mask
        if encode_mask:
            self.encoder = Conditioned(self.encoder, None, initialisation=self.initialisation)

    def model(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Generate: z from the prior, x from the likelihood; observed where mask = 1. Returns x, 0 elsewhere."""
        seen = _known(x, mask)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self.prior_density())
            density = _entries_of(self.decode(z), self.observed(seen))
            return pyro.sample("x", density, obs=self.observed(_kept(x, seen)))

    def guide(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Infer: z from the posterior given the observed entries. Returns z, shape (batch, latent)."""
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", self.encode(x, mask))

    def encode(self, x: Tensor, mask: Tensor | None = None) -> TorchDistribution:  # type: ignore[override]
        """Return q(z given the observed entries), with batch shape (batch,) and event shape (latent,).

        Args:
            x: data, (batch, features) or (batch,) + data_shape; of any value where mask = 0.
            mask: 1 observed, 0 missing, in the shape of x; None for all observed.
        """
        seen = _known(x, mask)
        beside = (shaped(seen.to(x.dtype) - 1, self._input_shape),) if self.encode_mask else ()
        return super().encode(_kept(x, seen), *beside)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the mean of x, observed or not, given the posterior's mean of z, shape (batch,) + data_shape."""
        return self.as_data(self.decode(self.encode(x, mask).mean), mean=True)

    def impute(self, x: Tensor, mask: Tensor, *, n: int = 10, particles: int = 1000) -> Imputation:
        """Return the missing entries filled in, once by their mean and `n` times by draws.

        See `pvae.models.impute`, which does the same for any latent model.
        """
        return impute(self, {"x": x, "mask": mask}, n=n, particles=particles)

    def initialise_from(self, batch: Mapping[str, Tensor]) -> None:
        """Start prior and output bias from the observed entries of the data, once.

        Raises:
            InputError: if none is observed.
        """
        x, mask = batch["x"], batch.get("mask")
        if mask is not None and not bool((mask > 0).any()):
            raise InputError("A masked VAE learns from what is observed, and nothing is: mask is 0 for every entry.")
        if mask is not None and not self.initialised and bool((mask == 0).any()):
            batch = {**batch, "x": _carried(x, _known(x, mask))}
        super().initialise_from(batch)


def _known(x: Tensor, mask: Tensor | None) -> Tensor:
    """Where entries are observed, in the shape of x."""
    if mask is None:
        return torch.ones_like(x)
    if mask.shape[:1] != x.shape[:1] or mask.numel() != x.numel():
        raise InputError(
            f"A mask needs one entry for each of x: x has shape {tuple(x.shape)}, and the mask {tuple(mask.shape)}."
        )
    return mask.reshape(x.shape)


def _kept(x: Tensor, mask: Tensor) -> Tensor:
    """X where it is observed, and 0 elsewhere; a product would let NaN through."""
    return torch.where(mask > 0, x, torch.zeros_like(x))


def _entries_of(density: TorchDistribution, mask: Tensor) -> TorchDistribution:
    """Return p(x given z) of the observed entries alone.

    Raises:
        InputError: if the density is not a product over entries.
    """
    base, dims = density, 0
    while isinstance(base, Independent):
        base, dims = base.base_dist, dims + base.reinterpreted_batch_ndims
    if base.event_shape or dims != mask.dim() - 1:
        raise InputError(
            f"A masked VAE leaves entries of x out one by one, so it needs a likelihood that is independent in each; "
            f"got {type(base).__name__} with events of shape {tuple(density.event_shape)}."
        )
    return base.mask(mask > 0).to_event(dims)


def _carried(x: Tensor, mask: Tensor) -> Tensor:
    """Return x with each missing entry taken from the last datum before that has it observed (the first ones: after).

    What starts from the data so finds values that occur, about as often as they do: a mean is no count.
    """
    rows = torch.arange(len(x), device=x.device).reshape(-1, *[1] * (x.dim() - 1))
    last = torch.where(mask > 0, rows, -1).cummax(0).values
    source = torch.where(last < 0, last[-1:].clamp_min(0), last)
    return _kept(x, mask).gather(0, source)
