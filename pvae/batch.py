"""The class `Batch`, named tensors of the same data, and `as_batch`, which turns arrays into a checked batch."""

from __future__ import annotations

import keyword
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pvae.errors import InputError
from pvae.structures import require_dense

__all__ = ["Batch", "as_batch", "check_field_name", "check_finite"]

_ROWS = 1 << 14

Index: TypeAlias = slice | Tensor | np.ndarray | list[int] | range


class Batch(Mapping[str, Tensor]):
    """Named tensors of the same data: ``x``, and where present ``y``, ``c``, ``mask`` and ``index``.

    A batch is frozen: ``replace``, ``take`` and ``to`` return new batches, which share the tensors that did not change.
    ``len(batch)`` is the number of fields, as for any mapping; ``batch.size`` is the number of data.

    Args:
        fields: tensors by name. The first dimension of each is the data, so all have the same length.

    Raises:
        InputError: if a field is not a tensor, has another length than the first field, or has an unusable name.

    Example:
        >>> import pvae, torch
        >>> batch = pvae.Batch(x=torch.eye(3), y=torch.tensor([0, 1, 0]))
        >>> batch.size, sorted(batch)
        (3, ['x', 'y'])
        >>> batch.take(torch.tensor([2, 0]))["y"]
        tensor([0, 0])
    """

    __slots__ = ("_fields",)
    _fields: dict[str, Tensor]

    def __init__(self, **fields: Tensor) -> None:
        for name, tensor in fields.items():
            check_field_name(name)
            _check_length(name, tensor, fields)
        if not fields:
            raise InputError("A batch needs at least one field, such as x; got none.")
        object.__setattr__(self, "_fields", fields)

    @classmethod
    def _of(cls, fields: dict[str, Tensor]) -> Batch:
        # No checks: a training step makes a batch from the tensors of a batch that has passed them.
        batch = cls.__new__(cls)
        object.__setattr__(batch, "_fields", fields)
        return batch

    def __getitem__(self, name: str) -> Tensor:
        return self._fields[name]

    def __getattr__(self, name: str) -> Tensor:
        # Python calls this only where ordinary look-up fails; "_fields" itself is missing while unpickling.
        if name != "_fields" and name in self._fields:
            return self._fields[name]
        raise AttributeError(f"The batch has no field {name!r}; it has {', '.join(self._fields)}.")

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"A batch is frozen; batch.replace({name}=...) returns a new one.")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"A batch is frozen, so its field {name!r} cannot be deleted.")

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    # Mapping compares values, but the comparison of two tensors is a tensor, not a boolean.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __reduce__(self) -> tuple[Any, ...]:
        return Batch._of, (self._fields,)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}: {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in self._fields.items())
        return f"Batch({fields})"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields, in order."""
        return tuple(self._fields)

    @property
    def size(self) -> int:
        """The number of data."""
        return next(iter(self._fields.values())).shape[0]

    @property
    def known_size(self) -> int | None:
        """The number of data; None for an iterable data set, which has to be read to be counted."""
        return self.size

    @property
    def device(self) -> torch.device:
        """The device of the first field."""
        return next(iter(self._fields.values())).device

    def take(self, index: Index) -> Batch:
        """Return some of the data as a batch.

        Args:
            index: a slice, which shares memory; or positions or a boolean mask over the data, which copy.
        """
        if isinstance(index, slice):
            return Batch._of({name: tensor[index] for name, tensor in self._fields.items()})
        positions = torch.as_tensor(index, device=self.device)
        if positions.dtype == torch.bool:
            return Batch._of({name: tensor[positions] for name, tensor in self._fields.items()})
        positions = positions.long()
        return Batch._of({name: tensor.index_select(0, positions) for name, tensor in self._fields.items()})

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on ``device``."""
        return self.map(lambda tensor: tensor.to(device))

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with each of its tensors changed, without checks of the results."""
        return Batch._of({name: change(tensor) for name, tensor in self._fields.items()})

    def chunks(self, size: int = _ROWS) -> Iterator[Batch]:
        """Yield all data in order, at most `size` at a time."""
        for start in range(0, self.size, size):
            yield self.take(slice(start, min(start + size, self.size)))

    def replace(self, **fields: Tensor) -> Batch:
        """Return the batch with these fields replaced or added.

        Args:
            fields: tensors by name, as for `Batch`.

        Raises:
            InputError: as for `Batch`.
        """
        return Batch(**{**self._fields, **fields})


_RESERVED = frozenset(dir(Batch))


def as_batch(data: Any) -> Batch:
    """Return data as a checked batch.

    ``x`` becomes float32 unless it is float64, or has integers that only float64 holds exactly; ``mask`` takes the
    dtype of ``x``; ``index``, and ``y`` where it has integers, become int64. In all other fields, integers and booleans
    keep their type, and real numbers become float32 unless they are float64. Tensors stay on their device.

    Args:
        data: a `Batch`; one array or tensor, which is ``x``; a pair (``x``, ``y``); or a mapping from names to arrays.

    Raises:
        InputError: if lengths differ, a value is not finite or is masked, there are no data, a field does not hold
            numbers, or the type that a field needs does not hold an integer exactly.
    """
    fields = {name: _tensor(name, value) for name, value in _named(data).items()}
    if "mask" in fields and "x" in fields:
        fields["mask"] = _mask(fields["mask"], fields["x"])
    batch = Batch(**fields)
    if batch.size == 0:
        raise InputError("Every field needs at least one datum; there are no data: the first dimension has size 0.")
    for name, tensor in batch.items():
        check_finite(name, tensor)
    return batch


def _named(data: Any) -> dict[str, Any]:
    if isinstance(data, Mapping):
        return dict(data)
    if isinstance(data, tuple) and len(data) == 2:
        return {"x": data[0], "y": data[1]}
    if isinstance(data, Tensor | np.ndarray) or hasattr(data, "__array__"):
        return {"x": data}
    raise InputError(
        "Data need to be an array, a tensor, a pair (x, y) or a mapping from names to arrays; "
        f"got {type(data).__name__}."
    )


def _tensor(name: str, value: Any) -> Tensor:
    if not isinstance(name, str):
        raise InputError(f"The name of a field needs to be text; got {name!r}.")
    check_field_name(name)
    require_dense(name, value)
    tensor = value.detach() if isinstance(value, Tensor) else _from_array(name, np.asanyarray(value))
    if tensor.is_complex():
        advice = "Give the real and imaginary parts as features."
        raise InputError(f"{name} needs real numbers; got {tensor.dtype}. {advice}")
    if tensor.ndim == 0:
        raise InputError(f"{name} needs the data as its first dimension; got the single value {tensor.item():g}.")
    integral = not tensor.is_floating_point()
    if name == "index" or (name == "y" and integral):
        if not integral:
            raise InputError(f"index needs integers; got {tensor.dtype}.")
        return tensor.long()
    if integral:
        return _exact_floats(name, tensor) if name == "x" else tensor
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _exact_floats(name: str, integers: Tensor) -> Tensor:
    """Return integers or booleans as float32, or as float64 where float32 would change a value."""
    for dtype in (torch.float32, torch.float64):
        floats = integers.to(dtype)
        if integers.element_size() <= 2 or bool((floats.to(integers.dtype) == integers).all()):
            return floats
    raise InputError(
        f"{name} has whole numbers beyond 2^53, of which floating-point numbers hold only some. Numbers of this size "
        "are usually identifiers: leave them out of x, or pass them as a field of another name."
    )


def _from_array(name: str, array: np.ndarray) -> Tensor:
    if isinstance(array, np.ma.MaskedArray):
        hidden = int(np.ma.getmaskarray(array).sum())
        if hidden:
            raise InputError(
                f"{name} is a masked array, and {hidden} of its {array.size} values are masked. Load it with "
                "load_data(..., missing='mask'), which reads masked values as missing."
            )
        array = array.data
    if array.dtype.kind not in "biufc":
        kind = "Python objects" if array.dtype.kind == "O" else f"{array.dtype} values"
        raise InputError(f"{name} needs numbers; got an array of {kind}. Encode them as numbers first.")
    if array.dtype.kind in "fc" and array.dtype.itemsize > 8 * (1 + (array.dtype.kind == "c")):
        array = array.astype("complex128" if array.dtype.kind == "c" else "float64")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        if array.dtype.itemsize == 8 and array.size and array.max() > np.iinfo("int64").max:
            raise InputError(
                f"{name} has the whole number {array.max()}, and the largest that fits is 2^63 - 1. Number the values "
                "anew, or give them as floating-point numbers."
            )
        array = array.astype("int64")
    # PyTorch cannot read another byte order or negative strides, and it warns about read-only memory.
    native = array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
    return torch.from_numpy(np.ascontiguousarray(native).reshape(array.shape))


def _mask(mask: Tensor, x: Tensor) -> Tensor:
    outside = (mask != 0) & (mask != 1)
    if outside.any():
        raise InputError(
            f"mask needs 1 (observed) or 0 (missing); {int(outside.sum())} of {mask.numel()} values are neither."
        )
    return mask.to(x.dtype)


def check_field_name(name: str) -> None:
    """Raise InputError if a batch cannot have a field of this name."""
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_") or name in _RESERVED:
        raise InputError(
            f"{name!r} cannot be the name of a field: it is not an identifier of Python, or a batch uses it itself. "
            "The usual names are x, y, c, mask and index."
        )


def _check_length(name: str, tensor: Tensor, fields: Mapping[str, Tensor]) -> None:
    if not isinstance(tensor, Tensor) or tensor.ndim == 0:
        raise InputError(f"Field {name} needs a tensor with the data as its first dimension; got {tensor!r:.60}.")
    first = next(iter(fields))
    if len(tensor) != len(fields[first]):
        raise InputError(
            f"Every field needs one entry per datum; {first} has {len(fields[first])} data "
            f"and {name} has {len(tensor)}."
        )


def check_finite(name: str, tensor: Tensor, counting: Callable[[Tensor], Tensor] | None = None) -> None:
    """Raise InputError if a value of a field is not finite.

    Args:
        name: the name of the field, for the message.
        tensor: its values, shape (data, ...).
        counting: returns the tensor with finite values in place of those that do not count, as under a mask. It is
            called only if a value is not finite. None if all count.
    """
    if not tensor.is_floating_point():
        return
    # The sum is not finite if a value is not finite, and it needs no copy of the data. Finite values may overflow.
    if math.isfinite(tensor.detach().sum()) or all(bool(part.isfinite().all()) for part in tensor.split(_ROWS)):
        return
    if counting is not None:
        return check_finite(name, counting(tensor))
    finite = torch.isfinite(tensor)
    first = (~finite).nonzero()[0].tolist()
    nan = int(tensor.isnan().sum())
    infinite = int(tensor.isinf().sum())
    raise InputError(
        f"{name} needs finite values; {nan + infinite} of {tensor.numel()} are not "
        f"({nan} NaN, {infinite} infinite), the first at {first}. "
        "Remove these data, or put 0 in place of each and give a mask (1 = observed)."
    )
