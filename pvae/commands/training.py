"""``pvae train``: one model, one objective, one run folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from pvae.commands.model_parts import data_of, objective_of, spec_of
from pvae.commands.output import lines, print_json
from pvae.commands.shared_options import (
    FIT,
    config_option,
    data_options,
    fit_options,
    model_options,
    objective_options,
    traceback_option,
)
from pvae.errors import InputError

__all__ = ["default_folder", "train"]


@click.command(short_help="Train a model, and write a run folder.")
@click.argument("model")
@data_options
@objective_options
@model_options
@fit_options()
@click.option("--out", type=click.Path(), default=None, help="Run folder. [default: runs/MODEL-DATA-OBJECTIVE-seedN]")
@click.option("--progress/--no-progress", default=None, help="A bar on a terminal, lines elsewhere; or nothing.")
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

    spec = spec_of(ctx, model)
    objective = objective_of(ctx, spec)
    folder = Path(out) if out else default_folder(model, options["data"], objective.text, options["seed"])
    _check_folder(folder, resume)
    data = data_of(ctx)
    chosen = {name: options[name] for name, *_ in FIT}
    run = fit(spec, data, objective=objective(), out=folder, resume=resume, progress=options["progress"], **chosen)
    if as_json:
        print_json(_record(run))
    else:
        click.echo(lines(_summary(_record(run))))


def default_folder(model: str, data: str, objective: str, seed: int) -> Path:
    """Return the run folder for a training that names none.

    >>> print(default_folder("vae", "digits", "iwae:particles=8", 0))
    runs/vae-digits-iwae_particles=8-seed0
    """
    parts = [re.sub(r"[^\w.=-]+", "_", Path(part).name) for part in (model, data, objective)]
    return Path("runs", "-".join([*parts, f"seed{seed}"]))


def _check_folder(folder: Path, resume: bool) -> None:
    """Refuse an existing folder before anything is read or built."""
    if folder.exists() and not resume and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"{folder} exists already, and was not changed. Continue it with --resume, or name another with --out."
        )


def _sizes(sizes: dict[str, int]) -> str:
    """How many data are in each split."""
    return ", ".join(f"{count} {name}" for name, count in sizes.items() if count)


def _parameters(model: Any) -> int:
    """How many numbers are trained, in modules and in the model's parameter store."""
    from torch import nn

    from pvae.models import named_parameters, scope

    with scope(model):
        return sum(each.numel() for each in named_parameters(model, [model] * isinstance(model, nn.Module)).values())


def _record(run: Any) -> dict[str, Any]:
    """What a training settled and came to, for programs."""
    training = run.config["training"]
    done = [each for each in run.history if "epoch" in each]
    return {
        "run": run.folder,
        "model": run.config["model"].get("name"),
        "parameters": _parameters(run.model),
        "step": run.step,
        "objective": run.config["objective"],
        "data": {name: run.config["data"][name] for name in ("name", "binarise", "sizes", "seed", "checksum", "notes")},
        "training": training,
        "seconds": run.seconds,
        "epochs": len(done),
        "final": done[-1] if done else {},
    }


def _summary(record: dict[str, Any]) -> dict[str, Any]:
    """The same in a few lines, for a person."""
    training, data, final = record["training"], record["data"], record["final"]
    bound, error = final.get("validation_bound"), final.get("validation_error")
    rows = {
        "data": f"{data['name']}: {_sizes(data['sizes'])}; binarise {data['binarise']}, seed {data['seed']}",
        "model": f"{record['model']}, {record['parameters']} parameters",
        "objective": record["objective"],
        "device": f"{training['device']}, {training['precision']}, step {record['step']}",
        "training": f"{record['epochs']} epochs in {record['seconds']:.1f} s",
        "loss": f"{final['loss']:.4f} nats per datum" if final.get("loss") is not None else "none",
        "validation bound": _with_error(bound, error),
        "run": record["run"],
    }
    return {name: text for name, text in rows.items() if text != "none"}


def _with_error(value: float | None, error: float | None) -> str:
    """A value in nats, with its standard error where it has one."""
    if value is None:
        return "none"
    return f"{value:.4f}{'' if error is None else f' ± {error:.4f}'} nats per datum"
