"""The settings on the page of a comparison, the call that makes the page again, and the JSON file."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pvae import __version__
from pvae.comparison.cells.grid import describe_training
from pvae.comparison.cells.plan import MODEL_RECIPE, OBJECTIVE_SETTINGS, Job
from pvae.comparison.page.report_data import ReportData
from pvae.comparison.processes.worker_plan import count_cores
from pvae.files import write_text
from pvae.json_values import json_value

__all__ = ["format_call", "settings_by_heading", "write_json"]


def settings_by_heading(
    jobs: Sequence[Job],
    judging: Mapping[str, Any],
    data: Mapping[str, Any],
    how: str,
) -> dict[str, Mapping[str, Any]]:
    """Return the options for the page, by heading."""
    return {
        "Models": {job.cell.model: job.cell.config[MODEL_RECIPE] for job in jobs},
        "Objectives": {job.cell.objective: job.cell.config[OBJECTIVE_SETTINGS] for job in jobs},
        "Training": describe_training({job.cell.model: job.options for job in jobs}),
        "Evaluation": judging,
        "Data": data,
        "Software": {
            "pvae": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cells ran": how,
            "cores": count_cores(),
        },
    }


def format_call(
    jobs: Sequence[Job], data_name: str, seeds: Sequence[int], folder: Path, grid: Mapping[str, Any]
) -> str:
    """Return the Python call that makes the page again.

    Args:
        jobs: all cells of the comparison.
        data_name: the name of the data.
        seeds: the seeds of the trainings.
        folder: the folder of the comparison.
        grid: the values of each setting of the grid; empty without one.
    """
    models = ", ".join(dict.fromkeys(job.cell.model for job in jobs))
    objectives = ", ".join(dict.fromkeys(job.cell.objective for job in jobs))
    epochs = "" if "epochs" in grid else f" epochs={jobs[0].options['epochs']},"
    rows = f" grid={dict(grid)!r}," if grid else ""
    return (
        f"pvae.compare(models,  # {models}\n    data,  # {data_name}\n    objectives,  # {objectives}\n"
        f"    seeds={list(seeds)},{epochs}{rows} out={str(folder)!r})"
    )


def write_json(path: Path, data: ReportData, seeds: Sequence[int]) -> None:
    """Write ``comparison.json``: the table, and for each cell its folder and its failure.

    Args:
        path: the path of the file.
        data: the results and settings.
        seeds: the seeds of the trainings.
    """
    cells = [
        {
            "model": outcome.cell.model,
            "objective": outcome.cell.objective,
            "seed": outcome.cell.seed,
            "folder": str(outcome.cell.folder.relative_to(path.parent)),
            "failure": outcome.failure or None,
        }
        for outcome in data.outcomes
    ]
    content = {
        "pvae": __version__,
        "data set": data.data,
        "seeds": list(seeds),
        **data.table.to_json(),
        "cells": cells,
    }
    write_text(path, json.dumps(json_value(content, str), indent=1))
