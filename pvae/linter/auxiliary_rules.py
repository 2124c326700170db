"""Rules for guides with auxiliary draws and with Delta sites: what the bound of a loss of Pyro does not include."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pyro.infer import TraceMeanField_ELBO

from pvae.linter.check_context import CheckContext
from pvae.linter.findings import Finding
from pvae.programs.sites import is_delta

__all__ = ["AUXILIARY_RULES"]


def _not_marginalised(context: CheckContext) -> Iterator[Finding]:
    """Report auxiliary sites under a loss of Pyro: it counts their entropy as a part of the bound."""
    if context.pyro_loss is None:
        return
    one_to_one = context.bound.layout.bijection.auxiliary
    for name, site in context.guide_latents.items():
        if site["infer"].get("is_auxiliary") and name not in one_to_one and not is_delta(site):
            message = (
                f"only the guide draws it, and {type(context.pyro_loss).__name__} adds its entropy to the bound. The "
                "bound is then too large."
            )
            fix = (
                "Use 'iwae:particles=1', which is the ELBO with the site marginalised (a site without a finite support "
                "needs auxiliary=pvae.Marginal(...)), or draw the site as a Delta's source, with log_density."
            )
            yield Finding("auxiliary site", name, message, fix)


def _left_out_density(context: CheckContext) -> Iterator[Finding]:
    """Report Delta sites with a log-density under `TraceMeanField_ELBO`, which leaves it out of the KL divergence."""
    if not isinstance(context.pyro_loss, TraceMeanField_ELBO):
        return
    for name in context.bound.layout.bijection.points:
        site = context.guide_latents[name]
        if bool((site["fn"].log_prob(site["value"]) != 0).any()):
            message = "the KL divergence that TraceMeanField_ELBO takes from a Delta leaves its log_density out."
            yield Finding("wrong KL", name, message, "Use 'elbo', which has the whole log q.")


def _points(context: CheckContext) -> Iterator[Finding]:
    """Report Delta sites of a continuous z under a loss of Pyro: the training is maximum a posteriori."""
    if context.pyro_loss is None:
        return
    images = context.bound.layout.bijection.points
    for name, site in context.guide_latents.items():
        is_continuous = site["value"].is_floating_point()
        if name in context.model_latents and is_delta(site) and is_continuous and name not in images:
            message = (
                "it is a Delta, a point without a density. The loss is that of the maximum a posteriori, minus "
                "log p(x, z); it is not a bound, and the evaluations of a bound are not available."
            )
            fix = "Change nothing for a point estimate; draw the site from a density for a bound."
            yield Finding("point estimate", name, message, fix, fatal=False)


def _loss_terms(context: CheckContext) -> Iterator[Finding]:
    """Report observed sites of the guide, such as `pyro.factor`, that are further losses and not densities of q."""
    layout = context.bound.layout
    for name in layout.loss_terms:
        message = (
            "the guide observes it (pyro.factor does so), so it is a further loss and not a part of q. The training "
            "has it in the loss; the recorded ELBO, the validation bound and all evaluations leave it out."
        )
        fix = "Change nothing if it is meant as a loss; draw z as a Delta with log_density if it is a density."
        yield Finding("loss in the guide", name, message, fix, fatal=False)
    for name in layout.unclear_terms:
        message = (
            "in a guide with a Delta site it may be a density of q or a further loss; evaluations need to know which."
        )
        fix = "Give the density to the Delta, as pyro.distributions.Delta(value, log_density)."
        yield Finding("loss in the guide", name, message, fix, fatal=False)


#: Every rule for auxiliary draws and Delta sites.
AUXILIARY_RULES: tuple[Callable[[CheckContext], Iterator[Finding]], ...] = (
    _not_marginalised,
    _left_out_density,
    _points,
    _loss_terms,
)
