"""`ProgramInContext`: a Pyro program that runs inside a context, such as a message handler or `torch.no_grad`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from pvae.programs.bound import BoundPrograms

__all__ = ["ProgramInContext", "with_guide_in", "with_model_in", "without_guide_gradient", "without_model_gradient"]

#: Makes the context of one run: a message handler, or `torch.no_grad`.
MakeContext = Callable[[], AbstractContextManager[Any]]


class ProgramInContext(nn.Module):
    """A program that runs inside a context; its cached layout is the layout of the program itself.

    `pvae.programs.bound.owner_and_name` finds the program by the attribute `program`.

    Args:
        program: a Pyro program.
        make_context: makes the context of one run.
    """

    def __init__(self, program: Any, make_context: MakeContext) -> None:
        super().__init__()
        self.program = program
        self.make_context = make_context

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program in a new context."""
        with self.make_context():
            return self.program(*args, **kwargs)


def with_guide_in(make_context: MakeContext, programs: BoundPrograms) -> BoundPrograms:
    """Return the programs with each run of the guide inside a context."""
    return programs.with_programs(programs.model, ProgramInContext(programs.guide, make_context))


def with_model_in(make_context: MakeContext, programs: BoundPrograms) -> BoundPrograms:
    """Return the programs with each run of the model inside a context."""
    return programs.with_programs(ProgramInContext(programs.model, make_context), programs.guide)


def without_guide_gradient(programs: BoundPrograms) -> BoundPrograms:
    """Return the programs with the guide run without gradients."""
    return with_guide_in(torch.no_grad, programs)


def without_model_gradient(programs: BoundPrograms) -> BoundPrograms:
    """Return the programs with the model run without gradients."""
    return with_model_in(torch.no_grad, programs)
