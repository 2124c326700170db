"""``pvae gradients``: measure the gradients of objectives for a model, or rank the gradient strategies of its guide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pvae.commands.gradient_figures import with_particles, write_figures
from pvae.commands.options.chosen_parts import build_model_and_data, chosen_data, chosen_model
from pvae.commands.options.help_sections import SectionedCommand, make_option
from pvae.commands.options.known_names import ModelType, NamesType
from pvae.commands.options.option_groups import (
    checkpoint_option,
    data_options,
    device_option,
    explicit_options,
    json_option,
    model_options,
    split_option,
    traceback_option,
    trust_option,
)
from pvae.commands.options.option_types import parse_whole_numbers, split_list
from pvae.commands.output import json_text, print_json, print_status, print_text
from pvae.errors import InputError
from pvae.files import write_text

if TYPE_CHECKING:
    from pvae.data import Splits
    from pvae.evaluate import GradientStudy

__all__ = ["gradients"]

OBJECTIVES_HELP = (
    "Names of objectives (`pvae list`) with settings, separated by commas. "
    "[default: elbo,iwae:particles=8; with --search: iwae:particles=2]"
)
DRAWS_HELP = "Number of gradient draws of each objective."
REFERENCE_HELP = (
    "Unbiased objectives, such as dreg. Their mean gradient replaces the exact gradient if it cannot be computed."
)
REFERENCE_DRAWS_HELP = "Number of gradient draws of a reference. [default: 4 times --draws]"
PARTICLES_HELP = (
    "Numbers of particles, such as 1,4,16,64: study each objective with each number. With --out, a figure shows the "
    "signal-to-noise ratio for each number."
)
SEARCH_HELP = "Try the gradient strategies of all sites of the guide, and rank them by variance times time."
MOST_HELP = "Largest number of combinations of strategies that --search tries."
STEP_HELP = (
    "Method of computing a gradient; the numbers are the same. auto traces a step once and replays it if possible."
)
OUT_HELP = "Folder for gradients.json and the figures. [default: write nothing]"


@click.command(cls=SectionedCommand, short_help="Measure bias, variance and signal-to-noise of gradients.")
@click.argument("model", metavar="MODEL|RUN", type=ModelType())
@data_options
@split_option("train")
@make_option(
    "Data", "--batch-size", click.IntRange(min=1), 100, "Number of data in the batch, drawn at random by --seed."
)
@make_option("Study", "--objectives", NamesType("objectives"), None, OBJECTIVES_HELP)
@make_option("Study", "--draws", click.IntRange(min=2), 1000, DRAWS_HELP)
@make_option("Study", "--reference", str, None, REFERENCE_HELP)
@make_option("Study", "--reference-draws", click.IntRange(min=2), None, REFERENCE_DRAWS_HELP)
@make_option("Study", "--particles", str, None, PARTICLES_HELP)
@make_option("Study", "--search", bool, False, SEARCH_HELP, is_flag=True)
@make_option("Study", "--most", click.IntRange(min=1), 64, MOST_HELP)
@checkpoint_option
@trust_option
@model_options
@make_option("Computation", "--step", click.Choice(["auto", "eager"]), "auto", STEP_HELP)
@make_option("Computation", "--seed", int, 0, "Seed of the parameters and draws.")
@device_option
@click.option("--out", type=click.Path(), default=None, help=OUT_HELP)
@json_option
@traceback_option
@click.pass_context
def gradients(ctx: click.Context, /, model: str, out: str | None, as_json: bool, **options: Any) -> None:
    """Measure the gradients of objectives at the initial parameters of MODEL, or at the parameters of the run RUN.

    MODEL is the name of a built-in model (`pvae list`), or a class or function in a file: my_model.py:MyModel. The
    table shows bias against the exact gradient, variance, signal-to-noise ratio, cosine, time, and variance times
    time, for theta (the parameters of the model) and phi (the parameters of the guide). Nothing is trained.
    """
    objectives, counts = _parse_objectives(options), _parse_counts(options["particles"])
    if counts and options["search"]:
        raise InputError("--particles and --search cannot be combined; use one of them.")
    folder = _check_folder(out)
    latent_model, splits = _load_model_and_data(ctx, model)
    study = _run_study(latent_model, splits, objectives, counts, options, _study_settings(model, options, counts))
    figures = {} if folder is None else write_figures(study, objectives, counts, folder)
    record = {"model": model, "data_set": splits.summary(), **study.to_json(), **figures}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "gradients.json", json_text(record) + "\n")
    if as_json:
        print_json(record)
    else:
        print_text(study.table(ranked=options["search"]))
        for name, path in figures.items():
            print_text(f"\n{name}: {path}")


def _parse_objectives(options: dict[str, Any]) -> list[str]:
    """Return the names of objectives with their settings, after checking that each can be made."""
    from pvae.objectives import make_objective

    default = "iwae:particles=2" if options["search"] else "elbo,iwae:particles=8"
    objectives = split_list(options["objectives"] or default)
    if not objectives:
        raise InputError("--objectives needs at least one name, such as iwae:particles=8.")
    for objective in objectives:
        make_objective(objective)
    return objectives


def _parse_counts(text: str | None) -> list[int]:
    """Return the numbers of particles in ascending order; an empty list without ``--particles``."""
    if text is None:
        return []
    counts = parse_whole_numbers(text)
    if not counts or min(counts) < 1 or len(set(counts)) < len(counts):
        raise InputError(f"--particles needs different numbers of particles, such as 1,4,16,64; got {text!r}.")
    return sorted(counts)


def _check_folder(out: str | None) -> Path | None:
    """Return the folder to write to; raise InputError for a file before anything is computed."""
    if out is None:
        return None
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out needs a folder, and {out} is a file; name another path.")
    return folder


def _load_model_and_data(ctx: click.Context, model: str) -> tuple[Any, Splits]:
    """Return the run, or a model with its initial parameters; and the data."""
    from pvae.commands.runs import data_of_run, open_named_run
    from pvae.programs.model_traits import traits_of
    from pvae.train.devices import isolated

    if Path(model).is_dir():
        run = open_named_run(model, ctx.params["checkpoint"], trust=ctx.params["trust"])
        options = explicit_options(ctx, ["data", "data_folder"])
        return run, data_of_run(run, options.get("data"), options.get("data_folder"))
    spec, splits = chosen_model(ctx, model), chosen_data(ctx)
    with isolated(ctx.params["seed"]):
        latent_model, splits = build_model_and_data(spec, splits)
        initialise_from = traits_of(latent_model).initialise_from
        if initialise_from is not None:
            initialise_from(splits.train)
    return latent_model, splits


def _study_settings(model: str, options: dict[str, Any], counts: list[int]) -> dict[str, Any]:
    """Return the settings that `evaluate.gradients` and `evaluate.search_gradients` share."""
    from pvae.train.devices import resolve

    references = split_list(options["reference"] or "")
    if counts:
        references = [with_particles(reference, count) for reference in references for count in counts]
    # A run stays on the device that it was opened on unless the user names one.
    keep_device = options["device"] == "auto" and Path(model).is_dir()
    return {
        "draws": options["draws"],
        "limit": options["batch_size"],
        "progress": print_status,
        "reference": references or None,
        "device": None if keep_device else resolve(options["device"]),
        **{name: options[name] for name in ("split", "seed", "reference_draws", "step")},
    }


def _run_study(
    latent_model: Any,
    splits: Splits,
    objectives: list[str],
    counts: list[int],
    options: dict[str, Any],
    settings: dict[str, Any],
) -> GradientStudy:
    from pvae.evaluate import gradients as study_gradients
    from pvae.evaluate import search_gradients

    if options["search"]:
        return search_gradients(latent_model, splits, objectives, most=options["most"], **settings)
    if counts:
        objectives = [with_particles(objective, count) for objective in objectives for count in counts]
    return study_gradients(latent_model, splits, objectives, **settings)
