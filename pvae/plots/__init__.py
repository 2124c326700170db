"""Functions that take arrays and return a matplotlib ``Figure``. They do not train models or draw random numbers.

Values of x may be given as data: a batch, splits (the test split is drawn), a frame, or a name or path as for
`pvae.fit`: ``plots.image_grid("digits")``. Most functions also take a run, followed by data as for the functions of
`pvae.evaluate`, and the arguments ``split``, ``count`` and ``seed`` of ``run.plot``: ``plots.latent_scatter(run)``,
``plots.reconstructions(run, "new.csv", count=8)``, ``plots.history(run)``.

The figures are made without ``pyplot``, so they do not need a display or change global state. They have a white
background, text that is readable at the width of a phone, and a palette for colour-blind readers (Okabe and Ito).
``figure.savefig("name.png")`` writes a figure to a file.
"""

from __future__ import annotations

from pvae.plots.base import PALETTE
from pvae.plots.calibration_plots import rank_distributions
from pvae.plots.categories import category_bars
from pvae.plots.curves import evidence_intervals, learning_curves
from pvae.plots.decoded_latents import interpolations, plane, traversal, value_rows
from pvae.plots.figure_files import save_figure
from pvae.plots.forecast_plots import forecasts
from pvae.plots.gradient_plots import signal_to_noise
from pvae.plots.latent import latent_scatter
from pvae.plots.mixture_plots import component_strips, mixture_ellipses, mixture_pictures, selection_curve
from pvae.plots.pictures import draws, image_grid, inpainting, reconstructions
from pvae.plots.topic_plots import topic_words
from pvae.plots.training_history import history

__all__ = [
    "PALETTE",
    "category_bars",
    "component_strips",
    "draws",
    "evidence_intervals",
    "forecasts",
    "history",
    "image_grid",
    "inpainting",
    "interpolations",
    "latent_scatter",
    "learning_curves",
    "mixture_ellipses",
    "mixture_pictures",
    "plane",
    "rank_distributions",
    "reconstructions",
    "save_figure",
    "selection_curve",
    "signal_to_noise",
    "topic_words",
    "traversal",
    "value_rows",
]
