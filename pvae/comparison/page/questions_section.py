"""The first section of a comparison's page: one row for each question, with its status and supporting numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pvae.comparison.base import Outcome
from pvae.comparison.cells.training_summary import read_score
from pvae.comparison.number_formats import format_bracket, format_count, format_interval
from pvae.comparison.page.finding_records import answers_to
from pvae.comparison.page.report_data import ReportData
from pvae.comparison.page.rows_section import bad_khat_share, marks_of
from pvae.comparison.rows import finished
from pvae.comparison.table.annealing_verdict import describe_annealing, is_annealed
from pvae.comparison.table.row import Row
from pvae.comparison.table.row_outcomes import RowOutcomes
from pvae.comparison.table.verdict import make_verdict
from pvae.evaluate.all_checks.model_findings import QUESTIONS
from pvae.evaluate.annealing.sandwich_finding import SMALL_GAP
from pvae.evaluate.arviz_versions import good_khat
from pvae.evaluate.finding import worst_status
from pvae.evaluate.weight_notes import LARGEST_KL
from pvae.report import Question, Section

__all__ = ["make_questions_section"]

_KHAT_LIMIT = "k-hat at most min(1 - 1/log10 K, 0.7) for K particles, for nine data in ten (Vehtari et al. 2024)"
# The questions, with the names that they have in the findings of a run folder.
_EVIDENCE, _INFERENCE, _DATA, _LATENTS, _RESEMBLANCE = QUESTIONS


def make_questions_section(data: ReportData) -> Section:
    """Return the questions with their answers.

    An evaluation that was not run has the status "not run", and is never shown as fine. Findings in the run folders
    answer a question if there are any; otherwise the numbers of the comparison are used, if they can answer it.

    Args:
        data: the results and settings.
    """
    questions = (
        _ask_evidence(data),
        _ask_inference(data),
        _ask_data(data),
        _ask_latents(data),
        _ask_resemblance(data),
        _ask_best(data),
    )
    return Section("Questions", questions=questions)


def _ask_evidence(data: ReportData) -> Question:
    question = "How likely is the data?"
    rows = [row for row in data.table.rows if row.log_evidence is not None]
    if not rows:
        return Question(question, "not run", "No row has a log evidence of each datum.")
    comparable = [row for row in rows if not row.not_comparable]
    best = max(comparable, key=lambda row: row.log_evidence.value if row.log_evidence else 0.0)
    if answers := answers_to(_EVIDENCE, finished(data.outcomes)):
        return _from_answers(data, question, answers)
    if is_annealed(best):
        return _ask_annealed(data, question, rows, best)
    value = f"{data.key(best)}: {format_interval(best.log_evidence)} nats per datum" if best.log_evidence else ""
    bad = [data.key(row) for row in rows if (bad_khat_share(row) or 0.0) > 0.1]
    doubt = f" More than a tenth of the data have a k-hat that is too large under {', '.join(bad)}." if bad else ""
    answer = (
        f"{_name_best(data, rows, best)} It is an estimate by importance sampling, which is too low if the guide "
        f"misses a part of the posterior; no upper estimate was made.{doubt}"
    )
    return Question(question, "bad" if bad else "look", answer, value, _KHAT_LIMIT, _evaluation_cost(data))


def _ask_annealed(data: ReportData, question: str, rows: Sequence[Row], best: Row) -> Question:
    """Return the answer by annealed importance sampling: the worst status of its findings."""
    statuses = [str(row.additional.get("annealing_status")) for row in rows if is_annealed(row)]
    sentences = describe_annealing(data.keyed_rows())
    lower, upper = best.log_evidence, best.log_evidence_upper
    value = ""
    if lower is not None:
        shown = format_interval(lower) if upper is None else format_bracket(lower, upper)
        value = f"{data.key(best)}: {shown} nats per datum"
    answer = " ".join([_name_best(data, rows, best), *sentences])
    limit = f"a gap of at most {SMALL_GAP:g} nats per datum, also on simulated data (Grosse et al., arXiv:1511.02543)"
    return Question(question, worst_status(statuses), answer, value, limit, _evaluation_cost(data))


def _name_best(data: ReportData, rows: Sequence[Row], best: Row) -> str:
    """Return which row has the largest mean log evidence, of those that can be compared."""
    others = [data.key(row) for row in rows if row.not_comparable]
    among = f" among the rows that can be compared with {data.key(data.table.rows[0])} (not {', '.join(others)})"
    return f"The largest mean log evidence{among if others else ''} is that of {data.key(best)}."


def _evaluation_cost(data: ReportData) -> str:
    cells = finished(data.outcomes)
    sampled = len(cells) * data.table.data * data.table.particles
    annealed = sum(int((outcome.scores.get("annealing") or {}).get("cost") or 0) for outcome in cells)
    words = f"{len(cells)} cells x {data.table.data} data x {data.table.particles} particles"
    more = f", and {format_count(annealed)} of the annealing" if annealed else ""
    return f"{format_count(sampled + annealed)} decoder evaluations ({words}{more})"


def _from_answers(data: ReportData, question: str, answers: Sequence[tuple[Outcome, Mapping[str, Any]]]) -> Question:
    """Return the answers in the run folders as one: the worst status, and the reason of each run.

    A question that was answered only for some runs is never fine.

    Args:
        data: the results and settings.
        question: the question.
        answers: the answers of the runs.
    """
    keys = {outcome.cell.label: data.key(row) for row in data.table.rows for outcome in data.finished_outcomes(row)}
    lines = [f"{keys[outcome.cell.label]}, seed {outcome.cell.seed}: {answer['reason']}" for outcome, answer in answers]
    answered = {outcome.cell.label for outcome, _ in answers}
    missing = [label for label in keys if label not in answered]
    if missing:
        lines.append(f"Not run for {len(missing)} of {len(keys)} runs.")
    statuses = [str(answer["status"]) for _, answer in answers] + ["not run"] * bool(missing)
    outcome, first = answers[0]
    shown = _number_of(first)
    value = f"{keys[outcome.cell.label]}: {shown}" if shown else ""
    source = f"({first['source']})" if first.get("source") else ""
    limit = " ".join(filter(None, (str(first.get("limit") or ""), source)))
    cost = sum(int(answer.get("cost") or 0) for _, answer in answers)
    words = f"{format_count(cost)} decoder evaluations"
    return Question(question, worst_status(statuses), " ".join(lines), value, limit, words)


def _number_of(answer: Mapping[str, Any]) -> str:
    """Return the main number of an answer with its error and unit, or "" if it has none."""
    value, error = answer.get("value"), answer.get("error")
    if value is None:
        return ""
    interval = f"{value:.4g}" if error is None else f"{value:.4g} \u00b1 {error:.2g}"
    return f"{interval} {answer.get('unit', '')}".strip()


def _ask_inference(data: ReportData) -> Question:
    question = "Is the inference right?"
    if answers := answers_to(_INFERENCE, finished(data.outcomes)):
        return _from_answers(data, question, answers)
    shares = {data.key(row): bad_khat_share(row) for row in data.table.rows if row.seeds}
    bad = [f"{key} ({100 * share:.0f}%)" for key, share in shares.items() if share is not None and share > 0.1]
    if bad:
        answer = f"The weights show that the guide is far from the posterior for many data: {', '.join(bad)}."
        return Question(question, "bad", answer, "", _KHAT_LIMIT)
    answer = (
        "The guide was not calibrated on simulated data. Its log weights are not enough to answer this: a guide that "
        "covers one of two modes has good weights. Run `pvae evaluate RUN --checks all` on the run folders, and then "
        "the "
        "comparison again."
    )
    return Question(question, "not run", answer)


def _ask_data(data: ReportData) -> Question:
    question = "On which data is the inference not reliable?"
    if answers := answers_to(_DATA, finished(data.outcomes)):
        return _from_answers(data, question, answers)
    limit = good_khat(data.table.particles)
    found = {data.key(row): _count_far_data(data, row, limit) for row in data.table.rows if row.seeds}
    counts = {key: count for key, count in found.items() if count is not None}
    if not counts:
        return Question(question, "not run", "There is no k-hat of each datum: too few particles, or no weights.")
    shown = ", ".join(f"{key}: {count}" for key, count in counts.items())
    worst = max(counts.values())
    status = "bad" if worst > 0.1 * data.table.data else "look"
    answer = (
        f"Number of the {data.table.data} test data with a k-hat above {limit:.2f} or a KL above {LARGEST_KL:g} nat "
        f"for a seed: {shown}. The weights do not show a mode that the guide never draws, so they are never enough."
    )
    return Question(question, status, answer, "", f"{_KHAT_LIMIT}; KL up to {LARGEST_KL:g} nat")


def _count_far_data(data: ReportData, row: Row, limit: float) -> int | None:
    """Return the number of data for which a seed has a k-hat or a KL above its limit; None if k-hat is not known."""
    outcomes = RowOutcomes(data.finished_outcomes(row))
    khat, kl = outcomes.pointwise("khat"), outcomes.pointwise("kl")
    if khat is None or bool(khat.isnan().any()):
        return None
    far = khat > limit if kl is None else (khat > limit) | ~(kl <= LARGEST_KL)
    return int(far.any(0).sum())


def _ask_latents(data: ReportData) -> Question:
    question = "Are the latents used?"
    if answers := answers_to(_LATENTS, finished(data.outcomes)):
        return _from_answers(data, question, answers)
    known = {data.key(row): row.active_units.value for row in data.table.rows if row.active_units is not None}
    if not known:
        return Question(question, "not run", "The number of active units is not known: no continuous latent sites.")
    shown = ", ".join(f"{key}: {value:.3g}" for key, value in known.items())
    unused = [key for key, value in known.items() if value < 0.5]
    partly = [data.key(row) for row in data.table.rows if data.key(row) not in unused and _has_unused_seed(data, row)]
    status = "bad" if unused else "look" if partly else "fine"
    sentence = f"Under {', '.join(unused)}, no unit is active: the decoder ignores z. " if unused else ""
    sentence += f"Under {', '.join(partly)}, a seed has no active unit. " if partly else ""
    answer = f"{sentence}Active latent units, mean over seeds: {shown}."
    limit = "a unit is active if the variance of its posterior mean over data is above 0.01 (Burda et al. 2016)"
    return Question(question, status, answer, "", limit)


def _has_unused_seed(data: ReportData, row: Row) -> bool:
    """Return whether a training of a row has latent units but no active one."""
    counts = [read_score(outcome.scores, "active_units") for outcome in data.finished_outcomes(row)]
    return any(count is not None and count < 1 for count in counts)


def _ask_resemblance(data: ReportData) -> Question:
    question = "Does the model resemble the data?"
    if answers := answers_to(_RESEMBLANCE, finished(data.outcomes)):
        return _from_answers(data, question, answers)
    answer = "Data simulated from the model were not compared with the test data."
    return Question(question, "not run", answer)


def _ask_best(data: ReportData) -> Question:
    question = "Which run is best, at equal epochs, time and decoder evaluations?"
    verdict = make_verdict(data.keyed_rows(), data.table.budget)
    compared = [row for row in data.table.rows if row.difference is not None]
    if not compared:
        return Question(question, "not run", verdict)
    return Question(question, "look" if _has_doubt(data, compared) else "fine", verdict)


def _has_doubt(data: ReportData, compared: Sequence[Row]) -> bool:
    """Return whether rows have marks, a row has a single seed, or a row is not compared."""
    rows = [data.table.rows[0], *compared]
    if len(rows) < len(data.table.rows):
        return True
    return any(len(row.seeds) < 2 for row in rows) or any(marks_of(data, row) for row in rows)
