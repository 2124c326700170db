"""The figures of ``pvae gradients``: signal-to-noise ratio against the number of particles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pvae.evaluate import GradientStudy

__all__ = ["with_particles", "write_figures"]


def with_particles(objective: str, count: int) -> str:
    """Return the name of an objective with its setting ``particles`` replaced.

    Args:
        objective: name with settings, such as ``"iwae:particles=8"``.
        count: number of particles.

    >>> with_particles("renyi:particles=8:alpha=0.5", 4)
    'renyi:alpha=0.5:particles=4'
    """
    return f"{_without_particles(objective)}:particles={count}"


def _without_particles(objective: str) -> str:
    return ":".join(part for part in objective.split(":") if not part.startswith("particles="))


def write_figures(
    study: GradientStudy, objectives: Sequence[str], counts: Sequence[int], folder: Path
) -> dict[str, Path]:
    """Write one figure for each parameter group, such as ``snr-phi.png``, if there are two numbers of particles.

    Args:
        study: gradients of each objective with each number of particles.
        objectives: names with settings.
        counts: numbers of particles in ascending order.
        folder: made if it does not exist.

    Returns:
        The path of each figure, by name.
    """
    from pvae import plots
    from pvae.plots import save_figure

    if len(counts) < 2:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for group in study.groups():
        ratios = {_label(study, name, counts): _ratios(study, name, counts, group) for name in objectives}
        figure = plots.signal_to_noise(
            counts,
            {label: [ratio.value for ratio in curve] for label, curve in ratios.items()},
            {label: [ratio.error for ratio in curve] for label, curve in ratios.items()},
            ylabel=f"signal-to-noise, gradient of {group}",
            title=f"Signal-to-noise of the gradient of {group}, and slope of each curve",
        )
        path = folder / f"snr-{group}.png"
        save_figure(figure, path, {"figure": f"signal-to-noise of {group}", "objectives": ", ".join(objectives)})
        paths[f"snr of {group}"] = path
    return paths


def _ratios(study: GradientStudy, objective: str, counts: Sequence[int], group: str) -> list[Any]:
    """Return the signal-to-noise ratio of the whole gradient for each number of particles."""
    return [study.of(with_particles(objective, count), group).snr_whole for count in counts]


def _label(study: GradientStudy, objective: str, counts: Sequence[int]) -> str:
    """Return the name without its particles, marked if the gradient is biased for one of the numbers."""
    names = {with_particles(objective, count) for count in counts}
    biased = any(row.mark() for row in study.rows if row.objective in names)
    return f"{_without_particles(objective)} (biased)" if biased else _without_particles(objective)
