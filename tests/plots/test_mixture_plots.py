"""Figures of Gaussian mixtures: order of components, ellipses, projections and the selection curve."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pvae import plots


def test_pictures_are_in_descending_order_of_weight() -> None:
    means = np.arange(4.0)[:, None, None] * np.ones((4, 3, 3))
    figure = plots.mixture_pictures(means, [0.1, 0.4, 0.2, 0.3])
    assert [axes.get_title() for axes in figure.axes] == ["1: 40.0%", "3: 30.0%", "2: 20.0%", "0: 10.0%"]
    assert [axes.images[0].get_array().mean() for axes in figure.axes] == [1.0, 3.0, 2.0, 0.0]
    assert len({axes.images[0].get_clim() for axes in figure.axes}) == 1


def test_components_of_a_table_have_a_panel_for_each_column_and_name_what_is_left_out() -> None:
    means = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    figure = plots.component_strips(means, [0.2, 0.5, 0.3], most=2, feature_names=["age", "height"])
    assert [axes.get_title() for axes in figure.axes] == ["age", "height"]
    assert [list(line.get_xdata()) for line in figure.axes[1].lines] == [[20.0], [30.0]]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["1: 50.0%", "2: 30.0%"]
    assert "The 2 largest of 3 weights are shown." in figure.get_suptitle()


def test_ellipses_contain_the_probability_of_one_and_two_deviations() -> None:
    covariance = np.array([[3.0, 1.2], [1.2, 1.0]])
    x = np.random.default_rng(0).multivariate_normal([1.0, -2.0], covariance, size=20000)
    names = ["age", "height"]
    figure = plots.mixture_ellipses(x, np.zeros(20000), [1.0], [[1.0, -2.0]], [covariance], feature_names=names)
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("age", "height")
    for deviations, patch in zip((1, 2), axes.patches, strict=True):
        inside = patch.get_path().contains_points(patch.get_patch_transform().inverted().transform(x)).mean()
        exact = 1 - np.exp(-0.5 * deviations**2)
        assert inside == pytest.approx(exact, abs=4.5 * np.sqrt(exact * (1 - exact) / 20000))


def test_covariances_are_projected_exactly_on_principal_components() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(500, 4)) * [5, 3, 1, 0.1]
    figure = plots.mixture_ellipses(x, np.zeros(500), [1.0], [x.mean(0)], [np.cov(x.T, bias=True)])
    axes = figure.axes[0]
    points = np.asarray(axes.collections[0].get_offsets())
    assert_allclose(sorted([axes.patches[0].width, axes.patches[0].height]), sorted(2 * points.std(0)), rtol=1e-6)
    assert axes.get_xlabel().startswith("principal component 1 (")


def test_selection_curve_marks_the_chosen_number() -> None:
    figure = plots.selection_curve([2, 4, 6], {"BIC": [3.0, 1.0, 2.0], "AIC": [2.0, 1.0, 0.5]}, best=4)
    axes = figure.axes[0]
    assert_allclose(axes.lines[1].get_ydata(), [2.0, 1.0, 0.5])
    assert axes.texts[0].get_text() == "4 chosen" and list(axes.lines[2].get_xdata()) == [4, 4]
    assert "lower is better" in axes.get_ylabel()


def test_data_of_one_feature_have_no_vertical_ticks() -> None:
    x = np.random.default_rng(2).normal(size=(50, 1))
    axes = plots.mixture_ellipses(x, np.zeros(50), [1.0], [[0.0]], [[[1.0]]]).axes[0]
    assert axes.get_xlabel() == "x[0]" and list(axes.get_yticks()) == []
