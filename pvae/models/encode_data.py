"""Use the codes of one model as the data of another, as in M1 + M2."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.data import Schema, Splits
from pvae.data.data_digest import digest
from pvae.errors import InputError
from pvae.programs.binding import Fields
from pvae.programs.queries import codes_of_data, encode, has_bernoulli_likelihood, inference_mode

__all__ = ["codes_of"]


def codes_of(
    latent_model: Any, splits: Splits, *, site: str | None = None, chunk: int = 1000, fields: Fields = None
) -> Splits:
    """Return data with the guide's mean of z as x; labels and other fields stay.

    A second model can be trained on them. M1 + M2 is a `SemiSupervisedVAE` with a Gaussian likelihood on the codes of a
    `VAE` that was trained on labelled and unlabelled data.

    Args:
        latent_model: a trained latent model, such as the ``model`` of a run.
        splits: the data that the model was trained on. Dynamically binarised data are binarised once and then encoded.
        site: name of the latent site; needed if there are several.
        chunk: number of data that are encoded at once.
        fields: as for `pvae.models.bind`.

    Returns:
        Splits with x of shape (data, units).

    Raises:
        InputError: if there are several latent sites and none is named, or if the named site does not exist.
    Source: Kingma, Rezende, Mohamed & Welling, Semi-supervised Learning with Deep Generative Models, arXiv:1406.5298,
        section 2 (M1 + M2).
    """
    chunk = require_whole(chunk, "chunk")

    def encode_split(_: str, batch: Batch) -> Batch:
        chunks = [batch.take(slice(start, start + chunk)) for start in range(0, batch.size, chunk)]
        codes = [_encode_batch(latent_model, part, site, fields) for part in chunks]
        other_fields = {name: tensor for name, tensor in batch.items() if name not in ("x", "mask")}
        return Batch(x=torch.cat(codes), **other_fields)

    encoded = _binarise_once(latent_model, splits, chunk, fields).map_parts(encode_split)
    content = {f"{name}.x": part.x for name, part in encoded.parts.items() if part is not None}
    return replace(
        encoded,
        name=f"codes of {splits.name}",
        data_shape=tuple(encoded.train.x.shape[1:]),
        binarise="none",
        mask="none",
        schema=Schema(label=splits.schema.label, classes=splits.schema.classes),
        checksum=digest(content),
        notes=(*splits.notes, f"codes of {type(latent_model).__name__}"),
    )


def _binarise_once(latent_model: Any, splits: Splits, chunk: int, fields: Fields) -> Splits:
    """Return the data as the model's likelihood needs them, with one fixed draw of dynamically binarised data."""
    first_data = splits.train.take(slice(0, chunk))
    resolved = splits.for_likelihood(has_bernoulli_likelihood(latent_model, first_data, fields))
    return replace(resolved, binarise="none").binarised("static") if resolved.train_dynamic else resolved


def _encode_batch(latent_model: Any, batch: Batch, site: str | None, fields: Fields) -> Tensor:
    """Return the guide's mean of one latent site, shape (batch, units), on the device of the batch."""
    first = next(latent_model.parameters(), None) if isinstance(latent_model, nn.Module) else None
    moved = batch if first is None else Batch(**{name: _move_to(first, tensor) for name, tensor in batch.items()})
    codes = encode(latent_model, moved, fields)
    with inference_mode(latent_model, moved, fields) as programs:
        codes = codes_of_data(codes, programs.bound_to(moved))
    is_known = len(codes) == 1 if site is None else site in codes
    if not is_known:
        raise InputError(f"Name the latent site of the codes, one of {', '.join(codes)}; got site={site!r}.")
    return codes[site or next(iter(codes))].reshape(batch.size, -1).to(batch.device)


def _move_to(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Return a tensor on the device of a parameter; real numbers also get its dtype."""
    return tensor.to(parameter) if tensor.is_floating_point() else tensor.to(parameter.device)
