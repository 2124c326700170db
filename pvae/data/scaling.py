"""Scale x by its training data, and refuse a cast to a dtype that would merge or change its values."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.data.schema import Scaling
from pvae.data.streams.stored_batch import StoredBatch
from pvae.data.streams.structured_batch import StructuredBatch
from pvae.errors import InputError
from pvae.structures import is_structure

__all__ = ["SCALES", "check_narrowing", "check_scale", "find_scaling", "narrowed", "scaled_batch"]

SCALES = ("none", "standardise", "minmax")
#: The largest change of a value by a cast, as a share of the spread of its column.
_LARGEST_LOSS = 1e-6
#: The largest share of different values of a column, among the first ones, that a cast may merge.
_LARGEST_MERGED_SHARE = 0.01
_LOOKED_AT = 1_000


def check_scale(standardise: bool, scale: str) -> str:
    """Return the scaling for the options `standardise` and `scale` of `load_data`.

    Raises:
        InputError: for another word, or two scalings.
    """
    if scale not in SCALES:
        raise InputError(f"scale needs one of {', '.join(SCALES)}; got {scale!r}.")
    if standardise and scale == "minmax":
        raise InputError("x needs one scaling; got standardise=True and scale='minmax'. Leave one of them out.")
    return "standardise" if standardise else scale


def find_scaling(kind: str, batch: Batch) -> Scaling:
    """Return the scaling of each feature by the observed entries of the training data.

    Args:
        kind: ``"standardise"``: mean 0 and standard deviation 1; or ``"minmax"``: from 0 to 1.
        batch: the training data.
    """
    if _is_padded(batch):
        warnings.warn(
            "Each time step of x is scaled separately, and the padding after the ends of sequences (lengths) counts as "
            "data. Scale the sequences before you pad them, and load them without scaling.",
            UserWarning,
            stacklevel=3,
        )
    if isinstance(batch, StoredBatch):
        shift, scale = _shift_and_scale_in_parts(kind, batch)
    else:
        shift, scale = _shift_and_scale(kind, _observed(batch, batch.x.double().reshape(batch.size, -1)))
    # A constant feature, or one without an observed value, is only shifted.
    shift, scale = shift.nan_to_num(0.0), scale.nan_to_num(0.0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return Scaling(kind, tuple(shift.tolist()), tuple(scale.tolist()))


def _is_padded(batch: Batch) -> bool:
    """Return whether the field lengths means that sequences x, (data, time, ...), end before their last time step."""
    if isinstance(batch, StoredBatch):
        batch = next(iter(batch.chunks()))
    lengths = batch.get("lengths")
    if not isinstance(lengths, Tensor) or lengths.dim() != 1 or lengths.is_floating_point() or batch.x.dim() < 2:
        return False
    return bool(((lengths > 0) & (lengths <= batch.x.shape[1])).all() and (lengths < batch.x.shape[1]).any())


def _shift_and_scale(kind: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return shift and scale of each feature, (features,), of x, (data, features), with NaN for hidden values."""
    if kind == "minmax":
        shift = _extreme(x, largest=False)
        return shift, _extreme(x, largest=True) - shift
    shift = x.nanmean(0)
    return shift, (x - shift).square().nanmean(0).sqrt()


def _shift_and_scale_in_parts(kind: str, batch: StoredBatch) -> tuple[Tensor, Tensor]:
    """Return what `_shift_and_scale` returns, by one pass over the data, or two to standardise them."""

    def parts() -> Iterator[Tensor]:
        return (_observed(part, part.x.double().reshape(part.size, -1)) for part in batch.chunks())

    if kind == "minmax":
        extremes = [torch.stack([_extreme(x, largest=False), -_extreme(x, largest=True)]) for x in parts()]
        low, minus_high = _extreme(torch.stack(extremes), largest=False)
        return low, -minus_high - low
    shift = _mean(x for x in parts())
    return shift, _mean((x - shift).square() for x in parts()).sqrt()


def _mean(parts: Iterator[Tensor]) -> Tensor:
    """Return the mean of each column over all parts, (rows, columns), without NaN."""
    total: float | Tensor = 0.0
    count: int | Tensor = 0
    for part in parts:
        total = total + part.nansum(0)
        count = count + (~part.isnan()).sum(0)
    return torch.as_tensor(total) / torch.as_tensor(count)


