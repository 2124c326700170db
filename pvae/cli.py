"""The command line ``pvae``: its commands are in `pvae.commands`.

No module of the command line imports torch at its top level, so help answers at once. Each command imports what it
needs when it runs.
"""

from __future__ import annotations

import click

from pvae import __version__
from pvae.commands import COMMANDS
from pvae.commands.error_reporting import MainGroup
from pvae.commands.options.message_level import with_message_level

__all__ = ["cli", "main"]


@click.group(cls=MainGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="pvae", message="%(prog)s %(version)s")
def cli() -> None:
    """Train, evaluate and compare deep latent-variable models in Pyro.

    `pvae COMMAND --help` shows the options of a command. Exit codes: 0 success, 2 bad input, 3 the training diverged,
    4 the disk is full, 5 another process of the training was lost, 130 interrupted, 143 terminated.
    """


for _command in COMMANDS:
    cli.add_command(with_message_level(_command))


def main() -> None:
    """Run the command line with the arguments of this process."""
    cli.main()
