"""How a command ends: one line and an exit code for each way, never a traceback for a person's mistake."""

from __future__ import annotations

import linecache
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from pvae.errors import DivergenceError, InputError
from pvae.names import unknown

__all__ = ["BAD_INPUT", "DIVERGED", "INTERRUPTED", "Named", "Shell", "user_frame"]

BAD_INPUT, DIVERGED, INTERRUPTED = 2, 3, 130
_PACKAGES = ("site-packages", "dist-packages")


class Named(click.Group):
    """A group that names the nearest command where it does not know one."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Return the command meant, or say which known one is nearest."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise unknown("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


class Shell(Named):
    """The group of all commands, which turns errors into one line and an exit code."""

    # click overloads this by standalone_mode, which is always off here: errors are told in our own way.
    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Run a command and leave the process with its exit code; never returns."""
        arguments = list(sys.argv[1:] if args is None else args)
        extra |= {"standalone_mode": False, "obj": arguments}
        before, warnings.showwarning = warnings.showwarning, _warn
        try:
            code = super().main(arguments, prog_name or "pvae", **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.ctx.get_help() if error.ctx else "", err=True)
            sys.exit(BAD_INPUT)
        except click.Abort:
            _fail(
                "interrupted; checkpoints are kept (train goes on with --resume, compare when called again).",
                INTERRUPTED,
            )
        except Exception as error:
            _end(error, "--traceback" in arguments)
        finally:
            warnings.showwarning = before
        sys.exit(code if isinstance(code, int) else 0)


def _warn(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Print a warning as a line for a person; where in the code it was raised is of no use on a command line."""
    click.echo(f"pvae: warning: {' '.join(str(message).split())}", err=True)


def _end(error: Exception, whole: bool) -> NoReturn:
    """Leave the process with the line and the code of an error; with its traceback where asked for."""
    if whole:
        traceback.print_exception(error)
    if isinstance(error, click.ClickException):
        _fail(error.format_message(), BAD_INPUT)
    if isinstance(error, DivergenceError):
        _fail(str(error), DIVERGED)
    frame = user_frame(error)
    if frame is not None:
        hint = "" if whole else " (--traceback shows more)"
        _fail(f"{frame}: {type(error).__name__}: {_first_line(error)}{hint}", BAD_INPUT)
    if isinstance(error, InputError):
        _fail(str(error), BAD_INPUT)
    if isinstance(error, OSError) and error.filename is not None:
        _fail(f"{error.strerror}: {error.filename}", BAD_INPUT)
    raise error


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"pvae: error: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _first_line(error: BaseException) -> str:
    """Return the first line of an error: Pyro appends a table of shapes to the errors of a program."""
    return next(iter(str(error).strip().splitlines()), "")


def user_frame(error: BaseException) -> str | None:
    """Return ``file:line`` of the innermost place of an error that lies in a file of the user, if any does.

    A file of the user is one outside pvae, outside the standard library and outside installed packages.
    """
    if isinstance(error, SyntaxError) and error.filename and _is_users(error.filename):
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        if _is_users(frame.filename):
            return f"{_short(frame.filename)}:{frame.lineno}"
    return None


def _is_users(filename: str) -> bool:
    path = Path(filename)
    if filename.startswith("<") or any(name in path.parts for name in _PACKAGES):
        return False
    homes = Path(__file__).parents[1], Path(linecache.__file__).parent, Path(sys.argv[0]).resolve()
    return not any(path.resolve().is_relative_to(home.resolve()) for home in homes)


def _short(filename: str) -> str:
    """Return a path relative to the working folder where it lies inside it."""
    path = Path(filename).resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
