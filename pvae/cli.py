"""The command line: ``pvae train``, ``evaluate``, ``compare``, ``show``, ``check``, ``data`` and ``list``.

Nothing here imports torch: each command imports what it needs when it runs, so that help answers at once.
"""

from __future__ import annotations

import click

from pvae import __version__
from pvae.commands import COMMANDS
from pvae.commands.shell import Shell

__all__ = ["cli", "main"]


@click.group(cls=Shell, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="pvae", message="%(prog)s %(version)s")
def cli() -> None:
    """Train, evaluate and compare deep latent-variable models in Pyro.

    Exit codes: 0 done, 2 bad input, 3 diverged, 130 interrupted, 143 terminated.
    """


for _command in COMMANDS:
    cli.add_command(_command)


def main() -> None:
    """Run the command line of this process."""
    cli.main()
