"""From the options of a command to data, model and objective."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pvae.commands.shared_options import settings

if TYPE_CHECKING:
    from pvae.data import Splits
    from pvae.models.build import ModelSpec
    from pvae.objectives.registry import NamedObjective

__all__ = ["data_of", "objective_of", "spec_of"]


def data_of(ctx: click.Context) -> Splits:
    """Return the data that the command's options choose; those of a file bear its path, so as to be found again."""
    from pvae.data import data_names, load_data

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
    )
    return splits if source in data_names() else replace(splits, name=str(Path(folder or "", source)))


def spec_of(ctx: click.Context, model: str) -> ModelSpec:
    """Return the model that the command's options choose, not yet built."""
    from pvae.models.build import ModelSpec

    return ModelSpec(model, settings(ctx))


def objective_of(ctx: click.Context, spec: ModelSpec) -> NamedObjective:
    """Return the factory of the objective that the command's options choose; by default the model's own."""
    from pvae.objectives import make_objective

    text, particles = ctx.params["objective"] or spec.default_objective, ctx.params["particles"]
    if particles is not None:
        text = f"{text}:particles={particles}"
    chosen = "+".join(each.replace("score:", "") for each in ctx.params["gradients"])
    return make_objective(f"{text}:gradients={chosen}" if chosen else text)
