"""Trace an encoder or decoder with `torch.export`, and check the result at batches of several sizes."""

from __future__ import annotations

import builtins
import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx import Node

from pvae.errors import InputError, first_line
from pvae.models.tensor_functions import TensorFunction
from pvae.randomness import preserved_randomness
from pvae.train.graph.dynamic_shapes import is_fill
from pvae.user_code import find_user_place

__all__ = ["Call", "TracedPart", "require_same_values", "silent", "trace_part"]

#: A function of the arguments of a `TensorFunction`, with its outputs by name.
Call = Callable[..., Mapping[str, Tensor]]

# relative to the largest value of an output
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


class TracedPart:
    """An encoder or decoder, as a function and as a traced program.

    Args:
        function: the function; its outputs depend on each of its arguments.
        program: the traced program, for any number of data.
    """

    def __init__(self, function: TensorFunction, program: ExportedProgram) -> None:
        self.function, self.program = function, program


def trace_part(function: TensorFunction) -> TracedPart:
    """Return a function with only the arguments that its outputs depend on, and its program.

    Args:
        function: an encoder or decoder on all its fields and sites.

    Raises:
        InputError: if the function cannot be traced, draws random numbers, or depends on no argument.
    """
    with preserved_randomness():
        with torch.no_grad():
            outputs = function(*function.example)
            _require_no_draws(outputs, function(*function.example))
        _leave_out_undefined_means(function, outputs)
        program = _trace(function)
        used = _used_inputs(program, function.inputs)
        if not used:
            raise InputError("its outputs do not depend on data")
        if used != function.inputs:
            function = function.with_inputs(used)
            program = _trace(function)
    return TracedPart(function, program)


def _leave_out_undefined_means(function: TensorFunction, outputs: Mapping[str, Tensor]) -> None:
    """Leave out a mean of x that is not finite, such as the mean of a Cauchy or of classes.

    Raise if a later site needs it.
    """
    undefined = {name for name, value in outputs.items() if name.endswith(".mean") and not value.isfinite().all()}
    if undefined and not function.data_sites:
        site = min(undefined).removesuffix(".mean")
        raise InputError(f"site {site!r} has a {function.families[site]}, the mean of which is not finite")
    function.omitted = frozenset(undefined)


def _trace(function: TensorFunction) -> ExportedProgram:
    batch = Dim("batch")
    shapes = (tuple([{0: batch} for _ in function.example]),)
    try:
        with _symbolic_lengths(), silent("torch.fx.experimental.symbolic_shapes"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(function, function.example, dynamic_shapes=shapes, strict=False)
    except InputError:
        raise
    except Exception as error:
        raise InputError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """Return the reason of an error of `torch.export` in one line, with the line of the user's code if there is one."""
    text = str(error)
    if "specialized it to be a constant" in text:
        reason = "its code fixes the number of data, as a loop over the data or a parameter for each datum does"
    elif "data-dependent" in text or "GuardOnDataDependent" in type(error).__name__:
        reason = "its code takes a Python number or a branch from the values of a tensor"
    else:
        reason = f"{type(error).__name__}: {first_line(error).partition('. ')[0]}"
    place = find_user_place(error)
    return reason if place is None else f"{reason} ({place})"


@contextmanager
def _symbolic_lengths() -> Iterator[None]:
    """Let ``len(x)`` of a tensor be symbolic, as ``x.shape[0]`` is; Python's own `len` returns the present number."""
    true_length = builtins.len

    def length(value: Any) -> Any:
        return value.shape[0] if isinstance(value, Tensor) and value.dim() else true_length(value)

    builtins.len = length
    try:
        yield
    finally:
        builtins.len = true_length


@contextmanager
def silent(*names: str) -> Iterator[None]:
    """Run a block without log records of PyTorch, because the reason of a failure is in its error.

    Args:
        names: the names of the loggers.
    """
    loggers = [logging.getLogger(name) for name in names]
    former = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        yield
    finally:
        for logger, disabled in zip(loggers, former, strict=True):
            logger.disabled = disabled


def _used_inputs(program: ExportedProgram, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the arguments with values that reach an output; a shape or a device is not a value."""
    arguments = dict(zip(program.graph_signature.user_inputs, names, strict=True))
    pending = [node for node in program.graph.nodes if node.op == "output"]
    reached: set[Node] = set()
    while pending:
        node = pending.pop()
        if node not in reached:
            reached.add(node)
            if not (_reads_size(node) or is_fill(node)):
                pending += node.all_input_nodes
    used = {arguments[node.name] for node in reached if node.name in arguments}
    return tuple([name for name in names if name in used])


def _reads_size(node: Node) -> bool:
    return node.target in (torch.ops.aten.sym_size.int, torch.ops.aten.sym_numel.default)


def _require_no_draws(outputs: Mapping[str, Tensor], again: Mapping[str, Tensor]) -> None:
    for name, value in outputs.items():
        if not torch.equal(value.nan_to_num(), again[name].nan_to_num()):
            raise InputError(f"its output {name} depends on random numbers that its code draws")


def require_same_values(function: TensorFunction, call: Call, trials: Collection[tuple[Tensor, ...]]) -> None:
    """Raise InputError if an exported function differs from the latent model, or if its rows depend on each other.

    Args:
        function: the function of the latent model.
        call: the exported function.
        trials: arguments to compare at.
    """
    for arguments in trials:
        with preserved_randomness(), torch.no_grad():
            expected, values = function(*arguments), call(*arguments)
            alone = call(*[argument[:1] for argument in arguments])
        for name, value in expected.items():
            if not _agree(value, values[name]):
                raise InputError(
                    f"its exported output {name} differs from that of the model for {len(arguments[0])} data"
                )
            if value.dim() and len(value) == len(arguments[0]) and not _agree(value[:1], alone[name]):
                raise InputError(f"its output {name} for a datum depends on the other data of the batch")


def _agree(expected: Tensor, value: Tensor) -> bool:
    if expected.shape != value.shape:
        return False
    if not expected.is_floating_point():
        return torch.equal(expected, value.to(expected.dtype))
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    tolerance = _TOLERANCE.get(expected.dtype, 1e-2)
    return torch.allclose(expected, value.to(expected.dtype), rtol=tolerance, atol=tolerance * largest, equal_nan=True)
