"""Threads of torch in a forked process: a fork does not copy threads, and computations wait for them."""

from __future__ import annotations

import multiprocessing
import os
import sys

import torch

from pvae.errors import InputError

__all__ = ["require_usable_threads"]


def _is_fork_after_torch() -> bool:
    """Return whether multiprocessing forked this process from one in which torch was imported already.

    `sys.modules` is in the order of the imports, and multiprocessing imports ``popen_fork`` when it forks for the first
    time. So torch was imported before the fork if it comes first. If it comes later, this process or its parent may
    have imported it, and False is returned.
    """
    process = multiprocessing.current_process()
    modules = list(sys.modules)
    marker = "multiprocessing.popen_fork"
    return (
        getattr(process, "_start_method", None) == "fork"
        and marker in modules
        and modules.index("torch") < modules.index(marker)
    )


# A fork that happened before this import is not seen by `os.register_at_fork`.
_threads_of_parent = torch.get_num_threads() if _is_fork_after_torch() else 1


def _note_fork() -> None:
    global _threads_of_parent
    _threads_of_parent = max(_threads_of_parent, torch.get_num_threads())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def require_usable_threads(threads: int | None = None) -> None:
    """Raise InputError for several threads of torch in a process that was forked from one with several threads.

    Args:
        threads: the number of threads that will be used; None for the present number.

    Raises:
        InputError: in this case, because the computation would never end.
    """
    count = torch.get_num_threads() if threads is None else threads
    if _threads_of_parent > 1 and count > 1:
        raise InputError(
            f"This process was forked from one in which torch had {_threads_of_parent} threads. A fork does not copy "
            f"threads, so a computation with {count} threads would never end. Start the process by the method 'spawn' "
            "of "
            "multiprocessing, or call torch.set_num_threads(1) in it first."
        )
