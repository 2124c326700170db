"""The table of a comparison as CSV, JSON and LaTeX, and the paragraph on methods with its references."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from pvae.comparison.number_formats import UNKNOWN
from pvae.comparison.page.references import references_of
from pvae.comparison.page.report_data import ReportData
from pvae.comparison.table.annealing_verdict import is_annealed
from pvae.comparison.table.columns import cell_text, shown_columns
from pvae.json_values import flat_values, json_value
from pvae.report import Download, Listing, Section
from pvae.shown_tables import latex_text

__all__ = ["make_downloads", "make_methods_section"]

_LATEX_COLUMNS = 5


def make_downloads(data: ReportData) -> tuple[Download, ...]:
    """Return the table as CSV (all numbers), JSON (all numbers, with settings) and LaTeX (the first columns).

    Args:
        data: the results and settings.
    """
    return (
        Download("results.csv", "text/csv", _as_csv(data)),
        Download("results.json", "application/json", _as_json(data)),
        Download("results.tex", "text/x-tex", _as_latex(data)),
        Download("references.bib", "text/plain", _bibtex(data)),
    )


def _as_csv(data: ReportData) -> str:
    rows = [{"key": data.key(row), **flat_values(json_value(row.to_json(), str))} for row in data.table.rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _as_json(data: ReportData) -> str:
    content = {"data set": data.data, "settings": data.settings, **data.table.to_json()}
    keys = [data.key(row) for row in data.table.rows]
    content["rows"] = [{"key": key, **row} for key, row in zip(keys, content["rows"], strict=True)]
    return json.dumps(json_value(content, str), indent=1)


def _as_latex(data: ReportData) -> str:
    columns = shown_columns(data.table.rows)[:_LATEX_COLUMNS]
    head = " & ".join(["Key", "Objective", *(latex_text(column.name) for column in columns)])
    lines = []
    for index, row in enumerate(data.table.rows):
        cells = [cell_text(column, row, index == 0) for column in columns]
        texts = [" ".join(filter(None, (cell.text, cell.note))) for cell in cells]
        lines.append(" & ".join([data.key(row), latex_text(data.label(row)), *map(latex_text, texts)]) + r" \\")
    body = "\n".join(lines)
    form = "ll" + "r" * len(columns)
    begin = f"% {data.table.caption()}\n\\begin{{tabular}}{{{form}}}"
    return f"{begin}\n\\toprule\n{head} \\\\\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"


def _bibtex(data: ReportData) -> str:
    rows = data.table.rows
    methods = [str(row.additional["annealing_method"]) for row in rows if is_annealed(row)]
    names = dict.fromkeys([*(name for row in rows for name in (row.model, row.objective)), *methods])
    return "\n\n".join(reference.to_bibtex() for reference in references_of(names)) + "\n"


def make_methods_section(data: ReportData) -> Section:
    """Return the section with a paragraph on methods for a paper, made from the settings, and its references.

    Args:
        data: the results and settings.
    """
    return Section(
        "Methods",
        (_describe_methods(data),),
        listings=(Listing("References in BibTeX", _bibtex(data)),),
    )


def _describe_methods(data: ReportData) -> str:
    training = data.settings.get("Training", {})
    models = dict.fromkeys(row.model for row in data.table.rows)
    objectives = dict.fromkeys(row.objective for row in data.table.rows)
    seeds = sorted({outcome.cell.seed for outcome in data.outcomes})
    software = data.settings.get("Software", {})
    sizes = data.data.get("sizes") or {}
    split = ", ".join(f"{count} {name}" for name, count in sizes.items() if count)
    return (
        f"We trained {_listed(models)} on {data.data_name}{f' ({split} data)' if split else ''} by "
        f"{_listed(objectives)}, each from {len(seeds)} random {'seed' if len(seeds) == 1 else 'seeds'}, for at most "
        f"{training.get('epochs', UNKNOWN)} epochs with the optimiser {training.get('optimiser', UNKNOWN)}, learning "
        f"rate {training.get('learning_rate', UNKNOWN)} and batches of {training.get('batch_size', UNKNOWN)} data. The "
        f"log evidence of {data.table.data} test data was estimated by {_describe_estimator(data)}; standard errors "
        "are over data, and differences are paired by datum. Software: "
        f"pvae {software.get('pvae', UNKNOWN)}, torch {software.get('torch', UNKNOWN)} and "
        "Pyro."
    )


def _describe_estimator(data: ReportData) -> str:
    """Return the estimator of the log evidence as text."""
    annealed = next((row for row in data.table.rows if is_annealed(row)), None)
    if annealed is None:
        return f"importance sampling with {data.table.particles} draws from the guide per datum"
    method = annealed.additional["annealing_method"]
    if annealed.log_evidence_upper is None:
        return f"annealed importance sampling ({method}; Neal 2001), which gives a lower estimate"
    return f"annealed importance sampling in both directions ({method}; Neal 2001; Grosse et al. 2015)"


def _listed(names: Mapping[str, Any]) -> str:
    """Return names with commas and an "and"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
