"""The record of one training in a comparison: time, cost and learning curve, and the keys in ``evaluation.json``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pvae.train import Run

__all__ = [
    "TRAINING",
    "VALIDATION",
    "CurvePoint",
    "LearningCurve",
    "TrainingSummary",
    "read_curve",
    "read_log_likelihoods",
    "read_score",
    "summarise_run",
    "with_old_keys",
]

VALIDATION, TRAINING = "validation", "training"
# Minus the objective's own loss on validation data, which is not a bound on log p(x).
OBJECTIVE = "validation of the objective"

# Earlier versions wrote these keys. They are still written, and still read from the folders of those versions.
_OLD_KEYS = {
    "training_seconds": "seconds",
    "evaluation_seconds": "judging seconds",
    "training_particles": "train particles",
    "curve_quantity": "curve is",
    "log_likelihood_curve": "climb",
}


class CurvePoint(NamedTuple):
    """One point of a learning curve.

    Attributes:
        epoch: epochs done.
        value: the quantity of the curve, in nats per datum.
        seconds: training time so far without validation, in seconds.
        evaluations: decoder evaluations so far; NaN if they were not recorded.
    """

    epoch: int
    value: float
    seconds: float
    evaluations: float = math.nan


@dataclass(frozen=True)
class LearningCurve:
    """A quantity after each epoch of training.

    Attributes:
        points: one for each epoch.
        quantity: the quantity in words, such as ``"validation bound, 25 particles"``.
        split: `VALIDATION`, `OBJECTIVE` or `TRAINING`. On validation data, objectives have the same bound, but
            objectives without a bound have their own loss (`OBJECTIVE`). On training data, each objective has its own
            loss.
    """

    points: tuple[CurvePoint, ...]
    quantity: str
    split: str


@dataclass(frozen=True)
class TrainingSummary:
    """Time, cost and progress of one training.

    Attributes:
        training_seconds: training time in seconds.
        epochs: passes over the training data; steps of EM.
        training_particles: draws of z per datum in a step.
        decoder_evaluations: particles times data times epochs.
        curve: the learning curve.
        log_likelihoods: for a Gaussian mixture, the exact log-likelihood of the training data after each epoch (with
            a prior on the parameters, plus its log-density per datum); else empty.
        biased: the reason why the gradient was biased in use; "" if it was not.
    """

    training_seconds: float
    epochs: int
    training_particles: int
    decoder_evaluations: int
    curve: LearningCurve
    log_likelihoods: tuple[CurvePoint, ...] = ()
    biased: str = ""

    def to_scores(self) -> dict[str, Any]:
        """Return the summary as entries of ``evaluation.json``; a point of a curve is a list."""
        return {
            "training_seconds": self.training_seconds,
            "epochs": self.epochs,
            "training_particles": self.training_particles,
            "decoder_evaluations": self.decoder_evaluations,
            "curve": [list(point) for point in self.curve.points],
            "curve_quantity": self.curve.quantity,
            "curve_split": self.curve.split,
            "log_likelihood_curve": [list(point) for point in self.log_likelihoods],
            "biased": self.biased,
        }


def with_old_keys(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return scores with the present keys and the keys of earlier versions."""
    # The key "seconds" is ambiguous, so it is read but no longer written.
    old = {old_key: scores[key] for key, old_key in _OLD_KEYS.items() if key in scores and old_key != "seconds"}
    return {**scores, **old}


def read_score(scores: Mapping[str, Any], key: str) -> Any:
    """Return an entry of ``evaluation.json`` by its key, or by the key of earlier versions; None if it is absent.

    Args:
        scores: the content of ``evaluation.json``.
        key: the present key.
    """
    return scores.get(key, scores.get(_OLD_KEYS.get(key, key)))


def read_curve(scores: Mapping[str, Any]) -> LearningCurve | None:
    """Return the learning curve of a cell, or None if it has no points."""
    points = _to_points(scores.get("curve") or ())
    if not points:
        return None
    quantity = str(read_score(scores, "curve_quantity") or "bound")
    # Earlier versions did not write the split, but the quantity starts with it.
    split = scores.get("curve_split") or (VALIDATION if quantity.startswith(VALIDATION) else TRAINING)
    return LearningCurve(points, quantity, split)


def read_log_likelihoods(scores: Mapping[str, Any]) -> tuple[CurvePoint, ...]:
    """Return the log-likelihood of the training data after each epoch; empty for models that are not mixtures."""
    return _to_points(read_score(scores, "log_likelihood_curve") or ())


def _to_points(values: Iterable[Sequence[Any]]) -> tuple[CurvePoint, ...]:
    return tuple(_to_point(*value) for value in values)


def _to_point(epoch: int, value: float, seconds: float, evaluations: float | None = None) -> CurvePoint:
    """Return a point from its list in a file, which has no NaN."""
    return CurvePoint(epoch, value, seconds, math.nan if evaluations is None else evaluations)


def summarise_run(run: Run, particles: int, data: int, log_likelihoods: Sequence[CurvePoint]) -> TrainingSummary:
    """Return the summary of a training by `pvae.fit`.

    Args:
        run: the training.
        particles: draws of z per datum in a step.
        data: number of training data.
        log_likelihoods: the log-likelihood of the training data after each epoch, for a Gaussian mixture.
    """
    records = [record for record in run.history if "event" not in record]
    epochs = max((record["epoch"] for record in records), default=0)
    return TrainingSummary(
        training_seconds=run.seconds,
        epochs=epochs,
        training_particles=particles,
        decoder_evaluations=_evaluations_of(run.history, particles * data * epochs),
        curve=_curve_of(records, run.config["training"]["validation_particles"]),
        log_likelihoods=tuple(log_likelihoods),
        biased=str(run.config.get("biased", "")),
    )


def _evaluations_of(history: Sequence[Mapping[str, Any]], default: int) -> int:
    """Return the decoder evaluations of a training: the last recorded number, or `default` if none was recorded."""
    return int(max((record.get("evaluations", 0) for record in history), default=0)) or default


def _curve_of(records: Sequence[Mapping[str, Any]], particles: int) -> LearningCurve:
    """Return the validation bound after each epoch; without validation data or a bound, minus the loss."""
    if any(record.get("validation_bound") is not None for record in records):
        points = _points_of(records, "validation_bound", 1.0)
        if any(record.get("validation_of") == "objective" for record in records):
            return LearningCurve(points, "minus validation loss of the objective", OBJECTIVE)
        return LearningCurve(points, f"validation bound, {particles} particles", VALIDATION)
    return LearningCurve(_points_of(records, "loss", -1.0), "minus training loss", TRAINING)


def _points_of(records: Sequence[Mapping[str, Any]], name: str, sign: float) -> tuple[CurvePoint, ...]:
    return tuple(
        CurvePoint(
            record["epoch"], sign * record[name], record.get("seconds", 0.0), float(record.get("evaluations", math.nan))
        )
        for record in records
        if record.get(name) is not None
    )
