"""Describe why a step does not run as a graph, with the line of the user's code if it is known."""

from __future__ import annotations

import inspect
from types import FunctionType, MethodType
from typing import Any

from pvae.errors import first_line
from pvae.objectives.pyro.patches import ValueReadError
from pvae.programs.bound import owner_and_name
from pvae.train.graph.dynamic_shapes import DynamicShapeError
from pvae.user_code import CodePlace, find_user_place, is_user_file

__all__ = ["describe_failure", "place_of_program"]

#: A part of the error of PyTorch's tracer if code reads a number: by float, int, bool, item, a branch or an index.
_NUMBER_IS_READ = "get value out of a tracing tensor"


def describe_failure(error: BaseException) -> str:
    """Return the reason why a step could not be traced, or why its graph failed, with the user's file and line.

    Args:
        error: the error of the trace or of the graph.
    """
    place = find_user_place(error)
    return f"{place}: {_reason(error)}" if place is not None else _reason(error)


def _reason(error: BaseException) -> str:
    if isinstance(error, ValueReadError):
        return f"{first_line(error)}, which a graph would freeze"  # Pyro appends a table of shapes
    if isinstance(error, DynamicShapeError):
        return f"{first_line(error)}, and a graph would freeze it"
    if _NUMBER_IS_READ in str(error):
        return "a number or a branch depends on the value of a tensor, which a graph would freeze"
    return f"{type(error).__name__}: {first_line(error)}"


def place_of_program(program: Any) -> CodePlace | None:
    """Return the place where a program is defined; None if it is not in a file of the user.

    Args:
        program: a program from `pvae.programs.binding.bind`.
    """
    owner, name = owner_and_name(program)
    function = inspect.unwrap(getattr(owner, name) if name else owner)
    function = function.__func__ if isinstance(function, MethodType) else function
    if not isinstance(function, FunctionType) or not is_user_file(function.__code__.co_filename):
        return None
    return CodePlace(function.__code__.co_filename, function.__code__.co_firstlineno)
