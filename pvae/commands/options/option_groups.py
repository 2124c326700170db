"""Groups of options that several commands share: data, objective, model, training and output."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any, TypeVar, get_args, get_type_hints

import click
from click.core import ParameterSource

from pvae.commands.options.help_sections import Decorator, SectionedOption, apply_options, make_option
from pvae.commands.options.known_names import KNOWN_NAMES, NamedSettingType, NamesType
from pvae.commands.options.option_types import LearningRateType, SettingType
from pvae.commands.options.table_flags import table_options
from pvae.fit_options import FitOptions

__all__ = [
    "FIT_OPTIONS",
    "MODEL_HELP",
    "checkpoint_option",
    "data_folder_option",
    "data_options",
    "device_option",
    "explicit_options",
    "fit_options",
    "json_option",
    "model_options",
    "objective_options",
    "other_data_option",
    "recorded_model_options",
    "split_option",
    "traceback_option",
    "training_type",
    "trust_option",
]

Command = TypeVar("Command", bound=Callable[..., Any])
BINARISATIONS = ("auto", "none", "static", "dynamic", "threshold")
SPLITS = ("train", "validation", "test")
FIT_OPTIONS = tuple(option.name for option in fields(FitOptions))

# For each option of a built-in model with known names, the kind of the names.
_KINDS = {
    "network": "networks",
    "activation": "activations",
    "initialisation": "initialisations",
    "prior": "priors",
    "posterior": "posteriors",
    "likelihood": "likelihoods",
}


def _listed(kind: str) -> str:
    return ", ".join(KNOWN_NAMES[kind])


# For each argument of a built-in model that has a flag, the help of the flag.
MODEL_HELP = {
    "latent": "Number of latent features.",
    "hidden": "Number of hidden features of each layer, such as 200,200; 0 means no hidden layer.",
    "network": f"Kind of network: {_listed('networks')}.",
    "activation": f"Activation function of the networks: {_listed('activations')}.",
    "initialisation": f"Initialisation of the networks: {_listed('initialisations')}.",
    "output_bias": "Initial bias of the decoder's last layer: data (computed from the training data), a number, none.",
    "prior": f"Density of z: {_listed('priors')}.",
    "posterior": f"Density of z given x: {_listed('posteriors')}.",
    "likelihood": f"Density of x given z: {_listed('likelihoods')}. Settings follow a colon: "
    "discretised-logistic:levels=17.",
    "noise": "Corruption of an autoencoder's input: gaussian:scale=0.3, masking:share=0.25.",
    "condition": "Input of a conditional model: y, c, or quadrants (some quadrants of the picture).",
    "observed": "Number of observed quadrants: 1, 2 or 3.",
}


def fit_options(*, without: Iterable[str] = ()) -> Decorator[Any]:
    """Return the decorator that adds one flag for each field of `FitOptions`.

    Args:
        without: names of fields that get no flag.
    """
    options = [
        make_option(
            "Training",
            _flag(option.name),
            training_type(option.name),
            option.default,
            option.metadata["help"],
        )
        for option in fields(FitOptions)
        if option.name not in without
    ]
    return lambda command: apply_options(command, options)


def training_type(name: str) -> click.ParamType:
    """Return the click type of a field of `FitOptions`, such as that of int for ``int | None``.

    Args:
        name: the name of the field.
    """
    choices = next(option.metadata["choices"] for option in fields(FitOptions) if option.name == name)
    if choices:
        return click.Choice(choices)
    if name == "learning_rate":
        return LearningRateType()
    annotation = get_type_hints(FitOptions)[name]
    types = get_args(annotation) or (annotation,)
    return click.types.convert_type(next((number_type for number_type in (int, float) if number_type in types), str))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def model_options(command: Command) -> Command:
    """Add one flag for each argument in `MODEL_HELP`, and ``--set`` for any argument of any model."""
    section = "Model (flags for built-in models; --set for all)"
    flags = [make_option(section, _flag(name), _setting_type(name), None, text) for name, text in MODEL_HELP.items()]
    any_argument = click.option(
        "--set",
        "set_",
        cls=SectionedOption,
        section=section,
        multiple=True,
        metavar="NAME=VALUE",
        help="Any argument of the model's constructor. This option can be repeated.",
    )
    return apply_options(command, [*flags, any_argument])


def _setting_type(name: str) -> SettingType:
    return NamedSettingType(_KINDS[name]) if name in _KINDS else SettingType()


def data_options(command: Command) -> Command:
    """Add the flags that choose a data set and how it is split, binarised and masked."""
    section = "Data"
    options = [
        make_option(
            section,
            "--data",
            NamesType("data", files=True),
            "digits",
            "Name of a data set (`pvae data list`), or a file (.csv, .npz, ...) or folder of pictures.",
        ),
        make_option(
            section,
            "--binarise",
            click.Choice(BINARISATIONS),
            "auto",
            "Conversion of grey levels to 0 or 1: static draws once, dynamic draws at each use, threshold cuts at 0.5. "
            "auto is static for a Bernoulli likelihood on grey data, else none.",
        ),
        make_option(
            section,
            "--validation",
            SettingType(),
            None,
            "Size of the validation split: a number of data, or a fraction below 1; 0 means no validation split. "
            "[default: the data set's own split, else a tenth]",
        ),
        make_option(
            section,
            "--mask",
            str,
            "none",
            "Entries of x to hide at random: pixels:share=0.5, block:size=4, rows, quadrants.",
        ),
        make_option(
            section,
            "--labels",
            int,
            None,
            "Number of training data that keep their label, equally many in each class; other labels are hidden. "
            "[default: all]",
        ),
        make_option(section, "--data-seed", int, 0, "Seed of splits, binarisation and masks."),
        data_folder_option,
        table_options(),
    ]
    return apply_options(command, options)


def data_folder_option(command: Command) -> Command:
    """Add ``--data-folder``."""
    help_text = "Folder to search for data sets before $PVAE_DATA and the cache."
    return make_option("Data", "--data-folder", click.Path(), None, help_text)(command)


def other_data_option(command: Command) -> Command:
    """Add ``--data`` to a command that takes a run, which records its own data."""
    help_text = "Name or file of a data set to use instead of the data that the run was trained on."
    data_option = make_option("Data", "--data", NamesType("data", files=True), None, help_text)
    return data_option(table_options(missing=False, scaled=False)(command))


def split_option(default: str) -> Decorator[Any]:
    """Return the decorator that adds ``--split`` with a default."""
    return make_option("Data", "--split", click.Choice(SPLITS), default, "Split of the data to use.")


def objective_options(command: Command) -> Command:
    """Add the flags that choose one objective."""
    section = "Objective"
    options = [
        make_option(
            section,
            "--objective",
            NamesType("objectives"),
            None,
            "Name of an objective (`pvae list`), with settings after colons: renyi:alpha=0.5. "
            "[default: the model's own, else elbo]",
        ),
        make_option(
            section,
            "--particles",
            click.IntRange(min=1),
            None,
            "Number of draws of z per datum; the same as the setting particles of the objective.",
        ),
        click.option(
            "--gradients",
            cls=SectionedOption,
            section=section,
            multiple=True,
            metavar="SITE=STRATEGY",
            help="Gradient strategy (`pvae list`) for the guide's sites with this name or pattern, such as "
            "z_*=measure. This option can be repeated.",
        ),
    ]
    return apply_options(command, options)


def checkpoint_option(command: Command) -> Command:
    """Add ``--checkpoint`` to a command that takes a run."""
    choices = click.Choice(["best", "last"])
    help_text = "Parameters of a run to use: best by validation bound, or last."
    return make_option("Run", "--checkpoint", choices, "best", help_text)(command)


def trust_option(command: Command) -> Command:
    """Add ``--trust`` to a command that takes a run."""
    help_text = "Run the code of the model that the run folder names, if it is not part of pvae."
    return make_option("Run", "--trust", bool, False, help_text, is_flag=True)(command)


def recorded_model_options(command: Command) -> Command:
    """Add ``--model`` and ``--trust`` to a command that takes a run."""
    help_text = "Your own model file and class, my_model.py:MyModel, instead of the model of the run folder."
    return make_option("Run", "--model", str, None, help_text)(trust_option(command))


def device_option(command: Command) -> Command:
    """Add ``--device`` with the default of `pvae.fit`."""
    device = next(option for option in fields(FitOptions) if option.name == "device")
    return make_option("Computation", "--device", str, device.default, device.metadata["help"])(command)


def json_option(command: Command) -> Command:
    """Add ``--json``."""
    help_text = "Print one JSON object on standard output."
    return click.option("--json", "as_json", is_flag=True, help=help_text)(command)


def traceback_option(command: Command) -> Command:
    """Add ``--traceback``, which `Shell` reads."""
    help_text = "Print the full traceback of an error."
    return click.option("--traceback", is_flag=True, expose_value=False, help=help_text)(command)


def explicit_options(ctx: click.Context, names: Iterable[str]) -> dict[str, Any]:
    """Return the options that come from the command line or a config file, without those left at their default.

    Args:
        ctx: the context of the command.
        names: the names of the options to look up.
    """
    default = ParameterSource.DEFAULT
    return {name: ctx.params[name] for name in names if ctx.get_parameter_source(name) is not default}
