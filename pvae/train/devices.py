"""The device of a run, and the state of the random generators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from pvae.accelerators import KINDS, count_devices, device_words
from pvae.errors import InputError
from pvae.forked_threads import require_usable_threads
from pvae.randomness import RandomState, preserved_randomness, seed_generators

__all__ = [
    "capture_generators",
    "dtype_in_precision",
    "float32_products",
    "isolated",
    "move_module",
    "reseed",
    "resolve",
    "restore_generators",
]


def resolve(device: str | torch.device) -> torch.device:
    """Return a device; ``"auto"`` means CUDA if the machine has it, else the CPU.

    Args:
        device: ``"auto"``, or a device as torch names it: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"xpu"`` or ``"mps"``.

    Raises:
        InputError: if the name is not a device, or the device is absent from this machine.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise _unknown_device(device) from error
    if resolved.type == "cpu":
        return resolved
    if resolved.type not in KINDS:
        raise _unknown_device(device)
    count = count_devices(resolved.type)
    if (resolved.index or 0) >= count:
        raise InputError(
            f"device={str(device)!r} needs {device_words(resolved.type)}; this machine has {count}. "
            "Use device='auto' or device='cpu'."
        )
    return resolved


def _unknown_device(device: str | torch.device) -> InputError:
    return InputError(f"Unknown device {str(device)!r}; use auto, cpu, cuda, cuda:0, xpu or mps.")


def dtype_in_precision(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Return the type of a tensor in a training of some precision: complex numbers stay complex, integers integers.

    Args:
        tensor: a parameter or a buffer.
        dtype: the type of the real numbers of the training.
    """
    if tensor.is_complex():
        return dtype.to_complex()
    return dtype if tensor.is_floating_point() else tensor.dtype


def move_module(module: nn.Module, device: torch.device | None, dtype: torch.dtype) -> None:
    """Move a module to a device and a precision; `torch.nn.Module.to` would leave out imaginary parts.

    Args:
        module: the module, which is changed in place.
        device: the device; None for the present one.
        dtype: the type of its real numbers.
    """
    module._apply(lambda tensor: tensor.to(device, dtype_in_precision(tensor, dtype)))


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Run a block in which CUDA computes products of float32 matrices in TF32, if the precision is ``"tf32"``.

    PyTorch has one setting for the whole process, which is restored after the block.

    Args:
        precision: the precision of a training.
    """
    before = torch.get_float32_matmul_precision()
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        if precision == "tf32":
            torch.set_float32_matmul_precision(before)


@contextmanager
def isolated(seed: int, threads: int | None = None) -> Iterator[None]:
    """Seed all random generators for a block, and restore their states after it.

    The generators are torch's on the CPU and on every accelerator in use, NumPy's global one, and that of the module
    ``random``. Code outside the block therefore draws the same numbers as without it.

    Args:
        seed: the seed of all generators inside the block.
        threads: the number of intra-operation threads of torch inside the block; None does not change it.

    Raises:
        InputError: if there are several threads, and this process was forked from one with several.
    """
    require_usable_threads(threads)
    count = torch.get_num_threads()
    with preserved_randomness():
        try:
            seed_generators(seed)
            if threads is not None and threads != count:
                torch.set_num_threads(threads)
            yield
        finally:
            if torch.get_num_threads() != count:
                torch.set_num_threads(count)


def reseed(seed: int, *key: int) -> None:
    """Seed all random generators by a seed and the numbers of a block of draws, inside `isolated`.

    The draws of a block then depend on its numbers only, not on earlier blocks.

    Args:
        seed: the seed of the whole computation.
        key: the numbers of the block, each at least 0.
    """
    seed_generators(int(np.random.SeedSequence([seed, *key]).generate_state(1)[0]))


def capture_generators() -> dict[str, Tensor]:
    """Return the states of all random generators as CPU tensors: ``torch``, ``cuda.0`` ..., ``numpy``, ``python``."""
    state = RandomState.capture()
    _, keys, position, has_normal, normal = state.numpy
    _, words, gauss = state.python
    tensors = {"torch": state.torch}
    tensors |= state.devices
    tensors["numpy"] = torch.from_numpy(np.append(keys.astype(np.int64), [position, has_normal, _bits(normal)]))
    tensors["python"] = torch.from_numpy(np.array([*words, gauss is not None, _bits(gauss or 0.0)], dtype=np.int64))
    return tensors


def restore_generators(state: Mapping[str, Tensor]) -> None:
    """Set all random generators to the states that `capture_generators` returned."""
    *keys, position, has_normal, normal = state["numpy"].tolist()
    *words, has_gauss, gauss = state["python"].tolist()
    RandomState(
        torch=state["torch"],
        devices={name: value for name, value in state.items() if name.partition(".")[0] in KINDS},
        numpy=("MT19937", np.array(keys, dtype=np.uint32), position, has_normal, _number(normal)),
        python=(3, tuple(words), _number(gauss) if has_gauss else None),
    ).restore()


def _bits(number: float) -> int:
    """Return the bits of a double-precision number as an integer."""
    return int(np.array(number, dtype=np.float64).view(np.int64))


def _number(bits: int) -> float:
    """Return the double-precision number with these bits."""
    return float(np.array(bits, dtype=np.int64).view(np.float64))
