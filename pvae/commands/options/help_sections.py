"""A click command whose help lists its options in titled sections, such as "Data" and "Training"."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

__all__ = ["Decorator", "SectionedCommand", "apply_options", "make_option"]

Command = TypeVar("Command", bound=Callable[..., Any])
# Other spellings of flags.
FLAG_ALIASES = {
    "--batch-size": "--batch",
    "--binarise": "--binarize",
    "--initialisation": "--initialization",
    "--learning-rate": "--lr",
    "--optimiser": "--optimizer",
}
Decorator = Callable[[Command], Command]


class SectionedOption(click.Option):
    """An option that belongs to a section of the help.

    Args:
        arguments: the positional arguments of `click.Option`.
        section: title of the section.
        settings: the keyword arguments of `click.Option`.
    """

    def __init__(self, *arguments: Any, section: str, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose help has one section for each title among its options; other options come last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options section by section, in the order in which the sections first occur."""
        sections: dict[str, list[tuple[str, str]]] = {}
        others: list[tuple[str, str]] = []
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx) if isinstance(option, click.Option) else None
            if record is not None:
                records = sections.setdefault(option.section, []) if isinstance(option, SectionedOption) else others
                records.append(record)
        sections["Other options"] = others
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def make_option(
    section: str, flag: str, value_type: Any, default: Any, help_text: str, **settings: Any
) -> Decorator[Any]:
    """Return the decorator that adds one option, with its default in the help unless that is None.

    Args:
        section: title of the section of the help.
        flag: the flag, such as ``"--batch-size"``; its other spelling in `FLAG_ALIASES` is accepted too.
        value_type: a click type, or a Python type.
        default: value where neither the command line nor a config file has the option.
        help_text: one or two sentences.
        settings: other keyword arguments of `click.Option`.
    """
    spellings = [flag, FLAG_ALIASES[flag]] if flag in FLAG_ALIASES else [flag]
    if not settings.get("required"):  # click takes a default of None as a value, and would not ask for the option
        settings["default"] = default
    return click.option(
        *spellings,
        cls=SectionedOption,
        section=section,
        type=value_type,
        show_default=default is not None,
        help=help_text,
        **settings,
    )


def apply_options(command: Command, options: Iterable[Decorator[Any]]) -> Command:
    """Return the command with the options added. The first option comes first in the help."""
    for option in reversed(list(options)):
        command = option(command)
    return command
