"""The codes of one model as the data of another: M1 + M2, and any other stack."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.data import Splits
from pvae.data.splits import digest
from pvae.errors import InputError
from pvae.programs.binding import Fields
from pvae.programs.queries import encode, scores_bits

__all__ = ["codes_of"]


def codes_of(
    latent_model: Any, splits: Splits, *, site: str | None = None, chunk: int = 1000, fields: Fields = None
) -> Splits:
    """Return data whose x is the guide's mean of z at the given data's x; labels and other fields stay.

    Train a second model on them. M1 + M2 is a `SemiSupervisedVAE` with a Gaussian likelihood on the codes of a `VAE`,
    which has seen labelled and hidden data alike.

    Args:
        latent_model: a latent model, trained; of a run, its ``model``.
        splits: the data that it was trained on; grey data that it draws at every use are encoded at one draw.
        site: name of the latent site, where there are several.
        chunk: data encoded at once.
        fields: as for `pvae.models.bind`.

    Raises:
        InputError: if there are several latent sites and none is named, or not that one.
    Source: Kingma, Rezende, Mohamed & Welling, Semi-supervised Learning with Deep Generative Models, arXiv:1406.5298,
        section 2 (M1 + M2).
    """
    chunk = require_whole(chunk, "chunk")
    drawn = splits.for_likelihood(scores_bits(latent_model, splits.train.take(slice(0, 4)), fields))
    drawn = replace(drawn, binarise="none").binarised("static") if drawn.train_dynamic else drawn

    def encoded(_: str, batch: Batch) -> Batch:
        parts = [batch.take(slice(start, start + chunk)) for start in range(0, batch.size, chunk)]
        codes = [_codes(latent_model, each, site, fields) for each in parts]
        rest = {name: each for name, each in batch.items() if name not in ("x", "mask")}
        return Batch(x=torch.cat(codes), **rest)

    made = drawn.map_parts(encoded)
    content = {f"{name}.x": each.x for name, each in made.parts.items() if each is not None}
    return replace(
        made,
        name=f"codes of {splits.name}",
        data_shape=tuple(made.train.x.shape[1:]),
        binarise="none",
        mask="none",
        checksum=digest(content),
        notes=(*splits.notes, f"codes of {type(latent_model).__name__}"),
    )


def _codes(latent_model: Any, batch: Batch, site: str | None, fields: Fields) -> torch.Tensor:
    home = next(latent_model.parameters(), None) if isinstance(latent_model, nn.Module) else None
    here = batch if home is None else Batch(**{name: _like(each, home) for name, each in batch.items()})
    found = encode(latent_model, here, fields)
    if len(found) != 1 if site is None else site not in found:
        raise InputError(f"Name the latent site whose codes are meant, of {', '.join(found)}; got site={site!r}.")
    codes = found[site or next(iter(found))]
    return codes.reshape(batch.size, -1).to(batch.device)


def _like(tensor: torch.Tensor, home: torch.Tensor) -> torch.Tensor:
    return tensor.to(home) if tensor.is_floating_point() else tensor.to(home.device)
