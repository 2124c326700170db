"""Do two samples come from one law? A permutation test on the maximum mean discrepancy, and the aggregate posterior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.evaluation_context import prepared
from pvae.programs.sites import sample_sites

__all__ = ["TwoSampleTest", "aggregate_test", "mmd_test"]

_AT_ONCE = 200  # permutations in one product of matrices


@dataclass(frozen=True)
class TwoSampleTest:
    """What a permutation test of two samples found.

    Attributes:
        statistic: the squared maximum mean discrepancy, unbiased: about 0, and negative at times, for equal laws.
        p_value: the share of permutations with as great a statistic, the observed one among them: small where the
            samples differ, uniform where they do not.
        permutations: how many were drawn.
        counts: data in each sample.
    """

    statistic: float
    p_value: float
    permutations: int
    counts: tuple[int, int]


def mmd_test(
    first: Tensor,
    second: Tensor,
    *,
    permutations: int = 1000,
    widths: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 4.0),
    seed: int = 0,
) -> TwoSampleTest:
    """Test whether two samples come from the same law.

    The kernel is a sum of Gaussians exp(-d^2 / (2 s^2 units)), one for each width s, fixed beforehand, so that the
    test has the level of its p-value whatever the data.

    Args:
        first: draws, shape (draws, units), at least 2.
        second: draws of the same units, of any number from 2.
        permutations: relabellings of the joined samples.
        widths: s of each kernel, in units of one dimension's scale; the p-value says nothing of dimensions that
            differ by much in scale.
        seed: of the permutations.

    Raises:
        InputError: if the samples differ in units, or have fewer than two draws.
    Source: Gretton et al., A Kernel Two-Sample Test, JMLR 13 (2012), lemma 6 and section 5; a p-value that counts the
    observed statistic among the permuted is exact: Phipson & Smyth, arXiv:1603.05766.
    """
    if first.dim() != 2 or first.shape[1:] != second.shape[1:] or min(len(first), len(second)) < 2:
        came = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise InputError(f"Two samples of the same units, shape (draws, units), at least 2 draws each; got {came}.")
    permutations = require_whole(permutations, "permutations")
    if not widths or min(widths) <= 0:
        raise InputError(f"widths needs at least one positive number; got {tuple(widths)}.")
    kernel = _kernel(torch.cat([first, second]).double().cpu(), widths)
    size, count = len(kernel), len(first)
    generator = torch.Generator().manual_seed(seed)
    observed = _statistics(kernel, (torch.arange(size) < count).double()[:, None])[0]
    greater = 0
    for start in range(0, permutations, _AT_ONCE):
        many = min(_AT_ONCE, permutations - start)
        ranks = torch.rand(size, many, generator=generator).argsort(0).argsort(0)
        # ties by rounding are as great: relabellings of few data meet the observed one
        greater += int((_statistics(kernel, (ranks < count).double()) >= observed - 1e-12).sum())
    return TwoSampleTest(float(observed), (1 + greater) / (1 + permutations), permutations, (len(first), len(second)))


def _kernel(x: Tensor, widths: Sequence[float]) -> Tensor:
    distance = torch.cdist(x, x).square()
    kernel = sum((torch.exp(-distance / (2.0 * width**2 * x.shape[1])) for width in widths), torch.zeros(()))
    return kernel.fill_diagonal_(0.0)


def _statistics(kernel: Tensor, chosen: Tensor) -> Tensor:
    """The unbiased squared discrepancy of each column of labels (1 in the first sample), shape (columns,)."""
    count = float(chosen[:, 0].sum())
    other = len(kernel) - count
    reached = (chosen * kernel.sum(1, keepdim=True)).sum(0)
    within = (chosen * (kernel @ chosen)).sum(0)
    across = reached - within
    rest = kernel.sum() - 2.0 * reached + within
    return within / (count * (count - 1)) + rest / (other * (other - 1)) - 2.0 * across / (count * other)


def aggregate_test(model: Any, data: Any, *, permutations: int = 1000, **where: Any) -> TwoSampleTest:
    """Test whether the aggregate posterior is the prior: one z of the guide per datum, against as many of the prior.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split), a `Batch`, a tensor or an array.
        permutations: relabellings of the joined samples.
        where: ``limit``, ``seed``, ``device``, ``split``, ``fields`` of `prepared`.

    Raises:
        InputError: if there are no data, or no latent site of real values for each datum.
    """
    with prepared(model, data, **where) as setting:
        programs = setting.programs().bound_to(setting.batch)
        guide = _latents(programs.trace_guide(), setting.batch.size)
        prior = _latents(programs.trace_model(), setting.batch.size)
    names = [name for name in guide if name in prior]
    if not names:
        raise InputError("An aggregate posterior needs a latent site of real values for each datum; there is none.")
    samples = (torch.cat([sites[name] for name in names], 1) for sites in (guide, prior))
    return mmd_test(*samples, permutations=permutations, seed=where.get("seed", 0))


def _latents(trace: poutine.Trace, size: int) -> dict[str, Tensor]:
    """The drawn real values of each datum, flat."""
    sites = [site for site in sample_sites(trace) if not site["is_observed"]]
    return {
        site["name"]: site["value"].reshape(size, -1)
        for site in sites
        if site["value"].is_floating_point() and site["value"].shape[:1] == (size,)
    }
