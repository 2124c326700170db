"""`LossFunction`: a function of both programs as an objective, such as `pyro.infer.EnergyDistance`."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from pyro.infer import EnergyDistance
from pyro.infer.util import validation_enabled
from torch import Tensor

from pvae.errors import InputError
from pvae.objectives.base import Objective, Terms
from pvae.objectives.pyro.pyro_losses import can_share_a_run
from pvae.programs.bound import BoundPrograms

__all__ = ["LossFunction", "is_loss_function"]


def is_loss_function(function: Any) -> bool:
    """Return whether a callable takes at least a model and a guide, as losses of `pyro.infer.SVI` do."""
    if not callable(function) or isinstance(function, type):
        return False
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(item.kind in positional and item.default is item.empty for item in parameters) >= 2


class LossFunction(Objective):
    """A function ``loss(model, guide, *args, **kwargs)`` that returns a scalar tensor, as `pyro.infer.SVI` takes it.

    `pyro.infer.EnergyDistance` is one; a user may write another. The tensor is the loss and is differentiated.

    Args:
        function: the function.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(int(getattr(function, "num_particles", 1)))
        self.function = copy.copy(function)
        self.no_bound = f"{self.name} is a function of both programs that need not be a bound"

    @property
    def name(self) -> str:
        """The name of the function or of its class."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def settings(self) -> dict[str, Any]:
        """Return the settings of an energy distance; a plain function has none."""
        if not isinstance(self.function, EnergyDistance):
            return {}
        return {"beta": self.function.beta, "prior_scale": self.function.prior_scale} | super().settings()

    def terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the value of the function on a batch, which is also the surrogate."""
        function = self._configured(BoundPrograms(model, guide, args, kwargs))
        value = function(model, guide, *args, **kwargs)
        if not isinstance(value, Tensor) or value.numel() != 1:
            came = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"A loss function needs to return a tensor with one number, to be differentiated; {self.name} "
                f"returned {came}. Return the sum over the batch."
            )
        loss = value.reshape(())
        return Terms(loss.detach(), loss)

    def _configured(self, programs: BoundPrograms) -> Callable[..., Any]:
        """Return the function; an energy distance gets the nesting of the programs, as Pyro would find it."""
        if not isinstance(self.function, EnergyDistance):
            return self.function
        function = copy.copy(self.function)
        with validation_enabled(False):  # the likelihood may have no density
            if not can_share_a_run(programs, self.num_particles, function.max_plate_nesting):
                raise InputError(
                    "EnergyDistance needs all particles in one run, and these programs do not broadcast over a leading "
                    "dimension. Let them broadcast (no z.mean(0), len(z) or z[0]), or use 'info-mmd'."
                )
            if math.isinf(function.max_plate_nesting):
                function.max_plate_nesting = programs.layout.nesting + 1
        return function
