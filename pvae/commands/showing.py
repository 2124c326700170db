"""``pvae show``: one figure of a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pvae.commands.options import traceback_option
from pvae.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pvae.batch import Batch
    from pvae.data import Splits
    from pvae.train import Run

__all__ = ["show"]

SUFFIXES = (".jpg", ".pdf", ".png", ".svg")
COUNTS = {"samples": 40, "reconstructions": 20, "latent": 2000, "traversal": 8}


@click.command(short_help="Draw a figure of a run.")
@click.argument("run")
@click.option(
    "--what",
    type=click.Choice(["samples", "reconstructions", "latent", "traversal", "history"]),
    default="samples",
    show_default=True,
)
@click.option("--out", type=click.Path(), default=None, help="File. [default: RUN/figures/WHAT.png]")
@click.option("--count", type=click.IntRange(min=1), default=None, help="How many pictures, codes or latent units.")
@click.option("--data", default=None, help="Other data than the run's own: a name or a file.")
@click.option("--data-folder", type=click.Path(), default=None, help="Folder with data sets, before $PVAE_DATA.")
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default="test", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draws.")
@click.option("--checkpoint", type=click.Choice(["best", "last"]), default="best", show_default=True)
@traceback_option
def show(run: str, what: str, out: str | None, checkpoint: str, **options: Any) -> None:
    """Draw a figure of the run in the folder RUN.

    samples: means of x for z drawn from the prior. reconstructions: data, and what comes back. latent: the codes
    of data, coloured by label. traversal: one latent unit at a time. history: the numbers of the training.
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
    batch = split_of(splits, options["split"]).take(slice(0, options["count"] or COUNTS[what]))
    with isolated(options["seed"]):
        return _FIGURES[what](run, splits, batch)


def _samples(run: Run, splits: Splits, batch: Batch) -> Figure:
    from pvae import plots
    from pvae.models.queries import sample

    return plots.image_grid(_pictures(sample(run.model, batch), splits))


def _reconstructions(run: Run, splits: Splits, batch: Batch) -> Figure:
    from pvae import plots
    from pvae.models.queries import reconstruct

    again = reconstruct(run.model, batch)
    return plots.reconstructions(_pictures(batch["x"], splits), _pictures(again, splits))


def _latent(run: Run, splits: Splits, batch: Batch) -> Figure:
    import torch

    from pvae import plots
    from pvae.models.queries import encode

    codes = torch.cat([code.reshape(batch.size, -1) for code in encode(run.model, batch).values()], 1)
    return plots.latent_scatter(codes, batch.get("y"))


def _traversal(run: Run, splits: Splits, batch: Batch) -> Figure:
    import torch

    from pvae import plots
    from pvae.models.traversal import traverse

    values = torch.linspace(-3, 3, 9)
    pictures = traverse(run.model, batch, values)[: batch.size]
    return plots.traversal(_pictures(pictures, splits, leading=2), values)


def _pictures(x: Any, splits: Splits, leading: int = 1) -> Any:
    """Values in the shape of a picture, where they have as many numbers as one."""
    fits = math.prod(x.shape[leading:]) == math.prod(splits.data_shape)
    return x.reshape(*x.shape[:leading], *splits.data_shape) if fits else x


_FIGURES = {
    "samples": _samples,
    "reconstructions": _reconstructions,
    "latent": _latent,
    "traversal": _traversal,
}
