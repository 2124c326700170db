"""Figures: one function each, arrays in, a matplotlib ``Figure`` out; nothing here trains or draws at random.

Figures are made with the object interface, so that no display, no ``pyplot`` and no global state is needed.
They stand on a white card, wide enough to be read at the width of a phone, in a palette that
colour-blind readers can tell apart (Okabe and Ito). ``figure.savefig("name.png")`` writes one.
"""

from __future__ import annotations

from pvae.plots.base import PALETTE
from pvae.plots.curves import evidence_intervals, history, learning_curves
from pvae.plots.gradient_plots import signal_to_noise
from pvae.plots.latent import latent_scatter
from pvae.plots.mixture_plots import mixture_ellipses, mixture_pictures, selection_curve
from pvae.plots.pictures import image_grid, inpainting, interpolations, plane, reconstructions, traversal, value_rows

__all__ = [
    "PALETTE",
    "evidence_intervals",
    "history",
    "image_grid",
    "inpainting",
    "interpolations",
    "latent_scatter",
    "learning_curves",
    "mixture_ellipses",
    "mixture_pictures",
    "plane",
    "reconstructions",
    "selection_curve",
    "signal_to_noise",
    "traversal",
    "value_rows",
]
