"""The CPUs and GPUs of one cell in a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from pvae.checks import require_number, require_whole
from pvae.errors import InputError

__all__ = ["CellResources"]


@dataclass(frozen=True)
class CellResources:
    """The resources of one cell.

    Attributes:
        cpus: number of CPUs, which is also the number of torch threads unless that is given.
        gpus: number of GPUs; Ray accepts a fraction, so that several cells share one.
    """

    cpus: int = 1
    gpus: float = 0.0

    @classmethod
    def choose(cls, cpus: object, gpus: object, *, fractions: bool) -> CellResources:
        """Return the resources after a check.

        Args:
            cpus: number of CPUs.
            gpus: number of GPUs.
            fractions: whether a fraction of a GPU is possible.

        Raises:
            InputError: if a number cannot be used.
        """
        number = float(require_number(gpus, "gpus_per_cell", least=0.0))
        is_possible = number.is_integer() or (fractions and number < 1)
        if not is_possible:
            rule = "a whole number, or a fraction below 1" if fractions else "a whole number"
            raise InputError(f"gpus_per_cell needs {rule}; got {number:g}.")
        return cls(require_whole(cpus, "cpus_per_cell"), number)
