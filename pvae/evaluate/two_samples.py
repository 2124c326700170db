"""Two-sample test by permutation of the maximum mean discrepancy, and its use on the aggregate posterior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.evaluated_data import ModelOrRun
from pvae.evaluate.evaluation_context import evaluation_context
from pvae.memory import require_memory
from pvae.objectives.kl.mean_discrepancy import kernel_values, mmd_of_labels
from pvae.programs.sites import sample_sites

__all__ = ["TwoSampleTest", "aggregate_test", "mmd_test"]

#: The number of permutations in one product of matrices; it bounds the memory.
_PERMUTATIONS_AT_ONCE = 200

#: The number of matrices of the size of the kernel that are in memory at the same time.
_KERNEL_COPIES = 4


@dataclass(frozen=True)
class TwoSampleTest:
    """The result of a permutation test of two samples.

    Attributes:
        statistic: the squared maximum mean discrepancy, by its unbiased estimate. For equal distributions its
            expectation is 0, and it may be negative.
        p_value: the share of permutations with at least the observed statistic; the observed sample is counted too. It
            is small if the distributions differ, and uniform if they are equal.
        permutations: the number of random permutations.
        counts: the number of draws in each sample.

    Example:
        >>> import torch
        >>> from pvae.evaluate import mmd_test
        >>> _ = torch.manual_seed(0)
        >>> test = mmd_test(torch.randn(50, 2), torch.randn(60, 2) + 1, permutations=99)
        >>> test.counts, test.p_value < 0.05
        ((50, 60), True)
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
    """Test whether two samples come from the same distribution.

    The kernel is a sum of Gaussians exp(-d^2 / (2 s^2 units)), one for each width s. The widths do not depend on the
    data, so the test has the level of its p-value for all data.

    Args:
        first: at least 2 draws, shape (draws, units).
        second: at least 2 draws of the same units, shape (draws, units); the number of draws may differ.
        permutations: the number of random permutations of the joined samples.
        widths: s of each kernel, in the scale of one unit. The units should have similar scales, because the distance d
            adds them.
        seed: the seed of the permutations.

    Raises:
        InputError: if the samples differ in units, or have fewer than two draws.
    Source: Gretton et al., A Kernel Two-Sample Test, JMLR 13 (2012), lemma 6 and section 5; a p-value that counts the
    observed statistic among the permuted is exact: Phipson & Smyth, arXiv:1603.05766.

    Example:
        >>> import torch
        >>> from pvae.evaluate import mmd_test
        >>> _ = torch.manual_seed(0)
        >>> first, second = torch.randn(50, 2), torch.randn(60, 2)
        >>> mmd_test(first, second + 1, permutations=99).p_value  # the least p-value of 99 permutations is 1 / 100
        0.01
    """
    if first.dim() != 2 or first.shape[1:] != second.shape[1:] or min(len(first), len(second)) < 2:
        raise InputError(
            "mmd_test needs two samples of the same units, shape (draws, units), with at least 2 draws each; got "
            f"shapes {tuple(first.shape)} and {tuple(second.shape)}. Flatten each draw to one row."
        )
    permutations = require_whole(permutations, "permutations")
    if not widths or min(widths) <= 0:
        raise InputError(f"widths needs at least one positive number; got {tuple(widths)}.")
    joined = len(first) + len(second)
    require_memory(_KERNEL_COPIES * 8 * joined**2, "cpu", f"A kernel of {joined} draws", "Give fewer data, by limit.")
    kernel = _kernel(torch.cat([first, second]).double().cpu(), widths)
    joined_size, count = len(kernel), len(first)
    generator = torch.Generator().manual_seed(seed)
    in_first = torch.arange(joined_size) < count
    observed = mmd_of_labels(kernel, in_first.double()[:, None])[0]
    at_least_observed = 0
    for start in range(0, permutations, _PERMUTATIONS_AT_ONCE):
        columns = min(_PERMUTATIONS_AT_ONCE, permutations - start)
        ranks = torch.rand(joined_size, columns, generator=generator).argsort(0).argsort(0)
        statistics = mmd_of_labels(kernel, (ranks < count).double())
        # A permutation of few draws may repeat the observed samples; its statistic then differs only by rounding.
        at_least_observed += int((statistics >= observed - 1e-12).sum())
    p_value = (1 + at_least_observed) / (1 + permutations)
    return TwoSampleTest(float(observed), p_value, permutations, (len(first), len(second)))


def _kernel(x: Tensor, widths: Sequence[float]) -> Tensor:
    """Return the kernel between all rows of x, shape (draws, draws), with 0 on the diagonal.

    Args:
        x: shape (draws, units).
        widths: the width of each Gaussian.
    """
    squared_distance = torch.cdist(x, x).square()
    return kernel_values(squared_distance, x.shape[1], "gaussian", tuple(widths)).fill_diagonal_(0.0)


def aggregate_test(model: ModelOrRun, data: Any = None, *, permutations: int = 1000, **where: Any) -> TwoSampleTest:
    """Test whether the aggregate posterior is the prior, by one draw of the guide and one of the prior per datum.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split), or another form of data; None for the data of a run. See `pvae.evaluate`.
        permutations: the number of random permutations of the joined samples.
        where: ``limit``, ``seed``, ``device``, ``split``, ``fields``; see `pvae.evaluate`.

    Raises:
        InputError: if there are no data, or no latent site has real values for each datum.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> pvae.evaluate.aggregate_test(model, x.repeat(10, 1), permutations=99).permutations
        99
    """
    with evaluation_context(model, data, needs_density=False, **where) as context:
        programs = context.bound_to(context.batch)
        from_guide = _real_latents(programs.trace_guide(), context.batch.size)
        from_prior = _real_latents(programs.trace_model(), context.batch.size)
    names = [name for name in from_guide if name in from_prior]
    if not names:
        raise InputError(
            "An aggregate posterior needs a latent site of real values for each datum; model and guide have none in "
            "common. Discrete sites have no such test here."
        )
    posterior_sample = torch.cat([from_guide[name] for name in names], 1)
    prior_sample = torch.cat([from_prior[name] for name in names], 1)
    return mmd_test(posterior_sample, prior_sample, permutations=permutations, seed=where.get("seed", 0))


def _real_latents(trace: poutine.Trace, size: int) -> dict[str, Tensor]:
    """Return the values of the latent sites with real values for each datum, by site, shape (size, units)."""
    sites = [site for site in sample_sites(trace) if not site["is_observed"]]
    return {
        site["name"]: site["value"].reshape(size, -1)
        for site in sites
        if site["value"].is_floating_point() and site["value"].shape[:1] == (size,)
    }
