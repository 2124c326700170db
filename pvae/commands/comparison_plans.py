"""A comparison as jobs of a cluster: the plan of the jobs, and one cell of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from pvae.commands.options.chosen_parts import chosen_data, chosen_model
from pvae.commands.options.grid_type import join_grids
from pvae.commands.options.option_groups import FIT_OPTIONS, explicit_options
from pvae.commands.options.option_types import parse_whole_numbers, split_list
from pvae.commands.output import print_status
from pvae.errors import InputError

__all__ = ["EXECUTORS", "comparison_arguments", "run_cell", "write_plan"]

EXECUTORS = ("local", "ray", "slurm")
# Options that a job of the plan does not get: they are those of the command that writes the plan.
_OF_PLAN = ("--plan", "--executor")
_STARTS_WITH_NUMBER = re.compile(r"[+-]?[.]?[0-9]")


def comparison_arguments(ctx: click.Context, models: Iterable[str]) -> dict[str, Any]:
    """Return the arguments of `plan_comparison` that the options choose.

    Args:
        ctx: the context of the command.
        models: the models; each text may be a list with commas.

    Raises:
        InputError: if a model or an option cannot be used.
    """
    options = ctx.params
    specs = {name: chosen_model(ctx, name) for name in _split_models(models)}
    for spec in specs.values():
        spec.check()
    grid = join_grids(options["grid"])
    _refuse_flags_of_grid(ctx, grid)
    return {
        "models": specs,
        "data": chosen_data(ctx),
        "objectives": split_list(options["objectives"]),
        "seeds": _parse_seeds(options["seeds"]),
        "epochs": options["epochs"],
        "out": options["out"],
        "grid": grid,
        "limit": "auto" if options["limit"] is None else options["limit"] or None,
        **{name: options[name] for name in ("particles", "evidence", "baseline", "budget")},
        **explicit_options(ctx, [name for name in FIT_OPTIONS if name not in ("seed", "epochs", "threads")]),
    }


def write_plan(ctx: click.Context, models: Iterable[str]) -> None:
    """Write the command of each cell into the file of ``--plan``, and print the script for ``sbatch``.

    Args:
        ctx: the context of the command.
        models: the models; each text may be a list with commas.

    Raises:
        InputError: if an option cannot be used, or the folder holds something else.
    """
    from pvae.comparison import plan_comparison
    from pvae.comparison.cells.cell_files import check_folder
    from pvae.comparison.processes.resources import CellResources
    from pvae.comparison.processes.slurm_executor import array_script, plan_lines
    from pvae.files import write_text

    options = ctx.params
    _refuse_options(ctx, "--plan", {"executor": ("local", "slurm"), "workers": (None,)})
    cpus, gpus = options["cpus_per_cell"], options["gpus_per_cell"]
    resources = CellResources.choose(1 if cpus is None else cpus, 0 if gpus is None else gpus, fractions=False)
    planned = plan_comparison(**comparison_arguments(ctx, models))
    check_folder(planned.folder, planned.jobs)
    command = [sys.executable, "-m", "pvae", *_without(ctx.find_root().obj, _OF_PLAN)]
    path = Path(options["plan"])
    write_text(path, "\n".join(plan_lines(command, planned.cells)) + "\n")
    count = len(planned.cells)
    click.echo(array_script(path, Path.cwd(), count, resources), nl=False)
    print_status(f"{path} has the commands of {count} cells. The script on standard output is for sbatch.")


def run_cell(ctx: click.Context, models: Iterable[str]) -> None:
    """Run the cell of ``--cell``, and print its result.

    Args:
        ctx: the context of the command.
        models: the models; each text may be a list with commas.

    Raises:
        InputError: if an option cannot be used, or another process runs the cell.
    """
    from pvae.comparison import plan_comparison

    _refuse_options(ctx, "--cell", {"executor": ("local", "slurm"), "workers": (None,), "as_json": (False,)})
    planned = plan_comparison(**comparison_arguments(ctx, models))
    given, cpus = ctx.params["threads"], ctx.params["cpus_per_cell"]
    threads = given if given is not None else 1 if cpus is None else cpus
    outcome = planned.run_cell(ctx.params["cell"], threads=threads)
    print_status(f"{outcome.cell.label} is in {outcome.cell.folder}.")


def _refuse_options(ctx: click.Context, flag: str, possible: dict[str, tuple[Any, ...]]) -> None:
    """Raise InputError if an option has a value that cannot be used together with a flag."""
    for name, values in possible.items():
        if ctx.params[name] not in values:
            option = "--json" if name == "as_json" else f"--{name}"
            raise InputError(
                f"{flag} and {option} cannot be used together; got {option} {ctx.params[name]}. Leave one out."
            )


def _without(arguments: list[str], flags: tuple[str, ...]) -> list[str]:
    """Return the arguments of a command without some options that take a value."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in flags:
            skip = True
        elif not argument.startswith(tuple(f"{flag}=" for flag in flags)):
            kept.append(argument)
    return kept


def _split_models(texts: Iterable[str]) -> list[str]:
    """Split arguments at commas into models. A comma before a number belongs to a setting.

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
