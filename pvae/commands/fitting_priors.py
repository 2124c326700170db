"""``pvae fit-prior``: fit a density to the codes of a run, and write the run of the model with this prior."""

from __future__ import annotations

from typing import Any

import click

from pvae.commands.options.help_sections import SectionedCommand, make_option
from pvae.commands.options.known_names import RunType
from pvae.commands.options.option_groups import (
    checkpoint_option,
    data_folder_option,
    json_option,
    other_data_option,
    recorded_model_options,
    traceback_option,
)
from pvae.commands.options.table_flags import reading_options
from pvae.commands.output import format_rows, print_json, print_status
from pvae.fit_options import PriorFitOptions

__all__ = ["fit_prior"]

KIND_HELP = (
    "Kind of density, with settings after colons (mixture:components=10). For real numbers: full-gaussian, mixture, "
    "flow, aggregate, vamp, vae. For discrete codes: autoregressive. [default: mixture; autoregressive for codes]"
)
DRAWS_HELP = "Number of draws of z per datum."
MEANS_HELP = "Fit the means of q instead of draws of z."
EPOCHS_HELP = "Number of passes over the codes, for kinds that are fitted by gradients."


@click.command("fit-prior", cls=SectionedCommand, short_help="Fit a prior to the codes of a run.")
@click.argument("run", type=RunType())
@make_option("Prior", "--kind", str, None, KIND_HELP)
@make_option("Prior", "--draws", click.IntRange(min=1), 1, DRAWS_HELP)
@make_option("Prior", "--means", bool, False, MEANS_HELP, is_flag=True)
@make_option("Training", "--epochs", click.IntRange(min=1), PriorFitOptions.epochs, EPOCHS_HELP)
@make_option(
    "Training", "--batch-size", click.IntRange(min=1), PriorFitOptions.batch_size, "Number of codes of a step."
)
@make_option("Training", "--learning-rate", float, PriorFitOptions.learning_rate, "Learning rate of Adam.")
@make_option("Training", "--seed", click.IntRange(min=0), 0, "Seed of the draws and of the fit.")
@other_data_option
@data_folder_option
@checkpoint_option
@recorded_model_options
@make_option("Output", "--out", click.Path(), None, "Folder of the new run.", required=True)
@json_option
@traceback_option
def fit_prior(
    run: str, kind: str | None, data: str | None, model: str | None, trust: bool, as_json: bool, **options: Any
) -> None:
    """Fit a density to the codes of the training data, and write the run of the model with it as p(z).

    The codes are draws of q(z given x). The guide, p(x given z) and the folder RUN do not change. The new run is a
    folder like any other: evaluate, sample and show use the new prior.
    """
    from pvae.commands.runs import data_of_run, open_named_run, require_unused_folder
    from pvae.train import fit_prior as fit
    from pvae.train.fitted_priors.kinds import parse_kind

    require_unused_folder(options["out"])
    if kind is not None:
        parse_kind(kind)
    opened = open_named_run(run, options["checkpoint"], model, trust=trust)
    splits = data_of_run(opened, data, options["data_folder"], reading_options(options))
    print_status(f"Fitting a prior to the codes of {run} ...")
    settings = {name: options[name] for name in ("draws", "means", "epochs", "batch_size", "learning_rate", "seed")}
    fitted = fit(opened, kind, splits, out=options["out"], **settings)
    record = {"run": options["out"], **fitted.config["prior"]}
    if as_json:
        print_json(record)
        return
    click.echo(format_rows(_text_rows(record)))


def _text_rows(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a fit as a few rows of text."""
    settings, found = record["settings"], record["fitted"]
    numbers = ", ".join(f"{name} {value}" for name, value in settings.items())
    rows = {
        "prior": f"{record['kind']} of {record['site']}" + (f": {numbers}" if numbers else ""),
        "codes": f"{found['codes']} of {found['count']} data, {found['draws']} each",
    }
    if "bic" in found:
        rows["BIC"] = ", ".join(f"{count}: {value:.1f}" for count, value in found["bic"].items())
    if "held_out" in found:
        rows["held out"] = f"{found['held_out']:.4f} nats per code, the log-density of a tenth of the data's codes"
    if "elbo_change" in found:
        change, error, count = (found[f"elbo_change{part}"] for part in ("", "_error", "_count"))
        rows["ELBO"] = f"{change:+.4f} ± {error:.4f} nats per datum on {count} validation data"
    return {**rows, "run": record["run"]}
