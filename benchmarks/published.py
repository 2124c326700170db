"""Published results, measured again: one command for each row, and the page docs/published.md.

    python benchmarks/published.py burda --budget smoke|short|full [--seeds 2] [--out reports/published]
    python benchmarks/published.py --write docs/published.md       # write the page from the results

Each training is a run folder, and the result of each is kept beside it. A command that was killed continues where it
stopped if it is called again. The budget ``smoke`` takes seconds and needs no data beside the digits; ``short`` takes
minutes on two cores; ``full`` has the recipe of the publication, for one CUDA card. The variable ``$PVAE_DATA`` names
the folder with MNIST, which is otherwise downloaded.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from environment import restart_without_slowing_variables
from experiments.base import Room
from published_rows.belief_net import BELIEF_NET
from published_rows.bounds import BURDA, RAINFORTH
from published_rows.lines import BUDGETS, Cell, PublishedRow, table_of
from published_rows.pyro_labels import LABELS
from published_rows.pyro_quadrants import QUADRANTS
from published_rows.vamp_prior import VAMP

from pvae.errors import InputError

RESULTS = Path(__file__).resolve().parent / "results" / "published"
ROWS: dict[str, PublishedRow] = {
    "burda": BURDA,
    "vamp": VAMP,
    "labels": LABELS,
    "quadrants": QUADRANTS,
    "rainforth": RAINFORTH,
    "belief-net": BELIEF_NET,
}


def check_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of the cells to their folder, or compare them with those of an earlier call.

    Args:
        folder: the folder of a row at a budget.
        settings: those of the budget.

    Raises:
        InputError: if the cells in the folder have other settings.
    """
    path, text = folder / "settings.txt", json.dumps(settings, indent=1, sort_keys=True) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_text() != text:
        raise InputError(
            f"{folder} has cells with other settings than this version of the row; see {path.name} there. Choose "
            "another --out, or delete the folder."
        )
    path.write_text(text)


