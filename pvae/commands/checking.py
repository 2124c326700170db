"""``pvae check``: find errors of a model and an objective without training."""

from __future__ import annotations

import click

from pvae.commands.error_reporting import BAD_INPUT
from pvae.commands.options.chosen_parts import build_model_and_data, chosen_data, chosen_model, chosen_objective
from pvae.commands.options.help_sections import SectionedCommand
from pvae.commands.options.known_names import ModelType
from pvae.commands.options.option_groups import (
    data_options,
    json_option,
    model_options,
    objective_options,
    traceback_option,
)
from pvae.commands.output import print_json, print_text
from pvae.fit_options import FitOptions

__all__ = ["check"]


@click.command(cls=SectionedCommand, short_help="Find errors in a model without training.")
@click.argument("model", type=ModelType())
@data_options
@objective_options
@model_options
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the parameters and draws.")
@json_option
@traceback_option
@click.pass_context
def check(ctx: click.Context, /, model: str, seed: int, as_json: bool, **options: object) -> None:
    """Check MODEL with an objective on one batch of data, without training, and print the errors that were found.

    MODEL is the name of a built-in model (`pvae list`), or a class or function in a file: my_model.py:MyModel. The
    exit code is 2 if a finding is fatal.
    """
    from pvae.objectives import check as find_errors
    from pvae.train.devices import isolated

    spec = chosen_model(ctx, model)
    objective, splits = chosen_objective(ctx, spec), chosen_data(ctx)
    with isolated(seed):
        latent_model, splits = build_model_and_data(spec, splits)
        batch = splits.train.take(slice(0, FitOptions.batch_size))
        findings = list(find_errors(latent_model, batch, objective(), data_size=splits.train.size))
    if as_json:
        print_json({"model": model, "findings": [vars(finding) for finding in findings]})
    else:
        print_text("\n".join(map(str, findings)) or "Nothing is wrong.")
    if any(finding.fatal for finding in findings):
        ctx.exit(BAD_INPUT)
