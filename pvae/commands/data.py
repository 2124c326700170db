"""``pvae data``: which data sets have a name, whether their files are here and right, and fetching them."""

from __future__ import annotations

import click

from pvae.commands.output import print_json, say, table
from pvae.commands.shared_options import traceback_option
from pvae.commands.shell import Named

__all__ = ["data"]


@click.group(cls=Named)
def data() -> None:
    """List, verify and fetch named data sets.

    Files are looked for in $PVAE_DATA, then in the cache ($PVAE_CACHE); $PVAE_MIRROR is asked first for
    what must be downloaded.
    """


@data.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@traceback_option
def list_(as_json: bool) -> None:
    """List the data sets that have a name, and say where they are."""
    from pvae.data import describe_data

    found = describe_data()
    if as_json:
        named = {name: {"about": line, "here": here, "folder": where} for name, line, here, where in found}
        print_json({"data": named})
        return
    click.echo(
        table(
            ["name", "here", "about"],
            [[name, "yes" if here else "no", line] for name, line, here, _ in found],
        )
    )


@data.command()
@click.argument("names", nargs=-1)
@traceback_option
def verify(names: tuple[str, ...]) -> None:
    """Check the files of data sets against their SHA-256; by default of every set that is here."""
    from pvae.data import describe_data
    from pvae.data import verify as verified

    for name in names or [name for name, _, here, _ in describe_data() if here]:
        for line in verified(name):
            click.echo(line)


@data.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@traceback_option
def fetch(names: tuple[str, ...]) -> None:
    """Download data sets into the cache, each file checked against its SHA-256."""
    from pvae.data import fetch as fetched

    for name in names:
        say(f"Fetching {name} ...")
        click.echo(f"{name}: {fetched(name)}")
