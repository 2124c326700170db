"""The accelerators of torch: their number, their random generators, and float64 sums for devices without float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "KINDS",
    "as_double",
    "capture_states",
    "count_devices",
    "device_words",
    "has_double",
    "restore_states",
    "seed_devices",
    "start",
]

#: The kinds of accelerators: the name of the device in torch, and its description.
KINDS = {"cuda": "CUDA", "xpu": "Intel", "mps": "Apple"}


def device_words(kind: str) -> str:
    """Return the description of a kind of device for messages, such as "a CUDA device"."""
    return f"{'a' if kind == 'cuda' else 'an'} {KINDS[kind]} device"


def count_devices(kind: str) -> int:
    """Return the number of devices of a kind that torch finds on this machine.

    Args:
        kind: ``"cuda"``, ``"xpu"`` or ``"mps"``.
    """
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    return int(_module(kind).device_count()) if _module(kind).is_available() else 0


def start(kind: str) -> None:
    """Initialise the devices of a kind, so that their random generators are seeded and restored from now on."""
    if kind in ("cuda", "xpu"):
        _module(kind).init()


def _module(kind: str) -> Any:
    return torch.get_device_module(kind)


def _kinds_in_use() -> list[str]:
    """Return the kinds of devices with generators in use.

    Reading the generators of other kinds would initialise them.
    """
    in_use = [kind for kind in ("cuda", "xpu") if _module(kind).is_initialized()]
    return [*in_use, "mps"] if count_devices("mps") else in_use


def capture_states() -> dict[str, Tensor]:
    """Return the states of the generators of all devices in use as CPU tensors, by names such as ``cuda.0``."""
    states: dict[str, Tensor] = {}
    for kind in _kinds_in_use():
        found = [_module(kind).get_rng_state()] if kind == "mps" else _module(kind).get_rng_state_all()
        states |= {f"{kind}.{index}": state for index, state in enumerate(found)}
    return states


def restore_states(states: dict[str, Tensor]) -> None:
    """Set the generators to the states that `capture_states` returned."""
    for kind in KINDS:
        found = [states[f"{kind}.{index}"] for index in range(sum(name.startswith(f"{kind}.") for name in states))]
        if found:
            _set_states(kind, found)


def _set_states(kind: str, states: Sequence[Tensor]) -> None:
    if kind == "mps":
        _module(kind).set_rng_state(states[0])
    else:
        _module(kind).set_rng_state_all(states)


def seed_devices(seed: int) -> None:
    """Seed the generators of all devices in use."""
    for kind in _kinds_in_use():
        module = _module(kind)
        module.manual_seed(seed) if kind == "mps" else module.manual_seed_all(seed)


def has_double(device: torch.device) -> bool:
    """Return whether a device has floating-point numbers of 64 bits."""
    return device.type != "mps"


def as_double(tensor: Tensor) -> Tensor:
    """Return a tensor in float64: on its device, or on the CPU if the device has no numbers of 64 bits.

    Args:
        tensor: floating-point numbers, any shape.
    """
    return tensor.double() if has_double(tensor.device) else tensor.cpu().double()
