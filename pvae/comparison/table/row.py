"""A row of the comparison table: one model under one objective, summarised over seeds."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pvae.comparison.table.short_labels import short_labels
from pvae.evaluate import Estimate
from pvae.json_values import json_value

__all__ = ["Row", "make_row", "relabelled", "row_label"]


@dataclass(frozen=True)
class Row:
    """One model under one objective: means over the seeds that finished.

    Evidences are in nats per datum. A standard error over data is computed from the pointwise values averaged over
    seeds: it describes how the mean would vary with other test data, for the same trained models. A standard error over
    seeds describes how it would vary with other trainings, on the same test data.

    Attributes:
        model: name of the model.
        objective: name of the objective.
        seeds: the seeds that finished.
        failures: the reasons why the other seeds failed, one line each.
        log_evidence: estimate of log p(x), error over data: by importance sampling, or the lower estimate of annealing.
        log_evidence_upper: its upper estimate, if the evidence was estimated from both sides.
        evidence_over_seeds: the same mean, error over seeds.
        spread: standard deviation of the log evidence over seeds; NaN for one seed.
        elbo: evidence lower bound, error over data.
        gap: log evidence minus ELBO, error over data.
        bias: estimated bias of the log evidence, negative if it is too low, error over data; None if it is not known.
        bias_margin: the further amount by which the log evidence may be too low, because its bound rises more slowly
            than 1/K.
        bad_khat: share of data with a Pareto k-hat above `pvae.evaluate.Diagnosis.good_khat`, error over data.
        ess_median: effective sample size as a share of the particles, median over data, error over seeds.
        ess_low: the same at the 5% quantile over data.
        active_units: number of active latent units, error over seeds.
        training_seconds: training time without validation in seconds, error over seeds.
        decoder_evaluations: particles x data x epochs of the training, error over seeds.
        difference: log evidence minus the log evidence of the first row, each without its estimated bias if both are
            known, paired by datum, error over data; None in the first row.
        difference_over_seeds: the same, paired by seed, error over seeds.
        difference_error: standard error of `difference` over data and seeds; only over data for one seed.
        degrees: degrees of freedom of `difference_error`; None in the first row.
        p_value: two-sided p-value of `difference` by Student's t.
        adjusted_p_value: the same, adjusted by Holm for all rows of the table.
        conclusion: the conclusion about `difference`: ``"above"``, ``"below"``, ``"no difference shown"``, ``"not
            separated from the bias"``, ``"not separated by the bracket"`` or ``"not tested"``; "" in the first row.
        difference_lower: the least difference that both brackets allow, if the evidence was estimated from both sides:
            the lower estimate minus the upper one of the first row; error over data and seeds. `difference` is then the
            difference of the middles of the brackets.
        difference_upper: the largest difference that both brackets allow.
        gain_left: the expected further rise of the validation bound, by its slope in the last fifth of training; None
            if it is not known.
        unfinished: whether `gain_left` is above 0.
        rank: rank by ``az.compare`` on the pointwise log evidence without its bias, 1 is best; None if there is none.
        biased: the reason why the gradient of the objective is biased, in a few words; empty if it is unbiased.
        not_comparable: the reason why the log evidence cannot be compared with that of the first row, as the end of a
            sentence; "" if there is none. A row that is not comparable has no difference.
        additional: statistics of table columns without an attribute here, by name.
    """

    model: str
    objective: str
    seeds: tuple[int, ...]
    failures: tuple[str, ...]
    log_evidence: Estimate | None = None
    evidence_over_seeds: Estimate | None = None
    spread: float = math.nan
    elbo: Estimate | None = None
    gap: Estimate | None = None
    bias: Estimate | None = None
    bias_margin: float | None = None
    bad_khat: Estimate | None = None
    ess_median: Estimate | None = None
    ess_low: Estimate | None = None
    active_units: Estimate | None = None
    training_seconds: Estimate | None = None
    decoder_evaluations: Estimate | None = None
    difference: Estimate | None = None
    difference_over_seeds: Estimate | None = None
    difference_error: float = math.nan
    degrees: int | None = None
    p_value: float | None = None
    adjusted_p_value: float | None = None
    conclusion: str = ""
    gain_left: Estimate | None = None
    unfinished: bool = False
    rank: int | None = None
    biased: str = ""
    log_evidence_upper: Estimate | None = None
    difference_lower: Estimate | None = None
    difference_upper: Estimate | None = None
    not_comparable: str = ""
    additional: Mapping[str, Any] = field(default_factory=dict, init=False, hash=False, repr=False)

    @property
    def seconds(self) -> Estimate | None:
        """The old name of `training_seconds`."""
        warnings.warn("Row.seconds is now called training_seconds.", DeprecationWarning, stacklevel=2)
        return self.training_seconds

    @property
    def total_error(self) -> float:
        """The same as `difference_error`."""
        return self.difference_error

    def to_json(self) -> dict[str, Any]:
        """Return all attributes by name; an estimate becomes its value, error and count."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "additional"}
        result: dict[str, Any] = json_value({**values, **self.additional})
        return result


def make_row(values: Mapping[str, Any]) -> Row:
    """Return a row with these attributes; values without an attribute become `Row.additional`.

    Args:
        values: attributes and statistics by name.
    """
    attributes = {item.name for item in fields(Row) if item.init}
    row = Row(**{name: value for name, value in values.items() if name in attributes})
    additional = {name: value for name, value in values.items() if name not in attributes}
    object.__setattr__(
        row, "additional", additional
    )  # the dataclass is frozen; this value is set while it is constructed
    return row


def relabelled(row: Row, label: str) -> Row:
    """Return a row with another name, such as its key on a page; its numbers do not change.

    Args:
        row: the row.
        label: the name.
    """
    renamed = replace(row, model="", objective=label)
    object.__setattr__(renamed, "additional", row.additional)  # it is not an argument of the dataclass
    return renamed


def row_label(row: Row, rows: tuple[Row, ...] | list[Row]) -> str:
    """Return the name of a row in a table: the parts of its model and objective that differ from other rows.

    Args:
        row: the row.
        rows: all rows of the table.
    """
    names = list(dict.fromkeys((other.model, other.objective) for other in rows))
    name = short_labels(names)[names.index((row.model, row.objective))]
    return f"{name} (biased)" if row.biased else name
