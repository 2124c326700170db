"""The check whether a program is being traced, because the values of tensors must not be read then."""

from __future__ import annotations

import torch

__all__ = ["is_traced"]


def is_traced() -> bool:
    """Return whether a step or an export is being traced below Pyro; the values of tensors must not be read then."""
    return (
        torch.compiler.is_compiling() or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None
    )
