"""``pvae evaluate``: how good a run is, with standard errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pvae.commands.output import lines, print_json, say
from pvae.commands.shared_options import traceback_option
from pvae.errors import InputError

__all__ = ["evaluate"]


@click.command(short_help="Judge a run, with standard errors.")
@click.argument("run")
@click.option("--data", default=None, help="Other data than the run's own: a name or a file.")
@click.option("--data-folder", type=click.Path(), default=None, help="Folder with data sets, before $PVAE_DATA.")
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default="test", show_default=True)
@click.option(
    "--method",
    type=click.Choice(["is", "elbo", "accuracy"]),
    default="is",
    show_default=True,
    help="is: importance sampling, with all diagnostics; elbo: the evidence lower bound alone; accuracy: of labels.",
)
@click.option("--particles", type=click.IntRange(min=1), default=1000, show_default=True, help="Draws per datum.")
@click.option("--limit", type=click.IntRange(min=1), default=None, help="Only the first data of the split.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draws.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1.")
@click.option("--checkpoint", type=click.Choice(["best", "last"]), default="best", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
@click.option("--arviz", type=click.Path(), default=None, help="Also write draws to this netCDF file, for ArviZ.")
@traceback_option
def evaluate(run: str, data: str | None, arviz: str | None, as_json: bool, **options: Any) -> None:
    """Judge the run in the folder RUN on data that it was not trained on, in nats per datum."""
    from pvae.commands.runs import data_of_run
    from pvae.train import open_run
    from pvae.train.devices import resolve

    if arviz is not None and not Path(arviz).resolve().parent.is_dir():
        raise InputError(f"--arviz {arviz}: there is no folder {Path(arviz).resolve().parent}.")
    device = resolve(options["device"])
    opened = open_run(run, checkpoint=options["checkpoint"])
    splits = data_of_run(opened, data, options.pop("data_folder"))
    where = {name: options[name] for name in ("split", "limit", "seed")}
    where["device"] = device
    drawn = "" if options["method"] == "accuracy" else f", {options['particles']} particles"
    say(f"Judging {run} on {splits.name}, {options['split']} split{drawn} ...")
    found = _judged(options["method"], opened, splits, options["particles"], where)
    if arviz is not None:
        found["arviz"] = _written(arviz, opened, splits, where)
    if as_json:
        print_json({"run": run, "data_set": splits.summary(), **options, **found})
    else:
        click.echo(lines(_readable(found)))


def _judged(method: str, run: Any, splits: Any, particles: int, where: dict[str, Any]) -> dict[str, Any]:
    from pvae.evaluate import accuracy, elbo, judge

    if method == "accuracy":
        return {"accuracy": accuracy(run, splits, **where)}
    if method == "elbo":
        return {"elbo": elbo(run, splits, particles, **where)}
    judgement = judge(run, splits, particles, **where)
    return {**judgement.to_json(), **{name: getattr(judgement, name) for name in ("log_evidence", "elbo", "gap")}}


def _written(path: str, run: Any, splits: Any, where: dict[str, Any]) -> str:
    from pvae.evaluate import save, to_arviz

    tree = to_arviz(run, splits, **{**where, "limit": min(where["limit"] or 100, 100)})
    return str(save(tree, path))


def _readable(found: dict[str, Any]) -> dict[str, Any]:
    """What a person reads: estimates and single values, named in words."""
    plain = {name: value for name, value in found.items() if not isinstance(value, dict | list)}
    if found.get("ess", {}).get("median") is not None:
        median, low = found["ess"]["median"], found["ess"]["q05"]
        khat = found["khat"]
        plain["effective sample size"] = f"{median:.1f} of {found['particles']} (median; 5% quantile {low:.1f})"
        plain["Pareto k-hat"] = (
            f"{khat['median']:.2f} (median); {khat['unreliable']:.1%} of the data above {khat['good']:.2f}, too high"
            if khat["median"] is not None
            else "unknown: it takes more particles"
        )
    if "seconds" in plain:
        plain["seconds"] = f"{plain['seconds']:.1f}"
    notes = {f"note {number}": note for number, note in enumerate(found.get("notes", ()), 1)}
    return {name.replace("_", " "): value for name, value in (plain | notes).items()}
