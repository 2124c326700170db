"""Gradient strategies: how the gradient of each guide site is taken, chosen in the program or from outside."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, TypedDict

import torch

from pvae.errors import InputError
from pvae.names import unknown
from pvae.programs.sites import Site, base_distribution, is_marked_for_enumeration
from pvae.weights import LogWeights
from pvae.weights.auxiliary import Marginal
from pvae.weights.handlers import SUMMED, ChooseStrategy, support_size

__all__ = [
    "BIASED",
    "BRANCHING",
    "STRATEGIES",
    "Gradients",
    "WeightsOptions",
    "admissible",
    "chooser",
    "gradients_of",
    "require_matches",
    "require_pathwise",
    "text_of",
]

#: what a caller may give: site names, or globs of them, and their strategy
Gradients = Mapping[str, str] | str | tuple[str, ...] | None

LEAVE_ONE_OUT = "score:leave-one-out"

#: name -> what it is
STRATEGIES: dict[str, str] = {
    "pathwise": "through the draw: Normal and all others that can be reparameterised",
    "score": "log q at a fixed draw times the bound",
    LEAVE_ONE_OUT: "score, with a baseline from the other particles (VIMCO; for averages RLOO)",
    "enumerate": "the exact expectation over all values of a finite support",
    "measure": "measure-valued: differences between coupled draws, a coordinate at a time",
    "disarm": "one antithetic pair for all coordinates of a Bernoulli site",
    "arm": "as disarm, with the uniform draw kept: more variance",
    "concrete": "biased: a continuous relaxation at temperature 2/3",
    "straight-through": "biased: the derivative of the mean in place of the draw's",
}
BIASED = ("concrete", "straight-through")
BRANCHING = ("measure", "disarm", "arm")
_MEASURED = (
    torch.distributions.Bernoulli,
    torch.distributions.Categorical,
    torch.distributions.OneHotCategorical,
    torch.distributions.Normal,
    torch.distributions.Poisson,
    torch.distributions.Gamma,
)
_ALIASES = {"leave-one-out": LEAVE_ONE_OUT, "score-leave-one-out": LEAVE_ONE_OUT, "vimco": LEAVE_ONE_OUT}


class WeightsOptions(TypedDict, total=False):
    """Keyword arguments that every `WeightsObjective` takes.

    Attributes:
        data_plate: the name of the plate over data, where several hold every site.
        gradients: how the gradient of guide sites is taken, by site name or glob: ``{"z_*": "measure"}``, or as text
            ``"z_*=measure+c=enumerate"``. It wins over a program's ``infer={"gradient": ...}``; see
            `pvae.objectives.STRATEGIES`.
        auxiliary: a `pvae.Marginal`, how guide sites marked ``infer={"is_auxiliary": True}`` are
            marginalised; None for the exact sum over their values.
    """

    data_plate: str | None
    gradients: Gradients
    auxiliary: Marginal | None


def admissible(site: Site, particles: int = 2) -> tuple[str, ...]:
    """Return the strategies that a guide site can have.

    Args:
        site: a sample site of a guide's trace.
        particles: draws of z per datum: leave-one-out needs two.
    """
    distribution, base = site["fn"], base_distribution(site["fn"])
    found = ["pathwise"] if distribution.has_rsample else []
    found += ["score"] + [LEAVE_ONE_OUT] * (particles > 1)
    try:
        support_size(site["name"], distribution)
        found.append("enumerate")
    except InputError:
        pass
    if isinstance(base, _MEASURED):
        found.append("measure")
    if isinstance(base, torch.distributions.Bernoulli):
        found += ["disarm", "arm"]
    if isinstance(base, torch.distributions.Bernoulli | torch.distributions.OneHotCategorical):
        found += BIASED
    return tuple(found)


def gradients_of(given: Gradients) -> dict[str, str]:
    """Return site globs and strategies, checked, from a mapping or from text such as ``"z_*=measure"``.

    Raises:
        InputError: for an unknown strategy (the nearest known one is named), or text without ``=``.
    """
    if given is None:
        return {}
    pairs = dict(given) if isinstance(given, Mapping) else dict(_pair(text) for text in _texts(given))
    return {glob: _known(strategy) for glob, strategy in pairs.items()}


def text_of(gradients: Mapping[str, str]) -> str:
    """Return strategies by site as text that `gradients_of` reads, without colons and commas."""
    return "+".join(f"{site}={strategy.removeprefix('score:')}" for site, strategy in gradients.items())


def _texts(given: str | tuple[str, ...]) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    return [part for text in texts for part in text.replace(",", "+").split("+") if part.strip()]


def _pair(text: str) -> tuple[str, str]:
    glob, separator, strategy = text.partition("=")
    if not separator or not glob.strip():
        raise InputError(f"gradients are written site=strategy, such as z_pres_*=measure; got {text!r}.")
    return glob.strip(), strategy.strip()


def _known(strategy: Any) -> str:
    name = _ALIASES.get(strategy, strategy)
    if name not in STRATEGIES:
        raise unknown("gradient strategy", str(strategy), STRATEGIES)
    return str(name)


def chooser(gradients: Mapping[str, str], particles: int, scored: str | None = None) -> ChooseStrategy:
    """Return the strategy of each site: as `gradients` says, else as the program says, else by what the site can.

    Args:
        gradients: strategies by site name or glob; the first that matches counts.
        particles: draws of z per datum.
        scored: the strategy of sites that cannot be reparameterised; by default the score, leave-one-out where
            there are several particles.
    """
    blind = scored or (LEAVE_ONE_OUT if particles > 1 else "score")

    def choose(site: Site) -> str:
        name = site["name"]
        if site["infer"].get("_in_model"):  # gradients are of the guide's sites
            return SUMMED if is_marked_for_enumeration(site) else "pathwise"
        outside = next((each for glob, each in gradients.items() if _matches(name, glob)), None)
        strategy = outside or site["infer"].get("gradient")
        if strategy is None:
            return SUMMED if is_marked_for_enumeration(site) else "pathwise" if site["fn"].has_rsample else blind
        if outside is None and strategy in BIASED:
            raise InputError(
                f"Site {name!r} asks for {strategy!r} in the program, and that is biased: ask for it where tables show "
                f"it, by gradients={{{name!r}: {strategy!r}}} of the objective."
            )
        return _allowed(site, _known(strategy), particles)

    return choose


def _matches(name: str, glob: str) -> bool:
    """Whether a site is meant: by its very name, which may hold brackets, or by a glob."""
    return name == glob or fnmatchcase(name, glob)


def _allowed(site: Site, strategy: str, particles: int) -> str:
    """The strategy, if the site can have it."""
    if strategy == LEAVE_ONE_OUT and particles < 2:
        raise InputError(
            f"Site {site['name']!r}: {LEAVE_ONE_OUT!r} takes its baseline from the other particles, and there is one: "
            "use particles=2 or more, or 'score'."
        )
    if strategy == "enumerate":
        support_size(site["name"], site["fn"])
    elif strategy not in admissible(site, particles):
        raise InputError(
            f"Site {site['name']!r} cannot have the gradient {strategy!r}: it is "
            f"{type(base_distribution(site['fn'])).__name__}. It can have {', '.join(admissible(site, particles))}."
        )
    return strategy


def require_matches(gradients: Mapping[str, str], strategies: Mapping[str, str]) -> None:
    """Refuse a name or glob that no guide site matches.

    Raises:
        InputError: with the sites that there are.
    """
    for glob in gradients:
        if not any(_matches(site, glob) for site in strategies):
            raise InputError(f"gradients names {glob!r}, and no guide site matches: there are {', '.join(strategies)}.")


def require_pathwise(objective: str, weights: LogWeights) -> None:
    """Refuse sites without a pathwise gradient, for an objective whose surrogate is wrong for them.

    Raises:
        InputError: with the sites, and the objective to use instead.
    """
    summed = [site for site, strategy in weights.strategies.items() if strategy == SUMMED]
    rest = [site for site in weights.not_reparameterised if site not in summed]
    if rest:
        raise InputError(
            f"{objective} needs reparameterised guide sites, and {', '.join(map(repr, rest))} cannot be: its gradient "
            "for the guide would be wrong. Use 'vimco' or 'iwae' for a multi-sample bound, 'reinforce' or 'elbo-graph' "
            "for the ELBO, or 'elbo-enum' for discrete sites is_marked_for_enumeration for enumeration."
        )
    for site, strategy in weights.strategies.items():
        if strategy not in ("pathwise", SUMMED, *BIASED):
            raise InputError(
                f"{objective} is for pathwise gradients, and site {site!r} asks for {strategy!r}: use 'iwae', 'renyi' "
                "or 'reinforce', which take any."
            )
