"""``pvae help``: show the help of a command."""

from __future__ import annotations

import click

from pvae.commands.options.help_sections import SectionedCommand
from pvae.names import unknown

__all__ = ["help_"]


@click.command("help", cls=SectionedCommand, short_help="Show the help of a command.")
@click.argument("command", nargs=-1)
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
