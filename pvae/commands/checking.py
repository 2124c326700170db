"""``pvae check``: what is wrong with a model under an objective, found without training it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pvae.commands.model_parts import data_of, objective_of, spec_of
from pvae.commands.output import print_json
from pvae.commands.shared_options import data_options, model_options, objective_options, traceback_option
from pvae.commands.shell import BAD_INPUT

if TYPE_CHECKING:
    from pvae.data import Splits

__all__ = ["check"]


@click.command(short_help="Say what is wrong with a model under an objective.")
@click.argument("model")
@data_options
@objective_options
@model_options
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the parameters and draws.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@traceback_option
@click.pass_context
def check(ctx: click.Context, /, model: str, seed: int, as_json: bool, **options: object) -> None:
    """Check MODEL under an objective on a batch of data, without training.

    MODEL is a built-in name, or my_model.py:MyModel. Ends with exit code 2 where a finding is fatal.
    """
    from pvae.objectives import check as checked
    from pvae.train.devices import isolated

    spec = spec_of(ctx, model)
    objective, data = objective_of(ctx, spec), data_of(ctx)
    with isolated(seed):
        latent_model = spec.build(data)
        batch = _settled(latent_model, data).train.take(slice(0, 100))
        findings = list(checked(latent_model, batch, objective()))
    if as_json:
        print_json({"model": model, "findings": [vars(each) for each in findings]})
    else:
        click.echo("\n".join(map(str, findings)) or "Nothing is wrong.")
    if any(each.fatal for each in findings):
        ctx.exit(BAD_INPUT)


def _settled(latent_model: Any, data: Splits) -> Splits:
    """The data as a training would see them: an open binarisation is settled by the likelihood."""
    from pvae.models import scores_bits

    return data.for_likelihood(scores_bits(latent_model, data.train.take(slice(0, 4))))
