"""`WeightsSource`: the runs of both programs that log weights are computed from."""

from __future__ import annotations

from dataclasses import dataclass

from pvae.errors import InputError
from pvae.weights.auxiliary import Marginal
from pvae.weights.log_probs import PlateDims
from pvae.weights.traces import TracePair

__all__ = ["ONE_RUN", "WeightsSource"]

#: The message for programs that are run for one particle at a time.
ONE_RUN = (
    "this strategy needs programs that broadcast over dimensions to the left of the data dimension, but these do not "
    "(see the warning about particles). Use 'score' or 'score:leave-one-out'."
)


@dataclass(frozen=True)
class WeightsSource:
    """The runs of both programs that log weights are computed from.

    Attributes:
        pairs: the traces of both programs, of one run for all particles or of one run for each.
        dims: the dimensions of particles and data in the log-densities.
        auxiliary: the method to marginalise auxiliary sites.
        repeatable: whether a second run of the guide at the same z gives the same density.
    """

    pairs: tuple[TracePair, ...]
    dims: PlateDims
    auxiliary: Marginal | None
    repeatable: bool = True

    def require_repeatable(self) -> None:
        """Raise InputError for a guide with a different density in each run, for a gradient that compares two runs.

        Raises:
            InputError: if the guide is not repeatable.
        """
        if not self.repeatable:
            raise InputError(
                "This gradient compares two runs of the guide, which need the same density at the same z, but the "
                "second run has another density (dropout, or draws that are not sites). Put dropout into evaluation "
                "mode, or use "
                "'iwae' with 'pathwise' and 'score' sites."
            )
