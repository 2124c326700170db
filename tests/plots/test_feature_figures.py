"""Figures of tables show the values of each column under its name; figures of latents show no category as a number."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pvae import plots
from pvae.errors import InputError

RNG = np.random.default_rng(0)
NAMES = ["age", "height", "income"]


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_interpolations_of_a_table_have_a_line_for_each_pair_in_the_panel_of_each_column():
    x = RNG.normal(size=(2, 5, 3)) * [1.0, 100.0, 1e6]
    figure = plots.interpolations(x, feature_names=NAMES)
    assert titles(figure) == NAMES
    for feature, axes in enumerate(figure.axes):
        for pair, line in enumerate(axes.lines):
            assert_allclose(line.get_ydata(), x[pair, :, feature])
            assert_allclose(line.get_xdata(), [0, 0.25, 0.5, 0.75, 1])


def test_a_plane_of_a_table_has_a_colour_scale_for_each_column():
    x = RNG.normal(size=(4, 4, 3)) * [1.0, 100.0, 1e6]
    figure = plots.plane(x, np.array([[-1.0, 0.0, 1.0, 2.0], [-3.0, -1.0, 1.0, 3.0]]), feature_names=NAMES)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert titles(figure) == NAMES
    for feature, axes in enumerate(panels):
        drawn = axes.collections[0]
        assert_allclose(np.asarray(drawn.get_array()).reshape(4, 4), x[::-1, :, feature])  # small z[1] at the bottom
        assert drawn.get_clim() == (x[..., feature].min(), x[..., feature].max())
        assert axes.get_ylim() == (-4.0, 4.0)


def test_values_of_a_label_have_shared_ticks_with_their_names():
    x = RNG.normal(size=(2, 5, 3))
    figure = plots.value_rows(x, ["cat", "dog"], "animal", feature_names=NAMES)
    assert titles(figure) == NAMES and figure.get_supylabel() == "animal"
    assert_allclose(figure.axes[2].lines[1].get_xdata(), x[1, :, 2])
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["cat", "dog"]


def test_reconstructions_of_a_table_are_drawn_against_the_originals():
    x, again = RNG.normal(size=(12, 3)), RNG.normal(size=(12, 3))
    figure = plots.reconstructions(x, again, feature_names=NAMES)
    assert titles(figure) == NAMES
    assert_allclose(figure.axes[1].lines[0].get_xydata(), np.stack([x[:, 1], again[:, 1]], 1))


def test_imputed_values_of_a_table_are_those_of_missing_entries_alone():
    x, imputed = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 3))
    mask = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 1], [1, 0, 1]])
    axes = plots.inpainting(x, mask, imputed).axes
    assert_allclose(axes[1].lines[0].get_xydata(), np.stack([x[[0, 1, 3], 1], imputed[[0, 1, 3], 1]], 1))
    assert axes[2].lines[0].get_xydata().shape == (0, 2)


def test_a_table_of_many_columns_is_a_heat_map_in_shares_of_the_range_of_each_column():
    x = RNG.normal(size=(6, 30)) * np.logspace(-3, 3, 30)
    figure = plots.reconstructions(x, x + x.std(0))
    shown = np.asarray(figure.axes[0].images[0].get_array())
    low, high = x.min(0), (x + x.std(0)).max(0)
    assert_allclose(shown, (x - low) / (high - low))
    assert figure.axes[-1].get_ylabel() == "share of the feature's range"


def test_draws_of_two_columns_are_a_scatter_plot_over_the_data():
    x, data = RNG.normal(size=(20, 2)), RNG.normal(size=(30, 2))
    axes = plots.draws(x, data, feature_names=["age", "height"]).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("age", "height")
    assert_allclose(axes.collections[0].get_offsets(), data)
    assert_allclose(axes.collections[1].get_offsets(), x)


def test_categories_are_bars_by_label_and_no_coordinates():
    codes, labels = RNG.normal(size=(6, 2)), np.array(["a", "a", "a", "b", "b", "b"])
    figure = plots.latent_scatter(codes, labels, categories={"k": np.array([4, 4, 9, 9, 9, 4])})
    scatter, bars = figure.axes
    assert_allclose(scatter.collections[1].get_offsets(), codes[3:])
    assert [bar.get_height() for bar in bars.patches] == [2, 1, 1, 2]  # values 4 and 9 of a, then of b
    assert [bar.get_y() for bar in bars.patches] == [0, 0, 2, 1]
    assert [tick.get_text() for tick in bars.get_xticklabels()] == ["4", "9"]


def test_categories_at_several_positions_are_shares_of_the_data():
    values = np.array([[0, 2], [0, 1], [3, 1], [0, 1]])
    shown = plots.category_bars({"k": values}).axes[0].images[0].get_array()
    assert_allclose(shown, [[0.75, 0, 0, 0.25], [0, 0.75, 0.25, 0]])


def test_a_scatter_plot_without_continuous_codes_is_refused():
    with pytest.raises(InputError, match="needs continuous codes; got none"):
        plots.latent_scatter(np.zeros((5, 0)))


def labels_and_axes(records, **options):
    figure = plots.history(records, **options)
    return [
        (axes.get_ylabel().splitlines()[0], {line.get_label(): list(line.get_ydata()) for line in axes.lines})
        for axes in figure.axes
    ]


def test_history_draws_a_loss_that_is_minus_a_bound_among_the_bounds():
    records = [{"epoch": 1, "loss": 5.0}, {"epoch": 2, "loss": 4.0, "validation_bound": -4.5, "seconds": 1}]
    expected = {"minus loss": [-5.0, -4.0], "validation bound": [-4.5]}
    assert labels_and_axes(records) == [("bound on log p(x)", expected)]


def test_history_draws_losses_that_are_no_bound_on_axes_of_their_own():
    records = [{"epoch": 1, "loss": 80.0, "elbo": -30.0, "critic_loss": 1.4, "validation_bound": -29.0}]
    upper, lower = labels_and_axes(records)
    assert upper == ("bound on log p(x)", {"elbo": [-30.0], "validation bound": [-29.0]})
    assert lower == ("loss, no bound", {"loss": [80.0], "critic loss": [1.4]})
    assert labels_and_axes([{"loss": 80.0, "theta_loss": 1.0}])[0][0] == "loss, no bound"
    flags = {"loss_is_bound": False, "validation_is_bound": False}
    assert labels_and_axes([{"loss": 7.3, "validation_bound": -7.4}], **flags) == [
        ("loss, no bound", {"loss": [7.3], "loss on validation data": [7.4]})
    ]
