"""``pvae show``: one figure of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pvae.commands.options import traceback_option
from pvae.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["show"]

SUFFIXES = (".png", ".svg", ".pdf", ".jpg")


@click.command()
@click.argument("run")
@click.option(
    "--what",
    type=click.Choice(["samples", "reconstructions", "latent", "traversal", "history"]),
    default="samples",
    show_default=True,
)
@click.option("--out", type=click.Path(), default=None, help="File. [default: RUN/figures/WHAT.png]")
@click.option("--count", type=click.IntRange(min=1), default=None, help="How many pictures or codes.")
@click.option("--data", default=None, help="Other data than the run's own: a name or a file.")
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default="test", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draws.")
@click.option("--checkpoint", type=click.Choice(["best", "last"]), default="best", show_default=True)
@traceback_option
def show(run: str, what: str, out: str | None, **options: Any) -> None:
    """Draw a figure of the run in the folder RUN.

    samples: means of x for z drawn from the prior. reconstructions: data and what comes back. latent: the codes
    of data, coloured by label. traversal: one latent unit at a time. history: the metrics of the training.
    """
    raise NotImplementedError
