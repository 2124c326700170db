"""``pvae compare``: train models with several objectives and seeds, and write a table and a report."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable
from typing import Any

import click

from pvae.commands.comparison_plans import EXECUTORS, comparison_arguments, run_cell, write_plan
from pvae.commands.options.config_files import config_option
from pvae.commands.options.grid_type import GridType
from pvae.commands.options.help_sections import SectionedCommand, make_option
from pvae.commands.options.known_names import ModelType, NamesType
from pvae.commands.options.option_groups import (
    data_options,
    explicit_options,
    fit_options,
    json_option,
    model_options,
    traceback_option,
)
from pvae.commands.output import print_json
from pvae.commands.quick_imports import import_quickly
from pvae.errors import InputError
from pvae.names import printable

__all__ = ["compare"]

OBJECTIVES_HELP = "Names of objectives (`pvae list`) with settings, separated by commas."
SEEDS_HELP = "Number of seeds (0, 1, ...), or the seeds themselves, such as 3,5,8."
BASELINE_HELP = "Objective that is listed first and compared with the others. [default: the first of --objectives]"
LIMIT_HELP = (
    "Number of test data to evaluate on, drawn at random with seed 0; 0 means all of them. [default: 1000, and 100 "
    "with annealing]"
)
EVIDENCE_HELP = (
    "Method of estimating the log evidence. is: importance sampling. ais: annealed importance sampling, a lower "
    "estimate. "
    "sandwich: from both sides. Settings follow colons: sandwich:temperatures=200:chains=8:start=guide."
)
BUDGET_HELP = "Equal budget for each training: a time, such as 60s or 5min, or a number such as 2M-evaluations."
GRID_HELP = (
    "Values of a setting of the models or of the training, such as learning_rate=1e-3,3e-4: each MODEL has a row for "
    "each value. With semicolons a value may have commas: 'hidden=200,200;100'. With several --grid, each combination "
    "has a row."
)
EXECUTOR_HELP = (
    "Method of running the cells. local: worker processes on this machine. ray: tasks on a Ray cluster. slurm: jobs of "
    "a "
    "plan; this command then collects their results."
)
PLAN_HELP = (
    "Write the command of each cell into this file, one per line, and print a script for sbatch. No cell is run."
)
CELL_HELP = "Run only the cell with this number, counted from 1. The jobs of a plan use this option."
CPUS_HELP = "Number of CPUs and threads of a cell, with --executor ray, --plan and --cell. [default: 1]"
GPUS_HELP = "Number of GPUs of a cell, with --executor ray and --plan. [default: 0]"
WORKERS_HELP = "Number of worker processes; 0 runs everything in this process. [default: by the number of CPU cores]"


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
@make_option("Cluster", "--executor", click.Choice(EXECUTORS), "local", EXECUTOR_HELP)
@make_option("Cluster", "--plan", click.Path(), None, PLAN_HELP)
@make_option("Cluster", "--cell", int, None, CELL_HELP)
@make_option("Cluster", "--cpus-per-cell", int, None, CPUS_HELP)
@make_option("Cluster", "--gpus-per-cell", float, None, GPUS_HELP)
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
    Runs that are already in OUT are not trained again. The report is OUT/index.html.

    On a cluster with Slurm, --plan jobs.txt > jobs.sh prepares an array of jobs, and the same command with --executor
    slurm instead of --plan collects the results.
    """
    if options["cell"] is not None and options["plan"] is not None:
        raise InputError(
            "--cell and --plan cannot be used together: --plan writes commands that contain --cell. Leave one out."
        )
    if options["cell"] is not None:
        run_cell(ctx, models)
    elif options["plan"] is not None:
        write_plan(ctx, models)
    else:
        _compare_all(ctx, models, as_json=as_json)


def _compare_all(ctx: click.Context, models: Iterable[str], *, as_json: bool) -> None:
    """Run all cells, or collect their results, and print the table."""
    import_quickly("torch", "pyro", "pvae.comparison")
    from pvae.comparison import compare as compare_models

    options = ctx.params
    names = ("executor", "workers", "cpus_per_cell", "gpus_per_cell")
    comparison = compare_models(
        **comparison_arguments(ctx, models),
        **{name: options[name] for name in names},
        **explicit_options(ctx, ["threads"]),
        command=shlex.join(["pvae", *ctx.find_root().obj]),
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
    return "\n\n".join([table, *map(printable, comparison.summary())])
