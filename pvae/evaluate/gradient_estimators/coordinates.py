"""The parameters of a latent model as one row of coordinates, in groups: theta, phi, and those of both programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pvae.errors import InputError
from pvae.evaluate.evaluation_context import EvaluationContext
from pvae.programs.parameter_groups import declared_group, find_groups

__all__ = ["Coordinates", "find_coordinates"]


@dataclass(frozen=True)
class Coordinates:
    """The parameters in one row: theta, then phi, then parameters of both programs.

    Attributes:
        parameters: the parameters in order.
        groups: the slice of the row of each group; a group without parameters is left out.
    """

    parameters: tuple[Tensor, ...]
    groups: Mapping[str, slice]

    @property
    def size(self) -> int:
        """The number of coordinates."""
        return sum(parameter.numel() for parameter in self.parameters)

    def slices(self) -> dict[int, slice]:
        """Return the slice of the row of each parameter, by the parameter's ``id``."""
        slices, start = {}, 0
        for parameter in self.parameters:
            stop = start + parameter.numel()
            slices[id(parameter)] = slice(start, stop)
            start = stop
        return slices


def find_coordinates(context: EvaluationContext) -> Coordinates:
    """Return the model's parameters by group: by the model's declaration, else found from the batch.

    Raises:
        InputError: if there are none.
    """
    groups = _declared_groups(context.model) or _groups_of_batch(context)
    slices, start = {}, 0
    for name, parameters in groups.items():
        stop = start + sum(parameter.numel() for parameter in parameters)
        if stop > start:
            slices[name] = slice(start, stop)
            start = stop
    if not slices:
        raise InputError(
            "A study of gradients needs a parameter to differentiate; the model and the guide have no parameter with "
            "requires_grad. Set requires_grad on some."
        )
    return Coordinates(tuple(parameter for parameters in groups.values() for parameter in parameters), slices)


def _declared_groups(latent_model: Any) -> dict[str, list[Tensor]] | None:
    """Return the groups that a latent model declares, or None if it does not declare both theta and phi."""
    declared = [declared_group([latent_model], group) for group in ("theta", "phi")]
    if declared[0] is None or declared[1] is None:
        return None
    theta: list[Tensor] = [parameter for parameter in declared[0] if parameter.requires_grad]
    phi: list[Tensor] = [parameter for parameter in declared[1] if parameter.requires_grad]
    shared = {id(parameter) for parameter in theta} & {id(parameter) for parameter in phi}
    return {
        "theta": [parameter for parameter in theta if id(parameter) not in shared],
        "phi": [parameter for parameter in phi if id(parameter) not in shared],
        "both": [parameter for parameter in theta if id(parameter) in shared],
    }


def _groups_of_batch(context: EvaluationContext) -> dict[str, list[Tensor]]:
    """Return the groups that log p and log q of the batch reach."""
    groups = find_groups(context.model, [context.batch], context.fields)
    return {"theta": list(groups.theta.values()), "phi": list(groups.phi.values()), "both": list(groups.both.values())}
