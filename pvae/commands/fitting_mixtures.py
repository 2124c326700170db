"""``pvae em``: fit a Gaussian mixture by EM, with a fixed number of components or the best of several numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pvae.commands.csv_text import keep_formulas_option
from pvae.commands.mixture_assignments import check_assign_path, write_assignments
from pvae.commands.mixture_fits import MixtureFit, fit_mixture, load_tables
from pvae.commands.mixture_output import summary_text, write_results
from pvae.commands.mixture_progress import EMProgress
from pvae.commands.options.config_files import config_option
from pvae.commands.options.help_sections import SectionedCommand, make_option
from pvae.commands.options.known_names import NamesType
from pvae.commands.options.option_groups import data_folder_option, json_option, traceback_option
from pvae.commands.options.option_types import SettingType, parse_whole_numbers
from pvae.commands.options.table_flags import table_options
from pvae.commands.output import print_json, print_text
from pvae.errors import InputError
from pvae.fit_options import MATMULS, matmul_help
from pvae.names import printable

__all__ = ["em"]

COVARIANCES = ("full", "tied", "diag", "spherical")
CRITERIA = ("bic", "aic", "held-out")
STARTS = ("kmeans", "k-means++", "random", "random_from_data")
# Grey levels are in [0, 1]: this variance is that of a standard deviation of 3%, about the rounding error of 16 grey
# levels.
PICTURE_VARIANCE = 1e-3

SELECT_HELP = "Numbers of components to try: 2:30, 2:30:4 (in steps of 4) or 2,5,10. The best by --by is kept."
BY_HELP = "Criterion of --select; held-out is the log-likelihood of the validation split."
COVARIANCE_HELP = "Constraint on the covariance matrices, as in scikit-learn."
REGULARISATION_HELP = (
    "Number to add to each variance; relative adds a millionth of each feature's variance. "
    "[default: 1e-3 for pictures, else relative]"
)
MISSING_HELP = (
    "What to do with NaN and empty cells of x. error: refuse them. marginalise: integrate them out of the density "
    "exactly. Any other text, such as NA,?, lists the words of a table that mean a missing value, to be marginalised."
)
SPLIT_HELP = (
    "Size of the {0} split: a number of data, or a fraction below 1; 0 means no {0} split. "
    "[default: the data set's own split, else a tenth]"
)
ASSIGN_HELP = "CSV file for the component of every row, in the order of the rows. [default: write no file]"
MERGE_HELP = "Merge components with an overlap above this number, in (0, 1). [default: no merging]"
SPLIT_MERGE_HELP = "Number of split-and-merge moves to try."
START_HELP = "Method that chooses the initial parameters of a start."
OUT_HELP = "Folder for the parameters, results and figures. [default: write nothing]"


@click.command(cls=SectionedCommand, short_help="Fit a Gaussian mixture by EM.")
@make_option(
    "Data",
    "--data",
    NamesType("data", files=True),
    "digits",
    "Name of a data set (`pvae data list`), or a file (.csv, .npz, ...) or folder of pictures.",
)
@data_folder_option
@make_option("Data", "--data-seed", int, 0, "Seed of the splits.")
@make_option("Data", "--validation", SettingType(), None, SPLIT_HELP.format("validation"))
@make_option("Data", "--test", SettingType(), None, SPLIT_HELP.format("test"))
@make_option("Data", "--missing", str, "error", MISSING_HELP)
@table_options(missing=False, scaled=False)
@make_option("Mixture", "--components", click.IntRange(min=1), 10, "Number of components.")
@make_option("Mixture", "--covariance", click.Choice(COVARIANCES), "full", COVARIANCE_HELP)
@make_option("Mixture", "--reg-covar", SettingType(), None, REGULARISATION_HELP)
@make_option("Mixture", "--select", str, None, SELECT_HELP, metavar="FROM:TO")
@make_option("Mixture", "--by", click.Choice(CRITERIA), "bic", BY_HELP)
@make_option("EM", "--starts", click.IntRange(min=1), 1, "Number of starts; the best result is kept.")
@make_option("EM", "--init", click.Choice(STARTS), "kmeans", START_HELP)
@make_option("EM", "--max-iter", click.IntRange(min=0), 200, "Largest number of EM steps of one start.")
@make_option(
    "EM", "--tol", float, 1e-4, "EM has converged if the gain of a step is below this number, in nats per datum."
)
@make_option("EM", "--merge", float, None, MERGE_HELP)
@make_option("EM", "--split-merge", int, 0, SPLIT_MERGE_HELP)
@make_option("EM", "--device", str, None, "cpu or cuda. [default: cpu]")
@make_option("EM", "--matmul", click.Choice(MATMULS), MATMULS[0], matmul_help("the matrix products"))
@make_option("EM", "--seed", int, 0, "Seed of the starts.")
@click.option("--out", type=click.Path(), default=None, help=OUT_HELP)
@click.option("--assign", type=click.Path(), default=None, help=ASSIGN_HELP)
@keep_formulas_option
@click.option("--progress/--no-progress", default=None, help="Show progress on standard error. [default: show]")
@json_option
@config_option
@traceback_option
def em(as_json: bool, out: str | None, assign: str | None, select: str | None, by: str, **options: Any) -> None:
    """Fit a Gaussian mixture to the training split by EM, and evaluate it on the other splits, in nats per datum.

    With --out, the folder holds the parameters (mixture.safetensors), the results (em.json), the component of every
    row (assignments.csv) and figures: the components as pictures or ellipses, the criteria for each number of
    components, and the log-likelihood of each step. `pvae evaluate` and `pvae show` take this folder.
    """
    counts = [options["components"]] if select is None else _parse_counts(select)
    folder = None if out is None else Path(out)
    _check_folder(folder)
    check_assign_path(None if assign is None else Path(assign))
    splits, tables = load_tables(options)
    if by == "held-out" and "validation" not in tables:
        raise InputError(f"--by held-out needs a validation split, and {splits.name} has none; use --by bic.")
    if options["reg_covar"] is None:
        # A pixel that is constant in the training split may vary in another split; a tiny variance would give it a low
        # density.
        options["reg_covar"] = PICTURE_VARIANCE if len(splits.data_shape) > 1 else "relative"
    progress = EMProgress(enabled=options["progress"] is not False, max_steps=int(options["max_iter"]))
    fits = [fit_mixture(tables, count, options, progress) for count in counts]
    best = min(fits, key=lambda fit: fit.criterion(by))
    sizes = {name: options[name] for name in ("validation", "test") if options[name] is not None}
    result = _result(best, options, splits.summary() | sizes)
    if select is not None:
        result["selection"] = {"by": by, "fits": [fit.selection_record() for fit in fits]}
    for note in best.record["notes"]:
        click.echo(printable(f"pvae: warning: {note}"), err=True)
    if assign is not None:
        result["assign"] = assign
        write_assignments(Path(assign), best.mixture, splits, tables, keep_formulas=options["keep_formulas"])
    if folder is not None:
        result["out"] = str(folder)
        write_results(folder, result, best.mixture, splits, tables, keep_formulas=options["keep_formulas"])
    _print_result(result, as_json)


def _print_result(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        print_text(summary_text(result))


def _parse_counts(text: str) -> list[int]:
    """Return the numbers of components: ``2:5`` means 2, 3, 4, 5; ``2:9:3`` means 2, 5, 8; ``2,4`` lists them."""
    counts = parse_whole_numbers(text) if "," in text or ":" not in text else _parse_range(text)
    if not counts or min(counts) < 1:
        raise InputError(f"--select needs numbers of components from 1 up, such as 2:30 or 2,5,10; got {text!r}.")
    return counts


def _parse_range(text: str) -> list[int]:
    """Return the numbers of ``FROM:TO`` or ``FROM:TO:STEP``, with TO included; an empty list for other text."""
    try:
        first, last, *step = (int(part) for part in text.split(":"))
        return list(range(first, last + 1, *step))
    except (TypeError, ValueError):
        return []


def _check_folder(folder: Path | None) -> None:
    """Raise InputError for a folder in use before anything is computed."""
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists already, and was not changed. Name another folder with --out.")


def _result(fit: MixtureFit, options: dict[str, Any], data_set: dict[str, Any]) -> dict[str, Any]:
    """Return the data, the settings and the record of a fit, as the JSON output holds them."""
    names = ("covariance", "reg_covar", "missing", "merge", "split_merge", "seed")
    return {"data_set": data_set, **{name: options[name] for name in names}, **fit.record}
