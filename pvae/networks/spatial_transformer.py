"""The spatial transformer for boxes: cut a box out of a picture, and paste a window into a box of a canvas.

A box has a size, as a share of the side of the picture, and a centre in coordinates from -1 to 1, column first. Both
functions interpolate linearly between the centres of pixels, and pixels outside the source are 0, as in
`torch.nn.functional.grid_sample` with ``align_corners=False``. Because the box is not rotated, the interpolation is a
matrix for the rows times a matrix for the columns, which broadcasts over any leading dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pvae.errors import InputError

__all__ = ["cut_box", "paste_box"]


def cut_box(pictures: Tensor, size: Tensor, centre: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a box of each picture as a window, shape (..., *shape).

    Args:
        pictures: shape (..., height, width).
        size: height and width of the box as a share of the picture's, above 0, shape (...).
        centre: column and row of the centre of the box, from -1 to 1, shape (..., 2).
        shape: height and width of the window in pixels.

    Raises:
        InputError: if the shapes do not fit.
    Source: Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, equations 1, 3 and 5.

    Example:
        >>> import torch
        >>> from pvae.networks import cut_box
        >>> picture = torch.arange(16.0).reshape(4, 4)
        >>> cut_box(picture, torch.tensor(0.5), torch.tensor([0.5, -0.5]), (2, 2))
        tensor([[2., 3.],
                [6., 7.]])
    """
    _require_shapes(pictures, size, centre, shape)
    rows = centre[..., 1:] + size.unsqueeze(-1) * _pixel_centres(shape[0], size)
    columns = centre[..., :1] + size.unsqueeze(-1) * _pixel_centres(shape[1], size)
    return _interpolate(pictures, rows, columns)


def paste_box(windows: Tensor, size: Tensor, centre: Tensor, shape: Sequence[int]) -> Tensor:
    """Return an empty canvas with a window in a box, shape (..., *shape).

    Args:
        windows: shape (..., height, width).
        size: height and width of the box as a share of the canvas', above 0, shape (...).
        centre: column and row of the centre of the box, from -1 to 1, shape (..., 2).
        shape: height and width of the canvas in pixels.

    Raises:
        InputError: if the shapes do not fit.
    Source: Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025; the inverse transformation is from Eslami
        et al., arXiv:1603.08575, section 2.2.

    Example:
        >>> import torch
        >>> from pvae.networks import paste_box
        >>> paste_box(torch.ones(2, 2), torch.tensor(0.5), torch.tensor([0.5, -0.5]), (4, 4))
        tensor([[0., 0., 1., 1.],
                [0., 0., 1., 1.],
                [0., 0., 0., 0.],
                [0., 0., 0., 0.]])
    """
    _require_shapes(windows, size, centre, shape)
    rows = (_pixel_centres(shape[0], size) - centre[..., 1:]) / size.unsqueeze(-1)
    columns = (_pixel_centres(shape[1], size) - centre[..., :1]) / size.unsqueeze(-1)
    return _interpolate(windows, rows, columns)


def _require_shapes(pictures: Tensor, size: Tensor, centre: Tensor, shape: Sequence[int]) -> None:
    if pictures.dim() < 2 or centre.shape != (*size.shape, 2) or len(shape) != 2:
        raise InputError(
            "A box needs pictures (..., height, width), size (...), centre (..., 2) and a shape of two numbers; got "
            f"{tuple(pictures.shape)}, {tuple(size.shape)}, {tuple(centre.shape)} and {tuple(shape)}."
        )


def _pixel_centres(count: int, like: Tensor) -> Tensor:
    """Return the coordinates of the centres of pixels along a side from -1 to 1, shape (count,)."""
    return (2 * torch.arange(count, dtype=like.dtype, device=like.device) + 1) / count - 1


def _interpolate(pictures: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return pictures at rows and columns, shape (..., rows, columns).

    Args:
        pictures: shape (..., height, width).
        rows: coordinates from -1 to 1, shape (..., rows).
        columns: coordinates from -1 to 1, shape (..., columns).
    """
    across = _linear_weights(columns, pictures.shape[-1])
    return _linear_weights(rows, pictures.shape[-2]) @ pictures @ across.mT


def _linear_weights(coordinates: Tensor, count: int) -> Tensor:
    """Return the share of each of `count` pixels in the value at coordinates, shape (..., coordinates, count)."""
    positions = ((coordinates + 1) * count - 1) / 2
    pixels = torch.arange(count, dtype=positions.dtype, device=positions.device)
    return (1 - (positions.unsqueeze(-1) - pixels).abs()).clamp(min=0)
