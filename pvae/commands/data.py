"""``pvae data``: list, verify and download the data sets that have a name, and describe any data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pvae.commands.error_reporting import SuggestingGroup
from pvae.commands.options.help_sections import SectionedCommand
from pvae.commands.options.known_names import NamesType
from pvae.commands.options.option_groups import data_folder_option, json_option, traceback_option
from pvae.commands.options.table_flags import reading_options, table_options
from pvae.commands.output import format_table, print_json, print_status, print_text
from pvae.errors import InputError

__all__ = ["data"]


@click.group(cls=SuggestingGroup)
def data() -> None:
    """List, verify and download named data sets, and describe data.

    Files are searched for in the folder $PVAE_DATA, then in the cache folder $PVAE_CACHE. A download tries the address
    $PVAE_MIRROR first. Each of these environment variables is optional.
    """


@data.command("list", cls=SectionedCommand, short_help="List the named data sets.")
@json_option
@traceback_option
def list_(as_json: bool) -> None:
    """List the named data sets, and whether their files are on this machine."""
    from pvae.data import describe_data

    data_sets = describe_data()
    if as_json:
        records = {
            name: {"about": about, "here": present, "folder": folder} for name, about, present, folder in data_sets
        }
        print_json({"data": records})
        return
    rows = [[name, "yes" if present else "no", about] for name, about, present, _ in data_sets]
    click.echo(format_table(["name", "present", "about"], rows))


@data.command(cls=SectionedCommand, short_help="Describe a file or a data set.")
@click.argument("source", metavar="FILE", type=NamesType("data", files=True))
@data_folder_option
@table_options()
@json_option
@traceback_option
def describe(source: str, as_json: bool, **options: Any) -> None:
    """Describe the data in FILE, which may be a file, a folder of pictures or the name of a data set.

    It shows rows, columns, types, label, missing values, constant columns, classes, splits, and what was inferred.
    Missing values are counted, and are not an error. The exit code is 2 if the data cannot be loaded with these
    options.
    """
    from pvae.data import load_data
    from pvae.data.descriptions import describe_splits, description_text

    if options["missing"] == "error":
        options["missing"] = "mask"
    reading, folder = reading_options(options), options["data_folder"]
    try:
        record = describe_splits(load_data(source, folder=folder, **reading))
    except InputError as error:
        _describe_refused(Path(folder or "", source), reading, error, as_json)
        raise
    if as_json:
        print_json(record)
    else:
        print_text(description_text(record))


def _describe_refused(path: Path, reading: dict[str, Any], error: InputError, as_json: bool) -> None:
    """Describe the columns of a table that cannot be loaded with these options, where it is a table."""
    from pvae.data.file_data import read_table
    from pvae.data.tables.table_description import describe_table, table_text
    from pvae.data.tables.table_options import TableOptions

    if not path.name.lower().endswith((".csv", ".tsv", ".txt", ".gz", ".parquet")):
        return
    try:
        options = TableOptions.of(reading["missing"], {**reading, "columns": None, "categories": None})
        record = describe_table(read_table(path, options))
    except InputError:
        return  # the file cannot be read, and the error names the reason
    if as_json:
        print_json({**record, "problem": str(error)})
    else:
        print_text(table_text(record))


@data.command(cls=SectionedCommand, short_help="Check files against their SHA-256 checksum.")
@click.argument("names", nargs=-1, type=NamesType("data"))
@traceback_option
def verify(names: tuple[str, ...]) -> None:
    """Check the files of the data sets NAMES against their SHA-256 checksum.

    Without NAMES, every data set with files on this machine is checked.
    """
    from pvae.data import describe_data
    from pvae.data import verify as verify_files

    for name in names or [name for name, _, present, _ in describe_data() if present]:
        for line in verify_files(name):
            print_text(line)


@data.command(cls=SectionedCommand, short_help="Download data sets.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", type=NamesType("data"))
@traceback_option
def fetch(names: tuple[str, ...]) -> None:
    """Download the data sets NAME... into the cache, and check each file against its SHA-256 checksum."""
    from pvae.data import fetch as fetch_files

    for name in names:
        print_status(f"Fetching {name} ...")
        click.echo(f"{name}: {fetch_files(name)}")
