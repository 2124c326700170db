"""Frozen parameters and modules in evaluation mode: a checkpoint records them, and a resumed training notes changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from pvae.names import short_label

__all__ = ["flags_of", "notes_of_flags"]

_KINDS = {"frozen": "parameters that need no gradient", "evaluating": "modules in evaluation mode"}


def flags_of(modules: Iterable[nn.Module]) -> dict[str, list[str]]:
    """Return the names of the frozen parameters and of the modules in evaluation mode.

    Args:
        modules: the modules of a training, in the same order at each call.
    """
    frozen: list[str] = []
    evaluating: list[str] = []
    for index, module in enumerate(modules):
        frozen += [f"{index}.{name}" for name, each in module.named_parameters() if not each.requires_grad]
        evaluating += [f"{index}.{name}" for name, part in module.named_modules() if not part.training]
    return {"frozen": frozen, "evaluating": evaluating}


def notes_of_flags(recorded: Mapping[str, Any], modules: Iterable[nn.Module]) -> Iterator[str]:
    """Yield a line for each kind of flags that a callback has changed before the checkpoint and that are not set now.

    Args:
        recorded: the state of the checkpoint; those of earlier versions have no flags.
        modules: the modules of the resumed training.
    """
    for kind, names in flags_of(modules).items():
        differing = sorted(set(names) ^ set(recorded.get(kind, names)))
        if differing:
            listed = ", ".join(short_label(name.partition(".")[2]) for name in differing[:3])
            yield (
                f"note: the training was interrupted with other {_KINDS[kind]} than this one has now: {listed}. Set "
                "them in on_start of a callback."
            )
