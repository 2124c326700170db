"""The options that several commands share, and how their text becomes arguments of the library."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from pvae.errors import InputError
from pvae.names import unknown, value

__all__ = [
    "FIT",
    "MODEL",
    "Setting",
    "apply",
    "config_option",
    "data_options",
    "fit_options",
    "given",
    "model_options",
    "objective_options",
    "settings",
    "traceback_option",
]

Command = TypeVar("Command", bound=Callable[..., Any])
BINARISE = ("auto", "none", "static", "dynamic", "threshold")


class Setting(click.ParamType[Any]):
    """A value whose kind its text shows: number, true, false, none, a comma-separated list, or a word."""

    name = "value"

    def convert(self, value_: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value; what a config file gives as a list becomes a tuple."""
        if isinstance(value_, list):
            return tuple(value_)
        return value(value_) if isinstance(value_, str) else value_


class Rate(click.ParamType[Any]):
    """A number, or one for each group: ``theta=1e-3,phi=3e-4``; a config file may give a table."""

    name = "rate"

    def convert(self, value_: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a number, or a mapping from group to number."""
        if isinstance(value_, dict):
            return {name: self._number(each) for name, each in value_.items()}
        if isinstance(value_, str) and "=" in value_:
            pairs = [part.partition("=") for part in value_.split(",") if part.strip()]
            if len({name.strip() for name, _, _ in pairs}) < len(pairs):
                self.fail(f"a group is given twice in {value_!r}.")
            return {name.strip(): self._number(each) for name, _, each in pairs}
        return self._number(value_)

    def _number(self, given_: Any) -> float:
        try:
            return float(given_)
        except (TypeError, ValueError):
            self.fail(f"needs a number, or one for each group as theta=1e-3,phi=3e-4; got {given_!r}.")


def _option(flag: str, kind: Any, default: Any, help_: str) -> Callable[[Command], Command]:
    shown = default is not None and default is not False
    return click.option(flag, type=kind, default=default, show_default=shown, help=help_)


# Argument of pvae.fit, kind, default, help. A test holds the names and defaults against fit itself.
FIT: tuple[tuple[str, Any, Any, str], ...] = (
    ("epochs", int, 50, "Passes over the training data."),
    ("batch_size", int, 100, "Data per step."),
    ("learning_rate", Rate(), 1e-3, "Step size of the optimiser; by group: theta=1e-3,phi=3e-4."),
    ("optimiser", str, "adam", "Any optimiser of torch.optim by name, with settings: sgd:momentum=0.9."),
    ("schedule", str, None, "Any schedule of torch.optim by name, with settings: exponential:gamma=0.99."),
    ("device", str, "auto", "auto takes CUDA where there is one; else cpu, cuda, cuda:1."),
    ("precision", str, "float32", "float32, float64, or bfloat16 where the device has it."),
    ("step", str, "auto", "auto, eager or graph: how a step is run, not what it computes."),
    ("seed", int, 0, "Seed of parameters, data order and draws."),
    ("clip", float, None, "Largest norm of all gradients together, per datum."),
    ("patience", int, None, "Stop after so many epochs without a better validation bound."),
    ("validation_particles", int, 100, "Draws of z per datum for the validation bound."),
    ("validation_limit", int, 500, "Most data for the validation bound."),
    ("on_divergence", click.Choice(["stop", "rollback"]), "stop", "rollback halves the learning rate and goes on."),
    ("threads", int, None, "torch's threads."),
    ("max_steps", int, None, "End after so many steps in all."),
    ("checkpoint_seconds", float, 30.0, "Seconds between checkpoints."),
)

MODEL: tuple[tuple[str, str], ...] = (
    ("latent", "Latent features."),
    ("hidden", "Hidden features of each layer: 200,200; 0 for none."),
    ("network", "Kind of network: mlp, gated, conv, resnet."),
    ("activation", "Activation of the networks: tanh, relu, ..."),
    ("initialisation", "Initialisation of the networks."),
    ("output_bias", "Bias of the decoder's last layer: data, a number, or none."),
    ("prior", "Density of z."),
    ("posterior", "Density of z given x."),
    ("likelihood", "Density of x given z: bernoulli, gaussian, discretised-logistic:levels=17, ..."),
    ("noise", "What corrupts an autoencoder's input: gaussian:scale=0.3, masking:share=0.25."),
    ("condition", "What a conditional model is given: y, c, or quadrants of the picture."),
    ("observed", "How many quadrants are given: 1, 2 or 3."),
)


def apply(command: Command, options: Iterable[Callable[[Command], Command]]) -> Command:
    """Return a command with options added, the first on top of its help."""
    for option in reversed(list(options)):
        command = option(command)
    return command


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def fit_options(*, without: Iterable[str] = ()) -> Callable[[Command], Command]:
    """Return the decorator that adds one flag for each argument of `pvae.fit` that text can give."""
    kept = [_option(_flag(name), *rest) for name, *rest in FIT if name not in without]
    return lambda command: apply(command, kept)


def model_options(command: Command) -> Command:
    """Add one flag for each part of a built-in model, and ``--set`` for any argument of any model."""
    parts = [_option(_flag(name), Setting(), None, f"{help_} [built-in models]") for name, help_ in MODEL]
    reach = click.option("--set", "set_", multiple=True, metavar="NAME=VALUE", help="Any argument of the model.")
    return apply(command, [*parts, reach])


def data_options(command: Command) -> Command:
    """Add the flags that choose data."""
    options = [
        _option("--data", str, "digits", "A name (`pvae data list`), or a .npz, .npy or .csv file."),
        _option(
            "--binarise",
            click.Choice(BINARISE),
            "auto",
            "auto: static for a Bernoulli likelihood on grey data.",
        ),
        _option(
            "--validation",
            Setting(),
            None,
            "Data for validation: a count, or a fraction below 1; 0 turns it off.",
        ),
        _option("--mask", str, "none", "Entries of x left out: pixels:share=0.5, block:size=4, rows, quadrants."),
        _option("--labels", int, None, "Training data that keep their label, balanced over classes; others hide it."),
        _option("--data-seed", int, 0, "Seed of splits, binarisation and masks."),
        _option("--data-folder", click.Path(), None, "Folder with data sets, before $PVAE_DATA and the cache."),
    ]
    return apply(command, options)


def objective_options(command: Command) -> Command:
    """Add the flags that choose one objective."""
    options = [
        _option(
            "--objective",
            str,
            None,
            "A name (`pvae list`), settings after colons: renyi:alpha=0.5. [default: the model's own, else elbo]",
        ),
        _option("--particles", click.IntRange(min=1), None, "Draws of z per datum, as objective:particles=N."),
        click.option(
            "--gradients",
            multiple=True,
            metavar="SITE=STRATEGY",
            help="How a guide site's gradient is taken: z_*=measure (`pvae list`); may be given again.",
        ),
    ]
    return apply(command, options)


def traceback_option(command: Command) -> Command:
    """Add ``--traceback``, which the shell reads."""
    option = click.option("--traceback", is_flag=True, expose_value=False, help="Show the whole traceback of an error.")
    return option(command)


def config_option(command: Command) -> Command:
    """Add ``--config FILE``, whose keys are the command's options; what the command line says wins."""
    option = click.option(
        "--config",
        type=click.Path(),
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="TOML file of options; the command line wins over it.",
    )
    return option(command)


def _read_config(ctx: click.Context, param: click.Parameter, path: str | None) -> None:
    if path is None:
        return
    options = _toml(Path(path))
    known = {option.name: option for option in ctx.command.params if option.name != param.name and option.expose_value}
    named = {"set" if name == "set_" else name: name for name in known if name is not None}
    defaults = {}
    for key, content in options.items():
        name = named.get(key.replace("-", "_"))
        if name is None:
            raise unknown(f"option in {path}:", key, [each.replace("_", "-") for each in named])
        defaults[name] = _pairs(content) if name == "set_" else _text_list(known[name], content)
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the config file {str(path)!r}: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{str(path)!r} is not TOML: {error}.") from error


def _text_list(option: click.Parameter, content: Any) -> Any:
    """Return a list as the comma-separated text that the option takes, where it takes text."""
    if isinstance(content, list) and not option.multiple and option.nargs == 1 and option.type is click.STRING:
        return ",".join(str(each) for each in content)
    return content


def _pairs(content: Any) -> list[str]:
    """Return the ``set`` table of a config file as the texts of ``--set``."""
    if not isinstance(content, dict):
        raise InputError(f"The key set of a config file is a table, [set]; got {content!r}.")
    texts = {name: ",".join(map(str, each)) if isinstance(each, list) else str(each) for name, each in content.items()}
    return [f"{name}={text}" for name, text in texts.items()]


def given(ctx: click.Context, names: Iterable[str]) -> dict[str, Any]:
    """Return the options that the command line or a config file gave, without those left at default."""
    default = ParameterSource.DEFAULT
    return {name: ctx.params[name] for name in names if ctx.get_parameter_source(name) is not default}


def settings(ctx: click.Context) -> dict[str, Any]:
    """Return the model's settings: the parts given as flags, and over them each ``--set``."""
    result = given(ctx, [name for name, _ in MODEL])
    for text in ctx.params["set_"]:
        name, separator, content = text.partition("=")
        name = name.strip().replace("-", "_")
        if not separator or not name.isidentifier():
            raise InputError(f"--set takes name=value; got {text!r}.")
        result[name] = value(content)
    return result
