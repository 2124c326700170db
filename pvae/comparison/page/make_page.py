"""Make the page of a comparison: verdict, table, learning curves, pictures, cells and settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pvae.comparison.base import Outcome
from pvae.comparison.cells.training_summary import read_score
from pvae.comparison.number_formats import UNKNOWN, format_duration
from pvae.comparison.page.curves_section import make_curves_section
from pvae.comparison.page.data_section import make_data_section
from pvae.comparison.page.exports import make_methods_section
from pvae.comparison.page.model_sections import make_cards_section, make_explorer_section
from pvae.comparison.page.picture_sections import make_latent_section, make_samples_section
from pvae.comparison.page.questions_section import make_questions_section
from pvae.comparison.page.report_data import ReportData
from pvae.comparison.page.results_section import make_results_section
from pvae.comparison.page.rows_section import make_rows_section
from pvae.report import Column, Entry, Page, Section, Settings, Sheet

__all__ = ["make_page"]

_FOLDERS_SHOWN = 4  # cells / model / objective / seed


def make_page(data: ReportData) -> Page:
    """Return the page of a comparison. A section without content is left out.

    Args:
        data: the results and settings.
    """
    sections = (
        make_questions_section(data),
        make_rows_section(data),
        make_results_section(data),
        make_curves_section(data),
        make_samples_section(data),
        make_latent_section(data),
        make_explorer_section(data),
        make_data_section(data),
        make_cards_section(data),
        _make_cells_section(data),
        make_methods_section(data),
        _make_settings_section(data),
    )
    version = data.settings.get("Software", {}).get("pvae", "")
    return Page(
        title=f"Comparison on {data.data_name}",
        lead=(_describe_evaluation(data), *map(_to_sentence, data.notes)),
        sections=tuple(section for section in sections if section is not None),
        foot=f"Made by pvae {version}.",
    )


def _describe_evaluation(data: ReportData) -> str:
    rows = data.table.rows
    models = list(dict.fromkeys(row.model for row in rows))
    objectives = {row.objective for row in rows}
    seeds = sorted({outcome.cell.seed for outcome in data.outcomes})
    return (
        f"{_count(len(models), 'model')} ({', '.join(models)}), {_count(len(objectives), 'objective')}, "
        f"{'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}. All cells are evaluated on the same "
        f"test data of {data.data_name} ({data.table.subset or data.table.data}; binarise: "
        f"{data.data.get('binarise')}) with {data.table.particles} particles{_describe_method(data)}. "
        "± is one standard error; "
        "values are in nats per datum, unless another unit is given."
    )


def _describe_method(data: ReportData) -> str:
    """Return the method of the log evidence, if it is not only importance sampling."""
    methods = dict.fromkeys(row.additional.get("annealing_method") for row in data.table.rows)
    named = [str(method) for method in methods if method]
    return f", and the log evidence by annealed importance sampling ({', '.join(named)})" if named else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _to_sentence(note: str) -> str:
    """Return a note with a capital letter and a full stop."""
    return note[:1].upper() + note[1:] + ("" if note.endswith((".", ")")) else ".")


def _make_cells_section(data: ReportData) -> Section:
    columns = (
        Column("cell", numeric=False),
        Column("log evidence"),
        Column("ELBO"),
        Column("epochs"),
        Column("training"),
        Column("run", numeric=False),
    )
    rows = tuple(_cell_entries(outcome) for outcome in data.outcomes)
    failed = frozenset(index for index, outcome in enumerate(data.outcomes) if outcome.failure)
    text = f"All {len(rows)} cells finished."
    if failed:
        text = f"{len(failed)} of {len(rows)} cells failed; the others do not depend on them."
    caption = "Each cell is a run: the commands pvae show and pvae evaluate take its folder."
    notes = _notes_by_cell(data)
    folded = (Settings(f"Notes on {_count(len(notes), 'cell')}", notes),) if notes else ()
    return Section("Cells", (text,), (Sheet(caption, columns, rows, failed),), settings=folded)


def _notes_by_cell(data: ReportData) -> dict[str, str]:
    notes = {}
    for outcome in data.outcomes:
        lines = outcome.scores.get("notes", ())
        if lines:
            notes[outcome.cell.label] = " ".join(map(_to_sentence, lines))
    return notes


def _cell_entries(outcome: Outcome) -> tuple[Entry, ...]:
    name = Entry(outcome.cell.label)
    run = Entry("/".join(outcome.cell.folder.parts[-_FOLDERS_SHOWN:]))
    if outcome.failure:
        return (name, Entry(f"failed: {outcome.failure}", span=4), run)
    epochs, seconds = (read_score(outcome.scores, key) for key in ("epochs", "training_seconds"))
    return (
        name,
        _mean_entry(outcome, "log_evidence"),
        _mean_entry(outcome, "elbo"),
        Entry(str(epochs), order=epochs),
        Entry(format_duration(seconds), order=seconds),
        run,
    )


def _mean_entry(outcome: Outcome, name: str) -> Entry:
    """Return the entry of the mean of a pointwise value over data."""
    values = outcome.pointwise.get(name)
    if values is None:
        return Entry(UNKNOWN)
    mean = values.double().mean().item()
    return Entry(f"{mean:.3f}", order=mean)


def _make_settings_section(data: ReportData) -> Section:
    folded = tuple(
        Settings(title, {name: _format_value(value) for name, value in values.items()})
        for title, values in data.settings.items()
    )
    text = (
        "The command or call below the settings makes this page again. It skips the cells that are done, and continues "
        "the others from their last checkpoint."
    )
    return Section("Settings", (*map(_to_sentence, data.data_notes), text), settings=folded, code=data.rerun)


def _format_value(value: Any) -> Any:
    """Return a setting for the page; one with names and values becomes text such as ``"train 1294, test 359"``."""
    return ", ".join(f"{name} {item}" for name, item in value.items()) if isinstance(value, Mapping) else value
