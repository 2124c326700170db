"""Train and evaluate one cell, and write its files; runs in a worker process or in the process of the caller."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from pvae.comparison.cells.cell_failure import remove_failure
from pvae.comparison.cells.cell_files import write_arrays, write_evaluation
from pvae.comparison.cells.cell_lock import sole_runner
from pvae.comparison.cells.drawings import Drawings, draw_arrays
from pvae.comparison.cells.evaluate_cell import CellEvaluation, evaluate_cell
from pvae.comparison.cells.likelihood_recorder import LikelihoodRecorder
from pvae.comparison.cells.model_card import describe_model
from pvae.comparison.cells.plan import Job
from pvae.comparison.cells.training_summary import TrainingSummary, summarise_run, with_old_keys
from pvae.data import Splits
from pvae.models import ModelSpec
from pvae.models.make_model import build_model
from pvae.objectives import adapt
from pvae.objectives.pyro.em import EM
from pvae.train import Run, fit
from pvae.train.devices import isolated

__all__ = ["train_and_evaluate"]

ReportProgress: TypeAlias = Callable[[tuple[int, str]], None]

_SECONDS_BETWEEN_REPORTS = 0.25


def train_and_evaluate(job: Job, splits: Splits, report_progress: ReportProgress) -> str:
    """Train a cell, evaluate it, and write scores, pointwise values and arrays for pictures into its folder.

    A training that was stopped is continued from its last checkpoint.

    Args:
        job: the cell with its factories and options.
        splits: the data.
        report_progress: called with (epoch, note) after an epoch, at most four times a second.

    Returns:
        The estimate of the log evidence, or of the ELBO if there is none, in one line for the terminal.

    Raises:
        InputError: if another process works on the cell.
    """
    with sole_runner(job.cell):
        remove_failure(job.cell)
        # Warnings are shown on the page. On a terminal they would disturb the progress bars.
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            run, summary = _train(job, splits, report_progress)
            report_progress((job.options["epochs"], "evaluating"))
            evaluation = evaluate_cell(run, splits, job, lambda note: report_progress((job.options["epochs"], note)))
            drawings = _draw(job, run, splits, evaluation)
        write_arrays(job.cell, drawings.arrays)
        warned = dict.fromkeys(str(warning.message) for warning in caught)
        notes = [*evaluation.notes, *(f"no {reason}" for reason in drawings.failures), *warned]
        # ``decoder_evaluations`` are those of the training.
        scores = {**evaluation.scores, **summary.to_scores(), "drawings": drawings.texts, "notes": notes}
        scores["card"] = describe_model(run.model)
        write_evaluation(job.cell, with_old_keys(scores), evaluation.pointwise)
    return evaluation.summary


def _draw(job: Job, run: Run, splits: Splits, evaluation: CellEvaluation) -> Drawings:
    """Return the arrays for the pictures of a cell."""
    return draw_arrays(
        run.model,
        splits,
        guide_is_trained="phi" not in adapt(job.objective()).untrained,
        log_evidence=evaluation.pointwise.get("log_evidence"),
        limit=job.limit,
    )


def _train(job: Job, splits: Splits, report_progress: ReportProgress) -> tuple[Run, TrainingSummary]:
    objective = adapt(job.objective())
    if isinstance(objective, EM):
        return _train_by_em(job, splits)
    recorder = LikelihoodRecorder(splits)
    # fit builds a ModelSpec itself and records it, so pvae can open the run without the user's code.
    model = job.model
    if not isinstance(model, ModelSpec):
        with isolated(job.cell.seed):
            model = build_model(model, splits)
    run = _fit(job, model, splits, callbacks=(_progress_callback(report_progress), recorder))
    return run, summarise_run(run, int(objective.num_particles), _data_of_epoch(run, splits), recorder.points)


def _data_of_epoch(run: Run, splits: Splits) -> int:
    """Return the number of data of an epoch; for an iterable data set, the number of full batches times their size."""
    size = splits.train.known_size
    last = next((record for record in reversed(run.history) if "loss" in record), None)
    if size is not None or last is None:
        return size or 0
    return int(last["step"]) // int(last["epoch"]) * int(run.config["training"]["batch_size"])


def _train_by_em(job: Job, splits: Splits) -> tuple[Run, TrainingSummary]:
    """Fit by EM, and store the result as a run of 0 epochs. A continued cell repeats EM, with the same result."""
    from pvae.comparison.cells.em_training import fit_by_em  # it imports scikit-learn, which takes a second

    with isolated(job.cell.seed):
        model = build_model(job.model, splits)
        summary = fit_by_em(model, splits)
    return _fit(job, model, splits, epochs=0), summary


def _fit(job: Job, model: Any, splits: Splits, callbacks: Sequence[Callable[..., Any]] = (), **changes: Any) -> Run:
    return fit(
        model,
        splits,
        objective=job.objective(),
        seed=job.cell.seed,
        out=job.cell.folder,
        progress=False,
        resume=job.cell.folder.exists(),
        callbacks=callbacks,
        **{**job.options, **changes},
    )


def _progress_callback(report_progress: ReportProgress) -> Callable[..., None]:
    """Return a callback of `pvae.fit` that reports the epoch and the validation bound."""
    last_report = 0.0

    def callback(record: Mapping[str, Any], *_: Any) -> None:
        nonlocal last_report
        if time.monotonic() - last_report > _SECONDS_BETWEEN_REPORTS:
            last_report = time.monotonic()
            bound = record.get("validation_bound")
            report_progress((record["epoch"], "" if bound is None else f"validation bound {bound:.2f}"))

    return callback
