"""Where a run computes, and the random generators it draws from."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from pvae.errors import InputError
from pvae.randomness import RandomState, preserved_randomness

__all__ = ["capture", "isolated", "resolve", "restore"]


def resolve(device: str | torch.device) -> torch.device:
    """Return the device meant: ``"auto"`` is CUDA where there is one, else the CPU.

    Raises:
        InputError: if the name is no device, or the device is absent from this machine.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"Unknown device {str(device)!r}; use auto, cpu, cuda or cuda:0.") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device={str(device)!r} needs a CUDA device; this machine has {torch.cuda.device_count()}. "
            "Use device='auto' or device='cpu'."
        )
    return found


@contextmanager
def isolated(seed: int, threads: int | None = None) -> Iterator[None]:
    """Seed every generator for the block, and put them all back afterwards.

    Covers torch on the CPU and on every CUDA device in use, NumPy's global generator and ``random``; so code
    outside sees no difference, whatever the block drew.

    Args:
        seed: of all generators inside the block.
        threads: torch's intra-operation threads inside the block; as they are when not given.
    """
    count = torch.get_num_threads()
    with preserved_randomness():
        try:
            _seed(seed)
            if threads is not None and threads != count:
                torch.set_num_threads(threads)
            yield
        finally:
            if torch.get_num_threads() != count:
                torch.set_num_threads(count)


def _seed(seed: int) -> None:
    """Seed the generators; CUDA's only where it is in use, since a seed for later would leak out of the block."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - user programs may draw from this generator
    random.seed(seed)


def capture() -> dict[str, Tensor]:
    """Return the state of every generator as tensors on the CPU: ``torch``, ``cuda.0`` ..., ``numpy``, ``python``."""
    state = RandomState.capture()
    _, keys, position, kept, normal = state.numpy
    _, words, gauss = state.python
    tensors = {"torch": state.torch}
    tensors |= {f"cuda.{index}": each for index, each in enumerate(state.cuda)}
    tensors["numpy"] = torch.from_numpy(np.append(keys.astype(np.int64), [position, kept, _bits(normal)]))
    tensors["python"] = torch.from_numpy(np.array([*words, gauss is not None, _bits(gauss or 0.0)], dtype=np.int64))
    return tensors


def restore(state: Mapping[str, Tensor]) -> None:
    """Put every generator back to a state that `capture` returned."""
    *keys, position, kept, normal = state["numpy"].tolist()
    *words, has_gauss, gauss = state["python"].tolist()
    cuda = [name for name in state if name.startswith("cuda.")]
    RandomState(
        torch=state["torch"],
        cuda=tuple(state[f"cuda.{index}"] for index in range(len(cuda))),
        numpy=("MT19937", np.array(keys, dtype=np.uint32), position, kept, _number(normal)),
        python=(3, tuple(words), _number(gauss) if has_gauss else None),
    ).restore()


def _bits(number: float) -> int:
    return int(np.array(number, dtype=np.float64).view(np.int64))


def _number(bits: int) -> float:
    return float(np.array(bits, dtype=np.int64).view(np.float64))
