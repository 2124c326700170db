"""Which batch fields a program gets: those that its signature names."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyro.infer.autoguide import AutoGuide
from pyro.poutine.messenger import unwrap
from torch import Tensor, nn

from pvae.errors import InputError
from pvae.programs.base import Program, program
from pvae.programs.bound import BoundPrograms

__all__ = ["Programs", "bind", "fields_of", "owner_of"]

_ALIASES = {"xs": "x", "ys": "y"}
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

Fields = Sequence[str] | Mapping[str, str] | None


def signature_of(program: Any) -> inspect.Signature:
    """The signature beneath handlers: `inspect.signature` alone raises on what `pyro.poutine` wraps."""
    function: Any = unwrap(program)
    if isinstance(function, Program):
        return signature_of(function.function)
    if isinstance(function, AutoGuide):
        return signature_of(function.model)
    if isinstance(function, nn.Module):
        return signature_of(function.forward)
    if inspect.ismethod(function):
        whole = signature_of(function.__func__)
        return whole.replace(parameters=list(whole.parameters.values())[1:])
    if hasattr(function, "__wrapped__"):
        return signature_of(function.__wrapped__)
    if isinstance(function, functools.partial) and unwrap(function.func) is not function.func:
        return inspect.signature(functools.partial(unwrap(function.func), *function.args, **function.keywords))
    return inspect.signature(function)


def _by_name(name: str, parameters: Mapping[str, inspect.Parameter], batch: Mapping[str, Tensor]) -> dict[str, str]:
    """Map each parameter of the program `name` to a field: own name, ``xs``/``ys``, and ``x`` for the first one."""
    chosen: dict[str, str] = {}
    for key, parameter in parameters.items():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            raise InputError(f"The {name} takes *{key}: say which batch fields it gets with fields=('x', ...).")
        field = key if key in batch else _ALIASES.get(key, key)
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD and field in batch:
            chosen[key] = field
    first = next((key for key, each in parameters.items() if each.kind in _POSITIONAL), None)
    if first is not None and first not in chosen and "x" in batch and "x" not in chosen.values():
        chosen[first] = "x"
    for key, parameter in parameters.items():
        required = parameter.default is inspect.Parameter.empty and parameter.kind is not inspect.Parameter.VAR_KEYWORD
        if required and key not in chosen:
            raise InputError(
                f"The {name} requires {key!r}, and the batch has {', '.join(batch)}: rename the parameter, give it a "
                "default, add the field to the data, or say fields={...}."
            )
    return chosen


def _by_fields(
    name: str, parameters: Mapping[str, inspect.Parameter], batch: Mapping[str, Tensor], fields: Fields
) -> tuple[list[str], dict[str, str]]:
    """Positional fields and keyword fields as `fields` says."""
    named = list(fields.values()) if isinstance(fields, Mapping) else list(fields or ())
    missing = [each for each in named if each not in batch]
    if missing:
        raise InputError(
            f"The programs take {missing[0]!r}, and the batch has {', '.join(batch)}: add the field to the data, or "
            "say other fields=."
        )
    if isinstance(fields, Mapping):
        return [], {key: fields[key] for key in parameters if key in fields}
    places = [each for each in parameters.values() if each.kind in _POSITIONAL]
    unbounded = any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters.values())
    return named if unbounded else named[: len(places)], {}


class _Bound(nn.Module):
    """A program that picks its own fields from those passed to both programs."""

    def __init__(
        self, program: Program, positions: tuple[int, ...], keywords: dict[str, int], fields: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.program, self.fields = program, fields
        self.positions, self.keywords = positions, keywords

    def forward(self, *values: Tensor) -> Any:
        positional = [values[place] for place in self.positions]
        if not self.keywords:
            return self.program(*positional)
        named = {key: values[place] for key, place in self.keywords.items()}
        return self.program(*positional, **named)


@dataclass(frozen=True)
class Programs:
    """The model and guide of a latent model, both callable with the same tensors.

    Attributes:
        model: p(x, z), called with ``arguments(batch)``.
        guide: q(z given x), called with ``arguments(batch)``.
        fields: the batch fields that at least one program takes, in the order of the arguments.
        modules: the modules that hold the parameters.
    """

    model: nn.Module
    guide: nn.Module
    fields: tuple[str, ...]
    modules: nn.ModuleList

    def arguments(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return the tensors of `batch` that the programs take."""
        return tuple([batch[field] for field in self.fields])

    def bound_with(self, arguments: tuple[Tensor, ...]) -> BoundPrograms:
        """Return both programs with the given arguments, which `arguments` returned for a batch."""
        return BoundPrograms(self.model, self.guide, arguments)

    def bound_to(self, batch: Mapping[str, Tensor]) -> BoundPrograms:
        """Return both programs with the fields of `batch` that they take as their arguments."""
        return self.bound_with(self.arguments(batch))

    def unused(self, batch: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Return the fields of `batch` that no program takes (``index`` apart)."""
        return tuple(field for field in batch if field not in self.fields and field != "index")


def fields_of(program: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors that a program is called with by their field: as bound, else by its parameters' names.

    ``xs`` and ``ys`` are ``x`` and ``y``, and the first parameter is ``x`` where no other is.
    """
    if isinstance(program, _Bound):
        return dict(zip(program.fields, args, strict=False))
    given = signature_of(program).bind(*args, **kwargs).arguments
    found = {_ALIASES.get(name, name): each for name, each in given.items() if isinstance(each, Tensor)}
    return {"x": next(iter(found.values())), **found} if found else {}


def owner_of(program: Any) -> Any:
    """Return the latent model that a program belongs to; None for a plain function."""
    function: Any = unwrap(program.program if isinstance(program, _Bound) else program)
    return function.owner if isinstance(function, Program) else getattr(function, "__self__", None)


def _choose(
    name: str, function: Program, batch: Mapping[str, Tensor], fields: Fields
) -> tuple[list[str], dict[str, str]]:
    parameters = signature_of(function).parameters
    if fields is not None:
        return _by_fields(name, parameters, batch, fields)
    chosen = _by_name(name, parameters, batch)
    positional: list[str] = []
    for key, parameter in parameters.items():
        if parameter.kind not in _POSITIONAL or key not in chosen:
            break
        positional.append(chosen.pop(key))
    return positional, chosen


def _is_open(function: Program) -> bool:
    """Whether a program takes only ``*args, **kwargs``, as a guide does that follows its model's arguments."""
    kinds = {each.kind for each in signature_of(function).parameters.values()}
    return bool(kinds) and kinds <= {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


def bind(latent_model: Any, batch: Mapping[str, Tensor], fields: Fields = None) -> Programs:
    """Return both programs of `latent_model` over the fields of `batch` that their signatures name.

    Args:
        latent_model: a `LatentModel`, or any object with ``model`` and ``guide``.
        batch: a batch of the kind to be passed; its field names matter, not its values.
        fields: field names by position, or a mapping from parameter to field; by default by name, with ``xs`` and
            ``ys`` read as ``x`` and ``y``, and ``x`` for a first parameter of another name.

    Raises:
        InputError: for a required parameter without a field, ``*args`` without `fields`, or a missing program.
    """
    fields = fields if fields is not None else getattr(latent_model, "fields", None)
    model, guide = program(latent_model, "model"), program(latent_model, "guide")
    chosen = {"model": _choose("model", model, batch, fields)}
    chosen["guide"] = chosen["model"] if fields is None and _is_open(guide) else _choose("guide", guide, batch, fields)
    names: list[str] = []
    for positional, keywords in chosen.values():
        names += [field for field in (*positional, *keywords.values()) if field not in names]
    place = {field: index for index, field in enumerate(names)}
    bound = {
        name: _Bound(
            {"model": model, "guide": guide}[name],
            tuple(place[field] for field in positional),
            {key: place[field] for key, field in keywords.items()},
            tuple(names),
        )
        for name, (positional, keywords) in chosen.items()
    }
    owners = [each for each in (latent_model, model.owner, guide.owner) if isinstance(each, nn.Module)]
    unique = list({id(each): each for each in owners}.values())
    return Programs(bound["model"], bound["guide"], tuple(names), nn.ModuleList(unique))
