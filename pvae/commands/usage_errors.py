"""Messages for click's errors about arguments, which say what to type."""

from __future__ import annotations

from collections.abc import Sequence

import click

from pvae.commands.options.help_examples import example_of
from pvae.commands.options.help_sections import name_of, section_of

__all__ = ["usage_message"]

_WORDS = {
    "is not a valid integer range": "is not a whole number",
    "is not a valid integer": "is not a whole number",
    "is not a valid float range": "is not a number",
    "is not a valid float": "is not a number",
}


def usage_message(error: click.ClickException, arguments: Sequence[str]) -> str:
    """Return the message of an error about arguments, with what to type.

    Args:
        error: the error.
        arguments: the arguments of the process.
    """
    message = error.format_message()
    for words, plain in _WORDS.items():
        message = message.replace(words, plain)
    ctx = getattr(error, "ctx", None)
    if not isinstance(error, click.UsageError) or ctx is None or ctx.parent is None:
        return message
    stop = "" if message.endswith((".", "?", "?)")) else "."
    return f"{message}{stop} {_advice(error, ctx, arguments)}".rstrip()


def _advice(error: click.UsageError, ctx: click.Context, arguments: Sequence[str]) -> str:
    """Return a sentence that says what to type."""
    if isinstance(error, click.NoSuchOption):
        return _flag_of_one_dash(ctx, arguments)
    command = name_of(ctx)
    if isinstance(error, click.MissingParameter):
        example = _example(ctx, command, error.param)
        return f"For example: {example}" if example else ""
    if isinstance(error, click.BadParameter):
        return ""
    return f"pvae help {command} shows the arguments, and examples."


def _flag_of_one_dash(ctx: click.Context, arguments: Sequence[str]) -> str:
    """Return the advice for ``-lr``, which click reads as ``-l -r``; "" if no argument is a flag with one dash."""
    flags = {flag for option in ctx.command.params for flag in option.opts}
    return next((f"Write -{given} with two dashes." for given in arguments if f"-{given}" in flags), "")


def _example(ctx: click.Context, command: str, missing: click.Parameter | None) -> str | None:
    """Return an example with the missing option; for a missing argument, the first example of the command."""
    titles = dict.fromkeys(section_of(option) for option in ctx.command.params if isinstance(option, click.Option))
    if isinstance(missing, click.Option):
        titles = {section_of(missing): None}
    return next((example for title in titles if (example := example_of(command, title))), None)
