"""From the options of a command to data, model and objective."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pvae.commands.options import settings

if TYPE_CHECKING:
    from pvae.data import Splits
    from pvae.models.build import ModelSpec
    from pvae.objectives.named import NamedObjective

__all__ = ["data_of", "objective_of", "spec_of"]


def data_of(ctx: click.Context) -> Splits:
    """Return the data that the command's options choose."""
    from pvae.data import load_data

    options: dict[str, Any] = ctx.params
    return load_data(
        options["data"],
        binarise=options["binarise"],
        validation=options["validation"],
        seed=options["data_seed"],
        folder=options["data_folder"],
    )


def spec_of(ctx: click.Context, model: str) -> ModelSpec:
    """Return the model that the command's options choose, not yet built."""
    from pvae.models.build import ModelSpec

    return ModelSpec(model, settings(ctx))


def objective_of(ctx: click.Context) -> NamedObjective:
    """Return the factory of the objective that the command's options choose."""
    from pvae.objectives import make_objective

    text, particles = ctx.params["objective"], ctx.params["particles"]
    return make_objective(text if particles is None else f"{text}:particles={particles}")
