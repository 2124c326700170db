"""``pvae train``: one model, one objective, one run folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from pvae.commands.options import (
    FIT,
    config_option,
    data_options,
    fit_options,
    model_options,
    objective_options,
    traceback_option,
)
from pvae.commands.output import lines, print_json
from pvae.commands.parts import data_of, objective_of, spec_of
from pvae.errors import InputError

__all__ = ["default_folder", "train"]


@click.command(short_help="Train a model, and write a run folder.")
@click.argument("model")
@data_options
@objective_options
@model_options
@fit_options()
@click.option("--out", type=click.Path(), default=None, help="Run folder. [default: runs/MODEL-DATA-OBJECTIVE-seedN]")
@click.option("--resume", is_flag=True, help="Continue the run in the folder.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
@config_option
@traceback_option
@click.pass_context
def train(ctx: click.Context, /, model: str, out: str | None, resume: bool, as_json: bool, **options: Any) -> None:
    """Train MODEL, and write a run folder.

    MODEL is a built-in name (vae), or a class or function of your own: my_model.py:MyModel.
    """
    from pvae.train import fit

    spec, objective = spec_of(ctx, model), objective_of(ctx)
    folder = Path(out) if out else default_folder(model, options["data"], objective.text, options["seed"])
    _check_folder(folder, resume)
    data = data_of(ctx)
    run = fit(spec, data, objective=objective, out=folder, resume=resume, **{name: options[name] for name, *_ in FIT})
    if as_json:
        print_json(_record(run, model, objective.text))
    else:
        click.echo(lines(_summary(run)))


def default_folder(model: str, data: str, objective: str, seed: int) -> Path:
    """Return the run folder for a training that names none, such as ``runs/vae-digits-iwae_particles=8-seed0``."""
    parts = [re.sub(r"[^\w.=-]+", "_", Path(part).name) for part in (model, data, objective)]
    return Path("runs", "-".join([*parts, f"seed{seed}"]))


def _check_folder(folder: Path, resume: bool) -> None:
    """Refuse an existing folder before anything is read or built."""
    if folder.exists() and not resume and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"{folder} exists already. Continue it with --resume, or name another folder with --out; nothing was changed."
        )
