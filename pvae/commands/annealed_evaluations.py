"""The methods ``ais`` and ``sandwich`` of ``pvae evaluate``, and their options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from pvae.commands.options.help_sections import apply_options, make_option
from pvae.commands.options.option_groups import explicit_options
from pvae.errors import InputError

__all__ = [
    "ANNEALING_METHODS",
    "ANNEALING_OPTIONS",
    "anneal",
    "annealing_options",
    "annealing_rows",
    "check_annealing_options",
]

ANNEALING_METHODS = ("ais", "sandwich")
ANNEALING_OPTIONS = ("temperatures", "chains", "start", "schedule")
#: The default of --limit, because one datum costs as much as thousands of ELBOs.
_DATA = 100

Command = TypeVar("Command", bound=Callable[..., Any])


def annealing_options(command: Command) -> Command:
    """Return the command with the options of annealed importance sampling."""
    temperatures = "Number of temperatures of the methods ais and sandwich."
    chains = "Number of chains for each datum of the methods ais and sandwich."
    start = "Start of the chains of ais and sandwich: draws of the prior or of the guide."
    schedule = "Spacing of the inverse temperatures of ais and sandwich."
    return apply_options(
        command,
        [
            make_option("Annealing", "--temperatures", click.IntRange(min=1), 1000, temperatures),
            make_option("Annealing", "--chains", click.IntRange(min=1), 16, chains),
            make_option("Annealing", "--start", click.Choice(["prior", "guide"]), "prior", start),
            make_option(
                "Annealing", "--schedule", click.Choice(["sigmoid", "linear", "geometric"]), "sigmoid", schedule
            ),
        ],
    )


def check_annealing_options(context: click.Context) -> None:
    """Refuse options that the chosen method does not use.

    Args:
        context: the context of the command.

    Raises:
        InputError: with the first such option that comes from the command line or a config file.
    """
    method = context.params["method"]
    unused = ("particles",) if method in ANNEALING_METHODS else ANNEALING_OPTIONS
    given = explicit_options(context, unused)
    if given:
        user = "is and elbo" if method in ANNEALING_METHODS else " and ".join(ANNEALING_METHODS)
        raise InputError(
            f"--{next(iter(given))} needs one of the methods {user}; the method is {method}. Leave the option out, or "
            "choose another --method."
        )


def anneal(
    method: str, run: Any, splits: Any, options: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the finding of a method, as the JSON output holds it, with the finding itself as ``finding``.

    Args:
        method: ``"ais"`` or ``"sandwich"``.
        run: the run.
        splits: the data.
        options: the options of the command.
        settings: ``split``, ``limit``, ``seed`` and ``device``.
    """
    from pvae import evaluate

    function = evaluate.ais if method == "ais" else evaluate.sandwich
    limit = _DATA if settings["limit"] is None else settings["limit"]
    chosen = {name: options[name] for name in ANNEALING_OPTIONS}
    finding = function(run, splits, **chosen, **{**settings, "limit": limit})
    return {**finding.to_json(), "limit": limit, "criterion": finding.limit, "finding": finding}


def annealing_rows(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the finding as rows of text, by name.

    Args:
        record: what `anneal` has returned.
    """
    rows = {}
    for row in record["finding"].table():
        note = f" ({row['note']})" if row["note"] else ""
        rows[row["quantity"]] = row["value"] + note
    rows["data"] = record["subset"] or str(record["count"])
    rows["decoder evaluations"] = f"{record['cost']:,}"
    return rows
