"""The sections with pictures on a comparison's page: samples and reconstructions, latent space."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from pvae import plots
from pvae.comparison.cells.drawings import CATEGORY
from pvae.comparison.page.report_data import ReportData
from pvae.data import Schema
from pvae.errors import first_line
from pvae.report import Picture, Section

__all__ = ["make_latent_section", "make_samples_section"]


def make_samples_section(data: ReportData) -> Section | None:
    """Return the section with samples and reconstructions, or None if no cell has any.

    Args:
        data: the results and settings.
    """
    pictures = _Pictures()
    names = data.schema.columns
    kinds = (
        ("samples", _draw_samples),
        ("draws", functools.partial(_draw_draws, feature_names=names)),
        ("reconstructions", functools.partial(_draw_reconstructions, feature_names=names)),
    )
    for key, draw in kinds:
        for row, outcome in data.rows_with_pictures():
            pictures.add(draw, key, data.arrays_of(outcome), f"{data.key(row)}, seed {outcome.cell.seed}")
    text = (
        "The pictures are from the first finished seed of each row, which may not be the best one. "
        f"The originals are test data of {data.data_name}."
    )
    return pictures.section("Samples and reconstructions", text)


class _Pictures:
    """Collects the pictures of a section. A picture that cannot be drawn is replaced by a line of text."""

    def __init__(self) -> None:
        self.pictures: list[Picture] = []
        self.failures: list[str] = []

    def add(
        self, draw: Callable[[Mapping[str, Tensor], str], Picture], key: str, arrays: Mapping[str, Tensor], name: str
    ) -> None:
        """Draw a picture of arrays.

        Args:
            draw: makes the picture of the arrays and the name.
            key: the array that the picture needs; without it there is no picture.
            arrays: the arrays of one cell.
            name: the name of the cell.
        """
        if key not in arrays:
            return
        try:
            self.pictures.append(draw(arrays, name))
        except Exception as error:  # an error of a picture must not lose the results of a training
            self.failures.append(f"{name}: the {key} could not be drawn ({type(error).__name__}: {first_line(error)}).")

    def section(self, title: str, text: str) -> Section | None:
        """Return the section; None if there is nothing to show."""
        if not self.pictures and not self.failures:
            return None
        return Section(title, (text, *self.failures), pictures=tuple(self.pictures))


def _draw_samples(arrays: Mapping[str, Tensor], name: str) -> Picture:
    return Picture(
        plots.image_grid(arrays["samples"], title=f"{name}: means of p(x given z), z drawn from the prior"),
        f"{len(arrays['samples'])} samples from the model trained with {name}.",
        f"{name}: the mean of p(x given z) for z drawn from the prior.",
    )


def _draw_draws(arrays: Mapping[str, Tensor], name: str, feature_names: tuple[str, ...]) -> Picture:
    drawn, known = arrays["draws"], arrays["data"]
    return Picture(
        plots.draws(
            drawn,
            known if known.shape[1:] == drawn.shape[1:] else None,
            feature_names=feature_names,
            title=f"{name}: draws of x from the model, over test data",
        ),
        f"{len(drawn)} draws from the model trained with {name}, over {len(known)} test data.",
        f"{name}: draws of x from the model, over test data.",
    )


def _draw_reconstructions(arrays: Mapping[str, Tensor], name: str, feature_names: tuple[str, ...]) -> Picture:
    return Picture(
        plots.reconstructions(
            arrays["originals"],
            arrays["reconstructions"],
            feature_names=feature_names,
            title=f"{name}: test data and their reconstructions",
        ),
        f"{len(arrays['originals'])} test data and their reconstructions, {name}.",
        f"{name}: test data, and the mean of p(x given z) for z drawn from the guide.",
    )


def make_latent_section(data: ReportData) -> Section | None:
    """Return the section with the codes of the latent space, or None if no cell has any.

    Args:
        data: the results and settings.
    """
    pictures = _Pictures()
    for row, outcome in data.rows_with_pictures():
        arrays = data.arrays_of(outcome)
        draw = functools.partial(_draw_codes, schema=data.schema, texts=outcome.scores.get("drawings") or {})
        key = "codes" if "codes" in arrays else next((name for name in arrays if name.startswith(CATEGORY)), "codes")
        pictures.add(draw, key, arrays, f"{data.key(row)}, seed {outcome.cell.seed}")
    text = (
        "Each point is the latent code of one datum. The labels of the axes say which latent units they show, or that "
        "they show principal components of the codes. Categorical sites are shown as bars."
    )
    return pictures.section("Latent space", text)


def _draw_codes(arrays: Mapping[str, Tensor], name: str, schema: Schema, texts: Mapping[str, Any]) -> Picture:
    """Return the picture of codes and categories, coloured by label, as in `pvae show --what latent`."""
    categories = {key.removeprefix(CATEGORY): values for key, values in arrays.items() if key.startswith(CATEGORY)}
    labels = schema.named(arrays["labels"]) if "labels" in arrays else None
    label_name = f"{schema.label or 'label y'}, given with the data"
    note = str(texts.get("codes", ""))
    coloured = ", coloured by label" if "labels" in arrays else ""
    if "codes" not in arrays:
        title = f"{name}: inferred values of categorical latent sites"
        figure = plots.category_bars(categories, labels, label_name=label_name, title=title, note=note)
        words = f"{name}: number of test data with each inferred value{coloured}. {note}"
        return Picture(figure, f"Inferred values of {', '.join(categories)}{coloured}, {name}.", words)
    figure = plots.latent_scatter(
        arrays["codes"],
        labels,
        unit_names=tuple(map(str, texts.get("units", ()))),
        label_name=label_name,
        categories=categories,
        title=f"{name}: latent codes, means under the guide",
        note=note,
    )
    count = len(arrays["codes"])
    alt = f"Scatter plot of the latent means of {count} test data{coloured}, {name}."
    return Picture(figure, alt, f"{name}: means under the guide of {count} test data{coloured}. {note}")