def measure_cells(name: str, budget: str, seeds: int, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the results of the seeds by the key of the line, measured now or before.

    Args:
        name: a name of `ROWS`.
        budget: a name of `BUDGETS`.
        seeds: the number of seeds, from 0 on.
        folder: the folder of the row at this budget.
    """
    row = ROWS[name]
    settings = row.budgets[budget].settings
    check_folder(folder, settings)
    room = Room(folder)
    found: dict[str, list[dict[str, Any]]] = {}
    for line in row.lines:
        if budget not in line.budgets:
            continue
        for seed in range(seeds):
            label = f"{line.key}-seed{seed}"
            cell = Cell(line, seed, settings, folder / "runs" / label)
            found.setdefault(line.key, []).append(room.once(label, lambda c=cell: timed(row, c)))
    return found


def timed(row: PublishedRow, cell: Cell) -> dict[str, Any]:
    """Return the result of a cell with its CPU time in seconds.

    Args:
        row: the row.
        cell: the cell.
    """
    begun = time.process_time()
    return {**row.measure(cell), "cpu_seconds": time.process_time() - begun}


def describe_machine() -> str:
    """Return device, threads and versions in one line."""
    cuda = torch.cuda.is_available()
    device = (
        torch.cuda.get_device_name() if cuda else f"a CPU ({platform.machine()}, threads: {torch.get_num_threads()})"
    )
    return f"{device}, torch {torch.__version__}, Pyro {version('pyro-ppl')}"


def measure(name: str, budget: str, seeds: int | None, out: Path) -> dict[str, Any]:
    """Measure a row, print it beside the published figures, and return the record for the page.

    Args:
        name: a name of `ROWS`.
        budget: a name of `BUDGETS`.
        seeds: the number of seeds; None for that of the budget.
        out: the folder of all rows.
    """
    row, plan = ROWS[name], ROWS[name].budgets[budget]
    count = plan.seeds if seeds is None else seeds
    folder = out / budget / name
    begun = time.monotonic()
    cells = measure_cells(name, budget, count, folder)
    seconds = max(Room(folder).seconds(), time.monotonic() - begun)
    record = {
        "budget": budget,
        "command": command(name, budget) + ("" if seeds in (None, plan.seeds) else f" --seeds {seeds}"),
        "date": date.today().isoformat(),
        "machine": describe_machine(),
        "settings": plan.settings,
        "seeds": count,
        "seconds": seconds,
        "cells": cells,
    }
    print(text_of(row, record))
    return record


def command(name: str, budget: str) -> str:
    """Return the command that measures a row."""
    return f"python benchmarks/published.py {name} --budget {budget}"


def text_of(row: PublishedRow, record: Mapping[str, Any]) -> str:
    """Return the section of a measured row: its recipe, command, table and date.

    Args:
        row: the row.
        record: what `measure` returned.
    """
    plan = row.budgets[record["budget"]]
    why = f"\n\n{row.shortfall}" if record["budget"] == "short" else ""
    seeds = ", ".join(map(str, range(record["seeds"])))
    times = [cell.get("cpu_seconds") for cells in record["cells"].values() for cell in cells]
    cpu = "" if None in times else f"{sum(times) / 60:.1f} minutes of CPU time in this process, and "
    return (
        f"{plan.recipe} {'Seeds' if record['seeds'] > 1 else 'Seed'}: {seeds}.\n\n```\n{record['command']}\n```\n\n"
        f"{table_of(row, record['cells'], record['budget'])}{why}\n\nThis was measured on {record['date']} on "
        f"{record['machine']}. All cells together took {cpu}"
        f"{record['seconds'] / 60:.1f} minutes of wall time."
    )


def section(name: str, row: PublishedRow, results: Path) -> str:
    """Return the section of a row on the page, with what has been run and what has not.

    Args:
        name: a name of `ROWS`.
        row: the row.
        results: the folder of the records.
    """
    parts = [f"## {row.title}", f"{row.source} {row.quantity}"]
    for budget in ("short", "full"):
        path = results / f"{name}-{budget}.json"
        parts.append(f"### Budget `{budget}`")
        if path.exists():
            parts.append(text_of(row, json.loads(path.read_text())))
        else:
            parts.append(
                f"**This has not been run.** {row.budgets[budget].recipe} Number of seeds: "
                f"{row.budgets[budget].seeds}.\n\n```\n{command(name, budget)}\n```"
            )
    parts.append(f"Tolerances: {row.tolerances}\n\nDeviations of the budget `full` from the source: {row.deviations}")
    return "\n\n".join(parts)


def page(results: Path = RESULTS) -> str:
    """Return the page of all rows.

    Args:
        results: the folder of the records.
    """
    introduction = (RESULTS / "introduction.md").read_text().strip()
    overview = ["| row | `short` | `full` |", "|---|---|---|"]
    for name, row in ROWS.items():
        states = [_state(results / f"{name}-{budget}.json") for budget in ("short", "full")]
        overview.append(
            f"| [{row.title}](#{row.title.lower().replace(',', '').replace(' ', '-')}) | {' | '.join(states)} |"
        )
    sections = [section(name, row, results) for name, row in ROWS.items()]
    return "\n\n".join([introduction, "\n".join(overview), *sections]) + "\n"


def _state(path: Path) -> str:
    if not path.exists():
        return "not run"
    record = json.loads(path.read_text())
    return f"run on {record['date']}, {record['seeds']} {'seeds' if record['seeds'] > 1 else 'seed'}"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line.

    Args:
        arguments: the command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="?", choices=list(ROWS), help=f"of: {', '.join(ROWS)}")
    parser.add_argument("--budget", choices=BUDGETS, default="short")
    parser.add_argument("--seeds", type=int, help="the number of seeds, from 0 on; the default depends on the budget")
    parser.add_argument("--out", type=Path, default=Path("reports/published"), help="folder of the cells")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the records; smoke writes none")
    parser.add_argument("--write", type=Path, help="write the page of all rows to this file")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.row is None and options.write is None:
        parser.error(f"name a row ({', '.join(ROWS)}), or --write FILE")
    for option in ("seeds", "threads"):
        number = getattr(options, option)
        if number is not None and number < 1:
            parser.error(f"--{option} needs a whole number of at least 1; got {number}")
    return options


def run(options: argparse.Namespace) -> None:
    """Measure a row, or write the page.

    Args:
        options: those of `parse`.
    """
    torch.set_num_threads(options.threads)
    if options.row is not None:
        record = measure(options.row, options.budget, options.seeds, options.out)
        if options.budget != "smoke":
            options.results.mkdir(parents=True, exist_ok=True)
            path = options.results / f"{options.row}-{options.budget}.json"
            path.write_text(json.dumps(record, indent=1) + "\n")
    if options.write is not None:
        options.write.write_text(page(options.results))
        print(options.write, file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; bad input ends with one line and the status 2.

    Args:
        arguments: the command line; None for that of the process.
    """
    options = parse(arguments)
    try:
        run(options)
    except (InputError, OSError) as error:
        print(f"published.py: {error}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    restart_without_slowing_variables()
    main()
