"""Gradients and the state of an optimiser have the memory layout of their parameters, which fused kernels need."""

from __future__ import annotations

from pathlib import Path

import torch
from models import Plain, data
from torch import Tensor, nn

import pvae
from pvae.memory_layout import set_gradients


def test_a_fused_kernel_updates_the_right_elements_of_a_transposed_parameter() -> None:
    def after(fused: bool) -> Tensor:
        parameter = nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4).t())
        optimiser = torch.optim.Adam([parameter], lr=0.1, fused=fused)
        for _ in range(2):
            set_gradients([parameter], [torch.arange(12.0).reshape(4, 3) - 5])
            optimiser.step()
        return parameter.detach()

    torch.testing.assert_close(after(fused=True), after(fused=False))


def test_a_resumed_training_has_the_numbers_of_the_whole_one_also_with_transposed_parameters(tmp_path: Path) -> None:
    def train(out: Path | None = None, **options: object) -> list[Tensor]:
        torch.manual_seed(0)
        model = Plain()
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.data = parameter.data.t().contiguous().t()
        usual = {"epochs": 3, "batch_size": 8, "learning_rate": 0.05, "progress": False, "step": "graph"}
        pvae.fit(model, pvae.load_data(data(8).x, validation=0, test=0), out=out, **{**usual, **options})
        return [parameter.detach() for parameter in model.parameters()]

    whole = train()
    train(tmp_path / "run", max_steps=2)
    for expected, resumed in zip(whole, train(tmp_path / "run", resume=True), strict=True):
        assert torch.equal(expected, resumed)
