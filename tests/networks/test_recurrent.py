"""The recurrent cell against that of PyTorch, for any leading dimensions."""

from __future__ import annotations

import torch

from pvae.networks.recurrent import RecurrentCell


def test_a_step_is_that_of_a_gated_recurrent_unit() -> None:
    cell = RecurrentCell(3, 4)
    x, state = torch.randn(5, 2, 3), torch.randn(2, 4)
    found = cell(x, state)
    torch.testing.assert_close(found, torch.stack([cell.cell(row, state) for row in x]))
