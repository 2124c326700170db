"""The comparison's page: verdict, table, curves, pictures, cells and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pvae import plots
from pvae.comparison.base import Outcome
from pvae.comparison.rows import Row
from pvae.comparison.table import COLUMNS, Table, cells_of, row_label, seconds
from pvae.report import Column, Entry, Page, Picture, Section, Settings, Sheet

__all__ = ["Study", "make_page"]

_SAME = "The same bound on the same data for all rows, whatever they are trained by."
_OWN_LOSS = "Each objective's own loss, so rows do not compare: the data have no validation split."
_MOST_ROWS = 12  # rows with pictures: beyond, the page would pass its size


@dataclass(frozen=True)
class Study:
    """Everything that a page tells.

    Attributes:
        table: the rows.
        outcomes: of all cells, in order.
        data: `Splits.summary()`.
        settings: options by heading.
        rerun: the command or call that makes the page again.
        notes: lines on where cells ran that a reader should know.
        data_notes: lines on what was done to the data.
        drawings: for an outcome, its ``samples``, ``originals``, ``reconstructions``, ``codes``, ``labels``.
    """

    table: Table
    outcomes: Sequence[Outcome]
    data: Mapping[str, Any]
    settings: Mapping[str, Mapping[str, Any]]
    rerun: str
    notes: Sequence[str] = ()
    data_notes: Sequence[str] = ()
    drawings: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the data."""
        return str(self.data.get("name", "data"))

    def label(self, row: Row) -> str:
        """A row's name."""
        return row_label(row, self.table.rows)

    def of(self, row: Row) -> list[Outcome]:
        """Outcomes of a row that finished."""
        pairs = ((each, (each.cell.model, each.cell.objective)) for each in self.outcomes if not each.failure)
        return [each for each, names in pairs if names == (row.model, row.objective)]

    def shown(self) -> list[tuple[Row, Outcome]]:
        """Each row with its first seed: not the best one, which would flatter."""
        rows = [(row, self.of(row)) for row in self.table.rows]
        return [(row, found[0]) for row, found in rows if found][:_MOST_ROWS]


def make_page(study: Study) -> Page:
    """Return the page of a comparison; it has only the sections that there is something to tell in."""
    rows = study.table.rows
    models = list(dict.fromkeys(row.model for row in rows))
    seeds = sorted({each.cell.seed for each in study.outcomes})
    judged = (
        f"{len(models)} model{'s' * (len(models) > 1)} ({', '.join(models)}) under "
        f"{len({row.objective for row in rows})} objectives, seeds {', '.join(map(str, seeds))}, all judged on the "
        f"same {study.table.data} {study.data.get('judged on', 'test')} data of {study.name} (binarise: "
        f"{study.data.get('binarise')}) with {study.table.particles} particles. "
        "± is one standard error; nats per datum unless said otherwise."
    )
    made = (_results, _curves, _drawn, _codes, _cells, _settings)
    sections = tuple(section for make in made if (section := make(study)) is not None)
    lead = (study.table.verdict(), judged, *map(_sentence, study.notes))
    return Page(f"Comparison on {study.name}", lead, sections, _foot(study))


def _sentence(note: str) -> str:
    return note[:1].upper() + note[1:] + ("" if note.endswith((".", ")")) else ".")


def _foot(study: Study) -> str:
    return f"Made by pvae {study.settings.get('Software', {}).get('pvae', '')}."


def _results(study: Study) -> Section:
    columns = (Column("objective", numeric=False), *(Column(each, meaning) for each, meaning in COLUMNS.items()))
    rows = tuple(_entries(study, row, index) for index, row in enumerate(study.table.rows))
    faded = frozenset(index for index, row in enumerate(study.table.rows) if not row.seeds)
    validated = any(str(each.scores.get("curve is", "")).startswith("validation") for each in study.outcomes)
    which = "best by the validation bound" if validated else "last"
    caption = f"Means over seeds, of the parameters that were {which}. Select a heading to sort by it."
    return Section("Results", sheets=(Sheet(caption, columns, rows, faded),), pictures=_intervals(study))


