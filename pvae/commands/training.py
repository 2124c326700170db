"""``pvae train``: train one model with one objective, and write a run folder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pvae.commands.options.chosen_parts import chosen_data, chosen_model, chosen_objective
from pvae.commands.options.config_files import config_option
from pvae.commands.options.help_sections import SectionedCommand, make_option
from pvae.commands.options.known_names import ModelType
from pvae.commands.options.option_groups import (
    FIT_OPTIONS,
    data_options,
    fit_options,
    json_option,
    model_options,
    objective_options,
    traceback_option,
)
from pvae.commands.output import format_rows, print_json
from pvae.commands.quick_imports import import_quickly
from pvae.errors import InputError
from pvae.logs import is_hidden

__all__ = ["default_folder", "train"]

CHANGES_HELP = (
    "Parts that may differ from the resumed run, separated by commas: model (its settings and code), "
    "objective, data, training (the options), versions."
)
PROGRESS_HELP = "Show progress on standard error: a bar on a terminal, else one line per epoch. [default: show]"


@click.command(cls=SectionedCommand, short_help="Train a model, and write a run folder.")
@click.argument("model", type=ModelType())
@data_options
@objective_options
@model_options
@fit_options()
@make_option("Run", "--out", click.Path(), None, "Run folder. [default: runs/MODEL-DATA-OBJECTIVE-seedN]")
@click.option("--resume", is_flag=True, help="Resume the run in the run folder.")
@make_option("Run", "--allow-changed", str, "", CHANGES_HELP)
@click.option("--progress/--no-progress", default=None, help=PROGRESS_HELP)
@json_option
@config_option
@traceback_option
@click.pass_context
def train(ctx: click.Context, /, model: str, out: str | None, resume: bool, as_json: bool, **options: Any) -> None:
    """Train MODEL, and write a run folder.

    MODEL is the name of a built-in model (`pvae list`), or a class or function in a file: my_model.py:MyModel.
    """
    import_quickly("torch", "pyro", "pvae.train.trainer")
    from pvae.train.distributed.joined_processes import joined_processes

    with joined_processes(options["device"]) as is_first:
        run = _fit(ctx, model, out, resume, options, is_first=is_first)
    if not is_first:
        return
    record = _run_record(run)
    if as_json:
        print_json(record)
    else:
        click.echo(format_rows(_text_rows(record)))
        if not is_hidden():
            click.echo("\n".join(["", "Next:", *(f"  {command}" for command in _next_commands(run, ctx))]))


def _fit(
    ctx: click.Context, model: str, out: str | None, resume: bool, options: dict[str, Any], *, is_first: bool
) -> Any:
    """Return the run of a training with the arguments of the command."""
    from pvae.train import fit

    spec = chosen_model(ctx, model)
    objective = chosen_objective(ctx, spec)
    folder = Path(out) if out else default_folder(model, options["data"], objective.text, options["seed"])
    if is_first:
        _check_folder(folder, resume)
    splits = chosen_data(ctx)
    training = {name: options[name] for name in FIT_OPTIONS}
    import_quickly("torch._dynamo")  # the optimisers of torch need it
    return fit(
        spec,
        splits,
        objective=objective(),
        out=folder,
        resume=resume,
        progress=options["progress"],
        allow_changed=options["allow_changed"],
        **training,
    )


def default_folder(model: str, data: str, objective: str, seed: int) -> Path:
    """Return the run folder of a training without ``--out``.

    >>> print(default_folder("vae", "digits", "iwae:particles=8", 0))
    runs/vae-digits-iwae_particles=8-seed0
    """
    parts = [re.sub(r"[^\w.=-]+", "_", Path(part).name) for part in (model, data, objective)]
    return Path("runs", "-".join([*parts, f"seed{seed}"]))


def _check_folder(folder: Path, resume: bool) -> None:
    """Raise InputError for a folder in use before anything is read or built."""
    from pvae.locks import is_unused

    if folder.exists() and not resume and (not folder.is_dir() or not is_unused(folder)):
        raise InputError(
            f"{folder} exists already, and was not changed. Resume its run with --resume, or name another folder "
            "with --out."
        )


def _count_parameters(model: Any) -> int:
    """Return the number of scalar parameters in modules and in the model's parameter store."""
    from torch import nn

    from pvae.models import named_parameters, scope

    with scope(model):
        modules = [model] if isinstance(model, nn.Module) else []
        return sum(parameter.numel() for parameter in named_parameters(model, modules).values())


def _run_record(run: Any) -> dict[str, Any]:
    """Return the settings and results of a training, as the JSON output holds them."""
    data = run.config["data"]
    epochs = [record for record in run.history if "epoch" in record]
    return {
        "run": run.folder,
        "model": run.config["model"].get("name"),
        "parameters": _count_parameters(run.model),
        "step": run.step,
        "objective": run.config["objective"],
        "biased": run.config.get("biased", ""),
        "data": {name: data[name] for name in ("name", "binarise", "sizes", "seed", "checksum", "notes")},
        "training": run.config["training"],
        "seconds": run.seconds,
        "epochs": len(epochs),
        "final": epochs[-1] if epochs else {},
    }


def _text_rows(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a training as a few rows of text."""
    training, data, final = record["training"], record["data"], record["final"]
    sizes = ", ".join(f"{count} {name}" for name, count in data["sizes"].items() if count)
    rows = {
        "data": f"{data['name']}: {sizes}; binarise {data['binarise']}, seed {data['seed']}",
        "model": f"{record['model']}, {record['parameters']} parameters",
        "objective": record["objective"],
        "gradient": f"biased: {record['biased']}" if record["biased"] else None,
        "device": f"{training['device']}, {training['precision']}, step {record['step']}",
        "training": f"{record['epochs']} epoch{'s' if record['epochs'] != 1 else ''} in {record['seconds']:.1f} s",
        "loss": _nats_text(final.get("loss")),
        "validation bound": _nats_text(final.get("validation_bound"), final.get("validation_error")),
        "run": record["run"],
    }
    return {name: value for name, value in rows.items() if value is not None}


def _next_commands(run: Any, ctx: click.Context) -> list[str]:
    """Return commands that evaluate the run, draw a figure of it, and continue it for as many epochs again.

    Samples are drawn in place of an evaluation if the objective trains no guide, or no density of x.
    """
    from pvae.objectives import no_density_by, untrained_by

    folder, model = str(run.folder), ctx.params["model"]
    own_code = ["--model", model] if ":" in model else []
    out = ["--out", folder] if ctx.params["out"] is None else []
    longer = ["pvae", *_without_epochs(ctx.find_root().obj), *out]
    objective = str(run.config.get("objective", ""))
    has_evidence = not objective or not (no_density_by(objective) or "phi" in untrained_by(objective))
    judge = ["evaluate", folder] if has_evidence else ["show", folder, "--what", "samples"]
    commands = [
        ["pvae", *judge, *own_code],
        ["pvae", "show", folder, "--what", "history", *own_code],
        [*longer, "--resume", "--epochs", str(2 * run.config["training"]["epochs"])],
    ]
    return [shlex.join(command) for command in commands]


def _without_epochs(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of the command without ``--resume`` and ``--epochs``."""
    kept = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if argument not in ("--resume", "--epochs") and before != "--epochs" and not argument.startswith("--epochs="):
            kept.append(argument)
    return kept


def _nats_text(value: float | None, error: float | None = None) -> str | None:
    """Return a value in nats per datum, with its standard error if there is one; None if there is no value."""
    if value is None:
        return None
    return f"{value:.4f}{'' if error is None else f' ± {error:.4f}'} nats per datum"
