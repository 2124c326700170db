"""The multimodal VAE: several fields with one latent variable, by a product or a mixture of experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pvae.checks import require_whole
from pvae.densities import StandardNormal
from pvae.densities.experts import mixture_of_experts, product_of_experts
from pvae.errors import InputError
from pvae.models.direct_calls import takes_data
from pvae.models.modalities import Modality, Reading, mask_name, modality_settings, read_modality, require_binary_mask
from pvae.names import require_known, unknown
from pvae.programs.base import LatentModel

__all__ = ["MultimodalVAE"]

COMBINATIONS = {"product": product_of_experts, "mixture": mixture_of_experts}


class MultimodalVAE(LatentModel):
    """A VAE of several fields: z ~ N(0, I), each field ~ its likelihood given z, and q(z given the fields of a datum).

    Each field of the data that is a modality has an encoder, which gives a Gaussian expert of z, a decoder and a
    likelihood. The experts of the fields that a datum has are combined to q(z given these fields). A field that a datum
    does not have adds nothing to the bound, and q does not depend on it; a datum without any field has q(z) = N(0, I),
    and a bound of 0 unless another prior was fitted. The sites are ``z`` and one for each modality, which has the name
    of the field.

    The fields are x and others of any name. ``mask`` marks the observed entries of x, and ``w_mask`` those of w: 1 for
    observed and 0 for missing, with one number for each datum or one for each entry. `pvae.load_data` makes both from
    NaN with ``missing="mask"``. A field that is not in a batch is missing for all its data.

    Args:
        data_shape: shape of one x.
        modalities: the likelihood of each field, as the text ``"x=bernoulli,w=gaussian:scale=0.1"`` or as a mapping. In
            a text, ``network``, ``hidden=64x32`` and ``shape=28x28`` may follow, only for this field; in a mapping, the
            value may be a text, a module, or a mapping with the keys ``likelihood``, ``network``, ``hidden`` and
            ``shape``.
        field_shapes: pairs of a name and the shape of one datum, of the fields other than x. `ModelSpec` and the
            command line take them from the data.
        combine: ``"product"``: q is the normalised product of the experts and of N(0, I), which is a further expert; or
            ``"mixture"``: q is the mixture of the experts with equal weights.
        latent: number of latent dimensions.
        hidden: as for `pvae.models.base.BaseVAE`, for all fields without their own.
        network: a name of `pvae.models.base.NETWORKS`, for all fields without their own.
        activation: as for `BaseVAE`.
        initialisation: as for `BaseVAE`.
        output_bias: as for `BaseVAE`.

    Raises:
        InputError: for an argument that cannot be used, in one line; from `initialise_from`, if a field is in no datum.

    Sources: Wu & Goodman, Multimodal Generative Models for Scalable Weakly-Supervised Learning, arXiv:1802.05335
        (product); Shi, Siddharth, Paige & Torr, Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep
        Generative Models, arXiv:1911.03393 (mixture).

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> modalities = {"x": "bernoulli", "w": "gaussian:shape=3"}
        >>> model = pvae.MultimodalVAE(4, modalities, latent=2, hidden=8)
        >>> model.cross_generate("w", x=torch.eye(4)).shape  # w given x alone
        torch.Size([4, 3])
    """

    def __init__(
        self,
        data_shape: int | Sequence[int],
        modalities: str | Sequence[str] | Mapping[str, Any],
        *,
        field_shapes: Sequence[tuple[str, Sequence[int]]] | None = None,
        combine: str = "product",
        latent: int = 16,
        hidden: int | Sequence[int] | None = None,
        network: str = "mlp",
        activation: str | None = None,
        initialisation: str = "glorot",
        output_bias: str | float | Tensor | None = "data",
    ) -> None:
        super().__init__()
        require_known("combine", combine, COMBINATIONS)
        self.combine, self.latent = combine, require_whole(latent, "latent")
        self.prior = StandardNormal(self.latent)
        common: dict[str, Any] = {"hidden": hidden, "network": network, "activation": activation}
        common |= {"initialisation": initialisation, "output_bias": output_bias}
        self.modalities = nn.ModuleDict()
        for name, settings in modality_settings(modalities, data_shape, field_shapes).items():
            shape = settings.pop("shape")
            self.modalities[name] = Modality(shape, latent=self.latent, **{**common, **settings})
        self.optional_fields = tuple(name for name in self._field_names() if name != "x")

    def _field_names(self) -> list[str]:
        """Return the names of all fields that the programs can take."""
        return [*self.modalities, *map(mask_name, self.modalities)]

    def _each(self) -> list[tuple[str, Modality]]:
        """Return the name and the parts of each modality, x first."""
        return [(name, modality) for name, modality in self.modalities.items() if isinstance(modality, Modality)]

    def model(self, x: Tensor, **fields: Tensor) -> Tensor:
        """Generate z from the prior, and observe the fields that are present.

        Args:
            x: the field x, (batch,) + data_shape, or flat.
            fields: the other fields and the masks, by name.

        Returns:
            z, shape (batch, latent).
        """
        readings = self._read({"x": x, **fields})
        with pyro.plate("data", x.shape[0]):
            z: Tensor = pyro.sample("z", self.prior_density())
            for name, modality in self._each():
                reading = readings[name]
                density = modality.observed_density(z, reading.mask)
                pyro.sample(name, density, obs=modality.observed_value(reading, density))
            return z

    def guide(self, x: Tensor, **fields: Tensor) -> Tensor:
        """Infer z from the fields that are present. Returns z, shape (batch, latent).

        Args:
            x: the field x, (batch,) + data_shape, or flat.
            fields: the other fields and the masks, by name.
        """
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", self.encode(x=x, **fields))

    def prior_density(self) -> TorchDistribution:
        """Return p(z), the standard normal unless another prior was fitted, with event shape (latent,)."""
        return self.prior()

    @takes_data
    def encode(self, **fields: Tensor) -> TorchDistribution:
        """Return q(z given fields), with batch shape (batch,) and event shape (latent,).

        Args:
            fields: at least one modality, and the masks, by name.
        """
        readings = self._read(fields)
        experts = [(modality.expert(readings[name].value), readings[name].present) for name, modality in self._each()]
        locs = [loc for (loc, _), _ in experts]
        scales = [scale for (_, scale), _ in experts]
        return COMBINATIONS[self.combine](locs, scales, [present for _, present in experts])

    def _read(self, fields: Mapping[str, Tensor]) -> dict[str, Reading]:
        """Return the observed entries of each modality.

        Args:
            fields: fields and masks by name; and ``_subset``, (batch, modalities), the modalities that count.
        """
        subset = fields.get("_subset")
        strange = [name for name in fields if name not in (*self._field_names(), "_subset")]
        if strange:
            raise unknown("modality or mask", strange[0], self._field_names())
        first = next((fields[name] for name in self.modalities if name in fields), None)
        if first is None:
            raise InputError(f"At least one of the modalities {', '.join(self.modalities)} is needed; got none.")
        like = first.to(next(self.parameters()).dtype)
        columns = [None] * len(self.modalities) if subset is None else list(subset.unbind(-1))
        return {
            name: read_modality(name, modality.data_shape, fields, column, like)
            for (name, modality), column in zip(self._each(), columns, strict=True)
        }

    @torch.no_grad()
    def sample(self, n: int, *, mean: bool = False) -> dict[str, Tensor]:
        """Return new data, for each modality of shape (n,) + the shape of one datum.

        All modalities of a datum have the same z.

        Args:
            n: number of data, at least 0.
            mean: whether to return the means of the fields given z; otherwise draws.
        """
        return self._decode(self.prior_density().sample((require_whole(n, "n", least=0),)), mean=mean)

    @torch.no_grad()
    def reconstruct(self, **fields: Tensor) -> dict[str, Tensor]:
        """Return the mean of each modality, also of missing ones, given the mean of q(z given fields).

        Args:
            fields: at least one modality, and the masks, by name.
        """
        return self._decode(self.encode(**fields).mean, mean=True)

    @torch.no_grad()
    def cross_generate(self, target: str, *, mean: bool = True, **fields: Tensor) -> Tensor:
        """Return one modality given others, at one z drawn from q(z given fields), (batch,) + the shape of one datum.

        Args:
            target: the name of the modality.
            mean: whether to return the mean of the modality given z; otherwise a draw.
            fields: at least one modality, and the masks, by name.

        Raises:
            InputError: for an unknown modality.
        """
        require_known("modality", target, self.modalities)
        return self._decode(self.encode(**fields).sample(), mean=mean)[target]

    def cross_generation_of(self, target: str, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return one modality of data, and its mean given their other modalities, as `cross_generate` does.

        Data without the modality, or without all others, are left out.

        Args:
            target: the name of the modality.
            batch: the fields of the data.

        Returns:
            Two tensors, (data,) + the shape of one datum.

        Raises:
            InputError: for an unknown modality, or if no datum is left.
        """
        require_known("modality", target, self.modalities)
        fields = {name: batch[name] for name in self._field_names() if name in batch}
        readings = self._read(fields)
        others = [reading.present for name, reading in readings.items() if name != target]
        if not others:
            raise InputError(f"Cross-generation needs a second modality; the model has only {target!r}.")
        rows = readings[target].present & torch.stack(others).any(0)
        if not bool(rows.any()):
            raise InputError(f"Cross-generation needs data that have {target!r} and another modality; none has both.")
        given: dict[str, Any] = {
            name: value[rows] for name, value in fields.items() if name not in (target, mask_name(target))
        }
        true = readings[target].value[rows]
        return true, self.cross_generate(target, **given).reshape(true.shape)

    def _decode(self, z: Tensor, *, mean: bool) -> dict[str, Tensor]:
        """Return means or draws of all modalities given z, (batch, latent)."""
        return {name: modality.as_data(modality.decode(z), mean=mean) for name, modality in self._each()}

    def theta(self) -> list[nn.Parameter]:
        """Return the parameters of the model: decoders, likelihoods and a fitted prior."""
        of_modalities = [parameter for _, modality in self._each() for parameter in modality.theta()]
        return [*self.prior.parameters(), *of_modalities]

    def phi(self) -> list[nn.Parameter]:
        """Return the parameters of the guide: encoders and experts."""
        return [parameter for _, modality in self._each() for parameter in modality.phi()]

    def initialise_from(self, batch: Mapping[str, Tensor]) -> None:
        """Initialise the output biases from the training data; only once.

        Args:
            batch: the training data.

        Raises:
            InputError: if a modality is not in the data, or missing for every datum, or if a mask has other numbers
                than 0 and 1.
        """
        readings = self._read({name: batch[name] for name in self._field_names() if name in batch})
        for name, modality in self._each():
            require_binary_mask(name, batch)
            if name not in batch or not bool(readings[name].present.any()):
                reason = "missing for every datum" if name in batch else f"not among {', '.join(batch)}"
                raise InputError(
                    f"The modality {name!r} needs training data, and it is {reason}. Add data, or leave it out of "
                    "modalities."
                )
            modality.start_from(readings[name])
