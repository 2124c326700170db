"""`draw_figure`: one figure of a run from its data, for ``run.plot`` and ``pvae show``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from pvae.batch import Batch
from pvae.data import Splits
from pvae.errors import InputError
from pvae.objectives import untrained_by
from pvae.programs.binding import bind
from pvae.programs.parameter_scope import scope
from pvae.programs.row_dependence import PROGRAM_ERRORS, take_parts
from pvae.randomness import evaluating
from pvae.train.devices import isolated
from pvae.train.figures.figure_inputs import FigureInputs
from pvae.train.figures.run_figures import FIGURES, draw_history
from pvae.train.run_data import require_split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pvae.train.run import Run

__all__ = ["draw_figure"]

#: The figures that use all data of the split.
_OF_ALL_DATA = ("samples", "reconstructions", "latent")
#: The largest number of data in the first run of the programs, which bounds its memory.
_FIRST_DATA = 10_000
#: The figures that run the guide.
_OF_THE_GUIDE = (
    "reconstructions",
    "inpainting",
    "forecast",
    "cross-generation",
    "topics",
    "latent",
    "interpolation",
)


def draw_figure(
    run: Run,
    name: str,
    load_splits: Callable[[], Splits],
    *,
    split: str = "test",
    count: int | None = None,
    site: str | None = None,
    seed: int = 0,
    advice: str = "Choose one with split=.",
) -> Figure:
    """Return one figure of a run.

    Args:
        run: the opened run.
        name: a key of `FIGURES`.
        load_splits: returns the data; it is not called for a figure that needs none.
        split: the split of the data.
        count: number of pictures, codes, latent units, lines or columns; None for the default of the figure.
        site: latent site of a traversal, or None.
        seed: the seed of the draws.
        advice: how to name a split, for errors.

    Raises:
        InputError: if the data cannot be loaded, or the run has no such figure.
    """
    kind = FIGURES[name]
    if kind.draw is None:
        return draw_history(run)
    _require_trained_guide(run, name)
    splits = load_splits()
    batch = require_split(splits, split, advice)
    takes_parts = _takes_parts(run, batch)
    if not takes_parts and name not in _OF_ALL_DATA:
        raise InputError(
            f"The figure {name!r} needs programs that run on any number of data; those of this run are for "
            f"{batch.size} data. Write len(x) in their plates, or draw one of {', '.join(_OF_ALL_DATA)}, history."
        )
    inputs = FigureInputs(run, splits, batch, split, count or kind.default_count, site, takes_parts)
    with isolated(seed):
        return kind.draw(inputs)


def _takes_parts(run: Run, batch: Batch) -> bool:
    """Return whether the programs of a run accept a part of a batch.

    True if they do not accept the whole batch either.
    """
    if batch.size < 3:  # the part below has two data, which would be all data
        return True
    programs = bind(run.model, batch, run.fields)
    with torch.no_grad(), scope(run.model, inherit=True), evaluating(*programs.all_modules):
        first = programs.bound_to(batch.take(slice(0, _FIRST_DATA)))
        if take_parts(first, lambda: programs.bound_to(batch.take(slice(0, 2))), batch.size):
            return True
        try:
            programs.bound_to(batch).layout  # noqa: B018 - the figure itself reports why this fails
        except PROGRAM_ERRORS:
            return True
    return False


def _require_trained_guide(run: Run, name: str) -> None:
    """Raise InputError for a figure that uses the guide, if the objective of the run does not train it."""
    objective = str(run.config.get("objective", ""))
    if name in _OF_THE_GUIDE and objective and "phi" in untrained_by(objective):
        raise InputError(
            f"The figure {name!r} needs a trained guide, and the objective {objective!r} leaves the guide untrained. "
            "Draw samples, or train with 'ali', which trains a guide too."
        )
