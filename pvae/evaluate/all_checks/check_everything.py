"""`all`: every evaluation of a model within a budget of decoder evaluations, with shared draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pvae.checks import require_positive, require_whole
from pvae.data import Splits
from pvae.errors import InputError, first_line
from pvae.evaluate.all_checks.data_trust import DataTrust, data_trust
from pvae.evaluate.all_checks.evidence_finding import EvidenceFinding, evidence_finding
from pvae.evaluate.all_checks.findings_file import write_findings
from pvae.evaluate.all_checks.latent_use import LatentUse, latent_use
from pvae.evaluate.all_checks.model_findings import ModelFindings, QuestionAnswer, answer_inference
from pvae.evaluate.all_checks.shared_passes import (
    FEW_PARTICLES,
    SimulationPass,
    WeightPass,
    simulation_pass,
    weight_pass,
)
from pvae.evaluate.calibration.calibrate import DRAWS, SIMULATIONS
from pvae.evaluate.calibration.calibration_record import Calibration, calibration_of
from pvae.evaluate.diagnostics import DRAWS as UNIT_DRAWS
from pvae.evaluate.evaluated_data import ModelOrRun, evaluated_data
from pvae.evaluate.evaluation_context import EvaluationContext, evaluation_context
from pvae.evaluate.finding import EvaluationFinding, NotRun, evaluation_steps
from pvae.evaluate.inference_gaps.best_guides import SearchSettings
from pvae.evaluate.inference_gaps.gap_record import Gaps
from pvae.evaluate.inference_gaps.measure_gaps import gaps
from pvae.evaluate.reference_posterior.compare_with_reference import reference
from pvae.evaluate.reference_posterior.reference_record import ReferencePosterior
from pvae.evaluate.resemblance_tests.measure_resemblance import values_of_data
from pvae.evaluate.resemblance_tests.resemblance_record import Resemblance, resemblance_of
from pvae.evaluate.simulated_pairs import require_local_latents
from pvae.train.run import Run

__all__ = ["check_everything"]

Result = TypeVar("Result")

#: Errors of a user's programs; the evaluation that met one is reported as not run.
_FAILURES = (InputError, NotImplementedError, RuntimeError, ValueError, ArithmeticError, LookupError, TypeError)

#: Numbers of data of `gaps` and of `reference`, and the expected cost of a datum of `reference`.
_DATA_OF_GAPS, _DATA_OF_REFERENCE, _COST_OF_REFERENCE = 100, 4, 42_000


@dataclass
class _Budget:
    """The decoder evaluations that are left, and why a part was not computed.

    Attributes:
        left: decoder evaluations.
        reason: why the last part that `attempt` did not compute was left out; "" if there is none.
    """

    left: float
    reason: str = ""

    def attempt(self, cost: float, compute: Callable[[], Result]) -> Result | None:
        """Return the result of a function; None, with `reason`, if it costs too much or fails.

        Args:
            cost: the expected number of decoder evaluations.
            compute: the function.
        """
        if cost > self.left:
            self.reason = (
                f"It needs about {cost:.3g} decoder evaluations, and {max(0.0, self.left):.3g} of the budget are left."
            )
            return None
        try:
            result = compute()
        except _FAILURES as error:
            self.reason = first_line(error)
            return None
        self.left -= cost
        return result


def check_everything(
    model: ModelOrRun,
    data: Any = None,
    *,
    budget: float = 1e8,
    particles: int = 1000,
    split: str = "test",
    limit: int | None = 1000,
    seed: int = 0,
    progress: bool | None = None,
    **where: Any,
) -> ModelFindings:
    """Return the answers to the main questions about a model: all evaluations, within a budget.

    The questions are: How likely is the data? Is the inference right? On which data not? Are the latents used? Does the
    model resemble the data? One pass over the weights of real data gives log evidence, bias, k-hat and trust; one pass
    over simulated data gives calibration, use of the latents and resemblance. An evaluation that the budget or the
    model does not allow is "not run", with the reason, and is never fine.

    For a run in a folder, the answers are saved as ``findings.json`` in it.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits`, or another form of data; None for the data of a run. See `pvae.evaluate`.
        budget: the largest number of decoder evaluations. The defaults need about 4 million with 1000 test data.
        particles: the number of draws of z per datum for the log evidence.
        split: the split of `Splits`. If it is ``"test"``, the gaps of the training split are computed too.
        limit: the largest number of data; None takes all.
        seed: the seed of all draws.
        progress: None for a bar on a terminal and one line elsewhere; False for no output.
        where: ``device``, ``fields``, ``data_plate``; see `pvae.evaluate`.

    Raises:
        InputError: if a number is out of range, there are no data, or the object is no model.
    """
    left = _Budget(float(require_positive(budget, "budget")))
    particles = require_whole(particles, "particles", least=2)
    data = evaluated_data(model, data)
    with evaluation_context(model, data, split=split, limit=limit, seed=seed, **where) as context:
        shared = _SharedParts.compute(context, left, particles, seed, progress)
    own_split = {} if split == "test" and isinstance(data, Splits) else {"split": split}
    settings = {"seed": seed, "progress": progress, **where}
    inference = [shared.calibration, *_slow_parts(model, data, left, settings | own_split, split)]
    answers = (
        _alone(shared.evidence(model)),
        answer_inference(inference),
        _alone(shared.trust()),
        _alone(shared.use),
        _alone(shared.resemblance),
    )
    cost = sum(finding.cost for finding in shared.counted(inference))
    findings = ModelFindings(answers, budget, cost, seed, split, shared.count)
    if isinstance(model, Run) and model.folder is not None:
        write_findings(model.folder, findings)
    return findings


def _alone(finding: EvaluationFinding) -> QuestionAnswer:
    """Return the answer that one finding gives."""
    question = finding.to_json()["question"]
    return QuestionAnswer(question, finding.status, finding.reason, (finding,))


@dataclass(frozen=True)
class _SharedParts:
    """The findings from the two shared passes.

    Attributes:
        weights: the pass over real data, or the reason why there is none.
        calibration: the ranks of the guide.
        use: the use of the latents.
        resemblance: real data against simulated data.
        count: the number of real data.
    """

    weights: WeightPass | str
    calibration: EvaluationFinding
    use: EvaluationFinding
    resemblance: EvaluationFinding
    count: int

    @classmethod
    def compute(
        cls, context: EvaluationContext, left: _Budget, particles: int, seed: int, progress: bool | None
    ) -> _SharedParts:
        """Return the findings of both passes, as far as the budget allows them."""
        count = context.batch.size
        with evaluation_steps("weights of the data", count * (particles + UNIT_DRAWS), progress=progress):
            weights = left.attempt(count * (particles + UNIT_DRAWS), lambda: weight_pass(context, particles))
        reason = left.reason
        simulated = _simulate(context, left, seed, progress, with_evidence=weights is not None)
        calibration = _finding(left, Calibration, simulated, lambda part: _calibration(part, seed))
        latents = None if weights is None else weights.diagnosis.latents
        use = _finding(left, LatentUse, simulated, lambda part: latent_use(part.dependence, latents))
        resemblance = _resemblance(context, left, weights, simulated, seed)
        return cls(reason if weights is None else weights, calibration, use, resemblance, count)

    def evidence(self, model: Any) -> EvaluationFinding:
        """Return the finding about the log evidence, with the records of a run."""
        if isinstance(self.weights, str):
            return NotRun.of(EvidenceFinding, self.weights)
        records = model.history if isinstance(model, Run) else None
        part = self.weights
        return evidence_finding(part.evidence, part.elbo, records, part.doubts, part.cost)

    def trust(self) -> EvaluationFinding:
        """Return the finding about single data; its weights are those of the evidence, so it costs nothing."""
        if isinstance(self.weights, str):
            return NotRun.of(DataTrust, self.weights)
        is_run = self.calibration.status != "not run"
        return data_trust(self.weights.diagnosis, is_calibrated=self.calibration.status == "fine" if is_run else None)

    def counted(self, inference: Sequence[EvaluationFinding]) -> list[EvaluationFinding]:
        """Return all findings, each of which counts its own decoder evaluations."""
        return [self.evidence(None), *inference, self.use, self.resemblance]


def _simulate(
    context: EvaluationContext, left: _Budget, seed: int, progress: bool | None, *, with_evidence: bool
) -> SimulationPass | None:
    """Return the pass over simulated data; without their log evidence if the budget does not allow it."""

    def run(with_evidence: bool) -> SimulationPass:
        require_local_latents(context.first_data, "A simulation")
        with evaluation_steps("simulated data", _cost_of_simulation(with_evidence), progress=progress) as steps:
            return simulation_pass(context, SIMULATIONS, DRAWS, seed, steps, with_evidence=with_evidence)

    affordable = with_evidence and _cost_of_simulation(True) <= left.left
    return left.attempt(_cost_of_simulation(affordable), lambda: run(affordable))


def _cost_of_simulation(with_evidence: bool) -> int:
    return SIMULATIONS * (DRAWS + 2 + with_evidence * FEW_PARTICLES)


def _calibration(part: SimulationPass, seed: int) -> Calibration:
    cost = part.cost - len(part.dependence) * (1 + FEW_PARTICLES * (part.evidence is not None))
    return calibration_of(part.ranks, DRAWS, cost=cost, seed=seed, notes=part.notes)


def _finding(
    left: _Budget,
    kind: type[EvaluationFinding],
    part: SimulationPass | None,
    make: Callable[[SimulationPass], EvaluationFinding],
) -> EvaluationFinding:
    """Return the finding of a pass, or that it was not run."""
    return NotRun.of(kind, left.reason) if part is None else make(part)


def _resemblance(
    context: EvaluationContext, left: _Budget, weights: WeightPass | None, part: SimulationPass | None, seed: int
) -> EvaluationFinding:
    """Return the finding about real and simulated data from the values that both passes kept."""
    if weights is None or part is None:
        return NotRun.of(Resemblance, left.reason)
    if part.evidence is None:
        return NotRun.of(Resemblance, "The budget does not allow log p(x) of simulated data.")
    evidence = part.evidence
    found = left.attempt(
        0,
        lambda: resemblance_of(
            (weights.few, evidence),
            (values_of_data(context.batch), part.values),
            seed=seed,
            cost=len(evidence) * FEW_PARTICLES,
        ),
    )
    return NotRun.of(Resemblance, left.reason) if found is None else found


def _slow_parts(
    model: Any, data: Any, left: _Budget, settings: Mapping[str, Any], split: str
) -> list[EvaluationFinding]:
    """Return the findings of `gaps` and `reference`, as far as the budget allows them."""
    per_datum = SearchSettings(1000, 300, 0.05, 16, "full-covariance", 0).evaluations_per_datum
    splits = 1 if "split" in settings else 2
    sizes = _DATA_OF_GAPS if not isinstance(data, Splits) else _DATA_OF_GAPS * splits
    count = min(sizes, math.inf if isinstance(data, Splits) else data.size)
    found = left.attempt(count * per_datum, lambda: gaps(model, data, limit=_DATA_OF_GAPS, **settings))
    parts: list[EvaluationFinding] = [NotRun.of(Gaps, left.reason) if found is None else found]
    cost = _DATA_OF_REFERENCE * _COST_OF_REFERENCE
    with_split = {**settings, "split": split}
    chains = left.attempt(cost, lambda: reference(model, data, limit=_DATA_OF_REFERENCE, **with_split))
    return [*parts, NotRun.of(ReferencePosterior, left.reason) if chains is None else chains]
