"""The modalities of a multimodal model: their settings, their networks, and their observed entries in a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pvae.checks import require_sizes
from pvae.errors import InputError
from pvae.models.base import BaseVAE
from pvae.models.datum_shapes import reshape_data
from pvae.models.entry_masks import carry_forward, fill_missing, mask_entries, zero_missing
from pvae.names import parse_setting, require_settings
from pvae.weights.tracing import is_traced

__all__ = ["Modality", "Reading", "mask_name", "modality_settings", "read_modality", "require_binary_mask"]

_OWN_SETTINGS = ("likelihood", "network", "hidden", "shape")
_RESERVED = ("c", "data", "index", "mask", "y", "z")
_ADVICE = "Write modalities='x=bernoulli,w=gaussian', or a mapping from the name of each field to its likelihood"


def mask_name(name: str) -> str:
    """Return the name of the field with the mask of a field: ``mask`` for x, and ``w_mask`` for w."""
    return "mask" if name == "x" else f"{name}_mask"


def modality_settings(
    modalities: Any, data_shape: int | Sequence[int], field_shapes: Sequence[tuple[str, Sequence[int]]] | None
) -> dict[str, dict[str, Any]]:
    """Return the settings of each modality: its shape, its likelihood, and network and hidden if they are given.

    Args:
        modalities: the argument of the user, see `pvae.MultimodalVAE`.
        data_shape: the shape of one x.
        field_shapes: pairs of the name and the shape of one datum of other fields; None if they are not known.

    Raises:
        InputError: for settings that cannot be read, no modality x, a name that cannot be used, or an unknown shape.
    """
    by_name = {name: _settings_of(name, given) for name, given in _pairs(modalities)}
    if "x" not in by_name:
        raise InputError(f"One of the modalities needs to be x, the main field of the data; got {', '.join(by_name)}.")
    shapes = {"x": data_shape, **dict(field_shapes or ())}
    for name, settings in by_name.items():
        _check_name(name)
        if name in shapes:
            settings.setdefault("shape", shapes[name])
        if "shape" not in settings:
            known = ", ".join(shapes)
            raise InputError(
                f"The shape of the modality {name!r} is not known; the data have {known}. Correct the name, or write "
                f"its shape, {name}=gaussian:shape=8 or {name}=bernoulli:shape=28x28."
            )
        # a field with one number for each datum is read as vectors of length 1
        settings["shape"] = require_sizes(settings["shape"], f"shape of {name}") or (1,)
    # x is the first site of the model, because programs look for the site of x by its size
    return {"x": by_name.pop("x"), **by_name}


def _pairs(modalities: Any) -> list[tuple[str, Any]]:
    """Return the name of each modality with the settings that were given for it."""
    if isinstance(modalities, Mapping):
        pairs = [(str(name), given) for name, given in modalities.items()]
    else:
        texts = modalities.split(",") if isinstance(modalities, str) else modalities
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and "=" in text for text in texts):
            raise InputError(f"{_ADVICE}; got {modalities!r}.")
        pairs = [(name.strip(), given.strip()) for name, _, given in (text.partition("=") for text in texts)]
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or not names:
        problem = f"{twice!r} twice" if names else "none"
        raise InputError(f"{_ADVICE}; got {problem}.")
    return pairs


def _settings_of(name: str, given: Any) -> dict[str, Any]:
    """Return the settings of one modality, from a text, a likelihood as a module, or a mapping."""
    if isinstance(given, nn.Module):
        return {"likelihood": given}
    if isinstance(given, Mapping):
        require_settings(f"the modality {name!r}", given, _OWN_SETTINGS)
        settings = {key: value for key, value in given.items() if value is not None}
        text = settings.get("likelihood", "bernoulli")
        return {**settings, "likelihood": text}
    if not isinstance(given, str):
        raise InputError(f"{_ADVICE}; got {given!r} for {name!r}.")
    own, kept = {}, []
    for number, part in enumerate(given.split(":")):
        key = part.partition("=")[0].strip()
        if not number or key not in _OWN_SETTINGS:
            kept.append(part)
            continue
        key, value = parse_setting(part, f"Settings are written name:key=value in {given!r}")
        own[key] = _sizes(value) if key in ("hidden", "shape") else value
    return {"likelihood": ":".join(kept), **own}


def _sizes(value: Any) -> Any:
    """Return ``"28x28"`` as (28, 28), and any other value unchanged; it is checked later."""
    parts = value.split("x") if isinstance(value, str) else [""]
    return tuple(map(int, parts)) if all(part.strip().isdigit() for part in parts) else value


def _check_name(name: str) -> None:
    """Raise InputError for a name that a field, a site or a module of the model cannot have."""
    has_other_meaning = name in _RESERVED or name.endswith("_mask") or hasattr(nn.ModuleDict(), name)
    if has_other_meaning or not name.isidentifier():
        raise InputError(
            f"{name!r} cannot be the name of a modality, because it has another meaning or is not an identifier. "
            "Rename "
            "the field, for example to 'w'; in place of labels y, give their one-hot vectors as a field of another "
            "name."
        )


@dataclass(frozen=True)
class Reading:
    """The observed entries of one modality in a batch.

    Attributes:
        value: the data, (batch,) + shape, with 0 where they are missing.
        mask: True for observed data: booleans of shape (batch,), or (batch,) + shape; None if all are observed.
        present: whether any entry of a datum is observed, shape (batch,), boolean.
    """

    value: Tensor
    mask: Tensor | None
    present: Tensor


class Modality(BaseVAE):
    """The encoder, the Gaussian expert, the decoder and the likelihood of one modality.

    Its arguments are those of `BaseVAE`, without prior and posterior.
    """

    def expert(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the expert of data, (batch, latent) each."""
        density: Any = self.encode(value)
        return density.base_dist.loc, density.base_dist.scale

    def observed_density(self, z: Tensor, mask: Tensor | None) -> TorchDistribution:
        """Return p(data given z) where the data are observed, batch shape (..., batch).

        Args:
            z: latent values, (..., batch, latent).
            mask: as in `Reading`.
        """
        density = self.decode(z)
        if mask is None:
            return density
        if mask.dim() == 1:
            return density.mask(mask)
        return mask_entries(density, self.observed(mask), "multimodal VAE with masks of entries")

    def observed_value(self, reading: Reading, density: TorchDistribution) -> Tensor:
        """Return the data, (batch,) + event shape, with a value in the support of their density where they are missing.

        Args:
            reading: the data.
            density: the result of `observed_density`.
        """
        value = self.observed(reading.value)
        if reading.mask is None:
            return value
        if reading.mask.dim() == 1:
            return fill_missing(value, reading.mask.reshape(-1, *[1] * (value.dim() - 1)), density)
        return fill_missing(value, self.observed(reading.mask), density)

    def start_from(self, reading: Reading) -> None:
        """Initialise the output bias from the data that are present; only once.

        Args:
            reading: the training data.
        """
        value = reading.value[reading.present]
        if reading.mask is not None and reading.mask.dim() > 1:
            value = carry_forward(value, reading.mask[reading.present])
        self.initialise_from({"x": value})


