"""`EvaluationFinding`: the answer to one question about a model, with its error, its status, the limit and the cost."""

from __future__ import annotations

import logging
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from pvae.errors import InputError
from pvae.json_values import finite_or_none, json_value
from pvae.logs import is_hidden, is_recorded, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "STATUSES",
    "EvaluationFinding",
    "EvaluationSteps",
    "NotRun",
    "announce_cost",
    "as_sentence",
    "evaluation_steps",
    "worst_status",
]

_LOG = logging.getLogger(__name__)
STATUSES = ("fine", "look", "bad", "not run")
"""The statuses of a finding: no defect was found; a user should look at it; a defect was found; it was not computed."""


@dataclass(frozen=True)
class EvaluationFinding(ABC):
    """The answer of one evaluation to one question, with the evidence for it.

    Attributes:
        value: the main number, in the unit that `unit` names.
        error: one standard error of the value; NaN if there is none.
        count: the number of data or of simulated data that the value is a mean over.
        status: ``"fine"``, ``"look"``, ``"bad"`` or ``"not run"``.
        reason: one sentence with the number and the limit.
        cost: decoder evaluations: the number of times that the model scored one datum. An evaluation with a gradient
            counts once.
        pointwise: the value of each datum, shape (count,); None if there is none.
        limit: the limit by which the status was chosen, as text.
        source: where the limit comes from.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> finding = pvae.evaluate.calibrate(model, x, simulations=100, draws=19, progress=False)
        >>> finding.status, finding.count, finding.cost > 0
        ('bad', 100, True)
    """

    question: ClassVar[str] = ""
    """The question that the finding answers, as a plain sentence."""
    name: ClassVar[str] = ""
    """The name of the evaluation, as on the command line."""
    unit: ClassVar[str] = "nats per datum"
    """The unit of `value`."""

    value: float
    error: float
    count: int
    status: str
    reason: str
    cost: int
    pointwise: Tensor | None = field(default=None, compare=False, repr=False, kw_only=True)
    limit: str = field(default="", kw_only=True)
    source: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise InputError(f"A finding needs one of the statuses {', '.join(STATUSES)}; got {self.status!r}.")

    def details(self) -> dict[str, Any]:
        """Return the numbers that only this kind of finding has, by name, for `to_json`."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """Return everything except the pointwise values as a dictionary that JSON can hold."""
        record = {
            "name": self.name,
            "question": self.question,
            "status": self.status,
            "value": finite_or_none(self.value),
            "error": finite_or_none(self.error),
            "unit": self.unit,
            "count": self.count,
            "reason": self.reason,
            "limit": self.limit,
            "source": self.source,
            "cost": self.cost,
        }
        return {**record, **json_value(self.details())}

    def table(self) -> list[dict[str, str]]:
        """Return the numbers as rows of text, each with the keys ``quantity``, ``value`` and ``note``."""
        shown = "not run" if self.status == "not run" else f"{_rounded(self.value, self.error)} {self.unit}"
        return [_row("status", self.status, self.reason), _row("value", shown, self.limit), *self.more_rows()]

    def more_rows(self) -> list[dict[str, str]]:
        """Return the rows of `table` that only this kind of finding has."""
        return []

    def plot(self, path: str | Path | None = None) -> Figure:
        """Return the figure of the finding.

        Args:
            path: a file to write the figure to, or None. Its suffix decides the format, such as ``.png`` or ``.svg``.

        Raises:
            InputError: if the finding has no figure.
        """
        from pvae.plots.figure_files import save_figure

        figure = self.draw()
        if path is not None:
            save_figure(figure, Path(path), {"question": self.question, "status": self.status})
        return figure

    @abstractmethod
    def draw(self) -> Figure:
        """Return a new figure of the finding."""

    def __str__(self) -> str:
        return f"{self.question} {self.status}: {self.reason}"


@dataclass(frozen=True)
class NotRun(EvaluationFinding):
    """A finding that was not computed, because the budget or the model does not allow it.

    Attributes:
        asked: the question that is not answered.
        check: the name of the evaluation.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> findings = pvae.evaluate.all(model, x, budget=3000, progress=False)  # too few evaluations
        >>> finding = findings["Is the inference right?"].findings[0]
        >>> type(finding).__name__, finding.status
        ('NotRun', 'not run')
    """

    asked: str = field(default="", kw_only=True)
    check: str = field(default="", kw_only=True)

    @classmethod
    def of(cls, kind: type[EvaluationFinding], reason: str) -> NotRun:
        """Return the finding that replaces one that was not computed.

        Args:
            kind: the class of the finding that was not computed.
            reason: the reason why it was not computed, in one sentence.
        """
        return cls(math.nan, math.nan, 0, "not run", reason, 0, asked=kind.question, check=kind.name)

    def to_json(self) -> dict[str, Any]:
        """Return everything as a dictionary that JSON can hold."""
        return {**super().to_json(), "name": self.check, "question": self.asked}

    def draw(self) -> Figure:
        """Raise InputError, because there is nothing to draw."""
        raise InputError(f"The evaluation {self.check!r} was not run, so it has no figure: {self.reason}")

    def __str__(self) -> str:
        return f"{self.asked} not run: {self.reason}"


def worst_status(statuses: Iterable[str]) -> str:
    """Return the worst of several statuses: bad, else look, else not run, else fine.

    A question with an evaluation that was not run is never fine. Without any status the result is ``"not run"``.

    Args:
        statuses: statuses of `STATUSES`.
    """
    found = set(statuses)
    return next((status for status in ("bad", "look", "not run", "fine") if status in found), "not run")


def as_sentence(clause: str) -> str:
    """Return a clause as a sentence: with a capital letter and a full stop.

    Args:
        clause: at least one letter.
    """
    return f"{clause[0].upper()}{clause[1:]}."


def _rounded(value: float, error: float) -> str:
    """Return a value with its standard error as text, with two significant digits of the error."""
    from pvae.evaluate.base import Estimate

    return str(Estimate(value, error, 1))


def _row(quantity: str, value: str, note: str = "") -> dict[str, str]:
    return {"quantity": quantity, "value": value, "note": note}


def announce_cost(evaluations: float, what: str, *, progress: bool | None) -> None:
    """Print the expected number of decoder evaluations on standard error, before an evaluation starts.

    Args:
        evaluations: the number of times that the model will score one datum.
        what: the evaluation, such as ``"gaps"``.
        progress: False prints nothing.
    """
    if progress is not False:
        say(_LOG, f"{what}: about {_magnitude(evaluations)} decoder evaluations")


def _magnitude(number: float) -> str:
    """Return a count as text with three significant digits, such as ``1.25 million``."""
    for size, word in ((1e9, " billion"), (1e6, " million"), (1e3, " thousand")):
        if number >= size:
            return f"{number / size:.3g}{word}"
    return f"{number:.0f}"


@contextmanager
def evaluation_steps(what: str, evaluations: float, *, progress: bool | None = None) -> Iterator[EvaluationSteps]:
    """Announce the cost, then show the progress of an evaluation on standard error while the block runs.

    Args:
        what: the evaluation, such as ``"gaps"``.
        evaluations: the expected number of decoder evaluations.
        progress: None for a bar on a terminal and no bar elsewhere; True for a bar; False for no output.

    Yields:
        An object with ``advance(evaluations)``, which counts evaluations as done and moves the bar.
    """
    announce_cost(evaluations, what, progress=progress)
    wants_bar = progress is None and sys.stderr.isatty() and not is_hidden() and not is_recorded(_LOG)
    has_bar = progress or wants_bar
    steps = _BarOfSteps(what, evaluations) if has_bar else EvaluationSteps()
    try:
        yield steps
    except KeyboardInterrupt:
        if progress is not False:
            say(_LOG, _interruption(what, steps.done, evaluations))
        raise
    finally:
        steps.close()


def _interruption(what: str, done: int, evaluations: float) -> str:
    """Return the line on an interrupted evaluation: its results are lost; the same call gives the same answer."""
    return (
        f"{what}: interrupted after {_magnitude(done)} of about {_magnitude(evaluations)} decoder evaluations, which "
        "are lost, because an evaluation does not keep partial results. The same call with the same seed gives the "
        "answer of this one."
    )


class EvaluationSteps:
    """Counts decoder evaluations.

    Attributes:
        done: the number of decoder evaluations so far.
    """

    def __init__(self) -> None:
        self.done = 0

    def advance(self, evaluations: int) -> None:
        """Count more evaluations as done."""
        self.done += evaluations

    def close(self) -> None:
        """End the display."""


class _BarOfSteps(EvaluationSteps):
    """Counts decoder evaluations and shows them as a bar of `rich`.

    Args:
        what: the evaluation.
        evaluations: the expected number of decoder evaluations.
    """

    def __init__(self, what: str, evaluations: float) -> None:
        from rich.console import Console
        from rich.progress import Progress

        super().__init__()
        self._bar = Progress(console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(what, total=evaluations)
        self._bar.start()

    def advance(self, evaluations: int) -> None:
        """Count more evaluations as done, and move the bar."""
        super().advance(evaluations)
        self._bar.update(self._task, completed=self.done)

    def close(self) -> None:
        """Stop the bar and remove it."""
        self._bar.stop()
