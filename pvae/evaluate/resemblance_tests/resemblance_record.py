"""`Resemblance`: the tests of whether real data resemble data that the model generates."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from scipy.special import ndtr
from torch import Tensor

from pvae.evaluate.base import Estimate
from pvae.evaluate.finding import EvaluationFinding
from pvae.evaluate.holm import adjust_by_holm
from pvae.evaluate.resemblance_tests.classifier_test import ClassifierTest, classifier_test
from pvae.evaluate.two_samples import TwoSampleTest, mmd_test

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LEVEL", "Resemblance", "resemblance_of"]

LEVEL = 0.05
"""The probability of a false alarm over the three tests together."""

LARGEST_ACCURACY, LARGEST_SHIFT = 0.75, 0.5
"""The model is bad if a classifier distinguishes real data from its own with a larger accuracy, or if the gap is
larger in standard deviations of log p(x) over its own data. Below these limits, a rejection has the status "look",
because with many data every model of real data is rejected."""

#: The rounding error of float32 log-densities, relative to their size.
_ROUNDING = 1e-6

#: The largest number of draws of each sample in the kernel test, because its cost is quadratic.
_MOST_DRAWS_OF_KERNEL = 1000


@dataclass(frozen=True)
class Resemblance(EvaluationFinding):
    """The typicality gap, a classifier and a kernel test of real data against data of the model.

    The value is the typicality gap: mean log p(x) over real data minus mean log p(x) over data of the model, with the
    same number of particles. It is 0 if the model is right. Either sign is a defect: a model with too much noise gives
    real data a higher probability than its own data.

    Attributes:
        typicality_p: the two-sided p-value of the typicality gap, by its standard error.
        classifier: the classifier that distinguishes both samples.
        kernel: the test of the maximum mean discrepancy.
        adjusted: the three p-values after Holm's adjustment, by test.
        real: log p(x) of real data, shape (data,), nats.
        generated: log p(x) of data of the model, shape (simulations,), nats.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> x = x.repeat(5, 1)
        >>> finding = pvae.evaluate.resemblance(model, x, particles=5, permutations=20, progress=False)
        >>> finding.real.shape, sorted(finding.adjusted)
        (torch.Size([20]), ['classifier', 'kernel (MMD)', 'typicality gap'])
    """

    question: ClassVar[str] = "Does the model resemble the data?"
    name: ClassVar[str] = "resemblance"

    typicality_p: float = field(kw_only=True)
    classifier: ClassifierTest = field(kw_only=True)
    kernel: TwoSampleTest = field(kw_only=True)
    adjusted: dict[str, float] = field(default_factory=dict, kw_only=True)
    real: Tensor = field(kw_only=True, compare=False, repr=False)
    generated: Tensor = field(kw_only=True, compare=False, repr=False)

    def details(self) -> dict[str, Any]:
        """Return the numbers of the three tests."""
        return {
            "typicality_gap": {"value": self.value, "error": self.error, "p_value": self.typicality_p},
            "classifier": {
                "accuracy": self.classifier.accuracy,
                "error": self.classifier.error,
                "p_value": self.classifier.p_value,
            },
            "mmd": {"statistic": self.kernel.statistic, "p_value": self.kernel.p_value},
            "adjusted_p_values": self.adjusted,
        }

    def more_rows(self) -> list[dict[str, str]]:
        """Return a row for each test."""
        accuracy = Estimate(self.classifier.accuracy, self.classifier.error, self.count)
        shown = {
            "typicality gap": f"{Estimate(self.value, self.error, self.count)} nats per datum",
            "classifier": f"accuracy {accuracy}",
            "kernel (MMD)": f"squared MMD {self.kernel.statistic:.2g}",
        }
        return [
            {"quantity": name, "value": value, "note": f"adjusted p-value {self.adjusted[name]:.2g}"}
            for name, value in shown.items()
        ]

    def draw(self) -> Figure:
        """Return the distributions of log p(x) over real data and over data of the model."""
        from pvae.plots.trust_plots import two_histograms

        samples = {"real data": self.real, "data of the model": self.generated}
        return two_histograms(samples, "log p(x), nats per datum", self.question)


def resemblance_of(
    log_p: tuple[Tensor, Tensor], x: tuple[Tensor, Tensor], *, permutations: int = 500, seed: int = 0, cost: int = 0
) -> Resemblance:
    """Return the finding for known samples.

    Args:
        log_p: log p(x) of real data and of data of the model, shape (data,) and (simulations,), nats.
        x: real data and data of the model, shape (data, ...) and (simulations, ...).
        permutations: the number of random permutations of each test.
        seed: the seed of the permutations.
        cost: decoder evaluations.

    Raises:
        InputError: if there are too few data for a test.
    """
    real, generated = (Estimate.mean_of(values) for values in log_p)
    gap, error = real.value - generated.value, math.hypot(real.error, generated.error)
    p_value = _typicality_p(gap, error, abs(real.value))
    flat = [values.detach().reshape(len(values), -1).to("cpu", torch.float64) for values in x]
    classifier = classifier_test(flat[0].numpy(), flat[1].numpy(), permutations=permutations, seed=seed)
    kernel = mmd_test(*_standardised(flat, seed), permutations=permutations, seed=seed)
    names = ("typicality gap", "classifier", "kernel (MMD)")
    p_values = torch.tensor([p_value, classifier.p_value, kernel.p_value], dtype=torch.float64)
    adjusted = dict(zip(names, adjust_by_holm(p_values).tolist(), strict=True))
    shift = abs(gap) / max(float(log_p[1].std()), 1e-300)
    status, reason = _status(Estimate(gap, error, real.count), shift, classifier, adjusted)
    return Resemblance(
        gap, error, real.count, status, reason, cost,
        limit=f"adjusted p-value {LEVEL:g}; accuracy {LARGEST_ACCURACY:g}; gap {LARGEST_SHIFT:g} sd of log p(x)",
        source="Lopez-Paz & Oquab, arXiv:1610.06545; Gretton et al., JMLR 13 (2012); Holm (1979)",
        typicality_p=p_value, classifier=classifier, kernel=kernel, adjusted=adjusted, real=log_p[0],
        generated=log_p[1],
    )  # fmt: skip


def _typicality_p(gap: float, error: float, size: float) -> float:
    """Return the two-sided p-value of a typicality gap; 1 if it is not larger than rounding.

    Args:
        gap: the gap, nats.
        error: its standard error.
        size: the absolute value of log p(x), to which rounding is relative.
    """
    if abs(gap) <= _ROUNDING * max(1.0, size):
        return 1.0
    return 2.0 * float(ndtr(-abs(gap) / error)) if error > 0 else 0.0


def _standardised(samples: list[Tensor], seed: int) -> tuple[Tensor, Tensor]:
    """Return a random part of both samples in the scale of one unit: of mean 0 and variance 1 over both."""
    generator = torch.Generator().manual_seed(seed)
    parts = [sample[torch.randperm(len(sample), generator=generator)[:_MOST_DRAWS_OF_KERNEL]] for sample in samples]
    joined = torch.cat(parts)
    scale = joined.std(0)
    first, second = ((part - joined.mean(0)) / scale.where(scale > 0, 1.0) for part in parts)
    return first, second


def _status(gap: Estimate, shift: float, classifier: ClassifierTest, adjusted: dict[str, float]) -> tuple[str, str]:
    """Return the status and the sentence for the three tests; `shift` is the gap in standard deviations."""
    numbers = (
        f"the typicality gap is {gap} nats, and a classifier distinguishes real data from data of the model with an "
        f"accuracy of {classifier.accuracy:.3f}"
    )
    rejected = [name for name, p_value in adjusted.items() if p_value <= LEVEL]
    if not rejected:
        return "fine", f"No test distinguishes real data from data of the model: {numbers}, where a guess has 0.5."
    found = f"Real data differ from data of the model, by {', '.join(rejected)}: {numbers}."
    is_shifted = adjusted["typicality gap"] <= LEVEL and shift > LARGEST_SHIFT
    return ("bad" if is_shifted or classifier.accuracy > LARGEST_ACCURACY else "look"), found
