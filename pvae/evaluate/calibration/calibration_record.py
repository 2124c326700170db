"""`Calibration`: the ranks of a guide on data that the model generates, and what they show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from pvae.evaluate.calibration.rank_tests import Coverage, RankNull, central_coverage
from pvae.evaluate.finding import EvaluationFinding
from pvae.evaluate.holm import adjust_by_holm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Calibration", "QuantityRanks", "calibration_of"]

LEVEL = 0.05
"""The probability of a false alarm over all quantities together."""

LARGEST_DISTANCE = 0.05
"""A rejected quantity is bad if its distribution function is further than this from that of uniform ranks; otherwise it
deserves a look: with many simulations the test also finds defects that do no harm."""

_LIMIT = f"adjusted p-value {LEVEL:g}; distance {LARGEST_DISTANCE:g} of the distribution functions"
_SOURCE = "Talts et al., arXiv:1804.06788; Säilynoja et al., Statistics and Computing 32 (2022); Holm (1979)"


@dataclass(frozen=True)
class QuantityRanks:
    """The ranks of one quantity of (z, x) among its values at draws of the guide.

    Attributes:
        ranks: shape (simulations,), from 0 to the number of draws.
        p_value: the p-value of the hypothesis that the ranks are uniform.
        adjusted: the p-value after Holm's adjustment over all quantities.
        distance: the largest distance between the distribution functions of the ranks and of uniform ranks.
        coverage: how often central intervals of the guide cover the value that generated the data.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> calibration = pvae.evaluate.calibrate(model, x, simulations=100, draws=19, progress=False)
        >>> calibration.quantities["z[0]"].ranks.shape
        (100,)
    """

    ranks: NDArray[np.int64] = field(repr=False)
    p_value: float
    adjusted: float
    distance: float
    coverage: tuple[Coverage, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the numbers, without the ranks, as a dictionary that JSON can hold."""
        coverage = {
            f"{entry.level:g}": {"share": entry.share, "low": entry.low, "high": entry.high} for entry in self.coverage
        }
        return {
            "p_value": self.p_value,
            "adjusted_p_value": self.adjusted,
            "distance": self.distance,
            "coverage": coverage,
        }


@dataclass(frozen=True)
class Calibration(EvaluationFinding):
    """Whether the guide's uncertainty about z is correct, on data that the model generates.

    The value is the smallest adjusted p-value. A guide that is the exact posterior passes. A guide that passes can
    still be wrong in a quantity that is not ranked, and a wrong model passes if the guide is right for it.

    Attributes:
        quantities: the ranks by quantity.
        draws: the number of draws of the guide for each simulated datum.
        notes: notes on quantities that are left out, one line each.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> calibration = pvae.evaluate.calibrate(model, x, simulations=100, draws=19, progress=False)
        >>> sorted(calibration.quantities)
        ['log p(x given z)', 'log p(x, z)', 'log q(z given x)', 'z[0]', 'z[1]']
    """

    question: ClassVar[str] = "Is the inference right?"
    name: ClassVar[str] = "calibrate"
    unit: ClassVar[str] = "(smallest adjusted p-value)"

    quantities: Mapping[str, QuantityRanks] = field(default_factory=dict, kw_only=True, repr=False)
    draws: int = field(default=0, kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)

    def details(self) -> dict[str, Any]:
        """Return the numbers of each quantity."""
        quantities = {name: ranks.to_json() for name, ranks in self.quantities.items()}
        return {"simulations": self.count, "draws": self.draws, "quantities": quantities, "notes": list(self.notes)}

    def more_rows(self) -> list[dict[str, str]]:
        """Return a row for each quantity: the adjusted p-value, and the coverage of the central intervals."""
        rows = []
        for name, ranks in self.quantities.items():
            parts = [f"{100 * entry.share:.1f} % at {100 * entry.level:g} %" for entry in ranks.coverage]
            rows.append(
                {
                    "quantity": f"ranks of {name}",
                    "value": f"adjusted p {ranks.adjusted:.2g}",
                    "note": f"coverage {', '.join(parts)}",
                }
            )
        return rows

    def draw(self) -> Figure:
        """Return the distribution function of the ranks of each quantity, with a simultaneous 95 % band."""
        from pvae.plots.calibration_plots import rank_distributions

        null = RankNull(self.count, self.draws, repeats=1000)
        ordered = sorted(self.quantities, key=lambda name: self.quantities[name].p_value)
        curves = {name: null.distribution(self.quantities[name].ranks)[0] for name in ordered}
        return rank_distributions(null.points, curves, null.band())


def calibration_of(
    ranks: Mapping[str, NDArray[np.int64]], draws: int, *, cost: int = 0, seed: int = 0, notes: tuple[str, ...] = ()
) -> Calibration:
    """Return the finding for known ranks.

    Args:
        ranks: the ranks of each quantity, shape (simulations,), from 0 to `draws`.
        draws: the number of draws among which a value is ranked.
        cost: decoder evaluations.
        seed: the seed of the simulated null distribution.
        notes: notes on quantities that are left out.
    """
    names = list(ranks)
    table = np.stack([ranks[name] for name in names])
    # The smallest possible p-value must be below Holm's limit for all quantities.
    null = RankNull(table.shape[1], draws, repeats=max(4000, int(4 * len(names) / LEVEL)), seed=seed)
    p_values = null.p_values(table)
    adjusted = adjust_by_holm(torch.from_numpy(p_values))
    distances = np.abs(null.distribution(table) - null.points).max(1)
    quantities = {
        name: QuantityRanks(
            table[index],
            float(p_values[index]),
            float(adjusted[index]),
            float(distances[index]),
            tuple(central_coverage(table[index], draws)),
        )
        for index, name in enumerate(names)
    }
    status, reason = _status(quantities, table.shape[1])
    return Calibration(
        float(adjusted.min()), float("nan"), table.shape[1], status, reason, cost,
        limit=_LIMIT, source=_SOURCE, quantities=quantities, draws=draws, notes=notes,
    )  # fmt: skip


def _status(quantities: Mapping[str, QuantityRanks], simulations: int) -> tuple[str, str]:
    """Return the status and the sentence for the ranks of all quantities."""
    rejected = {name: ranks for name, ranks in quantities.items() if ranks.adjusted <= LEVEL}
    if not rejected:
        smallest = min(ranks.adjusted for ranks in quantities.values())
        reason = (
            f"The ranks of {len(quantities)} quantities in {simulations} simulations do not differ from uniform ranks: "
            f"the smallest adjusted p-value is {smallest:.2g}, above {LEVEL:g}."
        )
        return "fine", reason
    worst = max(rejected, key=lambda name: rejected[name].distance)
    ninety = next(entry for entry in rejected[worst].coverage if entry.level == 0.9)
    reason = (
        f"The ranks of {len(rejected)} of {len(quantities)} quantities are not uniform; the worst is {worst}: adjusted "
        f"p-value {rejected[worst].adjusted:.2g}, distance {rejected[worst].distance:.3f}, and its central 90 % "
        f"intervals cover {100 * ninety.share:.1f} %."
    )
    return ("bad" if rejected[worst].distance > LARGEST_DISTANCE else "look"), reason
