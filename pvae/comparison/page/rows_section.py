"""The rows of a comparison by their short names, with marks on rows that must be checked."""

from __future__ import annotations

from pvae.comparison.page.finding_records import answers_to
from pvae.comparison.page.report_data import ReportData
from pvae.comparison.table.annealing_verdict import has_missed_part, has_shortfall
from pvae.comparison.table.row import Row
from pvae.evaluate.all_checks.model_findings import BAD_ANSWERS, QUESTIONS
from pvae.evaluate.annealing.missed_part import MISSED_PART, UNDERESTIMATED
from pvae.evaluate.membership import MEMORISED, is_memorised
from pvae.report import Column, Entry, Section, Sheet

__all__ = ["bad_khat_share", "make_rows_section", "marks_of"]

_MOST_BAD_KHAT = 0.1  # share of data


def make_rows_section(data: ReportData) -> Section:
    """Return the section that explains the short names of the rows.

    Args:
        data: the results and settings.
    """
    columns = (
        Column("key", numeric=False),
        Column("model", numeric=False),
        Column("objective", numeric=False),
        Column("seeds", "Number of finished seeds, of all seeds."),
        Column("marks", "Points to check before the numbers of this row are used.", numeric=False),
    )
    rows = tuple(_entries(data, row) for row in data.table.rows)
    failed = frozenset(index for index, row in enumerate(data.table.rows) if not row.seeds)
    caption = "Figures and sentences name a row by its key. The first row is the reference of all differences."
    return Section("Rows", sheets=(Sheet(caption, columns, rows, failed),))


def _entries(data: ReportData, row: Row) -> tuple[Entry, ...]:
    planned = len(row.seeds) + len(row.failures)
    seeds = Entry(f"{len(row.seeds)} of {planned}", order=float(len(row.seeds)))
    marks = "; ".join(marks_of(data, row)) or "none"
    return (Entry(data.key(row)), Entry(row.model), Entry(row.objective), seeds, Entry(marks))


def marks_of(data: ReportData, row: Row) -> list[str]:
    """Return the points to check before the numbers of a row are used, in a few words each.

    Args:
        data: the results and settings.
        row: a row of the table.
    """
    marks = [*_marks_of_training(data, row), *_marks_of_weights(row), *_marks_of_data(row)]
    marks += [f"\u25a0 {words}" for question, words in BAD_ANSWERS.items() if _has_answer(data, row, question, "")]
    same = data.duplicate_of(row)
    if same is not None:
        marks.append(f"same results as {data.key(same)}, which represents both in figures")
    return marks


def _marks_of_training(data: ReportData, row: Row) -> list[str]:
    """Return marks on failed, biased and unfinished trainings."""
    marks = [f"\u25a0 {len(row.failures)} failed"] if row.failures else []
    if row.biased:
        marks.append("\u25b2 biased gradient")
    if row.unfinished or _has_answer(data, row, QUESTIONS[0], "unfinished"):
        marks.append("\u25b2 not converged")
    return marks


def _marks_of_weights(row: Row) -> list[str]:
    """Return marks on the evidence, the weights and the latents: no difference, k-hat, unused latents, KL."""
    marks = []
    if row.not_comparable:
        marks.append("\u25b2 not comparable with the first row")
    if row.seeds and row.log_evidence is None:
        marks.append("\u25b2 no log evidence of each datum")
    share = bad_khat_share(row)
    if share is not None and share > _MOST_BAD_KHAT:
        marks.append(f"\u25b2 k-hat too large for {100 * share:.0f}% of the data")
    if row.active_units is not None and row.active_units.value < 0.5:
        marks.append("\u25b2 no latent unit is used")
    far = row.additional.get("far_data")
    if far is not None and far.value > _MOST_BAD_KHAT:
        marks.append(f"\u25b2 guide far from the posterior for {100 * far.value:.0f}% of the data")
    return marks


def _marks_of_data(row: Row) -> list[str]:
    """Return marks on the evidence by annealing and on memorised training data."""
    found = {
        f"\u25a0 {MISSED_PART}": has_missed_part(row),
        f"\u25b2 {UNDERESTIMATED}": has_shortfall(row),
        f"\u25b2 {MEMORISED}": is_memorised(row.additional.get("membership")),
    }
    return [mark for mark, is_shown in found.items() if is_shown]


def _has_answer(data: ReportData, row: Row, question: str, words: str) -> bool:
    """Return whether a run folder of the row answers a question with "bad", or with a reason that has certain words."""
    answers = answers_to(question, data.finished_outcomes(row))
    if words:
        return any(words in str(answer.get("reason")) for _, answer in answers)
    return any(answer.get("status") == "bad" for _, answer in answers)


def bad_khat_share(row: Row) -> float | None:
    """Return the share of data with a k-hat above its limit, or None if there is no k-hat."""
    return None if row.bad_khat is None else row.bad_khat.value
