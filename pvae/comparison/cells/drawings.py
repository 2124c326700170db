"""Arrays for the pictures of a cell: samples, reconstructions, and codes of the latent space."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.data import Splits
from pvae.data.scaling import narrowed
from pvae.errors import InputError
from pvae.evaluate import LatentUnits
from pvae.programs.queries import encode, joined, reconstruct, sample
from pvae.programs.row_dependence import PROGRAM_ERRORS
from pvae.train.devices import isolated

__all__ = ["SEED", "draw_arrays"]

SEED = 0  # of the evaluation and of the pictures: every cell has the same random numbers
_SAMPLES, _RECONSTRUCTIONS, _CODES = 40, 10, 1000


def draw_arrays(
    model: object, splits: Splits, latents: Mapping[str, LatentUnits]
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the arrays for the pictures of a trained model.

    A part that the model cannot compute is left out: the evaluation of the cell is still valid.

    Args:
        model: the latent model.
        splits: the data.
        latents: KL per unit and activity by site; empty if they are not known.

    Returns:
        ``samples`` (40, ...), ``originals`` and ``reconstructions`` (10, ...), ``codes`` (data, units) with ``labels``
        (data,) and ``kl`` (units,) if they are known, all on the CPU; and a line for each part that failed.
    """
    parts = {
        "samples": lambda: _draw_samples(model, splits),
        "reconstructions": lambda: _draw_reconstructions(model, splits),
        "codes": lambda: _draw_codes(model, splits, latents),
    }
    arrays: dict[str, Tensor] = {}
    failures = []
    for name, draw in parts.items():
        try:
            with isolated(SEED):
                arrays.update(draw())
        except Exception as error:  # a user's program may raise any error
            failures.append(f"{name}: {type(error).__name__}: {error}")
    return {name: array.detach().cpu().contiguous() for name, array in arrays.items()}, failures


def _draw_samples(model: object, splits: Splits) -> dict[str, Tensor]:
    samples = _of_first_data(lambda batch: {"samples": sample(model, batch)}, splits, model, _SAMPLES)
    return {name: _as_pictures(x, splits) for name, x in samples.items()}


def _draw_reconstructions(model: object, splits: Splits) -> dict[str, Tensor]:
    """Return data and their reconstructions, in the shape of pictures.

    Raises:
        InputError: if the model observes another number of values than x has.
    """

    def draw(batch: Batch) -> dict[str, Tensor]:
        return {"originals": batch.x, "reconstructions": reconstruct(model, batch)}

    arrays = _of_first_data(draw, splits, model, _RECONSTRUCTIONS)
    originals, reconstructions = arrays["originals"], arrays["reconstructions"]
    if originals.numel() != reconstructions.numel():
        raise InputError(
            f"the model observes {reconstructions[0].numel()} of the {originals[0].numel()} values of a datum, and a "
            "picture needs all of them"
        )
    return {name: _as_pictures(x, splits) for name, x in arrays.items()}


def _draw_codes(model: object, splits: Splits, latents: Mapping[str, LatentUnits]) -> dict[str, Tensor]:
    """Return the guide's means of the continuous latent sites, (data, units), with labels and KL of each unit."""
    batch = _first_data(splits, model, _CODES)
    continuous = {name: units for name, units in latents.items() if units.activity is not None}
    all_codes = _of_first_data(lambda data: encode(model, data), splits, model, _CODES)
    codes = {name: code for name, code in all_codes.items() if name in continuous and len(code) == batch.size}
    if not codes:
        return {}
    arrays = {"codes": joined(codes)}
    if "y" in batch and batch.y.ndim == 1:
        arrays["labels"] = batch.y
    kl_by_site = [continuous[name].kl_per_unit for name in codes]
    known = [kl for kl in kl_by_site if kl is not None]
    if known and sum(map(len, known)) == arrays["codes"].shape[1]:
        arrays["kl"] = torch.cat(known)
    return arrays


def _of_first_data(
    draw: Callable[[Batch], Mapping[str, Tensor]], splits: Splits, model: object, count: int
) -> dict[str, Tensor]:
    """Return the arrays of the first data; take them from a run on all data if the programs do not run on a part."""
    try:
        return dict(draw(_first_data(splits, model, count)))
    except PROGRAM_ERRORS:
        arrays = draw(_first_data(splits, model, None))
    return {name: array[:count] for name, array in arrays.items()}


def _first_data(splits: Splits, model: object, count: int | None) -> Batch:
    """Return the first test data on the device of the model; training data if there is no test split."""
    split = splits.test if splits.test is not None else splits.train
    parameters = list(model.parameters()) if isinstance(model, torch.nn.Module) else []
    device = next((parameter.device for parameter in parameters), torch.device("cpu"))
    dtypes = {parameter.dtype for parameter in parameters if parameter.is_floating_point()}
    first = split.take(slice(0, count)).to(device)
    return narrowed(first, dtypes.pop()) if len(dtypes) == 1 else first


def _as_pictures(x: Tensor, splits: Splits) -> Tensor:
    """Return data in their units and the shape of a picture, (data, *data_shape), if they have as many values."""
    has_as_many_values = x[0].numel() == math.prod(splits.data_shape)
    if not has_as_many_values:
        return x
    pictures, scaling = x.reshape(len(x), *splits.data_shape), splits.schema.scaling
    return pictures if scaling is None else scaling.original(pictures)
