"""Figures show the pictures, numbers, labels and units of their arguments."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pvae import plots
from pvae.plots.titles import add_title

RNG = np.random.default_rng(0)


def texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def canvas(figure, axes=0):
    return np.ma.filled(figure.axes[axes].images[0].get_array(), np.nan)


def test_image_grid_places_pictures_row_by_row():
    pictures = RNG.uniform(size=(7, 8, 6))
    shown = canvas(plots.image_grid(pictures, columns=3))
    assert shown.shape == (3 * 9 - 1, 3 * 7 - 1)
    for index, picture in enumerate(pictures):
        top, left = 9 * (index // 3), 7 * (index % 3)
        assert_allclose(shown[top : top + 8, left : left + 6], picture)
    assert np.isnan(shown[8]).all() and np.isnan(shown[18:26, 7:]).all()


def test_values_outside_zero_and_one_have_a_colour_bar():
    inside, outside = (
        plots.image_grid(RNG.uniform(0.2, 0.6, (2, 4, 4))),
        plots.image_grid(RNG.normal(size=(2, 4, 4))),
    )
    assert inside.axes[0].images[0].get_clim() == (0.0, 1.0) and len(inside.axes) == 1
    assert outside.axes[1].get_ylabel() == "value"


@pytest.mark.parametrize("shape", [(5, 3, 8, 8), (5, 8, 8, 3)])
def test_colour_pictures_have_their_channels_first_or_last(shape):
    assert canvas(plots.image_grid(np.full(shape, 0.25)), 0).shape == (8, 5 * 9 - 1, 3)


def test_reconstructions_alternate_with_originals_and_are_labelled():
    originals, again = np.zeros((6, 8, 8)), np.ones((6, 64))
    figure = plots.reconstructions(originals, again, columns=4)
    rows = canvas(figure)[::9][:, 0]
    assert_allclose(rows, [0, 1, 0, 1])
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels == ["original", "reconstruction"] * 2


def test_learning_curves_have_a_line_for_each_seed_and_for_the_mean():
    epochs = np.arange(1, 11)
    curves = {"elbo": [(epochs, epochs * 1.0), (epochs, epochs * 3.0)], "iwae": [(epochs, epochs * 2.0)]}
    figure = plots.learning_curves(curves)
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "validation bound (nats per datum)")
    assert texts(figure) == ["elbo", "iwae"] and len(axes.lines) == 5
    assert_allclose(axes.lines[2].get_ydata(), epochs * 2.0)


def test_limits_of_learning_curves_ignore_the_first_tenth():
    values = np.concatenate([np.full(5, -1e6), np.linspace(-20, -10, 95)])
    low, high = plots.learning_curves({"a": [(np.arange(100), values)]}).axes[0].get_ylim()
    assert -21 < low < -19 and -10 < high < -9


def test_evidence_intervals_show_mean_error_and_seeds():
    figure = plots.evidence_intervals({"elbo": [1.0, 2.0, 6.0]}, {"elbo": 0.5}, zero=True)
    axes = figure.axes[0]
    (bars,) = axes.containers
    assert_allclose(np.asarray(bars.lines[0].get_xdata(), float), [3.0])
    assert_allclose(np.asarray(bars.lines[2][0].get_segments(), float)[0, :, 0], [2.5, 3.5])
    assert any(np.array_equal(line.get_xdata(), [1.0, 2.0, 6.0]) for line in axes.lines)
    assert axes.get_xlabel() == "log evidence (nats per datum)"
    assert [note.get_text() for note in axes.texts] == ["elbo"]


def test_evidence_intervals_show_the_critical_value():
    figure = plots.evidence_intervals({"a": [1.0, 3.0], "b": [0.0]}, {"a": 0.5, "b": 0.0}, critical={"a": 4.0})
    lines = [line.get_xdata().tolist() for line in figure.axes[0].lines if line.get_marker() == "|"]
    assert [line for line in lines if len(line) == 2 and line[1] - line[0] == 8.0] == [[-2.0, 6.0]]


def test_latent_scatter_shows_the_two_units_with_the_largest_kl():
    codes, labels = RNG.normal(size=(60, 4)), np.arange(60) % 3
    figure = plots.latent_scatter(codes, labels, kl=[0.1, 2.0, 0.0, 1.0])
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z[1] (KL 2.00 nats)", "z[3] (KL 1.00 nats)")
    assert texts(figure) == ["0", "1", "2"]
    assert_allclose(axes.collections[1].get_offsets(), codes[labels == 1][:, [1, 3]])


def test_latent_scatter_without_kl_shows_principal_components():
    codes = RNG.normal(size=(200, 3)) * [10.0, 0.1, 1.0]
    axes = plots.latent_scatter(codes).axes[0]
    shown = np.asarray(axes.collections[0].get_offsets())
    assert abs(np.corrcoef(shown[:, 0], codes[:, 0])[0, 1]) > 0.999
    assert axes.get_xlabel().startswith("principal component 1 (99%")


def test_latent_scatter_of_one_unit_has_ranks_as_second_coordinate():
    axes = plots.latent_scatter(np.array([[3.0], [1.0], [2.0]])).axes[0]
    assert_allclose(axes.collections[0].get_offsets(), [[3, 1], [1, 0], [2, 0.5]])


def test_traversal_names_units_and_values():
    figure = plots.traversal(np.zeros((2, 5, 4, 4)), np.linspace(-2, 2, 5), units=[3, 7])
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["z[3]", "z[7]"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["-2", "-1", "0", "1", "2"]


def test_interpolations_label_the_share_of_the_way():
    images = np.arange(6.0)[:, None, None] / 5 * np.ones((6, 4, 4))
    axes = plots.interpolations(images.reshape(2, 3, 4, 4)).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "0.5", "1"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0", "1"]
    assert_allclose(np.ma.filled(axes.images[0].get_array(), np.nan)[0][[0, 5, 10]], [0.0, 0.2, 0.4])


def test_plane_has_the_largest_value_on_top():
    images = np.arange(9.0)[:, None, None] / 8 * np.ones((9, 4, 4))
    axes = plots.plane(images.reshape(3, 3, 4, 4), np.array([[-1.0, 0.0, 1.0], [-2.0, 0.5, 2.0]])).axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["2.0", "0.5", "-2.0"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["-1.0", "0.0", "1.0"]
    assert list(axes.get_yticks()) == sorted(axes.get_yticks())


def test_value_rows_name_their_values():
    axes = plots.value_rows(np.zeros((3, 5, 4, 4)), ["0", "1", "2"], "y").axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0", "1", "2"]
    assert axes.get_ylabel() == "y" and not axes.get_xticklabels()


def test_figures_do_not_use_pyplot():
    import matplotlib.pyplot as plt

    plots.image_grid(np.zeros((2, 4, 4)))
    assert plt.get_fignums() == []


def test_titles_are_drawn_as_text():
    figure = add_title(plots.image_grid(np.zeros((2, 4, 4))), "samples of $x^{$", note="with $y^{$")
    figure.canvas.draw()
    assert figure.get_suptitle().splitlines() == [r"samples of \$x^{\$", r"with \$y^{\$"]


def test_names_are_drawn_as_text_and_none_is_left_out():
    names = ["$x^{$", "_hidden", "two\nlines", "n" * 300, "n" * 299 + "!"]
    figure = plots.learning_curves({name: [([1, 2], [0.0, 1.0])] for name in names})
    figure.canvas.draw()
    shown = texts(figure)
    assert shown[0] == r"\$x^{\$" and shown[1:3] == [" _hidden", "two lines"]
    assert len(set(shown)) == len(names) and all(len(text) < 70 for text in shown)
