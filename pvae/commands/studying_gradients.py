"""``pvae gradients``: how good the gradients of objectives are for a model, and which estimator suits it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pvae.commands.model_parts import data_of, spec_of
from pvae.commands.output import print_json, say
from pvae.commands.shared_options import data_options, given, model_options, traceback_option
from pvae.errors import InputError

if TYPE_CHECKING:
    from pvae.data import Splits
    from pvae.evaluate import GradientStudy

__all__ = ["gradients"]


@click.command(short_help="Study the gradients of objectives: bias, variance, signal-to-noise.")
@click.argument("model", metavar="MODEL|RUN")
@data_options
@click.option(
    "--objectives",
    default=None,
    help="Names (`pvae list`) with settings, separated by commas. [default: elbo,iwae:particles=8]",
)
@model_options
@click.option("--draws", type=click.IntRange(min=2), default=1000, show_default=True, help="Of each gradient.")
@click.option("--batch-size", type=click.IntRange(min=1), default=100, show_default=True, help="The first data.")
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default="train", show_default=True)
@click.option("--checkpoint", type=click.Choice(["best", "last"]), default="best", show_default=True, help="Of a RUN.")
@click.option("--reference", default=None, help="Unbiased objectives to sample where there is no exact gradient: dreg.")
@click.option("--reference-draws", type=click.IntRange(min=2), default=None, help="[default: 4 times --draws]")
@click.option("--particles", default=None, help="Numbers of particles for the signal-to-noise figure: 1,4,16,64.")
@click.option("--search", is_flag=True, help="Try every gradient strategy of every guide site, and rank them.")
@click.option("--most", type=click.IntRange(min=1), default=64, show_default=True, help="Most assignments of --search.")
@click.option("--step", type=click.Choice(["auto", "eager"]), default="auto", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the parameters and draws.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1.")
@click.option(
    "--out", type=click.Path(), default=None, help="Folder for gradients.json, and for snr-phi.png of --particles."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
@traceback_option
@click.pass_context
def gradients(ctx: click.Context, /, model: str, out: str | None, as_json: bool, **options: Any) -> None:
    """Study the gradients of objectives at the parameters of MODEL, or of the run in the folder RUN.

    For theta and phi apart: bias against the exact gradient, variance, signal-to-noise, cosine, time, and variance
    times time, by which --search ranks every way to take the guide's gradient. Nothing is trained.
    """
    texts, counts = _texts(options), _counts(options["particles"])
    if counts and options["search"]:
        raise InputError("--particles draws a figure over particles, and --search ranks strategies: ask for one.")
    folder = _folder(out)
    latent, splits = _model_and_data(ctx, model)
    where = {
        "draws": options["draws"],
        "limit": options["batch_size"],
        "progress": say,
        "reference": _references(options["reference"], counts),
        **{name: options[name] for name in ("split", "seed", "reference_draws", "step")},
        "device": None if options["device"] == "auto" and _is_run(model) else _device(options["device"]),
    }
    study = _studied(latent, splits, texts, counts, options, where)
    figures = _figures(study, texts, counts, folder)
    record = {"model": model, "data_set": splits.summary(), **study.to_json(), **figures}
    if folder is not None:
        _write(folder, record)
    if as_json:
        print_json(record)
    else:
        click.echo(study.table(ranked=options["search"]))
        for name, path in figures.items():
            click.echo(f"\n{name}: {path}")


def _texts(options: dict[str, Any]) -> list[str]:
    from pvae.objectives import make_objective

    default = "iwae:particles=2" if options["search"] else "elbo,iwae:particles=8"
    texts = [each.strip() for each in (options["objectives"] or default).split(",") if each.strip()]
    if not texts:
        raise InputError("--objectives needs at least one name, such as iwae:particles=8.")
    for each in texts:
        make_objective(each)
    return texts


def _references(text: str | None, counts: list[int]) -> list[str] | None:
    names = [each.strip() for each in (text or "").split(",") if each.strip()]
    return [_with_particles(each, count) for each in names for count in counts or [0]] or None


def _counts(text: str | None) -> list[int]:
    if text is None:
        return []
    try:
        counts = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1 or len(set(counts)) < len(counts):
        raise InputError(f"--particles takes numbers of particles, such as 1,4,16,64; got {text!r}.")
    return sorted(counts)


def _folder(out: str | None) -> Path | None:
    """The folder to write to, refused before anything is computed where it cannot be one."""
    if out is None:
        return None
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out names a folder; {out} is a file.")
    return folder


def _is_run(model: str) -> bool:
    return Path(model).is_dir()


def _model_and_data(ctx: click.Context, model: str) -> tuple[Any, Splits]:
    """The run, or a fresh model as a training would start with; and the data."""
    from pvae.commands.runs import data_of_run
    from pvae.models import scores_bits
    from pvae.programs.model_traits import traits_of
    from pvae.train import open_run
    from pvae.train.devices import isolated

    if _is_run(model):
        run = open_run(model, checkpoint=ctx.params["checkpoint"])
        chosen = given(ctx, ["data", "data_folder"])
        return run, data_of_run(run, chosen.get("data"), chosen.get("data_folder"))
    spec, splits = spec_of(ctx, model), data_of(ctx)
    with isolated(ctx.params["seed"]):
        latent = spec.build(splits)
        splits = splits.for_likelihood(scores_bits(latent, splits.train.take(slice(0, 4))))
        initialise_from = traits_of(latent).initialise_from
        if initialise_from is not None:
            initialise_from(splits.train)
    return latent, splits


def _device(name: str) -> Any:
    from pvae.train.devices import resolve

    return resolve(name)


def _studied(
    latent: Any, splits: Splits, texts: list[str], counts: list[int], options: dict[str, Any], where: dict[str, Any]
) -> GradientStudy:
    from pvae.evaluate import gradients as studied
    from pvae.evaluate import search_gradients

    if options["search"]:
        return search_gradients(latent, splits, texts, most=options["most"], **where)
    names = [_with_particles(each, count) for each in texts for count in counts] if counts else texts
    return studied(latent, splits, names, **where)


def _with_particles(text: str, count: int) -> str:
    """The name with so many particles; 0 leaves it as it is."""
    if not count:
        return text
    kept = [part for part in text.split(":") if not part.startswith("particles=")]
    return ":".join([*kept, f"particles={count}"])


def _figures(study: GradientStudy, texts: list[str], counts: list[int], folder: Path | None) -> dict[str, Path]:
    """Write a figure for each group of parameters; return their files."""
    if len(counts) < 2 or folder is None:
        return {}
    from pvae import plots

    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for group in study.groups():
        curves = {_label(study, each, counts): _ratios(study, each, counts, group) for each in texts}
        figure = plots.signal_to_noise(
            counts,
            {label: [ratio.value for ratio in ratios] for label, ratios in curves.items()},
            {label: [ratio.error for ratio in ratios] for label, ratios in curves.items()},
            ylabel=f"signal-to-noise, gradient of {group}",
        )
        found[f"snr of {group}"] = folder / f"snr-{group}.png"
        figure.savefig(found[f"snr of {group}"])
    return found


def _ratios(study: GradientStudy, text: str, counts: list[int], group: str) -> list[Any]:
    return [study.of(_with_particles(text, count), group).snr_whole for count in counts]


def _label(study: GradientStudy, text: str, counts: list[int]) -> str:
    """The name without its particles, marked where it is biased with any number of them."""
    names = {_with_particles(text, count) for count in counts}
    marked = any(row.mark() for row in study.rows if row.objective in names)
    kept = ":".join(part for part in text.split(":") if not part.startswith("particles="))
    return f"{kept} (biased)" if marked else kept


def _write(folder: Path, record: dict[str, Any]) -> None:
    from pvae.commands.output import json_text

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gradients.json").write_text(json_text(record) + "\n")
