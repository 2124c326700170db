"""A figure of the numbers that one run recorded: bounds in nats, and losses that are not bounds, on separate axes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pvae.errors import InputError
from pvae.figure_source import also_of_runs
from pvae.plots.base import Array, as_array, line_style, new_figure, style_axes
from pvae.plots.curves import limit_values, unique_labels
from pvae.plots.titles import add_title

__all__ = ["history"]

_HEIGHT = 2.5  # inches of one panel
_BOUND_LABEL, _LOSS_LABEL = "bound on log p(x)\n(nats per datum)", "loss, no bound\n(unit of the objective)"
_SAME = 1e-5  # relative difference of minus the loss and the ELBO below which they are the same number


@also_of_runs("history")
def history(
    records: Sequence[Mapping[str, Any]],
    *,
    names: Sequence[str] | None = None,
    loss_is_bound: bool | None = None,
    validation_is_bound: bool = True,
    title: str = "Training history",
) -> Figure:
    """Return a figure of the numbers that one run recorded in each epoch.

    Bounds on log p(x) have the upper axes, in nats per datum; higher is better. A loss that is minus a bound is drawn
    there with its sign changed. Losses that are not bounds, such as a critic's loss, have separate axes below, in
    the unit of the objective, as they were recorded.

    With a run instead of the records, it is the figure of that run, see `pvae.plots`.

    Args:
        records: for each epoch a mapping with the key ``"epoch"`` and numbers by name.
        names: the numbers to draw; by default those with ``bound``, ``elbo`` or ``loss`` in their name.
        loss_is_bound: whether the number ``loss`` is minus a bound on log p(x). By default it is a bound if it equals
            minus the recorded ``elbo``, or if neither an ``elbo`` nor a loss of another player is recorded.
        validation_is_bound: whether ``validation_bound`` is a bound, and not minus the objective's own loss.
        title: title of the figure.

    Example:
        >>> import numpy as np
        >>> from pvae import plots
        >>> records = [{"epoch": 1, "loss": 9.0, "elbo": -9.0}, {"epoch": 2, "loss": 8.0, "elbo": -8.0}]
        >>> figure = plots.history(records)
        >>> figure.axes[0].get_xlabel()
        'epoch'
    """
    if isinstance(records, str | os.PathLike):
        raise InputError(
            f"history needs a run or its records; got the path {str(records)!r}. Open the run with pvae.open_run."
        )
    if names is None:
        keys = dict.fromkeys(key for record in records for key in record)
        names = [key for key in keys if any(word in key for word in ("bound", "elbo", "loss"))]
    if loss_is_bound is None:
        loss_is_bound = _equals_elbo(records)
    own_axes = {name for name in names if name.endswith("_loss")}
    own_axes |= {"loss"} if not loss_is_bound else set()
    own_axes |= {"validation_bound"} if not validation_is_bound else set()
    curves = {name: _curve(records, name) for name in names}
    curves = {name: curve for name, curve in curves.items() if curve.size}
    losses = {name: curve for name, curve in curves.items() if name in own_axes}
    bounds = {name: curve for name, curve in curves.items() if name not in own_axes}
    return _draw(_by_label(bounds, are_bounds=True), _by_label(losses, are_bounds=False), title)


def _equals_elbo(records: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the loss equals minus the ELBO in all records; without ELBO, whether it is the only loss."""
    pairs = [(record["loss"], record["elbo"]) for record in records if {"loss", "elbo"} <= record.keys()]
    known = [(loss, elbo) for loss, elbo in pairs if loss is not None and elbo is not None]
    if not known:
        return not any(key.endswith("_loss") for record in records for key in record)
    return all(abs(loss + elbo) <= _SAME * max(1.0, abs(elbo)) for loss, elbo in known)


def _by_label(curves: Mapping[str, Array], *, are_bounds: bool) -> dict[str, Array]:
    """Return curves by the text of the legend. The sign of a loss among bounds, or a bound among losses, is changed.

    Args:
        curves: epochs and values by name, shape (2, records) each.
        are_bounds: whether the curves are bounds, so that higher is better.
    """
    labelled = {}
    for name, (epochs, values) in curves.items():
        words = name.replace("_", " ").replace(".", " ")
        is_loss = "loss" in name
        label = words if is_loss != are_bounds else f"minus {words}"
        if name == "validation_bound" and not are_bounds:
            label = "loss on validation data"
        labelled[label] = np.stack([epochs, values if is_loss != are_bounds else -values])
    return unique_labels(labelled)


def _draw(bounds: Mapping[str, Array], losses: Mapping[str, Array], title: str) -> Figure:
    """Return the figure with a panel for the bounds and one for the losses; a panel without curves is left out."""
    panels = [(curves, label) for curves, label in ((bounds, _BOUND_LABEL), (losses, _LOSS_LABEL)) if curves]
    figure = new_figure(0.3 + _HEIGHT * max(1, len(panels)))
    all_axes = figure.subplots(max(1, len(panels)), 1, squeeze=False, sharex=True)[:, 0]
    styles = map(line_style, count())
    for axes, (curves, ylabel) in zip(all_axes, panels, strict=False):
        style_axes(axes, "", ylabel)
        for label, (epochs, values) in curves.items():
            axes.plot(epochs, values, **next(styles), label=label, marker="o" if len(epochs) == 1 else None)
        limit_values(axes, [values for _, values in curves.values()])
        _add_legend(axes)
    all_axes[-1].set_xlabel("epoch")
    all_axes[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return add_title(
        figure,
        title,
        ""
        if panels
        else "A figure of the history needs a recorded bound or loss, but the run has none. Train it for an epoch.",
    )


def _add_legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=8, borderaxespad=0.2)


def _curve(records: Sequence[Mapping[str, Any]], name: str) -> Array:
    """Return the epochs and values of one number, shape (2, records with the number); empty if no record has it."""
    pairs = [
        (record.get("epoch", index + 1), record[name])
        for index, record in enumerate(records)
        if record.get(name) is not None
    ]
    return as_array(pairs).reshape(-1, 2).T if pairs else np.empty(0)
