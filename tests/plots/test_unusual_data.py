"""Figures of unusual data: values outside of [0, 1], white pictures, large numbers, long names and many rows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.testing import assert_allclose

from pvae import plots
from pvae.plots.base import line_style

NAMES = [f"MASS OF THE WHOLE SAMPLE IN GRAMMES, NUMBER {index}" for index in range(6)]
RNG = np.random.default_rng(0)


def ends(figure, text):
    """The left and the right end of a text, as shares of the width of the figure."""
    figure.canvas.draw()
    box = text.get_window_extent()
    return box.x0 / figure.bbox.width, box.x1 / figure.bbox.width


def test_colours_of_other_values_are_scaled_and_the_figure_says_how():
    pictures = np.stack([np.full((2, 2, 3), value) for value in (-1.0, 0.0, 3.0)])
    axes = plots.image_grid(pictures, columns=3).axes[0]
    drawn = axes.images[0].get_array()
    assert_allclose([drawn[0, 0], drawn[0, 3], drawn[0, 6]], [[0.0] * 3, [0.25] * 3, [1.0] * 3])
    assert axes.get_title() == "each channel from -1 (dark) to 3 (bright)"
    plain = plots.image_grid(np.full((1, 2, 2, 3), 0.25)).axes[0]
    assert_allclose(plain.images[0].get_array(), 0.25)
    assert plain.get_title() == ""


def test_each_picture_has_a_frame_around_its_pixels():
    axes = plots.image_grid(np.ones((5, 4, 6)), columns=3).axes[0]
    boxes = [path.get_extents().bounds for path in axes.collections[0].get_paths()]
    assert boxes == [(-0.5, -0.5, 6, 4), (6.5, -0.5, 6, 4), (13.5, -0.5, 6, 4), (-0.5, 4.5, 6, 4), (6.5, 4.5, 6, 4)]


def test_the_labels_of_large_numbers_are_short_and_differ():
    x = np.linspace(-150_000.0, 150_000.0, 20)
    near = -123_400 - np.linspace(0, 1000, 20)  # three digits would make all labels equal
    figure = plots.reconstructions(np.stack([x, near], 1), np.stack([x, near], 1))
    figure.canvas.draw()
    labels = [[tick.get_text() for tick in axes.get_xticklabels()] for axes in figure.axes]
    assert "1e5" in labels[0] or "1.5e5" in labels[0]
    assert all(len(text) <= 6 for text in labels[0])
    assert len(set(labels[1])) == len(labels[1])


def test_no_long_name_of_a_column_is_cut_off():
    figure = plots.interpolations(-18067.0 + RNG.random((2, 5, 6)), feature_names=NAMES)
    spans = [ends(figure, axes.title) for axes in figure.axes]
    assert all(left >= 0 and right <= 1 for left, right in spans)
    assert all(right < left for (_, right), (left, _) in pairwise(spans[:3]))
    assert len({axes.get_title() for axes in figure.axes}) == len(NAMES)


def test_lines_differ_in_more_than_their_colour():
    styles = [tuple(line_style(index).values()) for index in range(32)]
    assert len(set(styles)) == 32 and all(one[1] != other[1] for one, other in pairwise(styles))
    curves = {f"row {index}": [([1, 2], [index, index + 1.0])] for index in range(20)}
    lines = plots.learning_curves(curves).axes[0].lines[1::2]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 20


def test_the_legend_of_long_names_stays_inside():
    figure = plots.learning_curves({f"{name} / iwae:particles=64": [([1, 2], [1, 2])] for name in NAMES})
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def test_rows_with_names_that_look_alike_have_different_labels():
    names = [
        f"vae:prior=vamp:components=500:likelihood=gaussian number {index} / iwae:particles=64" for index in (0, 10)
    ]
    figure = plots.evidence_intervals({name: [1.0, 2.0] for name in names}, dict.fromkeys(names, 0.1))
    assert len({text.get_text() for text in figure.axes[0].texts}) == 2


def test_a_traversal_writes_the_values_that_it_has():
    axes = plots.traversal(np.zeros((1, 9, 4, 4)), np.linspace(-3, 3, 9)).axes[0]
    shown = [float(tick.get_text()) for tick in axes.get_xticklabels()]
    assert shown == np.linspace(-3, 3, 9).tolist()
