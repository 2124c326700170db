"""The commands that write results of the model of a run: encode, sample, impute, predict and export."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pvae.commands.csv_text import keep_formulas_option
from pvae.commands.options.help_sections import SectionedCommand, apply_options, make_option
from pvae.commands.options.known_names import RunType
from pvae.commands.options.option_groups import (
    checkpoint_option,
    data_folder_option,
    other_data_option,
    recorded_model_options,
    split_option,
    traceback_option,
)
from pvae.commands.options.table_flags import reading_options
from pvae.commands.output import print_status
from pvae.commands.written_tables import check_table_path, require_free, write_table

__all__ = ["encode", "export", "impute", "predict", "sample"]

Command = TypeVar("Command", bound=Callable[..., Any])

OUT_HELP = "File to write: .csv, .npz (arrays of NumPy) or .parquet."
SITE_HELP = "Latent site. [default: all sites of the guide, side by side]"
EXPORT_HELP = "File to write: .pt2 (PyTorch), .onnx, or .safetensors (parameters)."
CONDITION_HELP = "Condition of all samples, such as y=3, or a label by its name. This option can be repeated."
DRAWS_HELP = "Write N completed data sets below each other, with drawn missing values and a column draw."
QUANTILES_HELP = "Write quantiles of the missing values in addition to their mean: 0.05,0.95."
MEAN_HELP = "Write the mean of x given z, which varies less than data."


def _options(command: Command) -> Command:
    """Add the options that the commands share."""
    options = [
        make_option("Output", "--out", click.Path(), None, OUT_HELP, required=True),
        make_option("Output", "--force", bool, False, "Replace a file that exists at --out.", is_flag=True),
        keep_formulas_option,
        make_option("Computation", "--seed", click.IntRange(min=0), 0, "Seed of the draws."),
        checkpoint_option,
        recorded_model_options,
        traceback_option,
    ]
    return apply_options(command, options)


def _data_options(command: Command) -> Command:
    """Add the options that choose data."""
    return apply_options(command, [other_data_option, data_folder_option, split_option("test")])


@click.command(cls=SectionedCommand, short_help="Write the codes of data.")
@click.argument("run", type=RunType())
@_data_options
@make_option("Run", "--site", str, None, SITE_HELP)
@_options
def encode(run: str, site: str | None, **options: Any) -> None:
    """Write the codes of data: the mean of z for each datum, or the most probable value of a site with few values.

    With --data, all data are encoded in the order of the file; otherwise a split of the training's data.
    """
    _write(run, options, "codes", lambda opened, data: opened.encode(**data, site=site, seed=options["seed"]))


@click.command(cls=SectionedCommand, short_help="Write new data that a model generates.")
@click.argument("run", type=RunType())
@make_option("Output", "--count", click.IntRange(min=1), 100, "Number of data.")
@make_option("Output", "--mean", bool, False, MEAN_HELP, is_flag=True)
@make_option("Output", "--condition", str, None, CONDITION_HELP, multiple=True, metavar="NAME=VALUE")
@_options
def sample(run: str, count: int, mean: bool, condition: tuple[str, ...], **options: Any) -> None:
    """Write new data: z is drawn from the prior, and x given z, in the units of the training data.

    A conditional model needs a value of its condition: --condition y=3, or the name of the column of labels.
    """
    path = check_table_path(options["out"], force=options["force"])
    given = dict([_condition(text) for text in condition])
    opened = _open(run, options)
    values = opened.sample(count, given=given, mean=mean, seed=options["seed"])
    write_table(path, "x", values, keep_formulas=options["keep_formulas"])
    click.echo(path)


def _condition(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise click.UsageError(f"--condition needs NAME=VALUE, such as y=3; got {text!r}.")
    return name.strip(), value.strip()


@click.command(cls=SectionedCommand, short_help="Write encoder, decoder or parameters for other programs.")
@click.argument("run", type=RunType())
@make_option("Output", "--out", click.Path(), None, EXPORT_HELP, required=True)
@make_option("Output", "--part", click.Choice(["encoder", "decoder"]), None, "Part to write, for .pt2 and .onnx.")
@make_option("Output", "--force", bool, False, "Replace a file that exists at --out.", is_flag=True)
@checkpoint_option
@recorded_model_options
@traceback_option
def export(run: str, out: str, part: str | None, *, force: bool, **options: Any) -> None:
    """Write the encoder or the decoder as a function that does not need pvae, or all parameters.

    The function returns the parameters of a distribution, such as z.loc and z.scale. The file describes its inputs.
    """
    from pvae.train.exported.export_run import check_export

    path = check_export(out, part)
    require_free(path, force=force)
    click.echo(_open(run, options).export(path, part))


@click.command(cls=SectionedCommand, short_help="Write data with their missing values filled in.")
@click.argument("run", type=RunType())
@_data_options
@make_option("Output", "--draws", click.IntRange(min=1), None, DRAWS_HELP, metavar="N")
@make_option("Output", "--quantiles", str, None, QUANTILES_HELP)
@make_option("Computation", "--particles", click.IntRange(min=1), 1000, "Number of draws of z per datum.")
@_options
def impute(run: str, draws: int | None, quantiles: str | None, particles: int, **options: Any) -> None:
    """Write data with their missing values filled in by the mean of p(missing given observed).

    With --data, all data of the file are written in order; empty cells, NaN and words such as NA are missing.
    """
    from pvae.commands.imputed_tables import ImputedOutput

    output = ImputedOutput.of(draws, quantiles, {"particles": particles, "seed": options["seed"]})
    _write(run, options, "x", output.of_run, missing=True)


@click.command(cls=SectionedCommand, short_help="Write the predicted labels of data.")
@click.argument("run", type=RunType())
@_data_options
@make_option("Output", "--probabilities", bool, False, "Write the probability of each label.", is_flag=True)
@_options
def predict(run: str, probabilities: bool, **options: Any) -> None:
    """Write the most probable label of each datum, with the names of the labels in the training data.

    With --data, all data of the file are classified in order; their own labels, if any, are not used.
    """
    name = "probabilities" if probabilities else "labels"
    _write(run, options, name, lambda opened, data: opened.predict(**data, probabilities=probabilities), labels=False)


def _open(run: str, options: dict[str, Any]) -> Any:
    from pvae.commands.runs import open_named_run

    return open_named_run(run, options["checkpoint"], options["model"], trust=options["trust"])


def _write(
    run: str,
    options: dict[str, Any],
    name: str,
    use: Callable[[Any, dict[str, Any]], Any],
    *,
    missing: bool = False,
    labels: bool = True,
) -> None:
    """Open a run, load data, and write what a function returns for both.

    Args:
        run: the folder of the run.
        options: the options of the command.
        name: what is written.
        use: a function of the run and of the arguments ``data`` and ``split`` of its methods.
        missing: whether missing values are allowed.
        labels: whether the labels of the data are used.
    """
    from pvae.commands.runs import data_of_run, require_split, whole_data_for_run

    path = check_table_path(options["out"], force=options["force"])
    opened = _open(run, options)
    source, folder, split = options["data"], options["data_folder"], options["split"]
    if source is None:
        splits = data_of_run(opened, None, folder, reading_options(options))
    else:
        reading = reading_options(options)
        splits, split = whole_data_for_run(opened, source, folder, reading, missing=missing, labels=labels), "train"
    print_status(f"Writing {name} of {require_split(splits, split).size} data ...")
    values = use(opened, {"data": splits, "split": split})
    write_table(path, name, values, keep_formulas=options["keep_formulas"])
    click.echo(path)