def _entries(study: Study, row: Row, index: int) -> tuple[Entry, ...]:
    name = Entry(study.label(row), "; ".join(row.failures) and f"{len(row.failures)} failed")
    if not row.seeds:
        return (name, Entry(f"failed: {row.failures[0]}"), *(Entry("-") for _ in list(COLUMNS)[1:]))
    orders = {
        "log evidence": row.log_evidence, "difference": row.difference, "ELBO": row.elbo, "gap": row.gap,
        "k-hat": row.bad_khat, "ESS": row.ess_median, "units": row.active_units, "training": row.seconds,
        "evaluations": row.decoder_evaluations,
    }  # fmt: skip
    cells = cells_of(row, index == 0)
    values = {title: None if each is None else each.value for title, each in orders.items()}
    values["rank"] = None if row.rank is None else float(row.rank)
    values["difference"] = 0.0 if index == 0 else values["difference"]
    return (name, *(Entry(*cells[title], values[title]) for title in COLUMNS))


def _intervals(study: Study) -> tuple[Picture, ...]:
    rows = {study.label(row): row for row in study.table.rows if row.log_evidence is not None}
    values = {name: _per_seed(study, row) for name, row in rows.items()}
    errors = {name: row.log_evidence.error for name, row in rows.items() if row.log_evidence}
    if not rows:
        return ()
    pictures = [
        Picture(
            plots.evidence_intervals(values, errors),
            f"Log evidence with intervals for {', '.join(rows)}; the numbers stand in the table.",
            "Log evidence: large dots are means over seeds with one standard error over data, small dots seeds. "
            "All rows share the data, so overlapping intervals may still differ: see the paired differences.",
        )
    ]
    first = study.label(study.table.rows[0])
    paired = {name: row for name, row in rows.items() if row.difference is not None or name == first}
    if len(paired) > 1 and first in paired:
        pictures.append(
            Picture(
                plots.evidence_intervals(
                    {name: _paired(study, row) for name, row in paired.items()},
                    {name: row.total_error if row.difference else 0.0 for name, row in paired.items()},
                    xlabel=f"log evidence minus that of {first} (nats)",
                    zero=True,
                ),
                f"Paired differences in log evidence to {first} for {', '.join(paired)}, with intervals.",
                f"Differences to {first}, paired by datum and seed: mean with one standard error over data and "
                "seeds together, small dots seeds. Right of 0 is better.",
            )
        )
    return tuple(pictures)


def _per_seed(study: Study, row: Row) -> list[float]:
    return [float(each.pointwise["log_evidence"].double().mean()) for each in study.of(row)]


def _paired(study: Study, row: Row) -> list[float]:
    first = {each.cell.seed: each for each in study.of(study.table.rows[0])}
    return [
        float((each.pointwise["log_evidence"] - first[each.cell.seed].pointwise["log_evidence"]).mean())
        for each in study.of(row)
        if each.cell.seed in first
    ]


def _curves(study: Study) -> Section | None:
    found = {study.label(row): [each.scores.get("curve") or [] for each in study.of(row)] for row in study.table.rows}
    found = {name: [curve for curve in curves if curve] for name, curves in found.items()}
    found = {name: curves for name, curves in found.items() if curves}
    if not found:
        return None
    what = next((each.scores["curve is"] for each in study.outcomes if each.scores.get("curve is")), "bound")
    pictures = [
        Picture(
            plots.learning_curves(
                {name: [_columns(curve, place) for curve in curves] for name, curves in found.items()},
                xlabel=axis,
                ylabel=f"{what}\n(nats per datum)",
            ),
            f"The {what} against {axis} for {', '.join(found)}.",
            f"{what.capitalize()}, against {axis}; thin lines are seeds, thick ones their means. {note}",
        )
        for place, axis, note in (
            (0, "epochs", _SAME if what.startswith("validation") else _OWN_LOSS),
            (2, "seconds of training", "Cells ran beside each other, so seconds hold for this machine and load."),
        )
    ]
    return Section("Learning curves", pictures=tuple(pictures))


def _columns(curve: Sequence[Sequence[float]], place: int) -> tuple[list[float], list[float]]:
    return [each[place] for each in curve], [each[1] for each in curve]


