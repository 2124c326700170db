"""The data, the model and the objective that the options of a command choose."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pvae.commands.options.known_names import resolve_system
from pvae.commands.options.option_groups import MODEL_HELP, explicit_options
from pvae.commands.options.table_flags import reading_options
from pvae.commands.output import print_reading
from pvae.fit_options import FitOptions
from pvae.names import parse_setting

if TYPE_CHECKING:
    from pvae.data import Splits
    from pvae.models.build import ModelSpec
    from pvae.objectives.registry import NamedObjective

__all__ = ["build_model_and_data", "chosen_data", "chosen_model", "chosen_objective"]


def chosen_data(ctx: click.Context) -> Splits:
    """Return the data that the options choose. Data of a file are named by its path, so that a run finds it again."""
    from pvae.data import data_names, load_data
    from pvae.data.loading import is_path

    options: dict[str, Any] = ctx.params
    source, folder = options["data"], options["data_folder"]
    splits = load_data(
        source,
        binarise=options["binarise"],
        validation=options["validation"],
        seed=options["data_seed"],
        folder=folder,
        mask=options["mask"],
        labels=options["labels"],
        **reading_options(options),
    )
    if source in data_names():
        return splits
    path = str(Path(folder or "", source))  # this removes the ./ of a path in the working folder
    splits = replace(splits, name=path if is_path(path) else os.path.join(".", path))
    if ctx.info_name != "train" or options.get("progress") is False:  # the display of a training prints this line too
        print_reading(splits)
    return splits


def chosen_model(ctx: click.Context, model: str) -> ModelSpec:
    """Return the specification of the model that the options choose; nothing is built yet.

    Args:
        ctx: the context of the command.
        model: the name of a model, of a system such as beta-vae, or of a file and a class; with settings after colons,
            which replace those of the flags.

    Raises:
        InputError: if the name decides an objective, and the command takes several.
    """
    from pvae.models.build import ModelSpec
    from pvae.models.make_model import spec_from_text

    named = spec_from_text(model)
    model_of_system, _ = resolve_system(named.name, takes_objective="objective" in ctx.params)
    system = spec_from_text(model_of_system)
    return ModelSpec(system.name, {**system.settings, **_model_settings(ctx), **named.settings})


def _model_settings(ctx: click.Context) -> dict[str, Any]:
    """Return the settings of the model: those of the flags, replaced by those of ``--set``."""
    settings = explicit_options(ctx, MODEL_HELP)
    for text in ctx.params["set_"]:
        name, value = parse_setting(text, "--set needs name=value, such as latent=4")
        settings[name] = value
    return settings


def chosen_objective(ctx: click.Context, spec: ModelSpec) -> NamedObjective:
    """Return the factory of the objective that the options choose; the default is the system's or the model's own.

    An option replaces a setting of the default. A setting of ``--objective`` itself must not be given twice.
    """
    from pvae.models.make_model import spec_from_text
    from pvae.objectives import make_objective

    _, objective_of_system = resolve_system(spec_from_text(ctx.params["model"]).name, takes_objective=True)
    text = ctx.params["objective"] or objective_of_system or spec.default_objective
    gradients = "+".join(strategy.replace("score:", "") for strategy in ctx.params["gradients"])
    options = {"particles": ctx.params["particles"], "gradients": gradients or None}
    given = {name: value for name, value in options.items() if value is not None}
    if not ctx.params["objective"]:
        text = ":".join(part for part in text.split(":") if part.partition("=")[0] not in given)
    return make_objective(":".join([text, *(f"{name}={value}" for name, value in given.items())]))


def build_model_and_data(spec: ModelSpec, splits: Splits) -> tuple[Any, Splits]:
    """Return the model, freshly built, and the data with ``binarise="auto"`` decided by the model's likelihood.

    The caller seeds the random generators, which decide the parameters.

    Args:
        spec: the specification of the model.
        splits: the data.
    """
    from pvae.models import has_bernoulli_likelihood

    latent_model = spec.build(splits)
    first_data = splits.train.take(slice(0, FitOptions.batch_size))
    return latent_model, splits.for_likelihood(has_bernoulli_likelihood(latent_model, first_data))
