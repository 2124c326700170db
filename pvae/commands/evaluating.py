"""``pvae evaluate``: estimate the log evidence, ELBO or accuracy of a run, with standard errors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pvae.commands.annealed_evaluations import (
    ANNEALING_METHODS,
    ANNEALING_OPTIONS,
    anneal,
    annealing_options,
    annealing_rows,
    check_annealing_options,
)
from pvae.commands.csv_text import keep_formulas_option
from pvae.commands.mixture_assignments import check_assign_path
from pvae.commands.model_checks import (
    BUDGET_HELP,
    CHECKS_HELP,
    answer_rows,
    parse_checks,
    print_checks,
    saved_answers,
)
from pvae.commands.options.help_sections import SectionedCommand, make_option
from pvae.commands.options.known_names import RunType
from pvae.commands.options.option_groups import (
    checkpoint_option,
    data_folder_option,
    device_option,
    explicit_options,
    json_option,
    other_data_option,
    recorded_model_options,
    split_option,
    traceback_option,
)
from pvae.commands.options.table_flags import reading_options
from pvae.commands.output import format_rows, print_json, print_status
from pvae.commands.quick_imports import import_quickly
from pvae.commands.saved_mixtures import evaluate_mixture, open_mixture
from pvae.errors import InputError
from pvae.fit_options import MATMULS, matmul_help

if TYPE_CHECKING:
    from pvae.evaluate import Estimate

__all__ = ["evaluate"]

LIMIT_HELP = "Number of data to use, drawn at random by --seed. [default: all; 100 for ais and sandwich]"
METHOD_HELP = (
    "is: log evidence by importance sampling, with diagnostics. elbo: evidence lower bound only. ais: log evidence by "
    "annealed importance sampling. sandwich: lower and upper estimate of it. accuracy: accuracy of predicted labels. "
    "topics: perplexity, and the words of each topic with their coherence."
)
METHODS = ["is", "elbo", *ANNEALING_METHODS, "accuracy", "topics"]
PARTICLES_HELP = "Number of draws of z per datum. The method accuracy needs none."
ARVIZ_HELP = "Write posterior and prior draws for the first data to this netCDF file, for ArviZ."

ASSIGN_HELP = "Write the component of every row to this CSV file, for a mixture of `pvae em --out`."


@click.command(cls=SectionedCommand, short_help="Evaluate a run, with standard errors.")
@click.argument("run", type=RunType())
@other_data_option
@data_folder_option
@split_option("test")
@make_option("Data", "--limit", click.IntRange(min=1), None, LIMIT_HELP)
@make_option("Run", "--method", click.Choice(METHODS), "is", METHOD_HELP)
@make_option("Run", "--checks", str, None, CHECKS_HELP)
@checkpoint_option
@recorded_model_options
@make_option("Computation", "--budget", click.FloatRange(min=1), 1e8, BUDGET_HELP)
@make_option("Computation", "--particles", click.IntRange(min=1), 1000, PARTICLES_HELP)
@make_option("Computation", "--seed", int, 0, "Seed of the draws.")
@make_option(
    "Computation", "--matmul", click.Choice(MATMULS), MATMULS[0], matmul_help("the matrix products of is and elbo")
)
@device_option
@annealing_options
@make_option("Output", "--arviz", click.Path(), None, ARVIZ_HELP)
@make_option("Output", "--assign", click.Path(), None, ASSIGN_HELP)
@keep_formulas_option
@json_option
@traceback_option
def evaluate(
    run: str, model: str | None, trust: bool, data: str | None, arviz: str | None, as_json: bool, **options: Any
) -> None:
    """Evaluate the run in the folder RUN, by default on its test split, in nats per datum.

    RUN may also be a folder that `pvae em --out` has written. The log evidence of a mixture is exact.
    """
    import_quickly("torch", "pyro", "pvae.evaluate")
    from pvae.commands.runs import data_of_run, open_named_run
    from pvae.train.devices import resolve
    from pvae.train.run_record import changes_since_training

    checks, budget = parse_checks(options.pop("checks")), options.pop("budget")
    _check_arviz_path(arviz)
    check_annealing_options(click.get_current_context())
    check_assign_path(None if options["assign"] is None else Path(options["assign"]))
    saved = open_mixture(run)
    if saved is not None:
        if checks:
            raise InputError("--checks needs a run with a guide; the posterior of a mixture is exact.")
        _print_mixture(run, evaluate_mixture(saved, data, options | {"arviz": arviz}), as_json)
        return
    del options["keep_formulas"]
    if options.pop("assign") is not None:
        raise InputError("--assign needs the folder of a mixture that pvae em --out has written.")
    device = resolve(options["device"])
    opened = open_named_run(run, options["checkpoint"], model, trust=trust)
    reading = reading_options(options)
    options = {name: value for name, value in options.items() if name not in reading}
    splits = data_of_run(opened, data, options.pop("data_folder"), reading)
    settings = {name: options[name] for name in ("split", "limit", "seed", "matmul")} | {"device": device}
    if checks:
        particles = options["particles"] if explicit_options(click.get_current_context(), ("particles",)) else None
        print_checks(checks, opened, splits, settings, budget, particles=particles, as_json=as_json)
        return
    print_status(f"Evaluating {run} on {splits.name}, {options['split']} split{_draws_text(options)} ...")
    record = _evaluate(options, opened, splits, settings) | {"answers": saved_answers(opened)}
    options = {name: value for name, value in options.items() if name not in ANNEALING_OPTIONS}
    if arviz is not None:
        record["arviz"] = _write_arviz(arviz, opened, splits, settings)
    if as_json:
        record.pop("finding", None)
        changes = changes_since_training(opened.model, opened.config)
        print_json({"run": run, "data_set": splits.summary(), **options, **record, "changed": changes})
    else:
        rows = annealing_rows(record) if "finding" in record else _text_rows(record)
        click.echo(format_rows(rows | answer_rows(record["answers"])))


def _draws_text(options: dict[str, Any]) -> str:
    """Return the number of draws for the line of status."""
    if options["method"] == "accuracy":
        return ""
    if options["method"] in ANNEALING_METHODS:
        return f", {options['temperatures']} temperatures, {options['chains']} chains"
    return f", {options['particles']} particles"


def _print_mixture(folder: str, record: dict[str, Any], as_json: bool) -> None:
    """Print the evaluation of a mixture."""
    if as_json:
        print_json({"run": folder, **record})
    else:
        click.echo(format_rows(_text_rows(record)))


def _check_arviz_path(arviz: str | None) -> None:
    """Raise InputError before any computation if the folder of the ArviZ file does not exist."""
    if arviz is None:
        return
    folder = Path(arviz).resolve().parent
    if not folder.is_dir():
        raise InputError(f"--arviz needs a path in an existing folder; the folder {folder} does not exist.")


def _evaluate(options: dict[str, Any], run: Any, splits: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the estimates of one method by name, as the JSON output holds them."""
    from pvae.evaluate import accuracy, elbo, judge, topics
    from pvae.evaluate.topic_quality import perplexity_with_notes

    method, particles = options["method"], options["particles"]
    if method in ANNEALING_METHODS:
        return anneal(method, run, splits, options, settings)
    if method == "accuracy":
        return {"accuracy": accuracy(run, splits, **settings)}
    if method == "topics":
        found = topics(run, splits, **settings)
        value, notes = perplexity_with_notes(run, splits, particles, **settings)
        return {"perplexity": value, **found.to_json(), "notes": notes}
    if method == "elbo":
        bound = elbo(run, splits, particles, **settings)
        return {"elbo": bound, "subset": None if bound.subset is None else str(bound.subset)}
    judgement = judge(run, splits, particles, **settings)
    names = ("log_evidence", "bias", "elbo", "summed_out_elbo", "gap", "membership")
    estimates = {name: getattr(judgement, name) for name in names if getattr(judgement, name) is not None}
    return {**judgement.to_json(), **estimates}


