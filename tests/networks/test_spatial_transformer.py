"""Boxes cut and pasted by matrices, against `affine_grid` and `grid_sample` of PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from pvae.errors import InputError
from pvae.networks import cut_box, paste_box

SIZE = torch.tensor([0.3, 0.93, 1.7, 0.05], dtype=torch.float64)
CENTRE = torch.tensor([[0.2, -0.6], [0.03, 0.01], [-1.1, 0.4], [0.87, 0.91]], dtype=torch.float64)


def drawn(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_grid(pictures: Tensor, scale: Tensor, shift: Tensor, shape: tuple[int, int]) -> Tensor:
    """The value of the result at (column, row) is that of the pictures at scale * (column, row) + shift."""
    zero = torch.zeros_like(scale)
    rows = [torch.stack([scale, zero, shift[:, 0]], -1), torch.stack([zero, scale, shift[:, 1]], -1)]
    grid = affine_grid(torch.stack(rows, 1), [len(pictures), 1, *shape], align_corners=False)
    return grid_sample(pictures.unsqueeze(1), grid, align_corners=False).squeeze(1)


def test_a_box_is_cut_and_pasted_as_by_grid_sample() -> None:
    pictures, windows = drawn(4, 7, 10), drawn(4, 3, 5)
    torch.testing.assert_close(cut_box(pictures, SIZE, CENTRE, (3, 5)), by_grid(pictures, SIZE, CENTRE, (3, 5)))
    pasted = by_grid(windows, 1 / SIZE, -CENTRE / SIZE.unsqueeze(-1), (7, 10))
    torch.testing.assert_close(paste_box(windows, SIZE, CENTRE, (7, 10)), pasted)


def test_gradients_are_those_of_grid_sample() -> None:
    pictures, size, centre = drawn(4, 7, 10).requires_grad_(), SIZE.clone().requires_grad_(), CENTRE.clone()
    centre.requires_grad_()
    weights = drawn(4, 3, 5)
    ours = torch.autograd.grad((weights * cut_box(pictures, size, centre, (3, 5))).sum(), [pictures, size, centre])
    torchs = torch.autograd.grad((weights * by_grid(pictures, size, centre, (3, 5))).sum(), [pictures, size, centre])
    for one, other in zip(ours, torchs, strict=True):
        torch.testing.assert_close(one, other)


def test_the_whole_picture_is_the_identity_and_a_cut_inverts_a_paste() -> None:
    pictures = drawn(2, 4, 4)
    one, middle = torch.ones(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    assert torch.equal(cut_box(pictures, one, middle, (4, 4)), pictures)
    assert torch.equal(paste_box(pictures, one, middle, (4, 4)), pictures)
    # A box of whole pixels: a third of a canvas of 12, its left and upper edges at pixels 6 and 2.
    size, centre = one / 3, torch.tensor([[8 / 6 - 1, 4 / 6 - 1]] * 2, dtype=torch.float64)
    canvas = paste_box(pictures, size, centre, (12, 12))
    torch.testing.assert_close(canvas[:, 2:6, 6:10], pictures)
    torch.testing.assert_close(canvas.sum(), pictures.sum())
    torch.testing.assert_close(cut_box(canvas, size, centre, (4, 4)), pictures)


def test_leading_dimensions_broadcast() -> None:
    pictures = drawn(4, 7, 10)
    size, centre = torch.stack([SIZE, SIZE.flip(0)]), torch.stack([CENTRE, CENTRE.flip(0)])
    both = cut_box(pictures, size, centre, (3, 5))
    torch.testing.assert_close(both[1], cut_box(pictures, SIZE.flip(0), CENTRE.flip(0), (3, 5)))


@pytest.mark.parametrize("function", [cut_box, paste_box])
def test_wrong_shapes_are_refused_in_one_line(function) -> None:
    for arguments in (
        (drawn(3), SIZE, CENTRE, (3, 5)),
        (drawn(4, 7, 10), SIZE, SIZE, (3, 5)),
        (drawn(4, 7, 10), SIZE, CENTRE, (3,)),
    ):
        with pytest.raises(InputError, match=r"^A box needs pictures \(\.\.\., height, width\)[^\n]*$"):
            function(*arguments)
