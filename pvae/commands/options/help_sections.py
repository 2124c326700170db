"""A click command whose help lists its options in titled sections, such as "Data" and "Training", with examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from pvae.commands.options.help_examples import example_of
from pvae.commands.options.known_names import NamesType

__all__ = ["MESSAGES", "Decorator", "SectionedCommand", "apply_options", "make_option", "name_of", "section_of"]

Command = TypeVar("Command", bound=Callable[..., Any])
# Other spellings of flags.
FLAG_ALIASES = {
    "--batch-size": "--batch",
    "--binarise": "--binarize",
    "--initialisation": "--initialization",
    "--learning-rate": "--lr",
    "--optimiser": "--optimizer",
}
MESSAGES = "Messages"
# The sections of options that several commands share, by their flags; others without a section are in the last one.
_SECTIONS = {
    "--assign": "Output",
    "--config": "Run",
    "--out": "Output",
    "--resume": "Run",
    "--seed": "Computation",
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

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the flags and the help, with the names that the option accepts."""
        record = super().get_help_record(ctx)
        if record is None or not isinstance(self.type, NamesType):
            return record
        return record[0], f"{record[1]}  Names: {', '.join(self.type.names())}."


class SectionedCommand(click.Command):
    """A command whose help has one section for each title among its options, each with an example."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options section by section, in the order in which the sections first occur."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for argument in self.params:
            if isinstance(argument, click.Argument) and isinstance(argument.type, NamesType):
                with formatter.section(f"Names of {argument.type.kind}"):
                    formatter.write_text(", ".join(argument.type.names()))
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx) if isinstance(option, click.Option) else None
            if record is not None:
                sections.setdefault(section_of(option), []).append(record)
        last = sections.pop(MESSAGES)
        for title, records in [*sections.items(), (MESSAGES, last)]:
            with formatter.section(title):
                formatter.write_dl(records)
                example = example_of(name_of(ctx), title)
                if example is not None:
                    formatter.write(f"{'':>{formatter.current_indent}}Example: {example}\n")


def section_of(option: click.Parameter) -> str:
    """Return the title of the section of the help that has an option.

    Args:
        option: an option of a command.
    """
    if isinstance(option, SectionedOption):
        return option.section
    return next((_SECTIONS[flag] for flag in option.opts if flag in _SECTIONS), MESSAGES)


def name_of(ctx: click.Context) -> str:
    """Return the name of the command of a context, such as ``"data list"``.

    Args:
        ctx: the context of the command.
    """
    names: list[str] = []
    current: click.Context | None = ctx
    while current is not None and current.parent is not None:
        names.insert(0, str(current.command.name))
        current = current.parent
    return " ".join(names)


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
    if not settings.get("required"):  # click reads a default of None as a value, and would not require the option
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
