"""The table of the figures of a run, and the functions that draw them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pvae.errors import InputError
from pvae.train.figures.system_figures import cross_generation, forecast, topics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pvae.batch import Batch
    from pvae.train.figures.figure_inputs import FigureInputs
    from pvae.train.run import Run

__all__ = ["FIGURES", "FigureKind", "draw_history"]


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


def draw_history(run: Run) -> Figure:
    """Return the figure of the loss and the validation bound of each epoch."""
    from pvae import plots
    from pvae.objectives import loss_is_bound, make_objective

    objective = str(run.config.get("objective", ""))
    is_bound = loss_is_bound(objective) if objective else None
    no_bound = make_objective(objective)().no_bound if is_bound is not None else ""
    title = f"Training history, objective {objective}" if objective else "Training history"
    return plots.history(run.history, loss_is_bound=is_bound, validation_is_bound=not no_bound, title=title)


def _samples(inputs: FigureInputs) -> Figure:
    from pvae import plots
    from pvae.objectives import no_density_by
    from pvae.programs.queries import sample, simulate

    batch = inputs.first_data()
    if len(inputs.splits.data_shape) == 1:
        objective = str(inputs.run.config.get("objective", ""))
        is_mean = bool(objective and no_density_by(objective))
        drawn = simulate(inputs.run.model, batch, inputs.run.fields, mean=is_mean)
        known = inputs.as_pictures(batch.x)
        return plots.draws(
            inputs.as_pictures(drawn),
            known if known.shape == drawn.shape else None,
            feature_names=inputs.feature_names,
            title=f"{'Means' if is_mean else 'Draws'} of x from the model, over the {inputs.split} data",
            note=inputs.describe_conditions(),
        )
    pictures = sample(inputs.run.model, batch, inputs.run.fields)[: inputs.count]
    title = "Means of p(x given z) for z drawn from the prior"
    return plots.image_grid(inputs.as_pictures(pictures), title=title, note=inputs.describe_conditions())


def _reconstructions(inputs: FigureInputs) -> Figure:
    from pvae import plots
    from pvae.models.latent_codes import without_labels
    from pvae.models.posterior_values import reconstruct

    batch, _ = without_labels(inputs.run.model, inputs.first_data())
    x = batch["x"][: inputs.count]
    reconstructed = reconstruct(inputs.run.model, batch, inputs.run.fields)[: inputs.count]
    return plots.reconstructions(
        inputs.as_pictures(x),
        inputs.as_pictures(reconstructed),
        feature_names=inputs.feature_names,
        title=f"{inputs.split.capitalize()} data and their reconstructions, one draw of z each",
        note=inputs.describe_conditions(),
    )


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
        inputs.run._require_density("inpainting", "Draw reconstructions.")
        batch = _with_mask(inputs, batch)
        mask, imputed = batch.mask, impute(model, batch, n=1, fields=inputs.run.fields).mean
    return plots.inpainting(
        inputs.as_pictures(batch.x),
        inputs.in_shape(mask),
        inputs.as_pictures(imputed),
        feature_names=inputs.feature_names,
    )


def _with_mask(inputs: FigureInputs, batch: Batch) -> Batch:
    """Return the batch with the mask of its missing entries; the training split draws its mask at each use."""
    if inputs.split == "train" and inputs.splits.train_mask is not None:
        batch = batch.replace(mask=inputs.splits.train_mask.like(batch.x) * batch.mask)
    if "mask" not in batch:
        raise InputError("Inpainting needs data with missing entries: train with --mask block, or data with a mask.")
    return batch


def _latent(inputs: FigureInputs) -> Figure:
    from pvae import plots
    from pvae.models.latent_codes import infer_codes

    batch = inputs.first_data()
    codes = infer_codes(inputs.run.model, batch, inputs.run.fields)
    y = batch.get("y")
    labels = None if y is None or y.dim() != 1 else inputs.splits.schema.named(y)
    label_name = f"{inputs.splits.schema.label or 'label y'}, given with the data"
    if not codes.continuous and not codes.categories:
        raise InputError("The guide infers no latent site of each datum, so there are no codes to draw.")
    if not codes.continuous:
        return plots.category_bars(codes.categories, labels, label_name=label_name, note=codes.describe())
    return plots.latent_scatter(
        codes.joined(),
        labels,
        unit_names=codes.unit_names,
        label_name=label_name,
        categories=codes.categories,
        note=codes.describe(),
    )


def _traversal(inputs: FigureInputs) -> Figure:
    import torch

    from pvae import plots
    from pvae.models.rendering import traverse

    values = torch.linspace(-3, 3, 9)
    units = traverse(inputs.run.model, inputs.batch, values, inputs.run.fields, site=inputs.site)
    pictures = units[: inputs.count]
    left_out = (
        f"The first {len(pictures)} of {len(units)} latent units are shown." if len(pictures) < len(units) else ""
    )
    return plots.traversal(
        inputs.as_pictures(pictures, leading=2),
        values,
        feature_names=inputs.feature_names,
        note=" ".join(filter(None, (inputs.describe_held(), left_out))),
    )


def _interpolation(inputs: FigureInputs) -> Figure:
    from pvae import plots
    from pvae.models.latent_codes import infer_codes, without_labels
    from pvae.models.rendering import interpolate

    model, pairs = inputs.run.model, min(inputs.count, inputs.batch.size // 2)
    if pairs < 1:
        raise InputError("An interpolation needs two data; this split has one. Choose another split with --split.")
    start, _ = without_labels(model, inputs.batch.take(slice(0, pairs)))
    end, _ = without_labels(model, inputs.batch.take(slice(pairs, 2 * pairs)))
    codes = infer_codes(model, start, inputs.run.fields)
    if not codes.continuous:
        raise InputError(
            f"An interpolation needs continuous latent sites; those of this run, {', '.join(codes.categories)}, are "
            "discrete, and there is nothing between two categories. Draw samples or classes."
        )
    held = ", ".join((*codes.categories, *codes.given))
    note = f"On each line, {held} keeps the value of the first datum." if held else ""
    pictures = inputs.as_pictures(interpolate(model, start, end, fields=inputs.run.fields), leading=2)
    return plots.interpolations(pictures, feature_names=inputs.feature_names, note=note)


def _plane(inputs: FigureInputs) -> Figure:
    from pvae import plots
    from pvae.models.rendering import plane

    pictures, values = plane(inputs.run.model, inputs.batch, inputs.count, inputs.run.fields)
    return plots.plane(
        inputs.as_pictures(pictures, leading=2),
        values,
        feature_names=inputs.feature_names,
        note=inputs.describe_held(),
    )


def _classes(inputs: FigureInputs) -> Figure:
    from pvae import plots
    from pvae.models.rendering import value_by_value
    from pvae.programs.binding import bind

    rows = value_by_value(inputs.run.model, inputs.batch, inputs.count, inputs.run.fields)
    names = [str(value) for value in range(len(rows.pictures))]
    is_label = "y" in bind(inputs.run.model, inputs.batch, inputs.run.fields).fields
    if is_label:  # values of a label, not components that the model found
        names = inputs.splits.schema.class_names(len(names))
    kind = "a label that is given" if is_label else "a component that the model found"
    return plots.value_rows(
        inputs.as_pictures(rows.pictures, leading=2),
        names,
        rows.name,
        feature_names=inputs.feature_names,
        title=f"Mean of x for each value of {rows.name}, {kind}",
    )


def _components(inputs: FigureInputs) -> Figure:
    from pvae import plots
    from pvae.models.rendering import value_by_value

    rows = value_by_value(inputs.run.model, inputs.batch, fields=inputs.run.fields)
    if rows.shares is None:
        raise InputError("The model has no components, since y is a condition of it; use --what classes.")
    means, shares = inputs.as_pictures(rows.pictures[:, 0]), rows.shares
    title = f"Mean of x for each value of {rows.name}, with its prior probability"
    if means.dim() < 3:
        names = inputs.feature_names
        return plots.component_strips(means, shares, most=inputs.count, feature_names=names, title=title)
    return plots.mixture_pictures(means, shares, most=inputs.count, title=title)


FIGURES = {
    "samples": FigureKind("mean of x for each z drawn from the prior", _samples, 40),
    "reconstructions": FigureKind("data above their reconstructions", _reconstructions, 20),
    "inpainting": FigureKind("data with missing entries, with imputed entries, and complete", _inpainting, 16),
    "forecast": FigureKind("sequences, with a forecast of their last third from the earlier steps", forecast, 4),
    "cross-generation": FigureKind(
        "one modality given the others (MultimodalVAE), chosen by --site", cross_generation, 20
    ),
    "topics": FigureKind("the most probable words of each topic of a topic model", topics, 8),
    "latent": FigureKind("latent codes of the data, coloured by label", _latent, 2000),
    "traversal": FigureKind("mean of x while one latent unit changes", _traversal, 8),
    "interpolation": FigureKind("mean of x between the codes of two data", _interpolation, 8),
    "plane": FigureKind("mean of x over a two-dimensional latent space", _plane, 15),
    "classes": FigureKind("draws for each label or component", _classes, 10),
    "components": FigureKind("mean of x for each component, with its prior weight", _components, 100),
    "history": FigureKind("loss and validation bound of each epoch", None),
}
