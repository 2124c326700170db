"""The signatures of programs, and the batch fields that they name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyro.infer.autoguide import AutoGuide
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.messenger import unwrap
from torch import Tensor, nn

from pvae.errors import InputError
from pvae.names import unknown
from pvae.programs.base import Program
from pvae.programs.model_traits import traits_of

__all__ = [
    "FIELD_ALIASES",
    "FieldChoice",
    "Fields",
    "choose_fields",
    "require_parameters",
    "signature_of",
    "takes_only_open_arguments",
]

#: Names of parameters with fields of other names.
FIELD_ALIASES = {"xs": "x", "ys": "y"}

_POSITIONAL_KINDS = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_OPEN_KINDS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

#: Batch fields by position, or a mapping from parameter to field; None chooses them by the names of the parameters.
Fields = Sequence[str] | Mapping[str, str] | None
_Parameters = Mapping[str, inspect.Parameter]


def signature_of(program: Any) -> inspect.Signature:
    """Return the signature of a program without its handlers.

    `inspect.signature` raises an error for handlers of `pyro.poutine`.

    Args:
        program: a function, a method, a module, an autoguide, or a handler around one.
    """
    function: Any = unwrap(program)
    if isinstance(function, Program):
        return signature_of(function.function)
    if isinstance(function, AutoGuide | GuideMessenger):
        return signature_of(function.model)
    if isinstance(function, nn.Module):
        return signature_of(function.forward)
    if inspect.ismethod(function):
        signature = signature_of(function.__func__)
        parameters = list(signature.parameters.values())[1:]
        return signature.replace(parameters=_with_optional_fields(parameters, function.__self__))
    if hasattr(function, "__wrapped__"):
        return signature_of(function.__wrapped__)
    if isinstance(function, functools.partial) and unwrap(function.func) is not function.func:
        return inspect.signature(functools.partial(unwrap(function.func), *function.args, **function.keywords))
    return inspect.signature(function)


def _with_optional_fields(parameters: list[inspect.Parameter], owner: Any) -> list[inspect.Parameter]:
    """Return parameters with the optional fields of a latent model in place of ``**fields``."""
    names = traits_of(owner).optional_fields
    if not names or not parameters or parameters[-1].kind is not inspect.Parameter.VAR_KEYWORD:
        return parameters
    kind = inspect.Parameter.KEYWORD_ONLY
    return [*parameters[:-1], *[inspect.Parameter(name, kind, default=None) for name in names]]


def takes_only_open_arguments(program: Program) -> bool:
    """Return whether a program takes only ``*args, **kwargs``, like a guide that passes them to its model."""
    kinds = {parameter.kind for parameter in signature_of(program).parameters.values()}
    return bool(kinds) and kinds <= set(_OPEN_KINDS)


@dataclass(frozen=True)
class FieldChoice:
    """The batch fields that a program takes.

    Attributes:
        positional: the fields of its positional arguments.
        keywords: the field of each keyword argument.
    """

    positional: tuple[str, ...]
    keywords: Mapping[str, str]

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields, in the order of the arguments."""
        return (*self.positional, *self.keywords.values())


def choose_fields(name: str, program: Program, batch: Mapping[str, Tensor], fields: Fields) -> FieldChoice:
    """Return the batch fields that a program takes.

    Args:
        name: ``model`` or ``guide``, for errors.
        program: the program.
        batch: named tensors; only the names matter.
        fields: the fields by position; or a mapping from parameter to field; other parameters keep the fields of their
            names; None chooses all by name.

    Raises:
        InputError: for a required parameter or a named field that the batch does not have, or ``*args`` without
            `fields`.
    """
    parameters = signature_of(program).parameters
    if fields is not None:
        _require_in_batch(batch, fields)
    if fields is not None and not isinstance(fields, Mapping):
        return _fields_by_position(parameters, fields)
    by_parameter = _fields_by_name(name, parameters, batch, fields or {})
    positional: list[str] = []
    for key, parameter in parameters.items():
        if parameter.kind not in _POSITIONAL_KINDS or key not in by_parameter:
            break
        positional.append(by_parameter.pop(key))
    return FieldChoice(tuple(positional), by_parameter)


def _fields_by_name(
    name: str, parameters: _Parameters, batch: Mapping[str, Tensor], chosen: Mapping[str, str]
) -> dict[str, str]:
    """Return the field of each parameter: the chosen field, the field of its name or alias, or ``x`` for the first."""
    by_parameter: dict[str, str] = {}
    for key, parameter in parameters.items():
        if key in chosen:
            by_parameter[key] = chosen[key]
            continue
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            if chosen:
                continue
            raise InputError(f"The {name} takes *{key}. Name the batch fields that it takes with fields=('x', ...).")
        field = key if key in batch else FIELD_ALIASES.get(key, key)
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD and field in batch:
            by_parameter[key] = field
    first = next((key for key, parameter in parameters.items() if parameter.kind in _POSITIONAL_KINDS), None)
    if first is not None and first not in by_parameter and "x" in batch and "x" not in by_parameter.values():
        by_parameter[first] = "x"
    _require_fields(name, parameters, by_parameter, batch)
    return by_parameter


def _require_fields(
    name: str, parameters: _Parameters, by_parameter: Mapping[str, str], batch: Mapping[str, Tensor]
) -> None:
    """Raise InputError if a parameter without a default has no field."""
    for key, parameter in parameters.items():
        has_default = parameter.default is not inspect.Parameter.empty
        if key in by_parameter or has_default or parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        complete = " Complete data have no mask: add one of ones, or give the parameter the default None."
        raise InputError(
            f"The {name} requires {key!r}, but the batch has only {', '.join(batch)}. Rename the parameter, give it a "
            f"default, add the field to the data, or name the fields with fields={{...}}.{complete * (key == 'mask')}"
        )


def require_parameters(fields: Mapping[str, str], *programs: Program) -> None:
    """Check that each key of a mapping from parameter to field is a parameter of one of the programs.

    Args:
        fields: the mapping.
        programs: the model and the guide.

    Raises:
        InputError: if a key is not a parameter, unless a program takes ``**kwargs`` or passes on all arguments.
    """
    signatures = [signature_of(program).parameters for program in programs]
    if any(parameter.kind in _OPEN_KINDS for parameters in signatures for parameter in parameters.values()):
        return
    known = list(dict.fromkeys(key for parameters in signatures for key in parameters))
    strange = [key for key in fields if key not in known]
    if strange:
        raise unknown("parameter in fields=", strange[0], known)


def _require_in_batch(batch: Mapping[str, Tensor], fields: Fields) -> None:
    """Raise InputError if the batch lacks a field that `fields` names."""
    if fields is not None and (isinstance(fields, str) or not isinstance(fields, Mapping | Sequence)):
        raise InputError(
            f"fields needs names such as ('x', 'y'), or a mapping from parameter to field; got {fields!r}."
        )
    wanted = list(fields.values()) if isinstance(fields, Mapping) else list(fields or ())
    missing = [field for field in wanted if field not in batch]
    if missing:
        raise InputError(
            f"The programs take {missing[0]!r}, but the batch has only {', '.join(batch)}. Add the field to the data, "
            "or name other fields with fields=."
        )


def _fields_by_position(parameters: _Parameters, fields: Sequence[str]) -> FieldChoice:
    """Return the fields that `fields` lists, up to the number that the program takes."""
    kinds = [parameter.kind for parameter in parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return FieldChoice(tuple(fields), {})
    count = sum(kind in _POSITIONAL_KINDS for kind in kinds)
    return FieldChoice(tuple(fields[:count]), {})
