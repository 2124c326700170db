"""Figures of annealed importance sampling: evidence by datum, and the gap between upper and lower estimates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pvae.plots.base import INK, PALETTE, add_axes, add_legend, as_array, legend_height, new_figure, plain_label

__all__ = ["evidence_by_datum", "sandwich_gaps"]

#: The share of the data below each point of a curve, from 0 to 1.
_SHARE = "share of the data with less"


def evidence_by_datum(values: Any, noise: Any) -> Figure:
    """Return a figure of the log evidence of each datum, in order of its value, with its Monte-Carlo error.

    Args:
        values: log evidence of each datum, shape (data,), in nats.
        noise: its Monte-Carlo standard error, shape (data,); NaN draws none.
    """
    evidence, errors = as_array(values), np.nan_to_num(as_array(noise))
    order = np.argsort(evidence)
    figure = new_figure(3.0)
    axes = add_axes(figure, "log evidence (nats)", _SHARE)
    axes.set_title("Log evidence by datum", color=INK, loc="left")
    shares = (np.arange(len(order)) + 0.5) / len(order)
    axes.errorbar(
        evidence[order], shares, xerr=2 * errors[order], fmt=".", color=PALETTE[0], markersize=3, linewidth=0.7
    )
    return figure


def sandwich_gaps(gaps: Mapping[str, Any], limit: float) -> Figure:
    """Return a figure of the distribution over data of the gap between upper and lower estimate.

    Args:
        gaps: the gap of each datum by the name of the data, shape (data,) each, in nats.
        limit: a gap to mark, in nats.
    """
    figure = new_figure(3.1 + legend_height(list(gaps)))
    axes = add_axes(figure, "upper minus lower estimate of log p(x) (nats)", _SHARE)
    axes.set_title("Gap of the log evidence by datum", color=INK, loc="left")
    for index, (name, values) in enumerate(gaps.items()):
        ordered = np.sort(as_array(values))
        shares = (np.arange(len(ordered)) + 0.5) / len(ordered)
        axes.plot(ordered, shares, color=PALETTE[index % len(PALETTE)], linewidth=1.8, label=plain_label(name))
    axes.axvline(0.0, color=INK, linewidth=0.8)
    axes.axvline(limit, color=INK, linewidth=0.8, linestyle="--", label=f"{limit:g} nats")
    add_legend(figure, axes)
    return figure
