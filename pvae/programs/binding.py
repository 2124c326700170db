"""`Programs`: the two programs of a latent model, bound to the batch fields that their signatures name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from pyro.poutine.messenger import unwrap
from torch import Tensor, nn

from pvae.errors import InputError
from pvae.programs.base import Program, program
from pvae.programs.bound import BoundPrograms
from pvae.programs.model_traits import traits_of
from pvae.programs.signatures import (
    FIELD_ALIASES,
    FieldChoice,
    Fields,
    choose_fields,
    require_parameters,
    signature_of,
    takes_only_open_arguments,
)
from pvae.structures import map_tensors

__all__ = ["Fields", "Programs", "bind", "fields_of", "held_modules", "owner_of", "require_batch"]


class _ProgramOnFields(nn.Module):
    """A program that takes its own fields from the tensors that both programs are called with.

    Args:
        program: the program.
        choice: the fields that it takes.
        fields: the fields of the tensors that both programs are called with, in order.
    """

    def __init__(self, program: Program, choice: FieldChoice, fields: tuple[str, ...]) -> None:
        super().__init__()
        self.program, self.fields = program, fields
        self.positions = tuple(fields.index(field) for field in choice.positional)
        self.keywords = {key: fields.index(field) for key, field in choice.keywords.items()}

    def forward(self, *values: Tensor, **others: Any) -> Any:
        """Run the program on its fields.

        Args:
            values: the tensors of `fields`.
            others: arguments that a loss adds; `pyro.infer.ReweightedWakeSleep` passes simulated ``observations``.
        """
        positional = map(values.__getitem__, self.positions)
        if not self.keywords and not others:
            return self.program(*positional)
        named = {key: values[position] for key, position in self.keywords.items()}
        return self.program(*positional, **named, **others)


@dataclass(frozen=True)
class Programs:
    """The model and guide of a latent model, both callable with the same tensors.

    Attributes:
        model: p(x, z), called with ``arguments(batch)``.
        guide: q(z given x), called with ``arguments(batch)``.
        fields: the batch fields that at least one program takes, in the order of the arguments.
        modules: the modules that hold the parameters.
        dtype: the type that real numbers of a batch get; None leaves them unchanged.
        held: other modules that the programs use, by the names of their variables; see `find_held_modules`.
    """

    model: nn.Module
    guide: nn.Module
    fields: tuple[str, ...]
    modules: nn.ModuleList
    dtype: torch.dtype | None = None
    held: Mapping[str, nn.Module] = field(default_factory=dict)

    @property
    def all_modules(self) -> list[nn.Module]:
        """The modules that hold the parameters, and the others that the programs use."""
        return [*self.modules, *self.held.values()]

    def arguments(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return the tensors of `batch` that the programs take, in the order of `fields`, unchanged in shape."""
        if self.dtype is not None:
            batch = {name: map_tensors(value, lambda tensor: tensor.to(self.dtype)) for name, value in batch.items()}
        return tuple(map(batch.__getitem__, self.fields))

    def in_dtype_of_parameters(self) -> Programs:
        """Return the programs with the real numbers of a batch in the type of the parameters, if they have one type.

        A training casts its data in the same way, so that data that were read as float64 fit a model in float32.
        """
        dtypes = {each.dtype for each in self.modules.parameters() if each.is_floating_point()}
        return replace(self, dtype=dtypes.pop()) if len(dtypes) == 1 else self

    def bound_with(self, arguments: tuple[Tensor, ...]) -> BoundPrograms:
        """Return both programs with the given arguments, the result of `arguments` for a batch."""
        return BoundPrograms(self.model, self.guide, arguments)

    def bound_to(self, batch: Mapping[str, Tensor]) -> BoundPrograms:
        """Return both programs with the fields of `batch` that they take as their arguments."""
        return self.bound_with(self.arguments(batch))

    @property
    def fields_of_model(self) -> frozenset[str]:
        """The batch fields that the model takes; `fields` has those of the guide too."""
        model = self.model
        if not isinstance(model, _ProgramOnFields):
            return frozenset(self.fields)
        return frozenset(model.fields[position] for position in (*model.positions, *model.keywords.values()))

    def unused(self, batch: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Return the fields of `batch` that no program takes, without ``index``."""
        return tuple(field for field in batch if field not in self.fields and field != "index")


def fields_of(program: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors that a program is called with, by field.

    The fields are those that `bind` chose. For other programs they are the names of the parameters, with ``xs`` and
    ``ys`` read as ``x`` and ``y``, and the first tensor is ``x`` if no other parameter is.

    Args:
        program: a program from `bind`, or any other program.
        args: the positional arguments of the call.
        kwargs: the keyword arguments of the call.
    """
    if isinstance(program, _ProgramOnFields):
        return dict(zip(program.fields, args, strict=False))
    arguments = signature_of(program).bind(*args, **kwargs).arguments
    tensors = {FIELD_ALIASES.get(name, name): value for name, value in arguments.items() if isinstance(value, Tensor)}
    return {"x": next(iter(tensors.values())), **tensors} if tensors else {}


def owner_of(program: Any) -> Any:
    """Return the latent model that a program belongs to; None for a plain function."""
    function: Any = unwrap(program.program if isinstance(program, _ProgramOnFields) else program)
    return function.owner if isinstance(function, Program) else getattr(function, "__self__", None)


def require_batch(batch: Any) -> None:
    """Raise InputError if a batch is not a mapping from fields to tensors."""
    if not isinstance(batch, Mapping):
        raise InputError(
            f"A batch needs to be a mapping from fields to tensors, such as {{'x': x}} or pvae.Batch(x=x); got "
            f"{type(batch).__name__}."
        )


def bind(latent_model: Any, batch: Mapping[str, Tensor], fields: Fields = None) -> Programs:
    """Return both programs of a latent model over the fields of a batch that their signatures name.

    Args:
        latent_model: a `LatentModel`, or any object with ``model`` and ``guide``.
        batch: a batch of the kind of later calls; only the names of its fields matter.
        fields: field names by position, or a mapping from parameter to field. Every other parameter takes the field of
            its name, with ``xs`` and ``ys`` read as ``x`` and ``y``, and a first parameter of another name ``x``.

    Raises:
        InputError: for a batch that is not a mapping, a required parameter without a field, ``*args`` without `fields`,
            a mapping that names a parameter of neither program, or a missing program.
    """
    require_batch(batch)
    fields = fields if fields is not None else traits_of(latent_model).fields
    model, guide = program(latent_model, "model"), program(latent_model, "guide")
    if isinstance(fields, Mapping):
        require_parameters(fields, model, guide)
    of_model = choose_fields("model", model, batch, fields)
    if fields is None and takes_only_open_arguments(guide):
        of_guide = of_model
    else:
        of_guide = choose_fields("guide", guide, batch, fields)
    names = tuple(dict.fromkeys((*of_model.fields, *of_guide.fields)))
    owners = _owners(latent_model, model, guide)
    return Programs(
        model=_ProgramOnFields(model, of_model, names),
        guide=_ProgramOnFields(guide, of_guide, names),
        fields=names,
        modules=nn.ModuleList(owners),
        held=_held_by_both(model, guide, owners),
    )


def _owners(latent_model: Any, model: Program, guide: Program) -> list[nn.Module]:
    """Return the modules that hold the programs, each once."""
    owners = [owner for owner in (latent_model, model.owner, guide.owner) if isinstance(owner, nn.Module)]
    return list({id(owner): owner for owner in owners}.values())


def held_modules(latent_model: Any) -> dict[str, nn.Module]:
    """Return the modules that the programs of a latent model use and that it does not hold; see `find_held_modules`.

    Args:
        latent_model: any object with ``model`` and ``guide``.
    """
    model, guide = program(latent_model, "model"), program(latent_model, "guide")
    return _held_by_both(model, guide, _owners(latent_model, model, guide))


def _held_by_both(model: Program, guide: Program, owners: list[nn.Module]) -> dict[str, nn.Module]:
    """Return the modules that either program holds, each once, without those inside the owners."""
    inside = {id(module) for owner in owners for module in owner.modules()}
    held: dict[str, nn.Module] = {}
    for name, module in (*model.held.items(), *guide.held.items()):
        if id(module) not in inside:
            inside |= {id(part) for part in module.modules()}
            held[name if name not in held else f"{name}#{len(held)}"] = module
    return held
