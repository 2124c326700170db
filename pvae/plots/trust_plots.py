"""Figures of numbers of single data: a histogram, and the distance of the guide from the posterior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pvae.plots.base import PALETTE, add_axes, add_legend, as_array, legend_height, new_figure, plain_label
from pvae.plots.titles import add_title

__all__ = ["trust_scatter", "two_histograms", "value_histogram"]


def value_histogram(values: Any, xlabel: str, title: str) -> Figure:
    """Return a histogram of one number per datum, with their mean as a line.

    Args:
        values: the numbers, shape (data,); numbers that are not finite are left out.
        xlabel: label of the horizontal axis, with its unit.
        title: title of the figure.
    """
    array = as_array(values)
    array = array[np.isfinite(array)]
    figure = new_figure(3.0)
    axes = add_axes(figure, xlabel, "number of data")
    axes.hist(array, bins=min(40, max(5, int(np.sqrt(len(array))))), color=PALETTE[0])
    if len(array):
        axes.axvline(float(array.mean()), color=PALETTE[1], linewidth=1.5)
    return add_title(figure, title, "The line is the mean.")


def trust_scatter(kl: Any, khat: Any, suspect: Any, limit: float) -> Figure:
    """Return a figure with a dot for each datum: KL(q to posterior) against Pareto k-hat.

    Args:
        kl: KL of each datum, shape (data,), nats.
        khat: k-hat of each datum, shape (data,).
        suspect: whether each datum is suspect, shape (data,).
        limit: the limit of KL, drawn as a line.
    """
    kl, khat, suspect = as_array(kl), as_array(khat), as_array(suspect) > 0
    names = ["good weights", "suspect weights"]
    figure = new_figure(3.2 + legend_height(names))
    axes = add_axes(figure, "Pareto k-hat", "KL(q to posterior), nats")
    for name, chosen, marker, colour in zip(names, (~suspect, suspect), ("o", "x"), PALETTE, strict=False):
        axes.plot(khat[chosen], kl[chosen], marker, color=colour, markersize=4, label=f"{name} ({int(chosen.sum())})")
    axes.axhline(limit, color="#666666", linewidth=0.8, linestyle="--")
    add_legend(figure, axes)
    return add_title(figure, "Distance of the guide from the posterior of each datum", "The line is the limit of KL.")


def two_histograms(samples: Mapping[str, Any], xlabel: str, title: str) -> Figure:
    """Return overlaid histograms of samples on common bins, as densities.

    Args:
        samples: numbers by name, shape (draws,) each; numbers that are not finite are left out.
        xlabel: label of the horizontal axis, with its unit.
        title: title of the figure.
    """
    arrays = {name: as_array(values) for name, values in samples.items()}
    arrays = {name: values[np.isfinite(values)] for name, values in arrays.items()}
    bins = np.histogram_bin_edges(np.concatenate(list(arrays.values())), bins=40)
    figure = new_figure(3.0 + legend_height(list(arrays)))
    axes = add_axes(figure, xlabel, "density")
    for (name, values), colour in zip(arrays.items(), PALETTE, strict=False):
        axes.hist(values, bins=list(bins), density=True, histtype="step", linewidth=1.6, color=colour, label=name)
    add_legend(figure, axes)
    return add_title(figure, title)


def interval_scatter(points: Mapping[str, tuple[Any, Any, Any, Any]], xlabel: str, ylabel: str) -> Figure:
    """Return a scatter of two estimates of the same numbers, with bars of one standard deviation and the diagonal.

    Args:
        points: by name: mean and standard deviation on the horizontal axis, then on the vertical axis, (units,) each.
        xlabel: label of the horizontal axis.
        ylabel: label of the vertical axis.
    """
    figure = new_figure(3.4 + legend_height(list(points)))
    axes = add_axes(figure, xlabel, ylabel)
    for (name, (x, x_sd, y, y_sd)), colour in zip(points.items(), PALETTE, strict=False):
        axes.errorbar(
            as_array(x), as_array(y), xerr=as_array(x_sd), yerr=as_array(y_sd), fmt="o", markersize=3,
            linewidth=0.7, color=colour, label=plain_label(name),
        )  # fmt: skip
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], color="#666666", linewidth=0.8, linestyle="--")
    add_legend(figure, axes)
    return add_title(figure, f"{ylabel} against {xlabel}", "Bars are one standard deviation.")
