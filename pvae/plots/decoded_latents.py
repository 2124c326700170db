"""Figures of decoded latent values: traversals, lines between codes, the latent plane, values of a label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from pvae.figure_source import also_of_runs
from pvae.plots.base import Array, as_array
from pvae.plots.feature_views import lines_or_heat_map, planes_or_first, strips_or_heat_map
from pvae.plots.picture_tiles import as_pictures, draw_labelled_rows, draw_named_pictures
from pvae.plots.titles import add_title

__all__ = ["interpolations", "plane", "traversal", "value_rows"]

_MOST_LABELS = 11  # a longer row of numbers would overlap
_PLANE_LABELS = 7
_NAMED_COLUMNS = 10  # pictures in a row


@also_of_runs("traversal")
def traversal(
    images: ArrayLike,
    values: ArrayLike,
    *,
    units: Sequence[int] | None = None,
    feature_names: Sequence[str] | None = None,
    title: str = "Mean of p(x given z) while one latent unit changes",
    note: str = "",
) -> Figure:
    """Return the mean of p(x given z) while one latent unit changes and all other units have their prior mean.

    Data that are not pictures have one panel for each feature, with a line for each unit.

    With a run instead of the arrays, it is the figure of that run, see `pvae.plots`.

    Args:
        images: shape (units, steps, *data), each datum as for `image_grid`; a row for each unit.
        values: the values of the unit along a row, shape (steps,).
        units: index of the latent unit of each row; by default 0, 1, ...
        feature_names: names of the features, for data that are not pictures.
        title: title of the figure.
        note: a sentence below the title.

    Example:
        >>> import numpy as np
        >>> from pvae import plots
        >>> figure = plots.traversal(np.zeros((2, 5, 8, 8)), np.linspace(-2, 2, 5))
        >>> figure.get_suptitle()
        'Mean of p(x given z) while one latent unit changes'
    """
    x, steps = as_array(images), as_array(values)
    row_names = [f"z[{unit}]" for unit in (units if units is not None else range(len(x)))]
    xlabel = "value of the latent unit (others at their prior mean)"
    pictures = _pictures_of(x)
    if pictures is None:
        return add_title(lines_or_heat_map(x, steps, row_names, feature_names, xlabel), title, note)
    figure = draw_labelled_rows(pictures, x.shape[1], row_names, _number_labels(steps), xlabel)
    return add_title(figure, title, note)


@also_of_runs("interpolation")
def interpolations(
    images: ArrayLike,
    *,
    feature_names: Sequence[str] | None = None,
    title: str = "Mean of p(x given z) between the codes of two data",
    note: str = "",
) -> Figure:
    """Return the mean of p(x given z) on the line between the codes of two data, one row for each pair.

    Data that are not pictures have one panel for each feature, with a line for each pair.

    With a run instead of the arrays, it is the figure of that run, see `pvae.plots`.

    Args:
        images: shape (pairs, steps, *data), each datum as for `image_grid`.
        feature_names: names of the features, for data that are not pictures.
        title: title of the figure.
        note: a sentence below the title.

    Example:
        >>> import numpy as np
        >>> from pvae import plots
        >>> figure = plots.interpolations(np.linspace(0, 1, 5).reshape(1, 5, 1, 1) * np.ones((2, 1, 8, 8)))
        >>> figure.get_suptitle()
        'Mean of p(x given z) between the codes of two data'
    """
    x = as_array(images)
    shares = np.linspace(0, 1, x.shape[1])
    xlabel = "share of the way from one code to the other"
    pictures = _pictures_of(x)
    if pictures is None:
        line_names = [f"pair {pair}" for pair in range(len(x))]
        return add_title(lines_or_heat_map(x, shares, line_names, feature_names, xlabel), title, note)
    row_names = [str(pair) for pair in range(len(x))]
    figure = draw_labelled_rows(pictures, x.shape[1], row_names, _number_labels(shares), xlabel, "pair")
    return add_title(figure, title, note)


@also_of_runs("plane")
def plane(
    images: ArrayLike,
    values: ArrayLike,
    *,
    feature_names: Sequence[str] | None = None,
    title: str = "Mean of p(x given z) over the latent plane",
    note: str = "",
) -> Figure:
    """Return the mean of p(x given z) over the plane of a two-dimensional z, at quantiles of its prior.

    Data that are not pictures have one heat map for each feature, with a colour scale in the unit of the feature.

    With a run instead of the arrays, it is the figure of that run, see `pvae.plots`.

    Args:
        images: shape (size, size, *data), each datum as for `image_grid`. The rows are in descending order of z[1].
        values: values of z[0] and z[1] in ascending order, shape (2, size).
        feature_names: names of the features, for data that are not pictures.
        title: title of the figure.
        note: a sentence below the title.

    Example:
        >>> import numpy as np
        >>> from pvae import plots
        >>> figure = plots.plane(np.zeros((5, 5, 8, 8)), np.tile(np.linspace(-2, 2, 5), (2, 1)))
        >>> figure.get_suptitle()
        'Mean of p(x given z) over the latent plane'
    """
    x, coordinates = as_array(images), as_array(values)
    pictures = _pictures_of(x)
    if pictures is None:
        figure, left_out = planes_or_first(x, coordinates, feature_names)
        return add_title(figure, title, " ".join(text for text in (note, left_out) if text))
    horizontal, vertical = coordinates
    step = max(1, -(-len(vertical) // _PLANE_LABELS))

    def label_some(numbers: Array) -> list[str]:
        return [f"{number:.1f}" if index % step == 0 else "" for index, number in enumerate(numbers)]

    row_names, column_names = label_some(vertical[::-1]), label_some(horizontal)
    xlabel = "z[0], at quantiles of the prior"
    return add_title(draw_labelled_rows(pictures, x.shape[1], row_names, column_names, xlabel, "z[1]"), title, note)


@also_of_runs("classes")
def value_rows(
    images: ArrayLike,
    names: Sequence[str],
    ylabel: str,
    *,
    feature_names: Sequence[str] | None = None,
    title: str = "Mean of p(x given z) for each value of a category",
    note: str = "",
) -> Figure:
    """Return one row of pictures for each value of a label or component; single pictures if each row has one.

    Data that are not pictures have one panel for each feature, with a row of points for each value.

    With a run instead of the arrays, it is the figure of that run, see `pvae.plots`.

    Args:
        images: shape (values, columns, *data), each datum as for `image_grid`. All pictures of a column are made from
            the same draws of the other latent sites.
        names: name of each value, shape (values,).
        ylabel: name of the label or latent site.
        feature_names: names of the features, for data that are not pictures.
        title: title of the figure.
        note: a sentence below the title.

    Example:
        >>> import numpy as np
        >>> from pvae import plots
        >>> figure = plots.value_rows(np.zeros((3, 4, 8, 8)), ["a", "b", "c"], "y")
        >>> figure.get_suptitle()
        'Mean of p(x given z) for each value of a category'
    """
    x = as_array(images)
    pictures = _pictures_of(x)
    if pictures is None:
        return add_title(strips_or_heat_map(x, list(names), feature_names, ylabel), title, note)
    if x.shape[1] == 1:
        named = [f"{ylabel} = {name}" for name in names]
        return add_title(draw_named_pictures(pictures, named, _NAMED_COLUMNS), title, note)
    xlabel = "each column uses the same draws"
    return add_title(draw_labelled_rows(pictures, x.shape[1], list(names), [], xlabel, ylabel), title, note)


def _pictures_of(x: Array) -> Array | None:
    """Return data of shape (rows, columns, *data) as pictures in one row, or None if they are not pictures."""
    return as_pictures(x.reshape(-1, *x.shape[2:]))


def _number_labels(values: Array) -> list[str]:
    """Return a label for each value, shape (steps,); empty labels if there are too many."""
    return [f"{value:.3g}" if len(values) <= _MOST_LABELS else "" for value in values]
