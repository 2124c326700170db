"""`reference`: the guide against a reference posterior of a few data."""

from __future__ import annotations

from typing import Any

from pvae.checks import require_whole
from pvae.evaluate.evaluated_data import ModelOrRun
from pvae.evaluate.evaluation_context import EvaluationContext, evaluation_context
from pvae.evaluate.finding import EvaluationSteps, evaluation_steps
from pvae.evaluate.latent_draws import draw_from_guide
from pvae.evaluate.reference_posterior.reference_record import ReferencePosterior, SiteComparison, reference_of
from pvae.evaluate.reference_posterior.sample_posterior import sample_posterior
from pvae.evaluate.simulated_pairs import require_local_latents
from pvae.train.devices import reseed

__all__ = ["reference"]

#: The number of draws of the guide for its mean and standard deviation, and the typical number of leapfrog steps per
#: draw.
_GUIDE_DRAWS, _LEAPFROG_STEPS = 2000, 10


def reference(
    model: ModelOrRun,
    data: Any = None,
    draws: int = 500,
    *,
    warmup: int = 500,
    chains: int = 4,
    limit: int | None = 4,
    seed: int = 0,
    progress: bool | None = None,
    **where: Any,
) -> ReferencePosterior:
    """Return the guide's mean and standard deviation per latent unit against those of Pyro's No-U-Turn sampler.

    The chains run on all chosen data together. R-hat and the effective sample size come from ArviZ. If they show that
    the chains did not converge, the finding reports this and draws no conclusion about the guide. If the posterior has
    several modes, chains that start in different modes disagree, so look at R-hat first.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split), or another form of data; None for the data of a run. See `pvae.evaluate`.
        draws: the number of draws of each chain after its warm-up.
        warmup: the number of steps of the warm-up.
        chains: the number of chains.
        limit: the number of data, which should be small; None takes all.
        seed: the seed of all draws.
        progress: None for a bar on a terminal and one line elsewhere; False for no output.
        where: ``device``, ``split``, ``fields``, ``data_plate``; see `pvae.evaluate`.

    Raises:
        InputError: if a count is too small, the data share a latent site, a discrete site cannot be enumerated, or the
            sampler fails.
    Source: Hoffman & Gelman, The No-U-Turn Sampler, JMLR 15 (2014).

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> finding = pvae.evaluate.reference(model, x, draws=8, warmup=4, chains=2, limit=1, progress=False)
        >>> finding.converged  # so short chains have not converged
        False
    """
    draws = require_whole(draws, "draws", least=4)
    warmup = require_whole(warmup, "warmup")
    chains = require_whole(chains, "chains", least=2, advice="R-hat compares chains.")
    with evaluation_context(model, data, limit=limit, seed=seed, **where) as context:
        require_local_latents(context.first_data, "A reference posterior")
        expected = context.batch.size * (chains * (draws + warmup) * _LEAPFROG_STEPS + _GUIDE_DRAWS)
        with evaluation_steps("reference", expected, progress=progress) as steps:
            return compare_with_chains(context, draws, warmup, chains, seed, steps)


def compare_with_chains(
    context: EvaluationContext, draws: int, warmup: int, chains: int, seed: int, steps: EvaluationSteps
) -> ReferencePosterior:
    """Return the finding for the data of a context; the arguments are those of `reference`."""
    posteriors = sample_posterior(context, draws, warmup, chains, seed, steps)
    reseed(seed, 8)
    drawn = draw_from_guide(context, context.batch, _GUIDE_DRAWS).values
    steps.advance(_GUIDE_DRAWS * context.batch.size)
    sites = {
        name: SiteComparison(posterior, drawn[name].mean(0).numpy(), drawn[name].std(0).numpy())
        for name, posterior in posteriors.items()
        if name in drawn
    }
    return reference_of(sites, chains, steps.done)
