"""`all`: every evaluation of a model within a budget of decoder evaluations, with shared draws."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pvae.checks import require_positive, require_whole
from pvae.data import Splits
from pvae.evaluate.all_checks.annealed_part import AnnealedPart, annealed_part
from pvae.evaluate.all_checks.budget_plan import BudgetPlan, EvaluationBudget
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
from pvae.evaluate.base import Estimate
from pvae.evaluate.calibration.calibrate import DRAWS
from pvae.evaluate.calibration.calibration_record import Calibration, calibration_of
from pvae.evaluate.evaluated_data import ModelOrRun, evaluated_data
from pvae.evaluate.evaluation_context import EvaluationContext, evaluation_context
from pvae.evaluate.finding import EvaluationFinding, NotRun, evaluation_steps
from pvae.evaluate.inference_gaps.best_guides import SearchSettings
from pvae.evaluate.inference_gaps.gap_record import Gaps
from pvae.evaluate.inference_gaps.measure_gaps import gaps
from pvae.evaluate.membership import FEW_PARTICLES as MEMBER_PARTICLES
from pvae.evaluate.membership import membership, training_elbo
from pvae.evaluate.reference_posterior.compare_with_reference import reference
from pvae.evaluate.reference_posterior.reference_record import ReferencePosterior
from pvae.evaluate.resemblance_tests.measure_resemblance import values_of_data
from pvae.evaluate.resemblance_tests.resemblance_record import Resemblance, resemblance_of
from pvae.evaluate.simulated_pairs import require_local_latents
from pvae.logs import say
from pvae.train.run import Run

__all__ = ["check_everything"]

_LOG = logging.getLogger(__name__)
Result = TypeVar("Result")

#: Numbers of data of `gaps` and of `reference`, and the expected cost of a datum of `reference`.
_DATA_OF_GAPS, _DATA_OF_REFERENCE, _COST_OF_REFERENCE = 100, 4, 42_000


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
    over simulated data gives calibration, use of the latents and resemblance; a sandwich of a part of the data gives a
    lower and an upper estimate of the log evidence. A small budget lowers the numbers of particles, simulations,
    temperatures, chains and annealed data; the result contains the chosen numbers. An evaluation that the budget or the
    model does not allow is "not run", with the reason, and is never fine.

    For a run in a folder, the answers are saved as ``findings.json`` in it.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits`, or another form of data; None for the data of a run. See `pvae.evaluate`.
        budget: the largest number of decoder evaluations. The defaults need about 50 million with 1000 test data, most
            of them for the sandwich.
        particles: the largest number of draws of z per datum for the log evidence by importance sampling, for the gaps,
            and, if it is below 100, for the log evidence of simulated data.
        split: the split of `Splits`. If it is ``"test"``, the gaps of the training split are computed too.
        limit: the largest number of data; None takes all.
        seed: the seed of all draws.
        progress: None for a bar on a terminal and one line elsewhere; False for no output.
        where: ``device``, ``fields``, ``data_plate``; see `pvae.evaluate`.

    Raises:
        InputError: if a number is out of range, there are no data, or the object is not a model.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> findings = pvae.evaluate.all(model, x, budget=3000, progress=False)
        >>> for answer in findings.answers:
        ...     print(answer.question, answer.status)
        How likely is the data? look
        Is the inference right? not run
        On which data not? bad
        Are the latents used? not run
        Does the model resemble the data? not run
    """
    left = EvaluationBudget(float(require_positive(budget, "budget")))
    particles = require_whole(particles, "particles", least=2)
    data = evaluated_data(model, data)
    with evaluation_context(model, data, split=split, limit=limit, seed=seed, **where) as context:
        plan = BudgetPlan.choose(left.left, context.batch.size, particles, FEW_PARTICLES)
        if progress is not False:
            say(_LOG, f"within the budget of {budget:.3g} decoder evaluations: {plan}")
        shared = _SharedParts.compute(context, left, plan, seed, progress)
    own_split = {} if split == "test" and isinstance(data, Splits) else {"split": split}
    settings = {"seed": seed, "progress": progress, **where}
    member = _membership(model, data, left, shared, {"split": split, "seed": seed, **where})
    inference = [shared.calibration, *_slow_parts(model, data, left, settings | own_split, split, plan)]
    answers = (
        _alone(shared.evidence(model, member)),
        answer_inference(inference),
        _alone(shared.trust()),
        _alone(shared.use),
        _alone(shared.resemblance),
    )
    cost = sum(finding.cost for finding in shared.counted(inference, member))
    findings = ModelFindings(answers, budget, cost, seed, split, shared.count, plan.to_json())
    if isinstance(model, Run) and model.folder is not None:
        write_findings(model.folder, findings, model.checkpoint)
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
        sides: the lower and the upper estimate of the log evidence, or the reason why there are none.
        calibration: the ranks of the guide.
        use: the use of the latents.
        resemblance: real data against simulated data.
        count: the number of real data.
    """

    weights: WeightPass | str
    sides: AnnealedPart | str
    calibration: EvaluationFinding
    use: EvaluationFinding
    resemblance: EvaluationFinding
    count: int

    @classmethod
    def compute(
        cls, context: EvaluationContext, left: EvaluationBudget, plan: BudgetPlan, seed: int, progress: bool | None
    ) -> _SharedParts:
        """Return the findings of both passes and of the sandwich that the budget allows."""
        count = context.batch.size
        with evaluation_steps("weights of the data", plan.cost_of_weights, progress=progress):
            weights = left.attempt(plan.cost_of_weights, lambda: weight_pass(context, plan.particles, plan.few))
        reason = left.reason
        simulated = _simulate(context, left, plan, seed, progress, with_evidence=weights is not None)
        calibration = _finding(left, Calibration, simulated, lambda part: _calibration(part, plan, seed))
        latents = None if weights is None else weights.diagnosis.latents
        use = _finding(left, LatentUse, simulated, lambda part: latent_use(part.dependence, latents))
        resemblance = _resemblance(context, left, weights, simulated, seed)
        both = left.attempt(plan.cost_of_sandwich, lambda: annealed_part(context, plan, seed, progress=progress))
        sides: AnnealedPart | str = left.reason if both is None else both
        return cls(reason if weights is None else weights, sides, calibration, use, resemblance, count)

    def evidence(self, model: Any, member: Estimate | None) -> EvaluationFinding:
        """Return the finding about the log evidence, with the records of a run and the membership of its data."""
        if isinstance(self.weights, str):
            return NotRun.of(EvidenceFinding, self.weights)
        records = model.history if isinstance(model, Run) else None
        return evidence_finding(self.weights, self.sides, records, member)

    def trust(self) -> EvaluationFinding:
        """Return the finding about single data; it uses the weights of the evidence, so it costs nothing."""
        if isinstance(self.weights, str):
            return NotRun.of(DataTrust, self.weights)
        is_run = self.calibration.status != "not run"
        return data_trust(self.weights.diagnosis, is_calibrated=self.calibration.status == "fine" if is_run else None)

    def counted(self, inference: Sequence[EvaluationFinding], member: Estimate | None) -> list[EvaluationFinding]:
        """Return all findings; each counts its own decoder evaluations."""
        return [self.evidence(None, member), *inference, self.use, self.resemblance]


def _simulate(
    context: EvaluationContext,
    left: EvaluationBudget,
    plan: BudgetPlan,
    seed: int,
    progress: bool | None,
    *,
    with_evidence: bool,
) -> SimulationPass | None:
    """Return the pass over simulated data; without their log evidence if the budget does not allow it."""
    plan = replace(plan, with_evidence=plan.with_evidence and with_evidence)
    cost = plan.cost_of_simulations

    def run() -> SimulationPass:
        require_local_latents(context.first_data, "A simulation")
        few = plan.few if plan.with_evidence else None
        with evaluation_steps("simulated data", cost, progress=progress) as steps:
            return simulation_pass(context, plan.simulations, DRAWS, seed, steps, few=few)

    return left.attempt(cost, run)


def _calibration(part: SimulationPass, plan: BudgetPlan, seed: int) -> Calibration:
    cost = part.cost - len(part.dependence) * (1 + plan.few * (part.evidence is not None))
    return calibration_of(part.ranks, DRAWS, cost=cost, seed=seed, notes=part.notes)


def _finding(
    left: EvaluationBudget,
    kind: type[EvaluationFinding],
    part: SimulationPass | None,
    make: Callable[[SimulationPass], EvaluationFinding],
) -> EvaluationFinding:
    """Return the finding of a pass, or that it was not run."""
    return NotRun.of(kind, left.reason) if part is None else make(part)


def _resemblance(
    context: EvaluationContext,
    left: EvaluationBudget,
    weights: WeightPass | None,
    part: SimulationPass | None,
    seed: int,
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
            cost=len(evidence) * weights.few_particles,
        ),
    )
    return NotRun.of(Resemblance, left.reason) if found is None else found


def _membership(
    model: Any, data: Any, left: EvaluationBudget, shared: _SharedParts, where: Mapping[str, Any]
) -> Estimate | None:
    """Return the probability that a training datum has a larger ELBO than a test datum; None if it is not known."""
    weights = shared.weights
    cost = MEMBER_PARTICLES * shared.count
    if isinstance(weights, str) or cost > left.left:
        return None
    train = training_elbo(model, data, shared.count, MEMBER_PARTICLES, **where)
    if train is None:
        return None
    left.left -= cost
    return membership(train, weights.elbo)


def _slow_parts(
    model: Any, data: Any, left: EvaluationBudget, settings: Mapping[str, Any], split: str, plan: BudgetPlan
) -> list[EvaluationFinding]:
    """Return the findings of `gaps` and `reference`, if the budget allows them."""
    particles = plan.particles
    per_datum = SearchSettings(particles, 300, 0.05, 16, "full-covariance", 0).evaluations_per_datum
    splits = 1 if "split" in settings else 2
    sizes = _DATA_OF_GAPS if not isinstance(data, Splits) else _DATA_OF_GAPS * splits
    count = min(sizes, math.inf if isinstance(data, Splits) else data.size)
    found = left.attempt(count * per_datum, lambda: gaps(model, data, particles, limit=_DATA_OF_GAPS, **settings))
    parts: list[EvaluationFinding] = [NotRun.of(Gaps, left.reason) if found is None else found]
    cost = _DATA_OF_REFERENCE * _COST_OF_REFERENCE
    with_split = {**settings, "split": split}
    chains = left.attempt(cost, lambda: reference(model, data, limit=_DATA_OF_REFERENCE, **with_split))
    return [*parts, NotRun.of(ReferencePosterior, left.reason) if chains is None else chains]
