"""``pvae show``: draw one figure of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pvae.commands.options.help_sections import SectionedCommand, make_option
from pvae.commands.options.known_names import RunType
from pvae.commands.options.option_groups import (
    checkpoint_option,
    data_folder_option,
    other_data_option,
    recorded_model_options,
    split_option,
    traceback_option,
)
from pvae.commands.saved_mixtures import draw_mixture_figure, open_mixture
from pvae.errors import InputError
from pvae.train.figures.run_figures import FIGURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pvae.train import Run

__all__ = ["show"]

SUFFIXES = (".jpg", ".pdf", ".png", ".svg")
COUNT_HELP = "Number of pictures, codes, latent units, lines or columns. [default: depends on --what]"
SITE_HELP = (
    "Latent site of a traversal, or modality of a cross-generation. [default: the first latent site with real values, "
    "the last modality]"
)
# A line that holds only \b keeps click from joining the lines after it.
HELP = "\n".join(
    [
        "Draw a figure of the run in the folder RUN, and print its path. RUN may also be a folder that `pvae em --out` "
        "has written, with the figures components and history.",
        "",
        "\b",
        "Figures (--what):",
        *(f"  {name:<16} {kind.description}" for name, kind in FIGURES.items()),
    ]
)


@click.command(cls=SectionedCommand, short_help="Draw a figure of a run.", help=HELP)
@click.argument("run", type=RunType())
@make_option("Figure", "--what", click.Choice(list(FIGURES)), "samples", "Figure to draw; see above.", metavar="FIGURE")
@make_option("Figure", "--count", click.IntRange(min=1), None, COUNT_HELP)
@make_option("Figure", "--site", str, None, SITE_HELP)
@make_option("Figure", "--seed", int, 0, "Seed of the draws.")
@make_option("Figure", "--out", click.Path(), None, "Path of the figure. [default: RUN/figures/FIGURE.png]")
@make_option("Figure", "--force", bool, False, "Replace a file that exists at --out.", is_flag=True)
@other_data_option
@data_folder_option
@split_option("test")
@checkpoint_option
@recorded_model_options
@traceback_option
def show(
    run: str, model: str | None, trust: bool, what: str, out: str | None, force: bool, checkpoint: str, **options: Any
) -> None:
    """Draw a figure of the run in the folder RUN, and print its path."""
    from pvae.commands.runs import open_named_run
    from pvae.plots import save_figure

    path = Path(out) if out else Path(run, "figures", f"{what}.png")
    _check_path(path, is_default=out is None, force=force)
    saved = open_mixture(run)
    if saved is not None:
        figure = draw_mixture_figure(saved, what, options)
    else:
        figure = _draw_named(open_named_run(run, checkpoint, model, trust=trust), what, options)
    path.parent.mkdir(exist_ok=True)
    names = ("seed", "split", "data")
    facts = {"run": run, "figure": what, "checkpoint": checkpoint} | {name: options[name] for name in names}
    save_figure(figure, path, {name: value for name, value in facts.items() if value is not None})
    click.echo(path)


def _draw_named(run: Run, name: str, options: dict[str, Any]) -> Figure:
    """Return one figure of a run.

    Args:
        run: the opened run.
        name: the option ``--what``.
        options: the other options of ``pvae show``.
    """
    from pvae.commands.options.table_flags import reading_options
    from pvae.commands.runs import data_of_run
    from pvae.train.figures.draw_figure import draw_figure

    chosen = {key: options[key] for key in ("split", "count", "site", "seed")}
    return draw_figure(
        run,
        name,
        lambda: data_of_run(run, options["data"], options["data_folder"], reading_options(options)),
        **chosen,
        advice="Choose one with --split.",
    )


def _check_path(path: Path, *, is_default: bool, force: bool) -> None:
    """Raise InputError before any computation if the figure cannot be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--out needs a path that ends in {', '.join(SUFFIXES)}; got {str(path)!r}.")
    if not is_default and not path.resolve().parent.is_dir():
        raise InputError(f"--out needs a path in an existing folder; the folder {path.parent} does not exist.")
    if not is_default and path.exists() and not force:
        raise InputError(f"{path} exists already, and was not changed. Replace it with --force, or name another file.")
