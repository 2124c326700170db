"""All changes that pvae makes to Pyro and PyTorch at run time, each restored at the end of a block.

`collect_surrogates` is for Pyro's losses: they call ``backward`` and ``item`` themselves, and offer no other way to get
the surrogate as a tensor.

`without_synchronisation` is for tracing a step below Pyro: a trace must not read a value from a tensor.

`validity_collected` keeps the validation of distributions in a trace, as tensors.

`values_refused` is for tracing too: methods that read values of a tensor without an operation of PyTorch's tracer raise
an error.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.infer.util
import pyro.util
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.utils._pytree import tree_leaves

__all__ = [
    "ValueReadError",
    "collect_surrogates",
    "validity_collected",
    "values_refused",
    "without_synchronisation",
]

#: Methods and properties of a tensor that return its values to Python, NumPy or other libraries. The tracer itself
#: raises for ``item``, ``float``, ``int``, ``bool``, ``__index__`` and all operations that return a number.
_WAYS_OUT = (
    "numpy",
    "tolist",
    "__array__",
    "__dlpack__",
    "__cuda_array_interface__",
    "__repr__",
    "__reduce_ex__",
    "data_ptr",
    "storage",
    "untyped_storage",
    "apply_",
    "map_",
    "map2_",
)


#: Functions that make a tensor of a list, in which there may be tensors.
_MAKERS = ("tensor", "as_tensor", "asarray")

#: The validation of values of PyTorch, which `without_synchronisation` replaces.
_VALIDATE_SAMPLE = Distribution._validate_sample


@contextmanager
def collect_surrogates() -> Iterator[list[Tensor]]:
    """Collect the tensors that Pyro's losses call ``backward`` on, without differentiating them.

    ``loss_and_grads`` is the only method that all of Pyro's losses have (some have no ``differentiable_loss``), and it
    ends in ``surrogate.backward()``. A traced step needs the surrogate itself. Inside ``pyro.infer`` the block also
    replaces ``Tensor.item`` by ``Tensor.detach``, because the loss must stay a tensor in a traced step.

    Yields:
        A list that is filled inside the block.
    """
    surrogates: list[Tensor] = []
    item = torch.Tensor.item
    backward = torch.Tensor.backward

    def detach_in_pyro(tensor: Tensor) -> Any:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        return tensor.detach() if caller.startswith("pyro.infer.") else item(tensor)

    def collect(tensor: Tensor, *args: Any, **kwargs: Any) -> None:
        surrogates.append(tensor)

    torch.Tensor.backward = collect  # type: ignore[method-assign, assignment]
    torch.Tensor.item = detach_in_pyro  # type: ignore[method-assign, assignment]
    try:
        yield surrogates
    finally:
        torch.Tensor.backward = backward  # type: ignore[method-assign]
        del torch.Tensor.item  # `item` is inherited, so assigning it would leave a copy on Tensor


def _return_value(value: Any, *_: Any, **__: Any) -> Any:
    return value


def _detach(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _select_or_zero(tensor: Tensor, mask: Tensor) -> Tensor:
    """Return the selected values; in sums of Pyro's losses, all values, with zeros in place of those not selected."""
    if sys._getframe(1).f_globals.get("__name__") == "pyro.infer.util":
        return torch.where(mask, tensor, 0)
    return torch.masked_select(tensor, mask)


def _is_called_by_pyro() -> bool:
    """Return whether the caller is Pyro: PyTorch's own modules would warn and branch if they found a trace."""
    return sys._getframe(1).f_globals.get("__name__", "").startswith("pyro.")


@contextmanager
def without_synchronisation() -> Iterator[None]:
    """Run a block in which Pyro's losses read no value: no ``.item()``, NaN warning, validation or branch on a value.

    Pyro reads numbers from the device in ``torch_item`` and ``warn_if_nan``. Its modules import both by name, so each
    module's own reference is replaced. Pyro leaves out branches on values while PyTorch says that it is tracing. The
    values that `TraceEnum_ELBO` then selects, by a mask of the possible ones, keep their shape and are zero elsewhere.
    """
    replacements = {pyro.infer.util.torch_item: _detach, pyro.util.warn_if_nan: _return_value}
    references = _references_to(set(replacements))
    get_tracing_state = torch._C._get_tracing_state
    validate_sample = Distribution._validate_sample
    try:
        torch._C._get_tracing_state = _is_called_by_pyro  # type: ignore[assignment]
        # A distribution that was made before the block keeps its own validation flag, so the method is replaced.
        Distribution._validate_sample = _return_value  # type: ignore[assignment, method-assign]
        Tensor.masked_select = _select_or_zero  # type: ignore[assignment, method-assign]
        for module, name, function in references:
            setattr(module, name, replacements[function])
        with pyro.validation_enabled(False):
            yield
    finally:
        torch._C._get_tracing_state = get_tracing_state
        Distribution._validate_sample = validate_sample  # type: ignore[method-assign]
        del Tensor.masked_select  # it is inherited
        for module, name, function in references:
            setattr(module, name, function)


