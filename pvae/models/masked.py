"""The masked VAE: some entries of x are missing, and only the observed entries are encoded and scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pvae.errors import InputError
from pvae.models.base import BaseVAE, Parts, code_of
from pvae.models.datum_shapes import reshape_data
from pvae.models.entry_masks import carry_forward, fill_missing, mask_entries, zero_missing
from pvae.models.imputation import Imputation, impute
from pvae.networks import Conditioned

__all__ = ["MaskedVAE"]


class MaskedVAE(BaseVAE):
    """A VAE of data with missing entries: q(z given the observed entries), log p(observed entries), and imputation.

    z ~ prior, x ~ likelihood(decoder(z)), scored at the entries with mask = 1. Both programs take ``(x, mask)``, and
    never read x where mask = 0. Without a mask all entries are observed. A datum without any observed entry has
    log-density 0, and its q(z) approaches the prior as the guide learns. The sites are ``z`` and ``x``.

    Entries have to be missing at random: whether an entry is missing may depend on observed entries, but not on its own
    value.

    Args:
        data_shape: shape of one x, and of one mask.
        encode_mask: whether the encoder gets the mask as a second input in addition to x * mask. The input is mask - 1,
            so without missing entries the model equals the VAE, bit for bit.
        parts: ``latent``, ``hidden``, ``network``, ``activation``, ``initialisation``, ``output_bias``, ``prior``,
            ``posterior`` and ``likelihood``, as for `VAE`.

    Raises:
        InputError: as `VAE`; in use, for a mask of another shape than x, or for a likelihood that is not independent
            in each entry.
    Source: Mattei & Frellsen, MIWAE, arXiv:1812.02633; Ivanov, Figurnov & Vetrov, Variational Autoencoder with
    Arbitrary Conditioning, arXiv:1806.02382 (masks drawn in training); Nazabal et al., Handling Incomplete
    Heterogeneous Data using VAEs, arXiv:1807.03653 (zeros for missing entries).

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model = pvae.MaskedVAE(4, latent=2, hidden=8)
        >>> x, mask = torch.eye(4), torch.ones(4, 4)
        >>> mask[:, 0] = 0  # the first entry of each datum is missing
        >>> imputed = model.impute(x, mask, n=5, particles=50)
        >>> imputed.draws.shape, bool((imputed.mean[:, 1:] == x[:, 1:]).all())
        (torch.Size([5, 4, 4]), True)
    """

    def __init__(self, data_shape: int | tuple[int, ...], *, encode_mask: bool = True, **parts: Unpack[Parts]) -> None:
        super().__init__(data_shape, **parts)
        if not isinstance(encode_mask, bool):
            raise InputError(
                f"encode_mask is true or false; got {encode_mask!r}. Write encode_mask=false, for example."
            )
        self.encode_mask = encode_mask
        if encode_mask:
            self.encoder = Conditioned(self.encoder, None, initialisation=self.initialisation)

    def model(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Generate z from the prior and observe the entries of x with mask = 1.

        Args:
            x: the data, (batch,) + data_shape, or flat.
            mask: 1 for an observed entry and 0 for a missing one, in the shape of x; None if all are observed.

        Returns:
            x with a value in the support of the likelihood at missing entries, 0 if it lies there, (batch,) + event
            shape.
        """
        complete_mask = _mask_like(x, mask)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self.prior_density())
            density = mask_entries(self.decode(z), self.observed(complete_mask), "masked VAE")
            observed = fill_missing(self.observed(x), self.observed(complete_mask), density)
            return pyro.sample("x", density, obs=observed)

    def guide(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Infer z from the posterior given the observed entries. Returns z, shape (batch, latent).

        Args:
            x: the data, (batch,) + data_shape, or flat.
            mask: 1 for an observed entry and 0 for a missing one, in the shape of x; None if all are observed.
        """
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", self.encode(x, mask))

    def encode(self, x: Tensor, mask: Tensor | None = None) -> TorchDistribution:  # type: ignore[override]
        """Return q(z given the observed entries), with batch shape (batch,) and event shape (latent,).

        Args:
            x: data, (batch, features) or (batch,) + data_shape, of any value where mask = 0.
            mask: 1 observed, 0 missing, in the shape of x; None if all entries are observed.
        """
        complete_mask = _mask_like(x, mask)
        context: tuple[Tensor, ...] = ()
        if self.encode_mask:
            context = (reshape_data(complete_mask.to(x.dtype) - 1, self._input_shape),)
        return super().encode(zero_missing(x, complete_mask), *context)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the mean of every entry of x given the posterior mean of z, shape (batch,) + data_shape.

        Args:
            x: data, (batch, features) or (batch,) + data_shape, of any value where mask = 0.
            mask: 1 observed, 0 missing, in the shape of x; None if all entries are observed.
        """
        return self.as_data(self.decode(code_of(self.encode(x, mask))), mean=True)

    def impute(self, x: Tensor, mask: Tensor, *, n: int = 10, particles: int = 1000) -> Imputation:
        """Return the data with their missing entries filled in, by their mean and by `n` draws.

        `pvae.models.impute` does the same for any latent model.

        Args:
            x: data, (batch, features) or (batch,) + data_shape, of any value where mask = 0.
            mask: 1 observed, 0 missing, in the shape of x.
            n: number of draws for each datum.
            particles: number of weighted draws of z for each datum.
        """
        return impute(self, {"x": x, "mask": mask}, n=n, particles=particles)

    def initialise_from(self, batch: Mapping[str, Tensor]) -> None:
        """Initialise prior and output bias from the observed entries of the training data; only once.

        Args:
            batch: the training data, with x and, if entries are missing, mask.

        Raises:
            InputError: if no entry is observed.
        """
        x, mask = batch["x"], batch.get("mask")
        if mask is not None and not bool((mask > 0).any()):
            raise InputError(
                "A masked VAE learns from observed entries, and mask is 0 for every entry. Mark observed entries by 1."
            )
        if mask is not None and not self.initialised and bool((mask == 0).any()):
            batch = {**batch, "x": carry_forward(x, _mask_like(x, mask))}
        super().initialise_from(batch)


def _mask_like(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mask in the shape of x, (batch, ...); ones if it is None."""
    if mask is None:
        return torch.ones_like(x)
    if mask.shape[:1] != x.shape[:1] or mask.numel() != x.numel():
        raise InputError(
            f"A mask needs one entry for each of x: x has shape {tuple(x.shape)}, and the mask {tuple(mask.shape)}. "
            "Give the mask the shape of x."
        )
    return mask.reshape(x.shape)