def read_modality(
    name: str, shape: tuple[int, ...], fields: Mapping[str, Tensor], subset: Tensor | None, like: Tensor
) -> Reading:
    """Return the observed entries of one modality.

    Args:
        name: the name of its field.
        shape: the shape of one datum.
        fields: the fields of the batch. A modality without a field is missing for every datum.
        subset: whether each datum of the modality counts, shape (batch,), boolean; None if all count.
        like: a tensor with the batch as its first dimension, in the data type and on the device of the result.

    Raises:
        InputError: for data of another shape or number, or a mask that has neither one number for each datum nor one
            for each entry, or other numbers than 0 and 1.
    """
    size = like.shape[0]
    value, mask = fields.get(name), fields.get(mask_name(name))
    if value is not None and value.shape[:1] != like.shape[:1]:
        raise InputError(f"Modalities need the same number of data; {name} has shape {tuple(value.shape)}, not {size}.")
    if not is_traced():
        require_binary_mask(name, fields)
    if value is None:
        value, mask = like.new_zeros(size, *shape), like.new_zeros(size)
    value = value.to(like.dtype)
    value = reshape_data(value.unsqueeze(-1) if value.dim() == 1 else value, shape, shape, name)
    if mask is not None:
        mask = _as_booleans(name, mask, value)
    if subset is not None:
        mask = subset if mask is None else mask & subset.reshape(size, *[1] * (mask.dim() - 1))
    if mask is None:
        return Reading(value, None, torch.ones(size, dtype=torch.bool, device=like.device))
    by_entry = mask.reshape(size, *[1] * (value.dim() - 1)) if mask.dim() == 1 else mask
    return Reading(zero_missing(value, by_entry), mask, mask.reshape(size, -1).any(-1))


def require_binary_mask(name: str, fields: Mapping[str, Tensor]) -> None:
    """Raise InputError if a mask of a modality has other numbers than 1 (observed) and 0 (missing).

    Args:
        name: the name of the modality.
        fields: the fields of the data.

    Raises:
        InputError: with the number of such entries.
    """
    mask = fields.get(mask_name(name))
    if mask is not None and (outside := int(((mask != 0) & (mask != 1)).sum())):
        raise InputError(
            f"{mask_name(name)} needs 1 (observed) or 0 (missing); {outside} of {mask.numel()} values are neither."
        )


def _as_booleans(name: str, mask: Tensor, value: Tensor) -> Tensor:
    """Return a mask as booleans, (batch,) or in the shape of the value."""
    if mask.shape[:1] != value.shape[:1] or mask.numel() not in (len(value), value.numel()):
        raise InputError(
            f"{mask_name(name)} needs one number for each datum of {name}, or one for each entry: {name} has shape "
            f"{tuple(value.shape)}, and the mask {tuple(mask.shape)}. Give 1 for observed and 0 for missing."
        )
    return (mask.reshape(-1) if mask.numel() == len(value) else mask.reshape(value.shape)) > 0
