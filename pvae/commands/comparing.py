"""``pvae compare``: train models with several objectives and seeds, and write a table and a report."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterable
from typing import Any

import click

from pvae.commands.options.chosen_parts import chosen_data, chosen_model
from pvae.commands.options.config_files import config_option
from pvae.commands.options.grid_type import GridType, join_grids
from pvae.commands.options.help_sections import SectionedCommand, make_option
from pvae.commands.options.known_names import ModelType, NamesType
from pvae.commands.options.option_groups import (
    FIT_OPTIONS,
    data_options,
    explicit_options,
    fit_options,
    json_option,
    model_options,
    traceback_option,
)
from pvae.commands.options.option_types import parse_whole_numbers, split_list
from pvae.commands.output import print_json
from pvae.errors import InputError

__all__ = ["compare"]

OBJECTIVES_HELP = "Names of objectives (`pvae list`) with settings, separated by commas."
SEEDS_HELP = "Number of seeds, counted from 0; or the seeds themselves, such as 3,5,8."
BASELINE_HELP = "Objective to list first and to compare the others with. [default: the first of --objectives]"
LIMIT_HELP = (
    "Number of test data to evaluate on, drawn at random with seed 0; 0 means all of them. [default: 1000, and 100 "
    "with annealing]"
)
EVIDENCE_HELP = (
    "How the log evidence is estimated. is: importance sampling. ais: annealed importance sampling, a lower estimate. "
    "sandwich: from both sides. Settings follow colons: sandwich:temperatures=200:chains=8:start=guide."
)
BUDGET_HELP = "Equal budget for each training: a time, such as 60s or 5min, or a number such as 2M-evaluations."
GRID_HELP = (
    "Values of a setting of the models or of the training, such as learning_rate=1e-3,3e-4: each MODEL has a row for "
    "each value. With semicolons a value may have commas: 'hidden=200,200;100'. Several --grid: a row for each "
    "combination."
)
WORKERS_HELP = "Number of worker processes; 0 runs everything in this process. [default: by the number of CPU cores]"


_STARTS_WITH_NUMBER = re.compile(r"[+-]?[.]?[0-9]")


@click.command(cls=SectionedCommand, short_help="Compare objectives in a table and a report.")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=ModelType())
@data_options
@make_option("Comparison", "--objectives", NamesType("objectives"), "elbo,iwae:particles=8", OBJECTIVES_HELP)
@make_option("Comparison", "--seeds", str, "3", SEEDS_HELP)
@make_option("Comparison", "--baseline", str, None, BASELINE_HELP)
@make_option("Comparison", "--grid", GridType(), None, GRID_HELP, multiple=True, metavar="SETTING=VALUES")
@make_option("Comparison", "--workers", click.IntRange(min=0), None, WORKERS_HELP)
@make_option(
    "Comparison", "--particles", click.IntRange(min=1), 1000, "Number of draws of z per datum for the log evidence."
)
@make_option("Comparison", "--limit", click.IntRange(min=0), None, LIMIT_HELP)
@make_option("Comparison", "--evidence", str, "is", EVIDENCE_HELP)
@model_options
@make_option(
    "Training", "--epochs", int, None, "Number of passes over the training data. [default: 50, or 1600 steps if more]"
)
@make_option("Training", "--budget", str, None, BUDGET_HELP)
@fit_options(without=["seed", "epochs", "validation_particles"])
@make_option(
    "Training",
    "--validation-particles",
    int,
    None,
    "Number of draws of z per datum for the validation bound. [default: 25]",
)
@click.option("--out", type=click.Path(), required=True, help="Folder for the report and the runs.")
@json_option
@config_option
@traceback_option
@click.pass_context
def compare(ctx: click.Context, /, models: tuple[str, ...], out: str, as_json: bool, **options: Any) -> None:
    """Train each MODEL with each objective and seed, and evaluate all on the same test data.

    A MODEL is the name of a built-in model (`pvae list`), or a class or function in a file: my_model.py:MyModel.
    Settings may follow its name: vae:prior=vamp:learning_rate=3e-4. They replace those of the flags, and make a row.
    Runs that OUT already holds are not trained again. The report is OUT/index.html.
    """
    from pvae.comparison import compare as compare_models

    specs = {name: chosen_model(ctx, name) for name in _split_models(models)}
    for spec in specs.values():
        spec.check()
    grid = join_grids(options["grid"])
    _refuse_flags_of_grid(ctx, grid)
    comparison = compare_models(
        specs,
        chosen_data(ctx),
        split_list(options["objectives"]),
        seeds=_parse_seeds(options["seeds"]),
        epochs=options["epochs"],
        out=out,
        limit="auto" if options["limit"] is None else options["limit"] or None,
        grid=grid,
        command=shlex.join(["pvae", *ctx.find_root().obj]),
        **{name: options[name] for name in ("particles", "evidence", "baseline", "workers", "budget")},
        **explicit_options(ctx, [name for name in FIT_OPTIONS if name not in ("seed", "epochs")]),
    )
    if as_json:
        mixtures = {"mixtures": comparison.mixtures} if comparison.mixtures else {}
        print_json({"report": comparison.report, "folder": comparison.folder, **comparison.table.to_json(), **mixtures})
    else:
        click.echo(_summary_text(comparison))


def _summary_text(comparison: Any) -> str:
    """Return the table, at most as wide as the terminal, and the paragraphs below it."""
    width = shutil.get_terminal_size((160, 24)).columns if sys.stdout.isatty() else None
    table = comparison.table.to_text(width, terminal=sys.stdout.isatty())
    return "\n\n".join([table, *comparison.summary()])


def _split_models(texts: Iterable[str]) -> list[str]:
    """Return the models of the arguments, of which each may be a list with commas; a number belongs to a setting.

    >>> _split_models(["vae,gmm", "vae:hidden=200,100:latent=2"])
    ['vae', 'gmm', 'vae:hidden=200,100:latent=2']
    """
    models: list[str] = []
    for text in texts:
        for part in split_list(text):
            if models and "=" in models[-1] and _STARTS_WITH_NUMBER.match(part):
                models[-1] += f",{part}"
            else:
                models.append(part)
    return models


def _refuse_flags_of_grid(ctx: click.Context, grid: Iterable[str]) -> None:
    """Raise InputError if a flag gives a value of a setting that the grid varies."""
    for name in explicit_options(ctx, [name for name in grid if name in ctx.params]):
        raise InputError(f"--{name.replace('_', '-')} and --grid both give values of {name}; leave one of them out.")


def _parse_seeds(text: str) -> list[int]:
    """Return the seeds of an option: ``"3"`` means 0, 1, 2; ``"3,5"`` and ``"7,"`` list the seeds themselves."""
    numbers = parse_whole_numbers(text)
    is_count = "," not in text
    if not numbers or min(numbers) < 0 or (is_count and numbers[0] == 0) or len(set(numbers)) < len(numbers):
        raise InputError(
            f"--seeds needs a number of seeds, such as 3, or different seeds, such as 0,1,2; got {text!r}."
        )
    return list(range(numbers[0])) if is_count else numbers
