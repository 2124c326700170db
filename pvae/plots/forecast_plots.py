"""Figures of sequences with forecasts of their last time steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from pvae.plots.base import INK, PALETTE, Array, as_array
from pvae.plots.feature_panels import MOST_PANELS, add_shared_legend, feature_labels, new_panels
from pvae.plots.titles import add_title

__all__ = ["forecasts"]

_LEVELS = (0.05, 0.95)


def forecasts(
    x: Sequence[ArrayLike],
    draws: Sequence[ArrayLike],
    ends: Sequence[int],
    *,
    feature_names: Sequence[str] | None = None,
    title: str = "Sequences and forecasts of their last time steps",
    note: str = "",
) -> Figure:
    """Return one panel for each feature of each sequence: its data, and the mean of draws of later steps with a band.

    The band has 90% of the draws at each time step. The line of the data is dashed at time steps that the forecast did
    not use.

    Args:
        x: the sequences, shape (time, features) each.
        draws: for each sequence, draws of the time steps after the input of the forecast, (n, steps, features).
        ends: for each sequence, the number of time steps that the forecast used.
        feature_names: names of the features.
        title: title of the figure.
        note: a sentence below the title.

    Example:
        >>> import numpy as np
        >>> from pvae import plots
        >>> x = np.sin(np.arange(8.0)).reshape(8, 1)
        >>> figure = plots.forecasts([x], [x[5:] + np.linspace(-1, 1, 9).reshape(9, 1, 1)], [5])
        >>> figure.axes[0].get_title()
        'sequence 0, x[0]'
    """
    values = [as_array(sequence) for sequence in x]
    names = feature_labels(feature_names, values[0].shape[1])
    shown = [(row, feature) for row in range(len(values)) for feature in range(len(names))][:MOST_PANELS]
    left_out = len(values) * len(names) - len(shown)
    figure, panels = new_panels([f"sequence {row}, {names[feature]}" for row, feature in shown], "")
    for axes, (row, feature) in zip(panels, shown, strict=True):
        _draw_forecast(axes, values[row][:, feature], as_array(draws[row])[..., feature], ends[row])
    add_shared_legend(figure, *panels[0].get_legend_handles_labels(), "time step", columns=2)
    missing = f"{left_out} of {len(values) * len(names)} panels are left out." if left_out else ""
    return add_title(figure, title, " ".join(text for text in (note, missing) if text))


def _draw_forecast(axes: Axes, x: Array, draws: Array, end: int) -> None:
    """Draw one feature of a sequence, (time,), and draws of its time steps from `end` on, (n, steps)."""
    steps = np.arange(end, end + draws.shape[1])
    low, high = np.quantile(draws, _LEVELS, axis=0)
    axes.fill_between(steps, low, high, color=PALETTE[0], alpha=0.25, linewidth=0, label="90% of the draws")
    axes.plot(steps, draws.mean(0), "o-", color=PALETTE[0], markersize=2.5, linewidth=1.3, label="mean of the forecast")
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    later = slice(max(end - 1, 0), end + draws.shape[1])
    axes.plot(np.arange(len(x))[later], x[later], "--", color=INK, linewidth=1, label="data, not seen")
    axes.plot(np.arange(end), x[:end], ".-", color=INK, markersize=3, linewidth=1.2, label="data, seen")
