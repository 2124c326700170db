"""The shape of each datum: reshape data, and refuse data with their sizes in another order."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from pvae.errors import InputError

__all__ = ["require_order", "reshape_data"]


def require_order(x: Tensor, data_shape: Sequence[int], name: str) -> None:
    """Check that data are flat, or have the sizes of a shape in its order, apart from sizes of 1.

    A reshape of data with channels first to channels last would mix the pixels of all channels.

    Args:
        x: the data, (batch, ...).
        data_shape: the shape of one datum of a model.
        name: the name of the field, for the error.

    Raises:
        InputError: if the shapes have the same number of values and differ.
    """
    given, needed = [[size for size in shape if size != 1] for shape in (x.shape[1:], data_shape)]
    same_count = math.prod(given) == math.prod(needed)  # `reshape_data` refuses another number of values
    if same_count and min(len(given), len(needed)) > 1 and given != needed:
        raise InputError(
            f"{name} needs the shape of data_shape, {tuple(data_shape)}, or one flat vector for each datum; got "
            f"{tuple(x.shape[1:])}. Build the model with the data_shape of the data; load_data puts channels first."
        )


def reshape_data(x: Tensor, shape: tuple[int, ...], data_shape: Sequence[int] = (), name: str = "x") -> Tensor:
    """Return data with each datum in another shape, (batch,) + shape.

    Args:
        x: the data, (batch, ...).
        shape: the new shape of one datum.
        data_shape: a shape with the sizes of a datum in the required order; () does not check the order.
        name: the name of the field, for the error.

    Raises:
        InputError: if one datum has another number of values than the shape, or its sizes are in another order.
    """
    if x.dim() > 2 and len(data_shape) > 1:  # flat data have no order
        require_order(x, data_shape, name)
    if x.shape[1:] == shape:
        return x
    if math.prod(x.shape[1:]) != math.prod(shape):
        raise InputError(
            f"{name} needs {math.prod(shape)} values for each datum, in the shape {shape} or flat, by data_shape; got "
            f"{tuple(x.shape[1:])}. Reshape {name}, or build the model with the data_shape of these data."
        )
    return x.reshape(x.shape[0], *shape)
