"""Errors of the command line: one line on standard error and an exit code, without a traceback."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from pvae.commands.interrupts import two_interrupts_end
from pvae.commands.options.message_level import level_restored
from pvae.commands.usage_errors import usage_message
from pvae.errors import DivergenceError, InputError, LostProcessError
from pvae.files import is_disk_full
from pvae.names import short_label, unknown
from pvae.user_code import find_user_place

__all__ = [
    "BAD_INPUT",
    "DISK_FULL",
    "DIVERGED",
    "INTERRUPTED",
    "LOST_PROCESS",
    "MainGroup",
    "SuggestingGroup",
    "user_frame",
]

BAD_INPUT, DIVERGED, DISK_FULL, LOST_PROCESS, INTERRUPTED = 2, 3, 4, 5, 130

_MOST_CHARACTERS = 3000  # of an error or a warning: it may hold names from a file of somebody else


class SuggestingGroup(click.Group):
    """A group of commands that suggests the nearest name for an unknown command."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Return the command that the arguments name.

        Raises:
            InputError: if no command has that name; the message suggests the nearest one.
        """
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise unknown("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


class MainGroup(SuggestingGroup):
    """The group of all commands. It turns an error into one line and an exit code."""

    # click overloads this method by standalone_mode, which is always off here because we print errors ourselves.
    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Run a command, and end the process with its exit code.

        Args:
            args: the arguments; by default those of the process.
            prog_name: name of the program in the help.
            extra: settings of `click.Group.main`.
        """
        arguments = list(sys.argv[1:] if args is None else args)
        extra |= {"standalone_mode": False, "obj": arguments}
        original, warnings.showwarning = warnings.showwarning, _print_warning
        try:
            with two_interrupts_end(INTERRUPTED), level_restored():
                code = super().main(arguments, prog_name or "pvae", **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.ctx.get_help() if error.ctx else "", err=True)
            sys.exit(BAD_INPUT)
        except click.Abort:
            _exit_with_error(
                "interrupted; the checkpoints are kept. Continue a training with --resume, or a comparison with the "
                "same command.",
                INTERRUPTED,
            )
        except Exception as error:
            _report(error, arguments)
        finally:
            warnings.showwarning = original
        sys.exit(code if isinstance(code, int) else 0)


def _print_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Print a warning as one line, without the place in the code, which does not help on a command line."""
    click.echo(short_label(f"pvae: warning: {' '.join(str(message).split())}", _MOST_CHARACTERS), err=True)


def _report(error: Exception, arguments: Sequence[str]) -> NoReturn:
    """End the process with the line and the exit code of an error; raise the error again if it is a bug of pvae."""
    show_traceback = "--traceback" in arguments
    if show_traceback:
        traceback.print_exception(error)
    if isinstance(error, click.ClickException):
        _exit_with_error(usage_message(error, arguments), BAD_INPUT)
    if isinstance(error, DivergenceError):
        _exit_with_error(str(error), DIVERGED)
    if isinstance(error, LostProcessError):
        _exit_with_error(str(error), LOST_PROCESS)
    if isinstance(error, OSError) and is_disk_full(error):
        place = "" if error.filename is None else f": {error.filename}"
        _exit_with_error(f"{error.strerror}{place}. Make room, or name another folder.", DISK_FULL)
    frame, hint = user_frame(error), "" if show_traceback else " (--traceback shows more)"
    if frame is not None:
        _exit_with_error(f"{frame}: {type(error).__name__}: {_first_line(error)}{hint}", BAD_INPUT)
    if isinstance(error, InputError):
        _exit_with_error(str(error), BAD_INPUT)
    if isinstance(error, OSError) and error.strerror:
        place = "" if error.filename is None else f": {error.filename}"
        _exit_with_error(f"{error.strerror}{place}", BAD_INPUT)
    if _is_refused_by_distribution(error):
        _exit_with_error(
            f"a distribution of the model got an invalid value. {_first_line(error).partition(', but')[0]}"
            f". The data, or the parameters of the model, are too large or not finite{hint}.",
            BAD_INPUT,
        )
    raise error


def _is_refused_by_distribution(error: Exception) -> bool:
    """Return whether an error comes from torch's check of the parameters or of the values of a distribution."""
    frames = traceback.extract_tb(error.__traceback__)
    checks = getattr(sys.modules.get("torch.distributions.distribution"), "__file__", None)
    return isinstance(error, ValueError) and bool(frames) and frames[-1].filename == checks


def _exit_with_error(message: str, code: int) -> NoReturn:
    click.echo(short_label(f"pvae: error: {' '.join(message.split())}", _MOST_CHARACTERS), err=True)
    sys.exit(code)


def _first_line(error: BaseException) -> str:
    """Return the first line of an error: Pyro appends a table of shapes to the errors of a program."""
    return next(iter(str(error).strip().splitlines()), "")


def user_frame(error: BaseException) -> str | None:
    """Return ``file:line`` of the innermost frame of an error that is in the user's code; None if there is none.

    A file is the user's code if it is outside pvae, the standard library and the installed packages.
    """
    place = find_user_place(error)
    if place is None or Path(place.file).resolve() == Path(sys.argv[0]).resolve():
        return None
    return f"{_short_path(place.file)}:{place.line}"


def _short_path(filename: str) -> str:
    """Return a path relative to the working folder if the file is inside it."""
    path = Path(filename).resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