@contextmanager
def validity_collected(by_default: bool) -> Iterator[list[Tensor]]:
    """Collect the results of the validation of distributions, as tensors, inside `without_synchronisation`.

    An invalid parameter or value raises no error. PyTorch reads each result by ``torch._is_all_true``. Parameters that
    may be any real number are not validated, because a NaN among them makes the log-density NaN; it would take a tenth
    of the time of a decoder.

    Args:
        by_default: whether distributions without their own validation flag are validated.

    Yields:
        A list of tensors of truth values, one for each validation; it is filled inside the block.
    """
    results: list[Tensor] = []
    is_all_true, validate_sample = torch._is_all_true, Distribution._validate_sample
    validates, check_real = Distribution._validate_args, constraints._Real.check
    validated_values = 0

    def validate_value(distribution: Distribution, value: Tensor) -> None:
        nonlocal validated_values
        validated_values += 1
        try:
            _VALIDATE_SAMPLE(distribution, value)
        finally:
            validated_values -= 1

    def is_real(constraint: Any, value: Tensor) -> Tensor:
        return check_real(constraint, value) if validated_values else torch.ones_like(value, dtype=torch.bool)

    def collect(valid: Tensor) -> bool:
        results.append(valid)
        return True

    try:
        torch._is_all_true = collect  # type: ignore[assignment]
        Distribution._validate_sample = validate_value  # type: ignore[method-assign, assignment]
        constraints._Real.check = is_real  # type: ignore[method-assign]
        Distribution.set_default_validate_args(by_default)
        yield results
    finally:
        torch._is_all_true = is_all_true
        constraints._Real.check = check_real  # type: ignore[method-assign]
        Distribution._validate_sample = validate_sample  # type: ignore[method-assign]
        Distribution.set_default_validate_args(validates)


def _references_to(functions: set[Any]) -> list[tuple[Any, str, Any]]:
    """Return module, name and function of each reference to one of the functions in the modules of Pyro and pvae."""
    references = []
    for module_name, module in list(sys.modules.items()):
        if not module_name.startswith(("pyro.", "pvae.")) or module is None:
            continue
        for name, value in list(vars(module).items()):
            if callable(value) and getattr(value, "__hash__", None) and value in functions:
                references.append((module, name, value))
    return references


class ValueReadError(RuntimeError):
    """A program reads values of a tensor while its step is traced.

    Args:
        name: the method or function that reads them.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} reads values of a tensor")


@contextmanager
def values_refused() -> Iterator[None]:
    """Run a block in which reading values of a tensor in Python, NumPy or other libraries is an error.

    PyTorch's tracer would keep such values as constants without an error. Splits at indices in a tensor, and tensors
    that are made of a list of tensors, are refused too: PyTorch reads their values without an operation that the tracer
    sees. Other threads, such as those that read the next batches, are not affected.

    Raises:
        ValueReadError: inside the block, at the first use of such a method.
    """
    thread = threading.get_ident()
    kept = {name: vars(Tensor).get(name) for name in _WAYS_OUT}
    split = torch.tensor_split
    dlpack: Any = torch.utils.dlpack
    to_dlpack = dlpack.to_dlpack
    makers = [(torch, name, getattr(torch, name)) for name in _MAKERS] + [(Tensor, "new_tensor", Tensor.new_tensor)]
    try:
        for name in _WAYS_OUT:
            is_property = name == "__cuda_array_interface__"
            refusal = _refusal(name, thread)
            setattr(Tensor, name, property(refusal) if is_property else refusal)
        torch.tensor_split = Tensor.tensor_split = _split_at_numbers(split, thread)  # type: ignore[method-assign]
        dlpack.to_dlpack = _refusal("__dlpack__", thread)
        for owner, name, make in makers:
            setattr(owner, name, _made_of_numbers(name, make, thread))
        yield
    finally:
        for owner, name, make in makers:
            setattr(owner, name, make)
        del Tensor.new_tensor  # it is inherited
        torch.tensor_split = split
        dlpack.to_dlpack = to_dlpack
        del Tensor.tensor_split  # it is inherited
        for name, method in kept.items():
            if method is None:  # inherited: an assignment would leave a copy on Tensor
                delattr(Tensor, name)
            else:
                setattr(Tensor, name, method)


def _refusal(name: str, thread: int) -> Any:
    """Return a method that raises in one thread, and works in other threads."""
    method = getattr(Tensor, name, None)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread and method is not None:
            return method(*args, **kwargs) if callable(method) else method.__get__(*args)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if callable(method) and caller.startswith("torch._subclasses."):
            return method(*args, **kwargs)  # the tracer copies metadata, not values
        raise ValueReadError(f"Tensor.{name}")

    return refuse


def _made_of_numbers(name: str, make: Any, thread: int) -> Any:
    """Return a function that makes tensors, which in one thread refuses a list with a tensor in it."""

    @functools.wraps(make)
    def make_of_numbers(*args: Any, **kwargs: Any) -> Any:
        lists = [value for value in (*args, *kwargs.values()) if isinstance(value, list | tuple)]
        if threading.get_ident() == thread and any(isinstance(leaf, Tensor) for leaf in tree_leaves(lists)):
            raise ValueReadError(f"{name} of a list of tensors (use torch.stack)")
        return make(*args, **kwargs)

    return make_of_numbers


def _split_at_numbers(split: Any, thread: int) -> Any:
    """Return `torch.tensor_split`, which in one thread refuses indices in a tensor."""

    def split_at_numbers(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        takes_tensor = any(isinstance(value, Tensor) for value in (*args, *kwargs.values()))
        if takes_tensor and threading.get_ident() == thread:
            raise ValueReadError("tensor_split")
        return split(tensor, *args, **kwargs)

    return split_at_numbers