def _write_arviz(path: str, run: Any, splits: Any, settings: dict[str, Any]) -> str:
    """Write the draws for at most 100 data, and return the path."""
    from pvae.evaluate import save, to_arviz

    tree = to_arviz(run, splits, **{**settings, "limit": min(settings["limit"] or 100, 100)})
    return str(save(tree, path))


def _text_rows(record: dict[str, Any]) -> dict[str, Any]:
    """Return the estimates and single values of a record as rows of text, by name."""
    rows = {name: value for name, value in record.items() if not isinstance(value, dict | list)}
    membership = rows.pop("membership", None)
    if membership is not None:
        rows["train over test ELBO"] = _membership_text(membership)
    if record.get("ess", {}).get("median") is not None:
        rows["effective sample size"] = _ess_text(record)
        rows["Pareto k-hat"] = _khat_text(record["khat"])
    if "evaluation_seconds" in rows:
        rows["evaluation_seconds"] = f"{rows['evaluation_seconds']:.1f}"
    rows |= {f"note {number}": note for number, note in enumerate(record.get("notes", ()), 1)}
    return {name.replace("_", " "): value for name, value in rows.items()}


def _membership_text(found: Estimate) -> str:
    """Return how often a training datum has a larger ELBO than a test datum."""
    return f"{found.value:.1%} \u00b1 {found.error:.1%} of the pairs of a training and a test datum"


def _ess_text(record: dict[str, Any]) -> str:
    median, low = record["ess"]["median"], record["ess"]["q05"]
    return f"{median:.1f} of {record['particles']} (median; 5% quantile {low:.1f})"


def _khat_text(khat: dict[str, Any]) -> str:
    if khat["median"] is None:
        return "unknown: it needs more particles"
    return f"{khat['median']:.2f} (median); {khat['unreliable']:.1%} of the data above {khat['good']:.2f}, too high"
