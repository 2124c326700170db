"""``pvae compare``: the same model under several objectives and seeds, in one table and one page."""

from __future__ import annotations

import shlex
import shutil
import sys
from typing import Any

import click

from pvae.commands.model_parts import data_of, spec_of
from pvae.commands.output import print_json
from pvae.commands.shared_options import (
    FIT,
    config_option,
    data_options,
    fit_options,
    given,
    model_options,
    traceback_option,
)
from pvae.errors import InputError

__all__ = ["compare"]


@click.command(short_help="Compare objectives: a table and a report.")
@click.argument("models", metavar="MODEL[,MODEL...]")
@data_options
@click.option(
    "--objectives",
    default="elbo,iwae:particles=8",
    show_default=True,
    help="Names (`pvae list`) with settings, separated by commas.",
)
@click.option("--seeds", default="3", show_default=True, help="How many seeds, from 0; or the seeds: 3,5,8.")
@model_options
@click.option("--epochs", type=int, default=None, help="Passes over the data. [default: 50, or 1600 steps]")
@fit_options(without=["seed", "epochs", "validation_particles"])
@click.option(
    "--validation-particles",
    type=int,
    default=None,
    help="Draws of z per datum for the validation bound. [default: 25]",
)
@click.option("--particles", type=click.IntRange(min=1), default=1000, show_default=True, help="Of the judgement.")
@click.option("--limit", type=click.IntRange(min=0), default=1000, show_default=True, help="Judged data; 0 for all.")
@click.option("--baseline", default=None, help="The objective that stands first, and others are compared with.")
@click.option(
    "--workers", type=click.IntRange(min=0), default=None, help="Processes; 0: this one. [default: the cores]"
)
@click.option("--out", type=click.Path(), required=True, help="Folder of the report and its runs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
@config_option
@traceback_option
@click.pass_context
def compare(ctx: click.Context, /, models: str, out: str, as_json: bool, **options: Any) -> None:
    """Compare objectives on MODEL: train under each, from several seeds, and judge all on the same test data.

    Runs that are there already are not trained again. The report is OUT/index.html.
    """
    from pvae.comparison import compare as compared

    names = [name.strip() for name in models.split(",") if name.strip()]
    objectives = [name.strip() for name in options["objectives"].split(",") if name.strip()]
    specs = {name: spec_of(ctx, name) for name in names}
    for spec in specs.values():
        spec.check()
    found = compared(
        specs,
        data_of(ctx),
        objectives,
        seeds=_seeds(options["seeds"]),
        epochs=options["epochs"],
        out=out,
        limit=options["limit"] or None,
        command=shlex.join(["pvae", *ctx.find_root().obj]),
        **{name: options[name] for name in ("particles", "baseline", "workers")},
        **given(ctx, [name for name, *_ in FIT if name not in ("seed", "epochs")]),
    )
    if as_json:
        mixtures = {"mixtures": found.mixtures} if found.mixtures else {}
        print_json({"report": found.report, "folder": found.folder, **found.table.to_json(), **mixtures})
    else:
        click.echo(_text(found))


def _text(found: Any) -> str:
    """The table as wide as the terminal allows, what it says, and where the page is."""
    from pvae.comparison.table.mixture_agreement import summary_lines

    width = shutil.get_terminal_size((160, 24)).columns if sys.stdout.isatty() else None
    shown = found.table.to_text(width, terminal=sys.stdout.isatty())
    return "\n\n".join([shown, found.table.verdict(), *summary_lines(found.mixtures), f"Report: {found.report}"])


def _seeds(text: str) -> list[int]:
    """Return the seeds meant: ``"3"`` is 0, 1, 2; ``"3,5"`` and ``"7,"`` are themselves."""
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0 or ("," not in text and numbers[0] == 0) or len(set(numbers)) < len(numbers):
        raise InputError(f"--seeds takes how many seeds, such as 3, or the seeds, such as 0,1,2; got {text!r}.")
    return numbers if "," in text else list(range(numbers[0]))
