"""``pvae list``: list every name that the command line accepts, by kind."""

from __future__ import annotations

import click

from pvae.commands.options.help_sections import SectionedCommand
from pvae.commands.options.option_groups import json_option, traceback_option
from pvae.commands.output import format_rows, print_json

__all__ = ["list_"]


@click.command("list", cls=SectionedCommand, short_help="List models, objectives and other names.")
@json_option
@traceback_option
def list_(as_json: bool) -> None:
    """List the names of models, densities, networks, objectives, gradient strategies and data sets.

    These names are the values of options such as --objective, --prior and --data.
    """
    kinds = _names_by_kind()
    if as_json:
        print_json(kinds)
        return
    for kind, names in kinds.items():
        click.echo(f"{kind}:")
        for line in format_rows(names).splitlines():
            click.echo(f"  {line.rstrip()}")


def _names_by_kind() -> dict[str, dict[str, str]]:
    """Return a line about each name, for each kind of name."""
    from pvae.data import describe_data
    from pvae.densities import LIKELIHOODS, POSTERIORS, PRIORS
    from pvae.models.base import NETWORKS
    from pvae.models.build import MODELS
    from pvae.networks import ACTIVATIONS, INITIALISATIONS
    from pvae.objectives import BASELINES, STRATEGIES, objective_names

    return {
        "models": {name: _first_docstring_line(MODELS[name]) for name in sorted(MODELS)},
        "networks": dict.fromkeys(sorted(NETWORKS), ""),
        "priors": {name: _first_docstring_line(PRIORS[name]) for name in sorted(PRIORS)},
        "posteriors": {name: _first_docstring_line(POSTERIORS[name]) for name in sorted(POSTERIORS)},
        "likelihoods": {name: _first_docstring_line(LIKELIHOODS[name]) for name in sorted(LIKELIHOODS)},
        "activations": dict.fromkeys(sorted(ACTIVATIONS), ""),
        "initialisations": dict.fromkeys(sorted(INITIALISATIONS), ""),
        "objectives": dict(objective_names()),
        "gradient strategies": dict(STRATEGIES),
        "baselines": dict(BASELINES),
        "data": {name: about for name, about, _, _ in describe_data()},
    }


def _first_docstring_line(named_object: object) -> str:
    return next(iter((named_object.__doc__ or "").strip().splitlines()), "")
