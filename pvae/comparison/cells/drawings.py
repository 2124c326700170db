"""Arrays for the pictures of a cell: samples, reconstructions, and codes of the latent space."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.comparison.cells.decoder_weights import decoder_arrays
from pvae.comparison.cells.worst_data import worst_arrays
from pvae.data import Splits
from pvae.data.scaling import narrowed
from pvae.errors import InputError
from pvae.models.latent_codes import infer_codes, without_labels
from pvae.models.posterior_values import reconstruct
from pvae.programs.queries import sample, simulate
from pvae.programs.row_dependence import PROGRAM_ERRORS
from pvae.train.devices import isolated

__all__ = ["CATEGORY", "SEED", "Drawings", "draw_arrays"]

SEED = 0  # the seed of the evaluation and of the pictures, the same for every cell
_SAMPLES, _DRAWS, _RECONSTRUCTIONS, _CODES = 40, 500, 10, 1000

#: The prefix of the name of the array of a categorical site; the name of the site follows.
CATEGORY = "category:"


@dataclass(frozen=True)
class Drawings:
    """Arrays for the pictures of a trained model.

    Attributes:
        arrays: ``samples`` (40, ...), the means of x given z, for pictures; or ``draws`` (500, ...) of x and the same
            number of ``data`` for other data. ``originals`` and ``reconstructions`` (10, ...). ``codes`` (data, units)
            of the continuous sites, ``category:NAME`` (data, positions) of each discrete site, and ``labels`` (data,).
            The arrays of `worst_arrays` and of `decoder_arrays`. All are on the CPU. Arrays that the model cannot
            compute are left out.
        texts: ``codes`` describes the inferred sites and the given fields; ``units`` are the names of the units of the
            codes; ``activations`` are the activations of the decoder.
        failures: a line for each part that could not be computed.
    """

    arrays: Mapping[str, Tensor]
    texts: Mapping[str, Any]
    failures: tuple[str, ...]


def draw_arrays(
    model: object,
    splits: Splits,
    *,
    guide_is_trained: bool = True,
    log_evidence: Tensor | None = None,
    limit: int | None = None,
) -> Drawings:
    """Return the arrays for the pictures of a trained model.

    A part that the model cannot compute is left out: the evaluation of the cell is still valid.

    Args:
        model: the latent model.
        splits: the data.
        guide_is_trained: whether the objective trains the guide; if not, there are only samples.
        log_evidence: the log evidence of each evaluated datum, shape (data,); None if it is not known.
        limit: number of test data in the evaluation; None for all.
    """
    texts: dict[str, Any] = {}
    parts = {
        "samples": lambda: _draw_samples(model, splits),
        "reconstructions": lambda: _draw_reconstructions(model, splits),
        "codes": lambda: _draw_codes(model, splits, texts),
        "worst data": lambda: _draw_worst(model, splits, log_evidence, limit),
    }
    if not guide_is_trained:
        parts = {"samples": parts["samples"]}
    arrays: dict[str, Tensor] = {}
    failures = []
    for name, draw in parts.items():
        try:
            with isolated(SEED):
                arrays.update(draw())
        except Exception as error:  # a user's program may raise any error
            failures.append(f"{name}: {type(error).__name__}: {error}")
    arrays |= _draw_decoder(model, splits, texts)
    if not guide_is_trained:
        failures.append("reconstructions and codes: the objective does not train the guide")
    on_cpu = {name: array.detach().cpu().clone().contiguous() for name, array in arrays.items()}
    return Drawings(on_cpu, texts, tuple(failures))


def _draw_samples(model: object, splits: Splits) -> dict[str, Tensor]:
    """Return means of x given z, in the shape of pictures; for other data draws of x, and data to compare them with."""
    if len(splits.data_shape) > 1:
        samples = _of_first_data(lambda batch: {"samples": sample(model, batch)}, splits, model, _SAMPLES)
    else:

        def draw(batch: Batch) -> dict[str, Tensor]:
            return {"draws": simulate(model, batch, mean=False), "data": batch.x}

        samples = _of_first_data(draw, splits, model, _DRAWS)
    return {name: _as_pictures(x, splits) for name, x in samples.items()}


def _draw_reconstructions(model: object, splits: Splits) -> dict[str, Tensor]:
    """Return data and their reconstructions, in the shape of pictures. Labels that the model infers are hidden.

    Raises:
        InputError: if the model observes another number of values than x has.
    """

    def draw(batch: Batch) -> dict[str, Tensor]:
        return {"originals": batch.x, "reconstructions": reconstruct(model, without_labels(model, batch)[0])}

    arrays = _of_first_data(draw, splits, model, _RECONSTRUCTIONS)
    originals, reconstructions = arrays["originals"], arrays["reconstructions"]
    if originals.numel() != reconstructions.numel():
        raise InputError(
            f"the model observes {reconstructions[0].numel()} of the {originals[0].numel()} values of a datum, and a "
            "picture needs all of them"
        )
    return {name: _as_pictures(x, splits) for name, x in arrays.items()}


def _draw_codes(model: object, splits: Splits, texts: dict[str, Any]) -> dict[str, Tensor]:
    """Return the codes and labels that `pvae show --what latent` draws, and add the texts."""
    batch = _first_data(splits, model, _CODES)

    def infer(data: Batch) -> dict[str, Tensor]:
        codes = infer_codes(model, data)
        texts.update(codes=codes.describe(), units=list(codes.unit_names))
        categories = {CATEGORY + name: values for name, values in codes.categories.items()}
        return ({"codes": codes.joined()} if codes.continuous else {}) | categories

    arrays = _of_first_data(infer, splits, model, _CODES)
    if arrays and "y" in batch and batch.y.ndim == 1:
        arrays["labels"] = batch.y
    return arrays


def _draw_worst(model: object, splits: Splits, log_evidence: Tensor | None, limit: int | None) -> dict[str, Tensor]:
    """Return the arrays of `worst_arrays`, with data in their units and the shape of pictures."""
    if log_evidence is None:
        return {}
    arrays = worst_arrays(model, splits, log_evidence, limit, SEED)
    shown = {name: _as_pictures(x, splits) for name, x in arrays.items() if x.is_floating_point()}
    return {**arrays, **shown}


def _draw_decoder(model: object, splits: Splits, texts: dict[str, Any]) -> dict[str, Tensor]:
    """Return the arrays of `decoder_arrays`; empty if the model has no latent site of real numbers."""
    try:
        with isolated(SEED):
            arrays, found = decoder_arrays(model, _first_data(splits, model, 1))
    except Exception:  # a user's program may raise any error; no result depends on the explorer
        return {}
    if "traversals" not in arrays:
        texts.update(found)
        return arrays
    units, steps = arrays["traversals"].shape[:2]
    if len(splits.data_shape) < 2:
        return {}
    pictures = _as_pictures(arrays["traversals"].flatten(0, 1), splits)
    return {"traversals": pictures.unflatten(0, (units, steps))}


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
