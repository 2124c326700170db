"""`ModelFindings`: the answers to the questions about one model, each with the findings that support it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvae.evaluate.finding import EvaluationFinding, worst_status
from pvae.names import require_known

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BAD_ANSWERS", "QUESTIONS", "ModelFindings", "QuestionAnswer", "answer_inference"]

INFERENCE = "Is the inference right?"

QUESTIONS = (
    "How likely is the data?",
    INFERENCE,
    "On which data not?",
    "Are the latents used?",
    "Does the model resemble the data?",
)
"""The questions about one model, in order."""

BAD_ANSWERS = dict(
    zip(
        QUESTIONS,
        (
            "log evidence not reliable",
            "inference not right",
            "inference not right for single data",
            "latents not used",
            "data of the model do not resemble the data",
        ),
        strict=True,
    )
)
"""The meaning of the answer "bad" to each question, in a few words."""


@dataclass(frozen=True)
class QuestionAnswer:
    """The answer to one question.

    Attributes:
        question: one of `QUESTIONS`.
        status: ``"fine"``, ``"look"``, ``"bad"`` or ``"not run"``.
        reason: one or two sentences with the numbers and the limits.
        findings: the findings that support the answer; the decisive one comes first.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> findings = pvae.evaluate.all(model, x, budget=3000, progress=False)
        >>> answer = findings["How likely is the data?"]
        >>> answer.status, answer.findings[0].name
        ('look', 'log evidence')
    """

    question: str
    status: str
    reason: str
    findings: tuple[EvaluationFinding, ...] = field(repr=False)

    @property
    def cost(self) -> int:
        """Decoder evaluations of all findings together."""
        return sum(finding.cost for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return the answer with its findings as a dictionary that JSON can hold."""
        first = self.findings[0].to_json()
        numbers = {name: first[name] for name in ("value", "error", "unit", "count", "limit", "source")}
        return {
            "question": self.question,
            "status": self.status,
            "reason": self.reason,
            **numbers,
            "cost": self.cost,
            "findings": [finding.to_json() for finding in self.findings],
        }

    def __str__(self) -> str:
        return f"{self.question} {self.status}: {self.reason}"


@dataclass(frozen=True)
class ModelFindings:
    """The answers to `QUESTIONS` about one model.

    Attributes:
        answers: one for each question, in order.
        budget: the largest number of decoder evaluations that was allowed.
        cost: the number of decoder evaluations.
        seed: the seed of all draws.
        split: the split of the data.
        count: the number of data.
        choices: the numbers of particles, simulations, temperatures, chains and data that were chosen, by name.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> findings = pvae.evaluate.all(model, x, budget=3000, progress=False)
        >>> [answer.status for answer in findings.answers]
        ['look', 'not run', 'bad', 'not run', 'not run']
        >>> sorted(findings.findings)
        ['diagnose', 'log evidence']
    """

    answers: tuple[QuestionAnswer, ...]
    budget: float
    cost: int
    seed: int
    split: str
    count: int
    choices: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, question: str) -> QuestionAnswer:
        answers = {answer.question: answer for answer in self.answers}
        require_known("question", question, answers)
        return answers[question]

    @property
    def findings(self) -> dict[str, EvaluationFinding]:
        """All findings by the name of their evaluation; those that were not run are left out."""
        found = [finding for answer in self.answers for finding in answer.findings]
        return {finding.name: finding for finding in found if finding.status != "not run"}

    def to_json(self) -> dict[str, Any]:
        """Return all results except pointwise values as a dictionary that JSON can hold."""
        return {
            "questions": [answer.to_json() for answer in self.answers],
            "budget": self.budget,
            "cost": self.cost,
            "seed": self.seed,
            "split": self.split,
            "data": self.count,
            "choices": dict(self.choices),
        }

    def table(self) -> list[dict[str, str]]:
        """Return one row of text for each question, with the keys ``question``, ``status`` and ``reason``."""
        return [
            {"question": answer.question, "status": answer.status, "reason": answer.reason} for answer in self.answers
        ]

    def plot(self, folder: str | Path | None = None) -> dict[str, Figure]:
        """Return the figure of each finding by the name of its evaluation; those that were not run have none.

        Args:
            folder: a folder for the figures, one SVG file each, or None.
        """
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
        paths = {name: None if folder is None else Path(folder) / f"{name}.svg" for name in self.findings}
        return {name: finding.plot(paths[name]) for name, finding in self.findings.items()}

    def __str__(self) -> str:
        return "\n".join(map(str, self.answers))


def answer_inference(findings: Sequence[EvaluationFinding]) -> QuestionAnswer:
    """Return the answer to "Is the inference right?" from several findings.

    The worst finding decides. Without `calibrate`, the answer is never fine, because the other evaluations cannot find
    a mode that the guide never draws.

    Args:
        findings: the findings of `calibrate`, `gaps` and `reference`; some may be `NotRun`.
    """
    done = [finding for finding in findings if finding.status != "not run"]
    status = worst_status(finding.status for finding in done)
    if status == "fine" and not any(finding.name == "calibrate" for finding in done):
        status = "look"
    order = sorted(findings, key=lambda finding: ("bad", "look", "fine", "not run").index(finding.status))
    reason = order[0].reason
    if status == "look" and order[0].status == "fine":
        reason += " Calibration was not run, so a mode that the guide never draws would not show."
    return QuestionAnswer(INFERENCE, status, reason, tuple(order))