def _drawn(study: Study) -> Section | None:
    samples, pairs = [], []
    for row, outcome in study.shown():
        drawn, which = study.drawings.get(outcome.cell.label, {}), f"{study.label(row)}, seed {outcome.cell.seed}"
        if "samples" in drawn:
            alt = f"{len(drawn['samples'])} draws from the model trained with {which}."
            caption = f"{which}: means of p(x given z) at draws of z from the prior."
            samples.append(Picture(plots.image_grid(drawn["samples"]), alt, caption))
        if "reconstructions" in drawn:
            alt = f"{len(drawn['originals'])} test data and their reconstructions, {which}."
            figure = plots.reconstructions(drawn["originals"], drawn["reconstructions"])
            pairs.append(Picture(figure, alt, f"{which}: test data, and means of p(x given z) at z from the guide."))
    if not samples and not pairs:
        return None
    text = f"From the first seed of each row that finished, not the best one; test data of {study.name}."
    return Section("Samples and reconstructions", (text,), pictures=(*samples, *pairs))


def _codes(study: Study) -> Section | None:
    pictures = []
    for row, outcome in study.shown():
        drawn, name = study.drawings.get(outcome.cell.label, {}), study.label(row)
        if "codes" in drawn:
            figure = plots.latent_scatter(drawn["codes"], drawn.get("labels"), kl=drawn.get("kl"))
            coloured = ", coloured by label" if "labels" in drawn else ""
            count = len(drawn["codes"])
            alt = f"Scatter of the latent means of {count} test data{coloured}, {name}."
            caption = f"Means of q(z given x) of {count} test data{coloured}; {name}, seed {outcome.cell.seed}."
            pictures.append(Picture(figure, alt, caption))
    if not pictures:
        return None
    text = "Each point is a datum, at the two latent units with the largest KL (or principal components, as said)."
    return Section("Latent space", (text,), pictures=tuple(pictures))


def _cells(study: Study) -> Section:
    columns = (
        Column("cell", numeric=False), Column("log evidence"), Column("ELBO"), Column("epochs"),
        Column("training"), Column("run", numeric=False),
    )  # fmt: skip
    rows = tuple(_cell_entries(study, outcome) for outcome in study.outcomes)
    failed = frozenset(index for index, each in enumerate(study.outcomes) if each.failure)
    text = f"{len(failed)} of {len(rows)} cells failed; the others do not depend on them." if failed else (
        f"All {len(rows)} cells finished."
    )  # fmt: skip
    notes = {each.cell.label: " ".join(map(_sentence, each.scores.get("notes", ()))) for each in study.outcomes}
    notes = {label: said for label, said in notes.items() if said}
    folded = (Settings(f"Notes on {len(notes)} cells", notes),) if notes else ()
    caption = "Every cell is a run of its own: pvae show and pvae evaluate take its folder."
    return Section("Cells", (text,), (Sheet(caption, columns, rows, failed),), settings=folded)


def _cell_entries(study: Study, outcome: Outcome) -> tuple[Entry, ...]:
    name = Entry(outcome.cell.label)
    run = Entry("/".join(outcome.cell.folder.parts[-4:]))
    if outcome.failure:
        return (name, Entry(f"failed: {outcome.failure}"), Entry("-"), Entry("-"), Entry("-"), run)
    evidence, elbo = (outcome.pointwise[each].double().mean().item() for each in ("log_evidence", "elbo"))
    scores = outcome.scores
    return (
        name,
        Entry(f"{evidence:.3f}", order=evidence),
        Entry(f"{elbo:.3f}", order=elbo),
        Entry(str(scores["epochs"]), order=scores["epochs"]),
        Entry(seconds(scores["seconds"]), order=scores["seconds"]),
        run,
    )


def _settings(study: Study) -> Section:
    folded = tuple(Settings(title, values) for title, values in study.settings.items())
    text = "The same call goes on where this one stopped, and skips the cells that are done."
    return Section("Settings", (*map(_sentence, study.data_notes), text), settings=folded, code=study.rerun)
