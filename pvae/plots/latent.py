"""Latent codes in the plane."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from pvae.plots.base import PALETTE, Array, as_array, blank, labelled_axes, legend

__all__ = ["latent_scatter"]

_TEN = (*PALETTE, "#5E3C99", "#1B1B1B")
_MARKS = "os^Dv<>Pphs*"


def latent_scatter(codes: ArrayLike, labels: ArrayLike | None = None, *, kl: ArrayLike | None = None) -> Figure:
    """Return the means of q(z given x) in the plane, coloured by label where there is one.

    More than two latent units are shown by the two with the largest KL, or where ``kl`` is not given by the
    two first principal components; the axes say which.

    Args:
        codes: (data, latent).
        labels: class of each datum, (data,); a legend names up to ten.
        kl: KL of each unit, nats, (latent,).
    """
    points, names = _plane(as_array(codes).reshape(len(np.asarray(codes)), -1), kl)
    classes = np.unique(np.asarray(labels)) if labels is not None else np.array([])
    few = 0 < len(classes) <= len(_TEN)
    figure = blank(4.2 + (0.45 if few else 0.0))
    axes = labelled_axes(figure, *names)
    if few:
        for index, label in enumerate(classes):
            chosen = np.asarray(labels) == label
            mark, colour = _MARKS[index % len(_MARKS)], _TEN[index]
            axes.scatter(
                points[chosen, 0],
                points[chosen, 1],
                s=13,
                marker=mark,
                color=colour,
                linewidths=0,
                label=str(label),
            )
        legend(figure, axes, title="label", columns=min(len(classes), 5))
    elif labels is not None:
        drawn = axes.scatter(points[:, 0], points[:, 1], s=11, c=np.asarray(labels), cmap="cividis")
        figure.colorbar(drawn, ax=axes, label="label")
    else:
        axes.scatter(points[:, 0], points[:, 1], s=11, color=PALETTE[0])
    return figure


def _plane(codes: Array, kl: ArrayLike | None) -> tuple[Array, tuple[str, str]]:
    """Return the codes in two dimensions, and what the two are."""
    if codes.shape[1] == 1:
        ranks = codes[:, 0].argsort().argsort() / max(1, len(codes) - 1)
        return np.stack([codes[:, 0], ranks], axis=1), ("z[0]", "rank of the datum")
    if kl is None and codes.shape[1] > 2:
        centred = codes - codes.mean(axis=0)
        _, spread, directions = np.linalg.svd(centred, full_matrices=False)
        share = 100 * spread**2 / max((spread**2).sum(), 1e-30)
        first, second = (f"principal component {i + 1} ({share[i]:.0f}% of variance)" for i in (0, 1))
        return centred @ directions[:2].T, (first, second)
    if kl is None:
        return codes, ("z[0]", "z[1]")
    sizes = as_array(kl)
    best = np.sort(np.argsort(-sizes, kind="stable")[:2])
    first, second = (f"z[{unit}] (KL {sizes[unit]:.2f} nats)" for unit in best)
    return codes[:, best], (first, second)
