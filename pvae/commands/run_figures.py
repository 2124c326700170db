"""The functions that draw the figures of ``pvae show`` from a run and its data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pvae.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pvae.batch import Batch
    from pvae.data import Splits
    from pvae.train import Run

__all__ = ["FIGURES", "FigureKind", "draw_figure"]

#: The figures that need no other number of data than that of the split.
_OF_ALL_DATA = ("samples", "reconstructions", "latent")


@dataclass(frozen=True)
class FigureInputs:
    """The run, the data and the options from which a figure is drawn.

    Attributes:
        run: the opened run.
        splits: its data.
        batch: the chosen split.
        split: its name.
        count: number of pictures, codes, latent units, lines or columns.
        site: latent site of a traversal, or None.
        takes_parts: whether the programs run on a part of the data; False if they are for a fixed number of data.
    """

    run: Run
    splits: Splits
    batch: Batch
    split: str
    count: int
    site: str | None
    takes_parts: bool = True

    def first_data(self) -> Batch:
        """Return the first `count` data of the split; all of them if the programs take no part of the data."""
        return self.batch.take(slice(0, self.count)) if self.takes_parts else self.batch

    def as_pictures(self, x: Any, leading: int = 1) -> Any:
        """Return values of x in the units and the shape of a datum if they have as many features, else unchanged.

        Args:
            x: values, shape (*leading, features).
            leading: number of leading dimensions.

        Returns:
            The values, shape (*leading, *data_shape) or unchanged.
        """
        scaling, pictures = self.splits.schema.scaling, self.in_shape(x, leading)
        fits = math.prod(x.shape[leading:]) == math.prod(self.splits.data_shape)
        return pictures if scaling is None or not fits else scaling.original(pictures)

    def in_shape(self, x: Any, leading: int = 1) -> Any:
        """Return values, such as a mask, in the shape of a datum if they have as many features, else unchanged."""
        fits = math.prod(x.shape[leading:]) == math.prod(self.splits.data_shape)
        return x.reshape(*x.shape[:leading], *self.splits.data_shape) if fits else x


@dataclass(frozen=True)
class FigureKind:
    """A kind of figure.

    Attributes:
        description: one line for the help.
        draw: returns the figure, or None for the history, which needs no data.
        default_count: default of ``--count``.
    """

    description: str
    draw: Callable[[FigureInputs], Figure] | None
    default_count: int = 0


def draw_figure(run: Run, name: str, options: dict[str, Any]) -> Figure:
    """Return one figure of a run.

    Args:
        run: the opened run.
        name: a key of `FIGURES`.
        options: the options of ``pvae show``.

    Raises:
        InputError: if the data cannot be loaded, or the run has no such figure.
    """
    from pvae import plots
    from pvae.commands.options.table_flags import reading_options
    from pvae.commands.runs import data_of_run, require_split
    from pvae.train.devices import isolated

    kind = FIGURES[name]
    if kind.draw is None:
        return plots.history(run.history)
    splits = data_of_run(run, options["data"], options["data_folder"], reading_options(options))
    batch = require_split(splits, options["split"])
    count = options["count"] or kind.default_count
    takes_parts = _takes_parts(run, batch)
    if not takes_parts and name not in _OF_ALL_DATA:
        raise InputError(
            f"The figure {name!r} needs programs that run on any number of data; those of this run are for "
            f"{batch.size} data. Write len(x) in their plates, or draw one of {', '.join(_OF_ALL_DATA)}, history."
        )
    inputs = FigureInputs(run, splits, batch, options["split"], count, options["site"], takes_parts)
    with isolated(options["seed"]):
        return kind.draw(inputs)


def _takes_parts(run: Run, batch: Batch) -> bool:
    """Return whether the programs of a run take a part of a batch; True if they do not take the batch either."""
    from pvae.evaluate.evaluation_context import evaluation_context
    from pvae.programs.row_dependence import PROGRAM_ERRORS

    with evaluation_context(run.model, batch) as context:
        if context.data_at_once(1) == 1:
            return True
        try:
            context.bound_to(context.batch).layout  # noqa: B018 - the figure itself reports why this fails
        except PROGRAM_ERRORS:
            return True
    return False


def _samples(inputs: FigureInputs) -> Figure:
    from pvae import plots
    from pvae.programs.queries import sample

    pictures = sample(inputs.run.model, inputs.first_data())[: inputs.count]
    return plots.image_grid(inputs.as_pictures(pictures))


def _reconstructions(inputs: FigureInputs) -> Figure:
    from pvae import plots
    from pvae.programs.queries import reconstruct

    batch = inputs.first_data()
    x, reconstructed = batch["x"][: inputs.count], reconstruct(inputs.run.model, batch)[: inputs.count]
    return plots.reconstructions(inputs.as_pictures(x), inputs.as_pictures(reconstructed))


def _inpainting(inputs: FigureInputs) -> Figure:
    from pvae import plots
    from pvae.models import ConditionalVAE
    from pvae.models.imputation import impute

    model, batch = inputs.run.model, inputs.first_data()
    missing = model.missing_entries if isinstance(model, ConditionalVAE) else None
    if missing is not None:  # a model of some quadrants given the others
        mask = (~missing).expand(batch.size, *missing.shape)
        imputed = model.impute(batch.x, mean=True)[0]
    else:
        batch = _with_mask(inputs, batch)
        mask, imputed = batch.mask, impute(model, batch, n=1).mean
    return plots.inpainting(inputs.as_pictures(batch.x), inputs.in_shape(mask), inputs.as_pictures(imputed))


def _with_mask(inputs: FigureInputs, batch: Batch) -> Batch:
    """Return the batch with the mask of its missing entries; the training split draws its mask at each use."""
    if inputs.split == "train" and inputs.splits.train_mask is not None:
        batch = batch.replace(mask=inputs.splits.train_mask.like(batch.x) * batch.mask)
    if "mask" not in batch:
        raise InputError("Inpainting needs data with missing entries: train with --mask block, or data with a mask.")
    return batch


def _latent(inputs: FigureInputs) -> Figure:
    from pvae import plots
    from pvae.programs.queries import encode, joined

    batch = inputs.first_data()
    y = batch.get("y")
    labels = None if y is None else inputs.splits.schema.named(y)
    return plots.latent_scatter(joined(encode(inputs.run.model, batch)), labels)


def _traversal(inputs: FigureInputs) -> Figure:
    import torch

    from pvae import plots
    from pvae.models.rendering import traverse

    values = torch.linspace(-3, 3, 9)
    pictures = traverse(inputs.run.model, inputs.batch, values, site=inputs.site)[: inputs.count]
    return plots.traversal(inputs.as_pictures(pictures, leading=2), values)


def _interpolation(inputs: FigureInputs) -> Figure:
    from pvae import plots
    from pvae.models.rendering import interpolate

    pairs = min(inputs.count, inputs.batch.size // 2)
    if pairs < 1:
        raise InputError("An interpolation needs two data; this split has one. Choose another split with --split.")
    start = inputs.batch.take(slice(0, pairs))
    end = inputs.batch.take(slice(pairs, 2 * pairs))
    return plots.interpolations(inputs.as_pictures(interpolate(inputs.run.model, start, end), leading=2))


def _plane(inputs: FigureInputs) -> Figure:
    from pvae import plots
    from pvae.models.rendering import plane

    pictures, values = plane(inputs.run.model, inputs.batch, inputs.count)
    return plots.plane(inputs.as_pictures(pictures, leading=2), values)


def _classes(inputs: FigureInputs) -> Figure:
    from pvae import plots
    from pvae.models.rendering import value_by_value
    from pvae.programs.binding import bind

    rows = value_by_value(inputs.run.model, inputs.batch, inputs.count)
    names = [str(value) for value in range(len(rows.pictures))]
    if "y" in bind(inputs.run.model, inputs.batch).fields:  # values of a label, not components that the model found
        names = inputs.splits.schema.class_names(len(names))
    return plots.value_rows(inputs.as_pictures(rows.pictures, leading=2), names, rows.name)


def _components(inputs: FigureInputs) -> Figure:
    from pvae import plots
    from pvae.models.rendering import value_by_value

    rows = value_by_value(inputs.run.model, inputs.batch)
    if rows.shares is None:
        raise InputError("The model has no components, since y is a condition of it; use --what classes.")
    heaviest = rows.shares.argsort(descending=True)[: inputs.count]
    pictures = inputs.as_pictures(rows.pictures[heaviest, 0])
    if pictures.dim() < 3:
        return plots.image_grid(pictures)
    return plots.mixture_pictures(pictures, rows.shares[heaviest])


FIGURES = {
    "samples": FigureKind("mean of x for each z drawn from the prior", _samples, 40),
    "reconstructions": FigureKind("data above their reconstructions", _reconstructions, 20),
    "inpainting": FigureKind("data with missing entries, with imputed entries, and complete", _inpainting, 16),
    "latent": FigureKind("latent codes of the data, coloured by label", _latent, 2000),
    "traversal": FigureKind("mean of x while one latent unit changes", _traversal, 8),
    "interpolation": FigureKind("mean of x between the codes of two data", _interpolation, 8),
    "plane": FigureKind("mean of x over a two-dimensional latent space", _plane, 15),
    "classes": FigureKind("draws for each label or component", _classes, 10),
    "components": FigureKind("mean of x for each component, with its prior weight", _components, 100),
    "history": FigureKind("loss and validation bound of each epoch", None),
}
