"""``pvae runs``: list the runs of a folder with their state and their score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pvae.commands.options.help_sections import SectionedCommand
from pvae.commands.options.option_groups import json_option, traceback_option
from pvae.commands.output import format_table, print_json, print_status
from pvae.errors import InputError
from pvae.names import short_label
from pvae.outside_files import walk_files

__all__ = ["runs_"]

HEADER = ("run", "model", "objective", "data", "state", "epochs", "validation bound")


@click.command("runs", cls=SectionedCommand, short_help="List the runs of a folder.")
@click.argument("folder", type=click.Path(), default="runs")
@json_option
@traceback_option
def runs_(folder: str, as_json: bool) -> None:
    """List the runs in FOLDER and in its subfolders, with their state and their score. The default FOLDER is runs.

    A run is finished, or training (a process writes to it now), or stopped (pvae train --resume continues it), or
    damaged; or its prior was fitted to its codes after the training. The validation bound is the best of the run, in
    nats per datum; a run with a fitted prior has no bound.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder} is not a folder. Name the folder that holds the runs, such as runs.")
    paths = sorted(path for path in walk_files(Path(folder)) if path.name == "config.toml")
    found = [_describe(path.parent) for path in paths]
    if as_json:
        print_json({"runs": found})
        return
    if not found:
        print_status(f"{folder} holds no run.")
        return
    click.echo(format_table(HEADER, [_cells(record) for record in found]))


def _describe(folder: Path) -> dict[str, Any]:
    """Return the settings, the state and the score of a run. For a damaged run, the state says what is damaged."""
    from pvae.locks import is_written_now
    from pvae.train.run import read_config

    try:
        config = read_config(folder)
        model = config["model"]
        record = {
            "model": model.get("name", model["class"]),
            "objective": config["objective"],
            "data": config["data"]["name"],
            "seed": config["training"].get("seed"),
            "epochs": config["training"]["epochs"],
        }
        record |= _progress(folder)
        if "prior" in config:
            record["model"] += f", {config['prior']['kind']} prior of its codes"
        if "fitted" in config.get("prior", {}):  # the recorded bounds belong to the prior before the fit
            record |= {"state": "prior fitted", "validation_bound": None, "validation_error": None}
    except InputError as error:
        return {"run": str(folder), "state": "damaged", "reason": str(error)}
    if is_written_now(folder):
        record["state"] = "training"
    return {"run": str(folder), **record}


def _progress(folder: Path) -> dict[str, Any]:
    """Return the state, the number of completed epochs, and the best validation bound with its standard error."""
    from pvae.train.checkpoint import read_state
    from pvae.train.history import read_history

    last = next((folder / name for name in ("last", "last.previous") if (folder / name).is_dir()), None)
    state = read_state(last) if last else None
    reason = state["finished"] if state else ""
    epochs = [record for record in read_history(folder / "metrics.jsonl", state) if "epoch" in record]
    scored = [record for record in epochs if record.get("validation_bound") is not None]
    best = max(scored, key=lambda record: record["validation_bound"], default={})
    return {
        "state": "finished" if reason else "stopped",
        "reason": reason,
        "completed_epochs": max((record["epoch"] for record in epochs), default=0),
        "validation_bound": best.get("validation_bound"),
        "validation_error": best.get("validation_error"),
        "validation_of": best.get("validation_of", "bound"),
    }


def _cells(record: dict[str, Any]) -> list[str]:
    """Return the cells of a row; those of a damaged run are empty."""
    if record["state"] == "damaged":
        return [record["run"], "", "", "", "damaged", "", ""]
    bound, error = record["validation_bound"], record["validation_error"]
    score = "" if bound is None else f"{bound:.2f}" if error is None else f"{bound:.2f} ± {error:.2f}"
    if bound is not None and record.get("validation_of") == "objective":
        score = f"no bound; objective {score}"
    epochs = f"{record['completed_epochs']} of {record['epochs']}"
    names = [short_label(record[name]) for name in ("model", "objective", "data")]
    return [record["run"], *names, record["state"], epochs, score]