def scaled_batch(batch: Batch, scaling: Scaling) -> Batch:
    """Return data with x scaled, in float64; entries that a mask hides stay 0."""
    x = scaling.scaled(batch.x.double())
    if "mask" in batch and batch["mask"].shape == x.shape:
        x = torch.where(batch["mask"] == 0, torch.zeros_like(x), x)
        return batch.replace(x=x, mask=batch["mask"].to(x.dtype))
    return batch.replace(x=x)


def narrowed(batch: Batch, dtype: torch.dtype) -> Batch:
    """Return a batch with its real numbers in a dtype."""
    if isinstance(batch, StructuredBatch):
        return batch.map(lambda tensor: tensor.to(dtype))
    fields = {
        name: tensor.to(dtype) for name, tensor in batch.items() if tensor.is_floating_point() and tensor.dtype != dtype
    }
    return batch.replace(**fields) if fields else batch


def check_narrowing(batch: Batch, dtype: torch.dtype, columns: Sequence[str] = ()) -> None:
    """Check that a dtype is fine enough for data.

    Args:
        batch: data, enough to show the range of each column.
        dtype: the dtype of a training or evaluation.
        columns: the names of the features of x, for the message.

    Raises:
        InputError: if more than one in a hundred different float64 values of a column would merge with another, or if
            values would change by more than a millionth of their column's range, in the root mean square.
    """
    for name, tensor in batch.items():
        if not is_structure(tensor) and tensor.dtype == torch.float64 and dtype != torch.float64:
            _check_loss(batch, name, dtype, columns if name == "x" else ())


def _check_loss(batch: Batch, name: str, dtype: torch.dtype, columns: Sequence[str]) -> None:
    values = batch[name].reshape(batch.size, -1)
    cast = values.to(dtype).double()
    error = (cast - values).abs()
    if not bool(error.any()):
        return
    seen = _observed(batch, values) if name == "x" else values
    spread = _extreme(seen, largest=True) - _extreme(seen, largest=False)
    loss = torch.where(seen.isnan(), torch.nan, error).square().nanmean(0).sqrt()
    lost = (loss > _LARGEST_LOSS * spread) & (spread > 0)
    candidates = lost.nonzero().ravel().tolist() or _merged_columns(seen[:_LOOKED_AT], cast[:_LOOKED_AT], error)
    if candidates:
        raise InputError(_loss_message(name, candidates[0], seen, cast, dtype, columns))


def _merged_columns(values: Tensor, cast: Tensor, error: Tensor) -> list[int]:
    """Return the first column in which the cast merges too many of the different values."""
    for column in error.any(0).nonzero().ravel().tolist():
        known = ~values[:, column].isnan()
        before = values[known, column].unique().numel()
        after = cast[: len(values)][known, column].unique().numel()
        if before - after > max(1, _LARGEST_MERGED_SHARE * before):
            return [column]
    return []


def _loss_message(
    name: str, column: int, values: Tensor, cast: Tensor, dtype: torch.dtype, columns: Sequence[str]
) -> str:
    known = ~values[:, column].isnan()
    different, left = values[known, column].unique().numel(), cast[known, column].unique().numel()
    label = repr(columns[column]) if column < len(columns) else f"number {column}"
    low, high = float(values[known, column].min()), float(values[known, column].max())
    kind = str(dtype).removeprefix("torch.")
    return (
        f"{kind} is too coarse for the column {label} of {name}, with values from {low:.10g} to {high:.10g}: {left} of "
        f"{different} different values are left. Load the data with standardise=True (--standardise), or train with "
        "precision='float64'."
    )


def _observed(batch: Batch, values: Tensor) -> Tensor:
    """Return the values of x, (data, features), with NaN where a mask of the same shape hides them."""
    mask = batch.get("mask")
    if mask is None or mask.shape != batch.x.shape:
        return values
    return values.masked_fill(mask.reshape(values.shape) == 0, torch.nan)


def _extreme(values: Tensor, *, largest: bool) -> Tensor:
    """Return the largest or smallest value of each column, without NaN; NaN for a column of only NaN."""
    filled = values.nan_to_num(-torch.inf if largest else torch.inf, posinf=torch.inf, neginf=-torch.inf)
    extreme = filled.amax(0) if largest else filled.amin(0)
    return torch.where(extreme.isinf(), torch.nan, extreme)
