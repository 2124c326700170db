"""A pretend accelerator: torch's CPU build with a device of its own, whose tensors have no numbers.

torch can register a device from Python and give it fake tensors, which have shapes, types and a device. Operations
raise where tensors of two devices meet, and where a number is read off the device. The registration cannot be undone,
so only scripts that run in a process of their own import this file.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

torch.utils.backend_registration._setup_privateuseone_for_python_backend("accel")

#: Reads of a number from the device, by name.
READS: dict[str, Any] = {
    "item": Tensor.item,
    "tolist": Tensor.tolist,
    "bool": bool,
    "numpy": lambda tensor: tensor.detach().numpy(),
    "copy": lambda tensor: tensor.cpu().item(),
}


def _new(fill: Any) -> Any:
    """Return a method such as ``Tensor.new_zeros`` that fake tensors of a private device lack."""

    def new(tensor: Tensor, *size: Any, dtype: Any = None, device: Any = None) -> Tensor:
        return fill(*size, dtype=dtype or tensor.dtype, device=device or tensor.device)

    return new


_FILLS = {"new_zeros": torch.zeros, "new_ones": torch.ones, "new_empty": torch.empty, "new_full": torch.full}
for _name, _fill in _FILLS.items():
    setattr(Tensor, _name, _new(_fill))


_tensor = torch.tensor


def _literal(data: Any, *, dtype: Any = None, device: Any = None, **options: Any) -> Tensor:
    """Return ``torch.tensor``, which copies to a private device below the fake mode."""
    made = _tensor(data, dtype=dtype, **options)
    if device is None or torch.device(device).type != "accel":
        return made
    return torch.full(made.shape, 0, dtype=made.dtype, device=device)


torch.tensor = _literal


def on_accelerator(mode: FakeTensorMode, tensor: Tensor) -> FakeTensor:
    """Return a tensor without numbers on the pretend device."""
    return FakeTensor(mode, torch.empty_like(tensor, device="meta"), torch.device("accel", 0))


def move(module: nn.Module, mode: FakeTensorMode) -> None:
    """Replace every parameter and buffer of a module by one on the pretend device."""
    for each in module.modules():
        for name, parameter in list(each._parameters.items()):
            if parameter is not None:
                moved = nn.Parameter(on_accelerator(mode, parameter.detach()), parameter.requires_grad)
                each._parameters[name] = moved
        for name, buffer in list(each._buffers.items()):
            if buffer is not None:
                each._buffers[name] = on_accelerator(mode, buffer)


def place_of(results: Any) -> str | None:
    """Return where a result is that is not on the pretend device; None if all are."""
    for result in results:
        if isinstance(result, Tensor) and result.device.type != "accel":
            return f"a result is on {result.device}"
    return None


def describe(error: Exception) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def planted(result: Tensor, plant: str) -> Tensor:
    """Return a result of any shape with a fault of the kind `plant`: a tensor on the CPU, or a read."""
    if plant == "cpu":
        return result + torch.zeros(7).sum(0, keepdim=True)
    if plant in READS:
        READS[plant](result.sum())
    return result
