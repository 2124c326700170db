"""``pvae show``: one figure of a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pvae.commands.shared_options import traceback_option
from pvae.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pvae.batch import Batch
    from pvae.data import Splits
    from pvae.train import Run

__all__ = ["show"]

SUFFIXES = (".jpg", ".pdf", ".png", ".svg")
COUNTS = {
    "samples": 40,
    "reconstructions": 20,
    "inpainting": 16,
    "latent": 2000,
    "traversal": 8,
    "interpolation": 8,
    "plane": 15,
    "classes": 10,
    "components": 100,
}


@click.command(short_help="Draw a figure of a run.")
@click.argument("run")
@click.option(
    "--what",
    type=click.Choice([*COUNTS, "history"]),
    default="samples",
    show_default=True,
)
@click.option("--out", type=click.Path(), default=None, help="File. [default: RUN/figures/WHAT.png]")
@click.option(
    "--count", type=click.IntRange(min=1), default=None, help="How many pictures, codes, units, lines; or in a row."
)
@click.option("--site", default=None, help="Latent site of a traversal. [default: the model's first of real values]")
@click.option("--data", default=None, help="Other data than the run's own: a name or a file.")
@click.option("--data-folder", type=click.Path(), default=None, help="Folder with data sets, before $PVAE_DATA.")
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default="test", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draws.")
@click.option("--checkpoint", type=click.Choice(["best", "last"]), default="best", show_default=True)
@traceback_option
def show(run: str, what: str, out: str | None, checkpoint: str, **options: Any) -> None:
    """Draw a figure of the run in the folder RUN.

    samples: means of x for z drawn from the prior. reconstructions: data, and what comes back. inpainting: what a
    mask leaves of data, its missing entries imputed, and the truth. latent: the codes of data, coloured by label.
    traversal: one latent unit at a time. interpolation: from one datum's code to another's. plane: a two-dimensional
    latent space, at quantiles of its prior. classes: draws for each label or component. components: each component at
    its mean, with its share. history: the numbers of the training.
    """
    from pvae.train import open_run

    path = Path(out) if out else Path(run, "figures", f"{what}.png")
    _check_path(path, own=out is None)
    opened = open_run(run, checkpoint=checkpoint)
    figure = _history(opened) if what == "history" else _of_model(opened, what, options)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)
    click.echo(path)


def _check_path(path: Path, own: bool) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--out takes a file that ends in {', '.join(SUFFIXES)}; got {str(path)!r}.")
    if not own and not path.resolve().parent.is_dir():
        raise InputError(f"--out {path}: there is no folder {path.parent}.")


def _history(run: Run) -> Figure:
    from pvae import plots

    return plots.history(run.history)


def _of_model(run: Run, what: str, options: dict[str, Any]) -> Figure:
    from pvae.commands.runs import data_of_run, split_of
    from pvae.train.devices import isolated

    splits = data_of_run(run, options["data"], options["data_folder"])
    options = {**options, "count": options["count"] or COUNTS[what]}
    batch = split_of(splits, options["split"])
    with isolated(options["seed"]):
        return _FIGURES[what](run, splits, batch, options)


def _samples(run: Run, splits: Splits, batch: Batch, options: dict[str, Any]) -> Figure:
    from pvae import plots
    from pvae.programs.queries import sample

    return plots.image_grid(_pictures(sample(run.model, _few(batch, options)), splits))


def _reconstructions(run: Run, splits: Splits, batch: Batch, options: dict[str, Any]) -> Figure:
    from pvae import plots
    from pvae.programs.queries import reconstruct

    batch = _few(batch, options)
    again = reconstruct(run.model, batch)
    return plots.reconstructions(_pictures(batch["x"], splits), _pictures(again, splits))


def _inpainting(run: Run, splits: Splits, batch: Batch, options: dict[str, Any]) -> Figure:
    from pvae import plots
    from pvae.models import ConditionalVAE
    from pvae.models.imputation import impute

    batch = _few(batch, options)
    missing = run.model.missing_entries if isinstance(run.model, ConditionalVAE) else None
    if missing is not None:  # a model of some quadrants given the others
        mask, imputed = (~missing).expand(batch.size, *missing.shape), run.model.impute(batch.x, mean=True)[0]
        return plots.inpainting(*(_pictures(each, splits) for each in (batch.x, mask, imputed)))
    if options["split"] == "train" and splits.train_mask is not None:
        batch = batch.replace(mask=splits.train_mask.like(batch.x) * batch.mask)
    if "mask" not in batch:
        raise InputError("Inpainting needs data with missing entries: train with --mask block, or data with a mask.")
    shown = (batch.x, batch.mask, impute(run.model, batch, n=1).mean)
    return plots.inpainting(*(_pictures(each, splits) for each in shown))


def _latent(run: Run, splits: Splits, batch: Batch, options: dict[str, Any]) -> Figure:
    from pvae import plots
    from pvae.programs.queries import encode, joined

    batch = _few(batch, options)
    return plots.latent_scatter(joined(encode(run.model, batch)), batch.get("y"))


def _traversal(run: Run, splits: Splits, batch: Batch, options: dict[str, Any]) -> Figure:
    import torch

    from pvae import plots
    from pvae.models.rendering import traverse

    values = torch.linspace(-3, 3, 9)
    pictures = traverse(run.model, batch, values, site=options["site"])[: options["count"]]
    return plots.traversal(_pictures(pictures, splits, leading=2), values)


def _interpolation(run: Run, splits: Splits, batch: Batch, options: dict[str, Any]) -> Figure:
    from pvae import plots
    from pvae.models.rendering import interpolate

    lines = min(options["count"], batch.size // 2)
    if lines < 1:
        raise InputError("An interpolation needs two data; this split has one. Choose another with --split.")
    start, end = batch.take(slice(0, lines)), batch.take(slice(lines, 2 * lines))
    return plots.interpolations(_pictures(interpolate(run.model, start, end), splits, leading=2))


def _plane(run: Run, splits: Splits, batch: Batch, options: dict[str, Any]) -> Figure:
    from pvae import plots
    from pvae.models.rendering import plane

    pictures, values = plane(run.model, batch, options["count"])
    return plots.plane(_pictures(pictures, splits, leading=2), values)


def _classes(run: Run, splits: Splits, batch: Batch, options: dict[str, Any]) -> Figure:
    from pvae import plots
    from pvae.models.rendering import value_by_value

    rows = value_by_value(run.model, batch, options["count"])
    names = [str(value) for value in range(len(rows.pictures))]
    return plots.value_rows(_pictures(rows.pictures, splits, leading=2), names, rows.name)


def _components(run: Run, splits: Splits, batch: Batch, options: dict[str, Any]) -> Figure:
    from pvae import plots
    from pvae.models.rendering import value_by_value

    rows = value_by_value(run.model, batch)
    if rows.shares is None:
        raise InputError("The model has no components: y is a condition of it. Show classes.")
    heaviest = rows.shares.argsort(descending=True)[: options["count"]]
    pictures = _pictures(rows.pictures[heaviest, 0], splits)
    if pictures.dim() < 3:
        return plots.image_grid(pictures)
    return plots.mixture_pictures(pictures, rows.shares[heaviest])


def _few(batch: Batch, options: dict[str, Any]) -> Batch:
    return batch.take(slice(0, options["count"]))


def _pictures(x: Any, splits: Splits, leading: int = 1) -> Any:
    """Values in the shape of a picture, where they have as many numbers as one."""
    fits = math.prod(x.shape[leading:]) == math.prod(splits.data_shape)
    return x.reshape(*x.shape[:leading], *splits.data_shape) if fits else x


_FIGURES = {
    "samples": _samples,
    "reconstructions": _reconstructions,
    "inpainting": _inpainting,
    "latent": _latent,
    "traversal": _traversal,
    "interpolation": _interpolation,
    "plane": _plane,
    "classes": _classes,
    "components": _components,
}
