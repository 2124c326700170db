"""The option ``--config FILE``: options of a command from a TOML file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pvae.errors import InputError
from pvae.names import unknown
from pvae.outside_files import read_toml

__all__ = ["config_option"]

Command = TypeVar("Command", bound=Callable[..., Any])


def config_option(command: Command) -> Command:
    """Add ``--config FILE``, whose keys are the options of the command; the command line takes precedence."""
    option = click.option(
        "--config",
        type=click.Path(),
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="TOML file with options of this command. An option on the command line takes precedence.",
    )
    return option(command)


def _read_config(ctx: click.Context, param: click.Parameter, path: str | None) -> None:
    """Make the options of the file the defaults of the command."""
    if path is None:
        return
    options = {
        option.name: option
        for option in ctx.command.params
        if option.name is not None and option.name != param.name and option.expose_value
    }
    names = {"set" if name == "set_" else name: name for name in options}
    defaults = {}
    for key, content in _read_toml(Path(path)).items():
        name = names.get(key.replace("-", "_"))
        if name is None:
            raise unknown(f"option in {path}:", key, [known.replace("_", "-") for known in names])
        defaults[name] = _set_texts(content) if name == "set_" else _option_text(options[name], content)
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path)
    except InputError as error:
        raise InputError(f"The file of --config cannot be used: {error}") from error


def _option_text(option: click.Parameter, content: Any) -> Any:
    """Return a list as comma-separated text if the option takes one text; other content as it is."""
    takes_text = option.type is click.STRING and not option.multiple and option.nargs == 1
    if isinstance(content, list) and takes_text:
        return ",".join(map(str, content))
    return content


def _set_texts(content: Any) -> list[str]:
    """Return the table ``[set]`` of a config file as the texts of ``--set``."""
    if not isinstance(content, dict):
        raise InputError(
            f"The key 'set' of a config file needs a table of model settings, such as [set] with latent = 4; "
            f"got {content!r}."
        )
    return [
        f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}" for name, value in content.items()
    ]
