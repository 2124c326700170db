"""``pvae help``: show the help of a command."""

from __future__ import annotations

import click

from pvae.commands.options.help_sections import SectionedCommand
from pvae.names import unknown

__all__ = ["help_"]


def _commands(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the commands that begin with the text, for the shell; after a group, those of the group."""
    group: click.Command | None = ctx.find_root().command
    for name in ctx.params.get(str(param.name)) or ():
        group = group.get_command(ctx, name) if isinstance(group, click.Group) else None
    names = group.list_commands(ctx) if isinstance(group, click.Group) else []
    return [name for name in names if name.startswith(incomplete)]


@click.command("help", cls=SectionedCommand, short_help="Show the help of a command.")
@click.argument("command", nargs=-1, shell_complete=_commands)
@click.pass_context
def help_(ctx: click.Context, /, command: tuple[str, ...]) -> None:
    """Show the help of COMMAND, such as `pvae help train` or `pvae help data list`; without it, list the commands."""
    shown = ctx.find_root()
    for name in command:
        group = shown.command
        names = group.list_commands(shown) if isinstance(group, click.Group) else []
        found = group.get_command(shown, name) if isinstance(group, click.Group) else None
        if found is None:
            raise unknown("command", name, names)
        shown = click.Context(found, shown, info_name=name)
    click.echo(shown.get_help())
