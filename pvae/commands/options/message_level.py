"""The options ``--quiet`` and ``--verbose`` of every command."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from pvae.commands.options.help_sections import MESSAGES, SectionedOption
from pvae.errors import InputError
from pvae.logs import PACKAGE

__all__ = ["level_restored", "with_message_level"]

QUIET_HELP = "Print results, warnings and errors only, without progress and notes."
VERBOSE_HELP = "Print details on standard error too: files, graphs, matrix products, and the time of each phase."


class _MessageFormatter(logging.Formatter):
    """Writes lines of progress as they are, and details with the file that they come from."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        text = super().format(record)
        return text if record.levelno > logging.DEBUG else f"debug: {record.name}: {text}"


def with_message_level(command: click.Command) -> click.Command:
    """Return a command with the options ``--quiet`` and ``--verbose``; a group gives them to its commands.

    Args:
        command: a command or a group of commands.
    """
    if isinstance(command, click.Group):
        for member in command.commands.values():
            with_message_level(member)
        return command
    shared: dict[str, Any] = {"section": MESSAGES, "is_flag": True, "expose_value": False, "callback": _set_level}
    command.params.append(SectionedOption(["--quiet", "-q"], help=QUIET_HELP, **shared))
    command.params.append(SectionedOption(["--verbose", "-v"], help=VERBOSE_HELP, **shared))
    return command


def _set_level(ctx: click.Context, param: click.Parameter, is_given: bool) -> None:
    """Set the level of the package's logger, and show its records if details are wanted."""
    if not is_given:
        return
    if ctx.meta.setdefault("pvae.message_level", param.name) != param.name:
        raise InputError("--quiet and --verbose cannot be used together; give one of them.")
    if param.name == "quiet":
        PACKAGE.setLevel(logging.WARNING)
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_MessageFormatter())
    PACKAGE.addHandler(handler)
    PACKAGE.setLevel(logging.DEBUG)


@contextmanager
def level_restored() -> Iterator[None]:
    """Restore the level, and the handlers of the package's logger after a block."""
    level, handlers = PACKAGE.level, list(PACKAGE.handlers)
    try:
        yield
    finally:
        PACKAGE.setLevel(level)
        PACKAGE.handlers[:] = handlers
