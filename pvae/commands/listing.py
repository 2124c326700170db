"""``pvae list``: every name that the command line knows, by kind."""

from __future__ import annotations

import click

from pvae.commands.output import lines, print_json
from pvae.commands.shared_options import traceback_option

__all__ = ["list_"]


@click.command("list", short_help="List every name that the command line knows.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@traceback_option
def list_(as_json: bool) -> None:
    """List the models, their parts, the objectives and the data sets that have a name."""
    kinds = _kinds()
    if as_json:
        print_json(kinds)
        return
    for kind, names in kinds.items():
        click.echo(f"{kind}:")
        for line in lines(names).splitlines():
            click.echo(f"  {line.rstrip()}")


def _kinds() -> dict[str, dict[str, str]]:
    from pvae.data import describe_data
    from pvae.densities import LIKELIHOODS, POSTERIORS, PRIORS
    from pvae.models.base import NETWORKS
    from pvae.models.build import MODELS
    from pvae.networks import ACTIVATIONS, INITIALISATIONS
    from pvae.objectives import BASELINES, STRATEGIES, objective_names

    return {
        "models": {name: _about(MODELS[name]) for name in sorted(MODELS)},
        "networks": dict.fromkeys(sorted(NETWORKS), ""),
        "priors": {name: _about(PRIORS[name]) for name in sorted(PRIORS)},
        "posteriors": {name: _about(POSTERIORS[name]) for name in sorted(POSTERIORS)},
        "likelihoods": {name: _about(LIKELIHOODS[name]) for name in sorted(LIKELIHOODS)},
        "activations": dict.fromkeys(sorted(ACTIVATIONS), ""),
        "initialisations": dict.fromkeys(sorted(INITIALISATIONS), ""),
        "objectives": dict(objective_names()),
        "gradient strategies": dict(STRATEGIES),
        "baselines": dict(BASELINES),
        "data": {name: line for name, line, _, _ in describe_data()},
    }


def _about(thing: object) -> str:
    return next(iter((thing.__doc__ or "").strip().splitlines()), "")
